"""Losses of ranked lists: scores of the items of a list, and how relevant each of them is.

>>> import jax, jax.numpy as jnp
>>> scores, relevance = jnp.array([[2.0, 1.0, jnp.nan], [1.0, 0.5, 1.5]]), jnp.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
>>> valid = jnp.array([[True, True, False], [True, True, True]])  # lists of two and of three items
>>> print(ranking_softmax_loss(scores, relevance, where=valid).round(4))
0.4968
>>> print(jax.grad(lambda s: ranking_softmax_loss(s, relevance, where=valid))(scores).round(3))
[[-0.134  0.134  0.   ]
 [ 0.154  0.093 -0.247]]
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxloss._core import checks
from jaxloss._core.api import loss
from jaxloss._core.class_rows import Rows
from jaxloss._core.precision import promote
from jaxloss._core.reduction import fill, reduce
from jaxloss._core.typing import Array, ArrayLike, Bool, Float, Num


def ranking_softmax_loss(
    logits: Float[ArrayLike, "*batch items"],
    labels: Num[ArrayLike, "*batch items"],
    *,
    where: Bool[ArrayLike, "*batch items"] | None = None,
    weights: Num[ArrayLike, "*batch items"] | None = None,
    reduce_fn: Callable[..., Any] | None = jnp.mean,
) -> Float[Array, "..."]:
    r"""Softmax loss of ranked lists, for each list: $\sum_i w_i y_i\,(\log\sum_j e^{s_j} - s_i)$.

    Args:
      logits: scores $s$ of the items, `[*batch, items]`.
      labels: relevance $y$ of the items, at least 0, any real dtype; broadcast to the shape of the logits. They need
        not sum to 1.
      where: items that are there, broadcast likewise: lists may be of any length. What is dropped adds 0 to value and
        gradient, even if NaN.
      weights: $w$ of the items, broadcast likewise.
      reduce_fn: `jax.numpy.mean` over the lists of which an item is kept (0 if there is none), `jax.numpy.sum`, `None`
        for one loss for each list, or a function that is called with these and, as `where=`, a mask of the lists of
        which an item is kept.

    Returns:
      A scalar, or what `reduce_fn` gives; at least float32.

    Raises:
      TypeError: logits are not floating-point, `where` is not boolean, or `reduce_fn` is no function.
      ValueError: a shape does not broadcast to that of the logits, or lists have no items.

    Reference: Bruch et al., "An Analysis of the Softmax Cross Entropy Loss for Learning-to-Rank with Binary Relevance"
    (2019), eq. 4.

    >>> print(ranking_softmax_loss(jnp.array([0.0, 0.0]), jnp.array([1, 1])))  # 2 log(2)
    1.3862944
    """
    if reduce_fn is not None and not callable(reduce_fn):
        raise TypeError(f"ranking_softmax_loss: reduce_fn must be a function or None, got {reduce_fn!r}")
    reduction = "mean" if reduce_fn is jnp.mean else "sum" if reduce_fn is jnp.sum else "none"
    losses = _ranking_softmax(logits, labels, where, weights, reduction=reduction)
    if reduce_fn is None or reduction != "none":
        return losses
    kept = None if where is None else jnp.any(jnp.broadcast_to(jnp.asarray(where), jnp.shape(logits)), -1)
    return reduce_fn(losses, where=kept)


@loss(arrays=4)
def _ranking_softmax(logits: Any, labels: Any, where: Any, weights: Any, *, reduction: str) -> Array:
    fn = "ranking_softmax_loss"
    logits = checks.floating(fn, "logits", logits)

    def item(arg: str, value: Any) -> Array:
        return checks.align(fn, arg, checks.number(fn, arg, value), logits.shape, "logits")

    labels, weights = item("labels", labels), None if weights is None else item("weights", weights)
    if where is not None:
        where = checks.broadcast(fn, "where", checks.mask(fn, "where", where), logits.shape, "logits")

    def losses(logits: Array, labels: Array, weights: Array | None, where: Array | None) -> Array:
        given = promote(labels) if weights is None else promote(labels, weights)
        target = functools.reduce(jnp.multiply, (fill(where, jnp.broadcast_to(x, logits.shape)) for x in given))
        return Rows(fn, "logits", logits, -1, where).cross_entropy(target, weights=None, reduction="none")

    # What is kept for the backward pass are the arguments as they came, not the product of labels and weights.
    values = jax.checkpoint(losses, prevent_cse=False)(logits, labels, weights, where)
    kept = None if where is None else jnp.any(where, -1)
    return reduce(values, where=kept, reduction=reduction, fn=fn)
