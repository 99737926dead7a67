"""Divergence of independent yes/no decisions that are given as logits."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp

from jaxloss._core import blocks, checks, stable
from jaxloss._core.api import loss
from jaxloss._core.autodiff import custom_vjp
from jaxloss._core.devices import alike
from jaxloss._core.pair import RULED_OUT, infinite_score
from jaxloss._core.precision import compute_dtype, cotangent, promote, upcast
from jaxloss._core.reduction import fill, reduce_elements
from jaxloss._core.typing import Array, ArrayLike, Bool, Float, Num, Reduction
from jaxloss._divergence.arguments import scalar


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
      target is another one `inf`; beyond 1e30 temperatures a logit is infinite.

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
    y = checks.align(fn, "target_logits", y, x.shape, "logits")
    if where is not None:
        where = checks.align(fn, "where", checks.mask(fn, "where", where), x.shape, "logits")
    t = jnp.asarray(scalar(fn, "temperature", temperature), compute_dtype(x, y))

    def rule(x: Array, y: Array, t: Array, where: Array | None) -> Array:
        def given(value: Array) -> Array:  # in float32, as XLA:CPU does not fuse a select of half precision
            return fill(where, jnp.broadcast_to(upcast(value), x.shape))

        p, q = alike(given(x), given(y))
        return _sigmoid_kl(p, q, t)

    return reduce_elements(rule, (x, y, t, where), where=where, weights=weights, reduction=reduction, fn=fn)


@custom_vjp
def _sigmoid_kl(x: Array, y: Array, t: Array) -> Array:
    s = _sides(x, y, t)
    first, second = stable.log1p_ratios(s.step)
    close = s.q * s.phi - s.step * s.step * second
    far = jnp.maximum(s.x, 0) + s.step * first - s.q * s.d
    return jnp.where(s.infinite, jnp.inf, jnp.where(s.near, close, far))


class _Sides(NamedTuple):
    """Seen from the answer that the target finds less likely, q <= 1/2: no difference below cancels."""

    no: Array  # is that answer a no
    x: Array  # the logit of the prediction
    y: Array
    d: Array  # x - y
    p: Array
    not_p: Array
    q: Array
    not_q: Array
    near: Array  # is |d| < 1
    phi: Array  # then exp(d) - 1 - d
    step: Array  # log1p of it is softplus(x) - softplus(y), up to the larger logit where they are far
    infinite: Array  # is the prediction infinitely sure, and the target not as sure


def _sides(x: Array, y: Array, t: Array) -> _Sides:
    x, y, t = promote(x, y, t)
    limit = infinite_score(t)
    sure = jnp.abs(x) > limit
    x, y = jnp.clip(x, -limit, limit), jnp.clip(y, -limit, limit)
    no = y > 0
    x, y, d = (jnp.where(no, -z, z) for z in (x / t, y / t, (x - y) / t))
    (p, not_p), (q, not_q) = stable.sigmoids(x), stable.sigmoids(y)
    near = jnp.abs(d) < 1
    small = jnp.where(near, d, 0)
    phi = stable.phi_near(small)
    # exp(y) = q / not_q, and for x likewise
    apart = jnp.minimum(p, not_p) * (1 / jnp.maximum(p, not_p)) * not_q - q
    step = jnp.where(near, q * (small + phi), apart)
    return _Sides(no, x, y, d, p, not_p, q, not_q, near, phi, step, sure & (jnp.abs(d) > RULED_OUT))


def _sigmoid_kl_fwd(x: Array, y: Array, t: Array) -> tuple[Array, tuple[Array, Array, Array]]:
    return _sigmoid_kl(x, y, t), (x, y, t)


def _sigmoid_kl_bwd(residuals: tuple[Array, Array, Array], g: Array) -> tuple[Array | None, ...]:
    # Why a rule: autodiff keeps float32 intermediates of every branch and meets 0 * inf at an infinite logit.
    x, y, t = residuals
    s = _sides(x, y, t)
    to_x = _difference(s)
    to_x = jnp.where(s.no, -to_x, to_x)
    s = _sides(*blocks.read_again(residuals))
    both = s.q * s.not_q
    to_y = -jnp.where(s.infinite & (both > 0), jnp.sign(s.d) * jnp.inf, both * s.d)
    # With x = y + d, first-order parts of x to_x + y to_y cancel on paper instead of in float32.
    difference = _difference(s)
    sum_of_both = jnp.where(s.near, s.q * s.not_p * s.phi - s.q * difference * s.d, difference - both * s.d)
    by_t = jnp.where(s.y < -RULED_OUT, difference * s.x, difference * s.d + sum_of_both * s.y)
    g = g / t
    to_t = -jnp.sum(g * blocks.completed(by_t))
    return cotangent(g * to_x, x), cotangent(g * jnp.where(s.no, -to_y, to_y), y), to_t


def _difference(s: _Sides) -> Array:
    """p - q, of the less likely answer."""
    return jnp.where(s.near, s.step * s.not_p, s.p - s.q)


_sigmoid_kl.defvjp(_sigmoid_kl_fwd, _sigmoid_kl_bwd)
