"""Divergence of independent yes/no decisions that are given as logits."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxloss._core import checks
from jaxloss._core.api import loss
from jaxloss._core.autodiff import custom_vjp
from jaxloss._core.precision import compute_dtype, cotangent, promote
from jaxloss._core.reduction import fill, reduce
from jaxloss._core.typing import Array, ArrayLike, Bool, Float, Num, Reduction
from jaxloss._divergence.arguments import scalar
from jaxloss._divergence.pair import LOWEST, RULED_OUT, kl_term


@loss()
def sigmoid_kl_divergence(
    logits: Float[ArrayLike, "*shape"],
    target_logits: Float[ArrayLike, ...],
    *,
    where: Bool[ArrayLike, ...] | None = None,
    temperature: float | Array = 1.0,
    weights: Num[ArrayLike, ...] | None = None,
    reduction: Reduction = "none",
) -> Float[Array, ...]:
    r"""Kullback-Leibler divergence of two Bernoullis, for each element: $q\log\frac qp + (1-q)\log\frac{1-q}{1-p}$.

    $p = \sigma(x / T)$ is the prediction and $q = \sigma(y / T)$ the target, at temperature $T$. As in
    `softmax_kl_divergence`, two non-negative terms are added and nothing cancels: logits that differ by $10^{-6}$ give
    a divergence of full relative precision.

    Args:
      logits: $x$, any shape; one independent decision each.
      target_logits: $y$, broadcast to the shape of the logits.
      where: elements to keep, broadcast likewise. What is dropped adds 0 to value and gradient, even if NaN.
      temperature: $T > 0$, a scalar; of both sides.
      weights: multiply the divergences, broadcast to the shape of the logits.
      reduction: `"none"`, `"mean"` or `"sum"`; see `jaxloss.reduce`.

    Returns:
      The shape of the logits, or a scalar; at least float32. Equal infinite logits give 0, an infinite logit whose
      target is another one `inf`.

    Raises:
      TypeError: logits are not floating-point, or `where` is not boolean.
      ValueError: a shape does not broadcast to that of the logits, or a wrong temperature or reduction.

    Reference: Kullback, Leibler, "On Information and Sufficiency" (1951).

    >>> print(sigmoid_kl_divergence(jnp.array([0.0, 1.0]), jnp.array([1e-3, -1.0])))
    [1.2499996e-07 4.6211717e-01]
    """
    fn = "sigmoid_kl_divergence"
    checks.in_range(fn, "temperature", temperature, 0, jnp.inf, open_low=True)
    x = checks.floating(fn, "logits", logits)
    y = checks.floating(fn, "target_logits", target_logits)
    y = checks.broadcast(fn, "target_logits", y, x.shape, "logits")
    if where is not None:
        where = checks.broadcast(fn, "where", checks.mask(fn, "where", where), x.shape, "logits")
    t = jnp.asarray(scalar(fn, "temperature", temperature), compute_dtype(x, y))
    losses = _sigmoid_kl(fill(where, x), fill(where, y), t)
    return reduce(losses, where=where, weights=weights, reduction=reduction, fn=fn)


@custom_vjp
def _sigmoid_kl(x: Array, y: Array, t: Array) -> Array:
    yes, no = _terms(*_scaled(x, y, t))
    return yes + no


def _terms(x: Array, y: Array, d: Array) -> tuple[Array, Array]:
    """What a yes and what a no contribute."""
    yes, no = _log_ratios(x, y, d)
    s = jax.nn.sigmoid
    return kl_term(s(x), s(y), yes), kl_term(s(-x), s(-y), no)


def _scaled(x: Array, y: Array, t: Array) -> tuple[Array, Array, Array]:
    """Logits at their temperature, finite, and their difference."""
    x, y, t = promote(x, y, t)
    x, y = jnp.clip(x, LOWEST, -LOWEST), jnp.clip(y, LOWEST, -LOWEST)
    return x / t, y / t, (x - y) / t


def _log_ratios(x: Array, y: Array, d: Array) -> tuple[Array, Array]:
    """log(p / q) and log((1 - p) / (1 - q)): by log1p of a small change, or if that is not small by softplus."""
    near = jnp.abs(d) < 1
    small = jnp.where(near, d, 0)
    yes = -jnp.log1p(jax.nn.sigmoid(-y) * jnp.expm1(-small))
    no = -jnp.log1p(jax.nn.sigmoid(y) * jnp.expm1(small))
    tail = jnp.log1p(jnp.exp(-jnp.abs(y))) - jnp.log1p(jnp.exp(-jnp.abs(x)))
    far_yes = jnp.where((x < 0) & (y < 0), d, jnp.maximum(-y, 0) - jnp.maximum(-x, 0))
    far_no = jnp.where((x > 0) & (y > 0), -d, jnp.maximum(y, 0) - jnp.maximum(x, 0))
    return jnp.where(near, yes, far_yes + tail), jnp.where(near, no, far_no + tail)


def _sigmoid_kl_fwd(x: Array, y: Array, t: Array) -> tuple[Array, tuple[Array, Array, Array]]:
    return _sigmoid_kl(x, y, t), (x, y, t)


def _sigmoid_kl_bwd(residuals: tuple[Array, Array, Array], g: Array) -> tuple[Array | None, ...]:
    # Why a rule: autodiff keeps float32 intermediates of every branch and meets 0 * inf at an infinite logit. p - q is
    # p (1 - q) (1 - exp(y - x)), which does not cancel.
    x, y, t = residuals
    a, b, d = _scaled(x, y, t)
    p, not_p, q, not_q = (jax.nn.sigmoid(z) for z in (a, -a, b, -b))
    above = d > 0
    to_x = jnp.where(above, -p * not_q, q * not_p) * jnp.expm1(jnp.where(above, -d, d))
    both = q * not_q
    to_y = -jnp.where((jnp.abs(d) > RULED_OUT) & (both > 0), jnp.sign(d) * jnp.inf, both * d)
    yes, no = _terms(a, b, d)
    # x to_x + y to_y with x = y + d: the first-order parts cancel on paper instead of in float32
    by_t = jnp.where(jnp.abs(b) > RULED_OUT, to_x * a, to_x * d + (yes - q * (yes + no)) * b)
    g = g / t
    return cotangent(g * to_x, x), cotangent(g * to_y, y), -jnp.sum(g * by_t)


_sigmoid_kl.defvjp(_sigmoid_kl_fwd, _sigmoid_kl_bwd)
