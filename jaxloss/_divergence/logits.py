"""Divergences of distributions that are given as logits: what distillation minimises.

>>> import jax, jax.numpy as jnp
>>> student = jnp.array([[1.0, 2.0, 0.0], [0.5, 0.0, 0.0]])
>>> teacher = jnp.array([[1.0, 2.0, 1e-3], [0.5, 0.0, -jnp.inf]])
>>> print(softmax_kl_divergence(student, teacher))
[4.0984943e-08 3.2029980e-01]
>>> print(jax.grad(lambda x: softmax_kl_divergence(x, teacher, reduction="sum"))(student)[1])
[-0.17059655 -0.10347205  0.27406862]
"""

from __future__ import annotations

import functools
from typing import Any

import jax.numpy as jnp

from jaxloss._core import blocks, checks
from jaxloss._core.api import loss
from jaxloss._core.autodiff import custom_vjp
from jaxloss._core.precision import compute_dtype, cotangent
from jaxloss._core.reduction import fill
from jaxloss._core.typing import Array, ArrayLike, Axis, Bool, Float, Num, Reduction
from jaxloss._divergence.arguments import over_classes, require_classes, rule_out, scalar
from jaxloss._divergence.pair import RULED_OUT, Mean, Rows, along, centred, kl_term, others, pair, rows, unbounded


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
    8.9408725e-14
    >>> print(softmax_kl_divergence(jnp.array([0.0, 1.0]), jnp.array([1.0, 0.0]), temperature=2.0))
    0.12245934
    """
    fn = "softmax_kl_divergence"
    checks.in_range(fn, "temperature", temperature, 0, jnp.inf, open_low=True)
    target_logits = checks.floating(fn, "target_logits", target_logits)
    temperature = scalar(fn, "temperature", temperature)

    def rule(axis: int, x: Array, y: Array, keep: Array | None) -> Array:
        require_classes(fn, "logits", x, axis)
        t = jnp.asarray(temperature, compute_dtype(x, y))
        losses = _softmax_kl(axis, x, y, t, keep)
        return losses * jnp.square(t) if scale_by_temperature_squared else losses

    return over_classes(
        fn,
        rule,
        ("logits", logits),
        ("target_logits", target_logits),
        axis,
        where,
        weights=weights,
        reduction=reduction,
    )


@functools.partial(custom_vjp, nondiff_argnums=(0,))
def _softmax_kl(axis: int, x: Array, y: Array, t: Array, keep: Array | None) -> Array:
    return blocks.per_row(lambda *args: _in_block(axis, *args)[1], (x, y, t, keep), axis)


def _in_block(axis: int, x: Array, y: Array, t: Array, keep: Array | None) -> tuple[Rows, Array]:
    x, y = rule_out(keep, x, axis), rule_out(keep, y, axis)
    r = rows(x, y, t, axis)
    c = pair(x, y, t, along(r, axis))
    return r, jnp.sum(kl_term(c.p, c.q, c.d), axis)


def _softmax_kl_fwd(axis: int, *args: Any) -> tuple[Array, tuple]:
    def by_rule(*args: Any) -> tuple[Rows, Array]:  # the second derivative of the residual is the rule's too
        return _in_block(axis, *args)[0], _softmax_kl(axis, *args)

    r, kl = blocks.per_row(functools.partial(_in_block, axis), args, axis, by_rule)
    return kl, (*args, *along((r, kl), axis))


def _softmax_kl_bwd(axis: int, residuals: tuple, g: Array) -> tuple[Array | None, ...]:
    # Why a rule: autodiff of two log-softmaxes keeps several float32 arrays of the size of the logits. Here the logits
    # are kept in their own dtype, with six numbers for each row, and p - q is found without cancellation.
    x, y, t, keep, r, kl = residuals
    c = pair(rule_out(keep, x, axis), rule_out(keep, y, axis), t, r)
    slope = along(g / t, axis)
    rest, mass = blocks.per_row(functools.partial(_others, axis), residuals, axis)
    to_y = centred(c.q, -c.q * c.d, c.q_top, Mean(kl, *along((rest, mass), axis)))
    to_y = jnp.where(kl == jnp.inf, unbounded(c.q, c.d < -RULED_OUT), to_y)
    to_t = -jnp.sum(g / t * blocks.per_row(functools.partial(_by_temperature, axis), residuals, axis))
    return cotangent(fill(keep, slope * c.difference), x), cotangent(fill(keep, slope * to_y), y), to_t, None


def _others(axis: int, x: Array, y: Array, t: Array, keep: Array | None, r: Rows, kl: Array) -> tuple[Array, Array]:
    c = pair(rule_out(keep, x, axis), rule_out(keep, y, axis), t, r)
    return others(c.q, -c.q * c.d, c.q_top, axis)


def _by_temperature(axis: int, x: Array, y: Array, t: Array, keep: Array | None, r: Rows, kl: Array) -> Array:
    """log p * to_x + log q * to_y: with log p = log q + d, first-order parts cancel on paper, not in float32."""
    c = pair(rule_out(keep, x, axis), rule_out(keep, y, axis), t, r)
    by_t = c.d * c.difference + c.log_q * (kl_term(c.p, c.q, c.d) - c.q * kl)
    return jnp.sum(jnp.where(c.log_q < -RULED_OUT, c.p * c.log_p, by_t), axis)


_softmax_kl.defvjp(_softmax_kl_fwd, _softmax_kl_bwd)
