"""jaxloss: loss functions for JAX whose gradients were designed, not just derived."""

from jaxloss._binary import sigmoid_binary_cross_entropy
from jaxloss._contrastive import clip_loss, info_nce_loss, n_pair_loss, siglip_loss
from jaxloss._core.autodiff import custom_vjp
from jaxloss._divergence import (
    convex_kl_divergence,
    gaussian_kl,
    generalized_kl_divergence,
    js_divergence,
    kl_divergence,
    kl_divergence_with_log_targets,
    sigmoid_kl_divergence,
    softmax_kl_divergence,
)
from jaxloss._linear import linear_cross_entropy, linear_log_probs, linear_statistics, sharded
from jaxloss._multiclass import (
    nll_loss,
    safe_softmax_cross_entropy,
    smooth_labels,
    softmax_cross_entropy,
    softmax_cross_entropy_with_integer_labels,
    z_loss,
)
from jaxloss._preference import (
    cpo_loss,
    dpo_loss,
    kto_loss,
    orpo_loss,
    policy_gradient_loss,
    simpo_loss,
)
from jaxloss._reduction import reduce
from jaxloss._regression import (
    absolute_error,
    absolute_percentage_error,
    epsilon_insensitive_loss,
    expectile_loss,
    huber_loss,
    l2_loss,
    log_cosh,
    pseudo_huber_loss,
    quantile_loss,
    robust_loss,
    smooth_l1_loss,
    squared_error,
    squared_log_error,
    uncertainty_weighted_sum,
    weighted_sum,
)

__version__ = "0.1.0"

__all__ = [
    "absolute_error",
    "absolute_percentage_error",
    "clip_loss",
    "convex_kl_divergence",
    "cpo_loss",
    "custom_vjp",
    "dpo_loss",
    "epsilon_insensitive_loss",
    "expectile_loss",
    "gaussian_kl",
    "generalized_kl_divergence",
    "huber_loss",
    "info_nce_loss",
    "js_divergence",
    "kl_divergence",
    "kl_divergence_with_log_targets",
    "kto_loss",
    "l2_loss",
    "linear_cross_entropy",
    "linear_log_probs",
    "linear_statistics",
    "log_cosh",
    "n_pair_loss",
    "nll_loss",
    "orpo_loss",
    "policy_gradient_loss",
    "pseudo_huber_loss",
    "quantile_loss",
    "reduce",
    "robust_loss",
    "safe_softmax_cross_entropy",
    "sharded",
    "siglip_loss",
    "sigmoid_binary_cross_entropy",
    "sigmoid_kl_divergence",
    "simpo_loss",
    "smooth_l1_loss",
    "smooth_labels",
    "softmax_cross_entropy",
    "softmax_cross_entropy_with_integer_labels",
    "softmax_kl_divergence",
    "squared_error",
    "squared_log_error",
    "uncertainty_weighted_sum",
    "weighted_sum",
    "z_loss",
]
