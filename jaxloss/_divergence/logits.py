"""Divergences of distributions that are given as logits: what distillation minimises.

>>> import jax, jax.numpy as jnp
>>> student, teacher = jnp.array([[1.0, 2.0, 0.0], [0.5, 0.0, 0.0]]), jnp.array([[1.0, 2.0, 1e-3], [0.5, 0.0, -jnp.inf]])
>>> print(softmax_kl_divergence(student, teacher))
[4.0515294e-08 3.2065734e-01]
>>> print(jax.grad(lambda x: softmax_kl_divergence(x, teacher, reduction="sum"))(student)[1])
[-0.1706595  -0.10350955  0.27416906]
"""

from __future__ import annotations

import functools
from typing import Any

import jax.numpy as jnp

from jaxloss._core import checks, stable
from jaxloss._core.api import loss
from jaxloss._core.autodiff import custom_vjp
from jaxloss._core.precision import compute_dtype, cotangent
from jaxloss._core.typing import Array, ArrayLike, Axis, Bool, Float, Num, Reduction
from jaxloss._divergence.arguments import over_classes, scalar
from jaxloss._divergence.pair import Mean, Pair, above_mean, kl_term, mean, pair, rows, times


@loss()
def softmax_kl_divergence(
    logits: Float[ArrayLike, "*shape"],
    target_logits: Float[ArrayLike, "..."],
    axis: Axis | None = -1,
    where: Bool[ArrayLike, "..."] | None = None,
    *,
    temperature: float | Array = 1.0,
    scale_by_temperature_squared: bool = False,
    weights: Num[ArrayLike, "..."] | None = None,
    reduction: Reduction = "none",
) -> Float[Array, "..."]:
    r"""Kullback-Leibler divergence of two softmax distributions: $\sum_k q_k \log(q_k / p_k)$.

    $p = \mathrm{softmax}(x / T)$ are the predictions and $q = \mathrm{softmax}(y / T)$ the targets, at temperature $T$.
    It is added up from $q_k\,\phi(\log(p_k / q_k)) \ge 0$ with $\phi(d) = e^d - 1 - d$, and the ratio is found without
    subtracting logarithms of probabilities: logits that differ by $10^{-6}$ give a divergence of full relative
    precision, which is never negative. Gradients go to both sides; stop the teacher's with `jax.lax.stop_gradient`
    where a network computes them.

    Args:
      logits: $x$, any shape; `-inf` rules a class out. A row of only `-inf` gives NaN.
      target_logits: $y$, broadcast to the shape of the logits. A class that both sides rule out, or the target alone,
        adds 0.
      axis: the axes of the classes, an int, a tuple of ints, or `None` for all.
      where: rows to keep, of the shape of the result, or else classes to keep, broadcast to the logits, over which both
        distributions are renormalised. What is dropped adds 0 to value and gradient, even if NaN.
      temperature: $T > 0$, a scalar; of both sides.
      scale_by_temperature_squared: multiply by $T^2$, so that the size of the gradient does not depend on $T$.
      weights: multiply the divergences, broadcast to their shape.
      reduction: `"none"`, `"mean"` or `"sum"`; see `jaxloss.reduce`.

    Returns:
      The shape of the logits without `axis`, or a scalar; at least float32. `inf` where the predictions alone rule a
      class out.

    Raises:
      TypeError: logits are not floating-point, or `where` is not boolean.
      ValueError: a shape does not broadcast to that of the logits, a wrong axis, temperature or reduction.

    Reference: Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network" (2015).

    >>> print(softmax_kl_divergence(jnp.array([0.0, 1.0]), jnp.array([0.0, 1.000001])))
    8.9409885e-14
    >>> print(softmax_kl_divergence(jnp.array([0.0, 1.0]), jnp.array([1.0, 0.0]), temperature=2.0))
    0.24491866
    """
    fn = "softmax_kl_divergence"
    checks.in_range(fn, "temperature", temperature, 0, jnp.inf, open_low=True)
    target_logits = checks.floating(fn, "target_logits", target_logits)
    temperature = scalar(fn, "temperature", temperature)

    def rule(axis: int, x: Array, y: Array) -> Array:
        t = jnp.asarray(temperature, compute_dtype(x, y))
        losses = _softmax_kl(axis, x, y, t)
        return losses * jnp.square(t) if scale_by_temperature_squared else losses

    return over_classes(
        fn,
        rule,
        ("logits", logits),
        ("target_logits", target_logits),
        axis,
        where,
        dropped=(-jnp.inf, -jnp.inf),
        weights=weights,
        reduction=reduction,
    )


@functools.partial(custom_vjp, nondiff_argnums=(0,))
def _softmax_kl(axis: int, x: Array, y: Array, t: Array) -> Array:
    return stable.row_sum((x, y, t, rows(x, y, t, axis)), axis, _term)


def _term(operands: Any) -> Array:
    c = pair(*operands)
    return kl_term(c.p, c.q, c.d)


def _target_side(operands: Any) -> tuple[Array, Array, Array]:
    c = pair(*operands)
    return c.q, times(c.q, c.d), c.q_top


def _softmax_kl_fwd(axis: int, x: Array, y: Array, t: Array) -> tuple[Array, tuple[Array, "..."]]:
    kl = _softmax_kl(axis, x, y, t)  # the rule itself, so that a second derivative of this residual is the rule's too
    r = rows(x, y, t, axis)
    return kl, (x, y, t, r, mean((x, y, t, r), axis, _target_side), kl)


def _softmax_kl_bwd(axis: int, residuals: tuple, g: Array) -> tuple[Array | None, ...]:
    # Why a rule: autodiff of two log-softmaxes keeps several float32 arrays of the size of the logits. Here the logits
    # are kept in their own dtype, with eight numbers for each row, and p - q is found without cancellation.
    x, y, t, r, mean_d, kl = residuals
    c = pair(x, y, t, r)
    kl, slope = jnp.expand_dims(kl, axis), jnp.expand_dims(g / t, axis)
    # With log p = log q + d, first-order parts of log p * to_x + log q * to_y cancel on paper instead of in float32.
    by_t = times(c.difference, c.d) + times(kl_term(c.p, c.q, c.d) - c.q * kl, c.log_q)
    by_t = jnp.where(c.log_q == -jnp.inf, times(c.p, c.log_p), by_t)
    to_t = -jnp.sum(g / t * stable.row_sum(by_t, axis))
    return cotangent(slope * c.difference, x), cotangent(slope * _to_target(c, mean_d, kl), y), to_t


def _to_target(c: Pair, mean_d: Mean, kl: Array) -> Array:
    """-q (d - mean of d); a class that the predictions alone rule out pulls without bound, away from the others."""
    bounded = -above_mean(c.q, times(c.q, c.d), c.q_top, mean_d)
    unbounded = jnp.where(c.d == -jnp.inf, jnp.inf, jnp.where(c.q == 0, 0, -jnp.inf))
    return jnp.where(kl == jnp.inf, unbounded, bounded)


_softmax_kl.defvjp(_softmax_kl_fwd, _softmax_kl_bwd)
