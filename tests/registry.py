"""A case for each public loss, or several. Every conformance test runs over `CASES`: a new loss gets all by a case.

A public name of jaxloss without a case fails the suite, unless it is in `UTILITIES`.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import pytest
import registry_classes
import registry_contrastive
import registry_divergences
import registry_focal
import registry_margin
import registry_margin_rows
import registry_ordinal
import registry_preference
import registry_regression
import registry_regression_cosine
import registry_regression_counts
import registry_regression_differences
import registry_regression_likelihood
import registry_regression_positive
import registry_segmentation
import registry_sequence
import registry_tempered
from compiled import as_users_do
from registry_case import Case

import jaxloss

CASES: list[Case] = [
    *registry_regression.CASES,
    *registry_regression_differences.CASES,
    *registry_regression_positive.CASES,
    *registry_regression_likelihood.CASES,
    *registry_regression_counts.CASES,
    *registry_regression_cosine.CASES,
    *registry_classes.CASES,
    *registry_divergences.CASES,
    *registry_focal.CASES,
    *registry_margin.CASES,
    *registry_margin_rows.CASES,
    *registry_ordinal.CASES,
    *registry_preference.CASES,
    *registry_contrastive.CASES,
    *registry_sequence.CASES,
    *registry_segmentation.CASES,
    *registry_tempered.CASES,
]
BY_NAME = {case.name: case for case in CASES}

# Public names that are not losses: their own test files hold them to account.
UTILITIES = {"make_fenchel_young_loss", "custom_vjp", "reduce", "smooth_labels"}
# test_linear.py, test_linear_loss.py, test_linear_conformance.py
LINEAR = {"linear_cross_entropy", "linear_distillation_loss", "linear_log_probs", "linear_loss", "linear_statistics"}
UTILITIES |= LINEAR
UTILITIES |= {"sharded"}  # test_linear_sharded.py
UTILITIES |= {"ctc_loss_with_forward_probs"}  # test_ctc.py

# Names of optax that run the code of another one.
ALIASES = {"safe_softmax_cross_entropy", "convex_kl_divergence"}


def value_and_gradient(fn, x, *others):
    """The losses, and the gradient of their sum by the first argument."""
    losses, pullback = jax.vjp(lambda x: fn(x, *others), x)
    return losses, pullback(jnp.ones_like(losses))[0]


def public_names() -> list[str]:
    return [n for n in jaxloss.__all__ if callable(getattr(jaxloss, n))]


# One loss of each way to build one: the suite's core, and what the short run tries of what is dear to compile.
BUILT_APART = frozenset(
    [
        "cosine_embedding_loss",
        "dpo_loss",
        "entropy",
        "gaussian_kl",
        "huber_loss",
        "info_nce_loss",
        "js_divergence",
        "kl_divergence",
        "l2_loss",
        "multiclass_hinge_loss",
        "multiclass_sparsemax_loss",
        "policy_gradient_loss",
        "robust_loss",
        "sigmoid_binary_cross_entropy",
        "softmax_cross_entropy",
        "softmax_cross_entropy_with_integer_labels",
        "softmax_focal_loss of distributions",
        "softmax_kl_divergence",
        "triplet_margin_loss",
        "uncertainty_weighted_sum",
    ]
)
# A few of them, for the modes of the engine, which has tests of its own.
ENGINE = frozenset(
    [
        "dpo_loss",
        "info_nce_loss",
        "js_divergence",
        "l2_loss",
        "multiclass_sparsemax_loss",
        "sigmoid_binary_cross_entropy",
        "softmax_cross_entropy_with_integer_labels",
        "triplet_margin_loss",
    ]
)
# And of each shape of rule.
KINDS = BUILT_APART | {
    "ctc_loss",
    "cumulative_link_loss",
    "dice_loss",
    "entmax_loss",
    "iou_loss",
    "lovasz_softmax_loss",
    "multi_margin_loss",
    "ranking_softmax_loss",
    "softmax_focal_loss",
}


def only(names, case, *values):
    """Parameters that the short run tries on the losses of these names alone."""
    return pytest.param(case, *values, marks=[pytest.mark.long] * (case.name not in names))


apart = functools.partial(only, BUILT_APART)


def jit_of(case, config):
    """As users compile, or as the short run does what is made of the same parts: quickly."""
    return as_users_do if case.name in KINDS or config.getoption("--long") else jax.jit
