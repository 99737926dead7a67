"""Probabilities of pixels and what they lack to 1, both with all digits, in value and gradient."""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeAlias

import jax.numpy as jnp

from jaxloss._core import stable
from jaxloss._core.precision import upcast
from jaxloss._core.reduction import fill
from jaxloss._core.typing import Array

Activation: TypeAlias = Literal["softmax", "sigmoid"] | None  # from logits, or predictions that are probabilities


class Evaluated(NamedTuple):
    """$p$ and $1 - p$, of the shape of the predictions."""

    p: Array
    q: Array
    is_top: Array | None = None  # of a softmax: the class of the largest score, or several


def evaluate(activation: Activation, x: Array, keep: Array | None) -> Evaluated:
    """`keep` says which entries take part; a dropped class has probability 0, in a row with no class left all have."""
    z = fill(keep, upcast(x))
    if activation == "sigmoid":
        return Evaluated(*(fill(keep, part) for part in stable.sigmoids(z)))
    if activation is None:
        return Evaluated(z, fill(keep, 1 - z))
    if keep is not None and keep.shape[-1] == x.shape[-1]:
        z = jnp.where(keep | ~jnp.any(keep, -1, keepdims=True), z, -jnp.inf)
    stats = stable.row_stats(z, -1)
    p = stable.softmax(z, stats, -1)
    # Any other class has at most half of the probability, so that 1 - p keeps all digits.
    is_top, rest = z == jnp.expand_dims(stats.max, -1), jnp.expand_dims(stats.rest, -1)
    q = jnp.where(is_top, rest / (1 + rest), 1 - p)
    return Evaluated(fill(keep, p), fill(keep, q), is_top)


def pull(activation: Activation, found: Evaluated, g: Array) -> Array:
    """The gradient by the predictions, from that by p with q = 1 - p."""
    p, q, is_top = found
    if activation is None:
        return g
    if is_top is None:
        return g * p * q
    # Relative to the class on top, whose own share of the sum would leave nothing of a confident pixel's digits. (Of
    # several equal ones it is relative to their sum, which is as good.)
    of_top = stable.row_sum((g, is_top), -1, lambda x: jnp.where(x[1], x[0], 0))[..., None]
    mean = stable.row_sum((p, g, of_top), -1, lambda x: x[0] * (x[1] - x[2]))[..., None]
    return p * ((g - of_top) - mean)
