"""Sums of losses over unlike components or tasks."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxloss._core import checks, stable
from jaxloss._core.api import loss
from jaxloss._core.precision import promote, upcast
from jaxloss._core.typing import Array, Float


@loss()
def weighted_sum(losses: Any, weights: Any) -> Float[Array, ""]:
    r"""Weighted sum of unlike losses or tasks: $\sum_k w_k L_k$ over the leaves of two matching pytrees.

    Args:
      losses: pytree of losses, scalars or arrays; an array counts with all its elements.
      weights: pytree of the same structure; each leaf broadcasts to the loss beside it.

    Returns:
      A scalar; at least float32.

    Raises:
      TypeError: a loss is not floating-point.
      ValueError: the structures differ, or a weight does not broadcast to its loss.

    Reference: Caruana, "Multitask Learning" (1997), section 2.

    >>> print(weighted_sum({"box": jnp.float32(2.0), "class": jnp.float32(3.0)}, {"box": 0.5, "class": 2.0}))
    7.0
    """
    return _tree_total("weighted_sum", "weights", lambda loss, w: w * loss, losses, weights)


@loss()
def uncertainty_weighted_sum(losses: Any, log_variances: Any) -> Float[Array, ""]:
    r"""Sum of tasks weighted by learned uncertainties: $\sum_k e^{-s_k} L_k + \frac12 s_k$ with $s_k = \log\sigma_k^2$.

    For `l2_loss` this is the Gaussian negative log-likelihood with variance $e^{s_k}$, up to a constant; for a
    cross-entropy, its usual approximation with logits divided by $\sigma_k^2$. Train the log-variances with the model,
    from zeros: at the optimum $e^{s_k} = 2 L_k$, so that unlike units weigh alike.

    Args:
      losses: pytree of losses, scalars or arrays; each element of an array adds its own $\frac12 s$.
      log_variances: pytree of the same structure; each leaf broadcasts to the loss beside it.

    Returns:
      A scalar; at least float32. It may be negative.

    Raises:
      TypeError: a loss is not floating-point.
      ValueError: the structures differ, or a log-variance does not broadcast to its loss.

    Reference: Kendall, Gal, Cipolla, "Multi-Task Learning Using Uncertainty to Weigh Losses" (2018).

    >>> print(uncertainty_weighted_sum([jnp.float32(2.0), jnp.float32(3.0)], [jnp.float32(0.0), jnp.float32(0.0)]))
    5.0
    """

    def weighed(loss: Array, s: Array) -> Array:
        return stable.times_exp(loss, -s) + 0.5 * s

    return _tree_total("uncertainty_weighted_sum", "log_variances", weighed, losses, log_variances)


def _tree_total(fn: str, arg: str, combine: Callable[[Array, Array], Array], losses: Any, factors: Any) -> Array:
    given, want = jax.tree.structure(factors), jax.tree.structure(losses)
    if given != want:
        raise ValueError(f"{fn}: {arg} must have the structure of losses, {want}, got {given}")
    total = jnp.zeros((), jnp.float32)
    for (path, loss_), factor in zip(jax.tree.leaves_with_path(losses), jax.tree.leaves(factors), strict=True):
        name = jax.tree_util.keystr(path)
        value, factor = checks.floating(fn, f"losses{name}", loss_), checks.number(fn, f"{arg}{name}", factor)
        checks.broadcast(fn, f"{arg}{name}", factor, value.shape, f"losses{name}")
        # Keeps both as they came; the product alone would keep them broadcast and in float32.
        task = jax.checkpoint(functools.partial(_task, combine), prevent_cse=False)(value, factor)
        total, task = promote(total, task)
        total = total + task
    return total


def _task(combine: Callable[[Array, Array], Array], loss_: Array, factor: Array) -> Array:
    value = upcast(loss_)
    return jnp.sum(combine(value, jnp.broadcast_to(factor.astype(value.dtype), value.shape)))
