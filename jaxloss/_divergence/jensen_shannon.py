"""The Jensen-Shannon family from logits, from the forward to the reverse Kullback-Leibler divergence."""

from __future__ import annotations

import jax.numpy as jnp

from jaxloss._core import checks
from jaxloss._core.api import loss
from jaxloss._core.jensen_shannon import jensen_shannon
from jaxloss._core.typing import Array, ArrayLike, Axis, Bool, Float, Num, Reduction
from jaxloss._divergence.arguments import over_classes, require_classes, scalar


@loss()
def js_divergence(
    logits: Float[ArrayLike, "*shape"],
    target_logits: Float[ArrayLike, ...],
    axis: Axis | None = -1,
    where: Bool[ArrayLike, ...] | None = None,
    *,
    beta: float | Array = 0.5,
    normalized: bool = False,
    temperature: float | Array = 1.0,
    weights: Num[ArrayLike, ...] | None = None,
    reduction: Reduction = "none",
) -> Float[Array, ...]:
    r"""Jensen-Shannon divergence of two softmax: $\beta\,\mathrm{KL}(q \| m) + (1-\beta)\,\mathrm{KL}(p \| m)$.

    $m = \beta q + (1-\beta) p$ mixes the targets $q = \mathrm{softmax}(y / T)$ and the predictions
    $p = \mathrm{softmax}(x / T)$. At $\beta = \frac12$ it is the classical divergence, at most $\log 2$; it vanishes at
    both ends. With `normalized=True` it is divided by $\beta(1-\beta)$: then it is continuous from the forward
    divergence $\mathrm{KL}(q \| p)$ at 0 to the reverse one, $\mathrm{KL}(p \| q)$, at 1, ends included.
    Non-negative terms are added, so that logits which differ by $10^{-6}$ give full relative precision.

    Args:
      logits: $x$, any shape; `-inf` rules a class out, one `inf` all others. A row of only `-inf`, or with several
        `inf`, gives NaN.
      target_logits: $y$, broadcast to the shape of the logits.
      axis: the axes of the classes, an int, a tuple of ints, or `None` for all.
      where: rows to keep, of the shape of the result, or else classes to keep, broadcast to the logits, over which both
        distributions are renormalised. What is dropped adds 0 to value and gradient, even if NaN.
      beta: weight of the targets in the mixture, in [0, 1], a scalar; it can be traced and differentiated.
      normalized: divide by $\beta(1-\beta)$, with the limits at both ends.
      temperature: $T > 0$, a scalar; of both sides.
      weights: multiply the divergences, broadcast to their shape.
      reduction: `"none"`, `"mean"` or `"sum"`; see `jaxloss.reduce`.

    Returns:
      The shape of the logits without `axis`, or a scalar; at least float32. Finite wherever $0 < \beta < 1$.

    Raises:
      TypeError: logits are not floating-point, or `where` is not boolean.
      ValueError: a shape does not broadcast to that of the logits, or a wrong axis, option or reduction.

    Reference: Lin, "Divergence Measures Based on the Shannon Entropy" (1991); Agarwal et al., "On-Policy Distillation
    of Language Models" (2024), whose $\beta$ this is.

    >>> x, y = jnp.array([3.0, 0.0]), jnp.array([0.0, 3.0])
    >>> print(f"{js_divergence(x, y):.4f}")
    0.5023
    >>> print(f"{js_divergence(x, y, beta=0.0, normalized=True):.4f} is KL(q || p)")
    2.7154 is KL(q || p)
    """
    fn = "js_divergence"
    checks.in_range(fn, "temperature", temperature, 0, jnp.inf, open_low=True)
    checks.in_range(fn, "beta", beta, 0, 1)
    target_logits = checks.floating(fn, "target_logits", target_logits)
    temperature, beta = scalar(fn, "temperature", temperature), scalar(fn, "beta", beta)

    def rule(axis: int, x: Array, y: Array, keep: Array | None) -> Array:
        require_classes(fn, "logits", x, axis)
        return jensen_shannon(axis, x, y, temperature, beta, keep, normalized)

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
