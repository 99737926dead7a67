"""The reduction of all losses, on its own."""

from __future__ import annotations

from jaxloss._core import reduction as _core
from jaxloss._core.api import loss
from jaxloss._core.typing import Array, ArrayLike, Bool, Float, Num, Reduction


@loss(arrays=1)
def reduce(
    values: Float[ArrayLike, "*shape"],
    where: Bool[ArrayLike, "..."] | None = None,
    weights: Num[ArrayLike, "..."] | None = None,
    reduction: Reduction = "mean",
    denominator: Num[ArrayLike, ""] | None = None,
    axis_name: str | tuple[str, ...] | None = None,
) -> Float[Array, "..."]:
    r"""Reduce losses: the mean is $\sum_i w_i \ell_i / \sum_i w_i$ over what `where` keeps.

    The losses call this; use it for a loss of your own, for gradient accumulation, or across devices.

    Args:
      values: losses $\ell$, any shape.
      where: losses to keep, broadcast to the shape of the values. What is dropped adds 0 to value and gradient, even if
        NaN.
      weights: $w$, broadcast likewise. A loss of weight 0 adds 0, even if it is infinite.
      reduction: `"none"` gives $w_i \ell_i$, with 0 for what is dropped; `"sum"` its sum; `"mean"` that divided by the
        sum of weights, or by the number of losses kept if there are no weights. A mean of nothing is 0 with zero
        gradient.
      denominator: a scalar to divide a mean by instead: the count or weight of a whole batch when this is one
        micro-batch of it, so that the parts add up to the mean over the whole.
      axis_name: mesh axes (`shard_map`) or mapped axes (`vmap`) over which sums are added up before they are divided:
        right when devices keep different numbers of losses.

    Returns:
      The shape of the values, or a scalar; at least float32.

    Raises:
      TypeError: values are not floating-point, or `where` is not boolean.
      ValueError: a shape does not broadcast to that of the values; an unknown reduction; a `denominator` without a
        mean; an `axis_name` without a sum, or inside `shard_map(check_vma=False)`, where gradients would be multiplied.

    Reference: Hajek, "Comment on 'An essay on the logical foundations of survey sampling'" (1971), for the ratio.

    >>> import jax.numpy as jnp
    >>> losses = jnp.array([1.0, 2.0, jnp.nan])
    >>> print(reduce(losses, where=jnp.array([True, True, False])))
    1.5
    >>> print(reduce(losses[:2], denominator=4.0))
    0.75
    """
    return _core.reduce(
        values, where=where, weights=weights, reduction=reduction, denominator=denominator, axis_name=axis_name
    )
