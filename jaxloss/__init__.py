"""jaxloss: loss functions for JAX whose gradients were designed, not just derived."""

from jaxloss._binary import sigmoid_binary_cross_entropy as sigmoid_binary_cross_entropy
from jaxloss._core.autodiff import custom_vjp as custom_vjp
from jaxloss._multiclass import nll_loss as nll_loss
from jaxloss._multiclass import safe_softmax_cross_entropy as safe_softmax_cross_entropy
from jaxloss._multiclass import smooth_labels as smooth_labels
from jaxloss._multiclass import softmax_cross_entropy as softmax_cross_entropy
from jaxloss._multiclass import softmax_cross_entropy_with_integer_labels as softmax_cross_entropy_with_integer_labels
from jaxloss._multiclass import z_loss as z_loss
from jaxloss._reduction import reduce as reduce
from jaxloss._regression import l2_loss as l2_loss
from jaxloss._regression import squared_error as squared_error
from jaxloss._regression import uncertainty_weighted_sum as uncertainty_weighted_sum
from jaxloss._regression import weighted_sum as weighted_sum

__version__ = "0.1.0"
