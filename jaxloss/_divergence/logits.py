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

import jax.numpy as jnp

from jaxloss._core import checks
from jaxloss._core.api import loss
from jaxloss._core.precision import compute_dtype
from jaxloss._core.softmax_kl import softmax_kl
from jaxloss._core.typing import Array, ArrayLike, Axis, Bool, Float, Num, Reduction
from jaxloss._divergence.arguments import over_classes, require_classes, scalar


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
      logits: $x$, any shape; `-inf` rules a class out, one `inf` all others. A row of only `-inf`, or with several
        `inf`, gives NaN.
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
      class out; beyond about 1e29 temperatures a difference of logits is infinite.

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
        losses = softmax_kl(axis, x, y, t, keep)
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
