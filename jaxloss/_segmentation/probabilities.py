"""Probabilities of pixels and what they lack to 1, both with all digits, in value and gradient."""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeAlias

import jax.numpy as jnp

from jaxloss._core import stable
from jaxloss._core.lanes import computed_once
from jaxloss._core.precision import upcast
from jaxloss._core.reduction import fill
from jaxloss._core.typing import Array

Activation: TypeAlias = Literal["softmax", "sigmoid"] | None  # from logits, or predictions that are probabilities


class Evaluated(NamedTuple):
    """$p$ and $1 - p$, of the shape of the predictions, and of a softmax what it was made of."""

    p: Array
    q: Array
    is_top: Array | None = None  # the class of the largest score, or several
    stats: stable.RowStats | None = None


def evaluate(
    activation: Activation, x: Array, keep: Array | None, stats: stable.RowStats | None = None, *, several: bool = False
) -> Evaluated:
    """`keep` says which entries take part; a dropped class has probability 0, in a row with no class left all have.

    `stats` of a softmax are made here unless they are known; `several` says that what is found goes into several sums,
    for each of which XLA:CPU would compute it anew.
    """
    z = fill(keep, upcast(x))
    if activation == "sigmoid":
        p, q = stable.sigmoids(z)
        return Evaluated(fill(keep, p), fill(keep, q))
    if activation is None:
        return Evaluated(z, fill(keep, 1 - z))
    if keep is not None and keep.shape[-1] == x.shape[-1]:
        z = jnp.where(keep | ~jnp.any(keep, -1, keepdims=True), z, -jnp.inf)
    stats = stats or stable.row_stats(z, -1)
    p = stable.softmax(z, stats, -1)
    p = computed_once(p) if several else p
    # Any other class has at most half of the probability, so that 1 - p keeps all digits.
    is_top, rest = z == jnp.expand_dims(stats.max, -1), jnp.expand_dims(stats.rest, -1)
    q = jnp.where(is_top, rest / (1 + rest), 1 - p)
    return Evaluated(fill(keep, p), fill(keep, q), is_top, stats)


def pull(activation: Activation, found: Evaluated, g: Array, means: tuple[Array, Array] | None = None) -> Array:
    """The gradient by the predictions, from that by p with q = 1 - p; `means` are `class_means(found, g)`."""
    if activation is None:
        return g
    if found.is_top is None:
        return g * found.p * found.q
    of_top, mean = (m[..., None] for m in means or class_means(found, g))
    return found.p * ((g - of_top) - mean)


def class_means(found: Evaluated, g: Array) -> tuple[Array, Array]:
    """Of a softmax: g at the class on top, and the mean by p of what g is more than that.

    Relative to that class, whose own share of the sum would leave nothing of a confident pixel's digits. (Of several
    equal ones it is relative to their sum, which is as good.)
    """
    of_top = stable.row_sum((g, found.is_top), -1, lambda x: jnp.where(x[1], x[0], 0))
    mean = stable.row_sum((found.p, g, of_top[..., None]), -1, lambda x: x[0] * (x[1] - x[2]))
    return of_top, mean
