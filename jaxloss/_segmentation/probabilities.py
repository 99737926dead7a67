"""Probabilities of pixels and what they lack to 1, both with all digits, in value and gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from jaxloss._core import blocks, stable
from jaxloss._core.lanes import computed_once
from jaxloss._core.precision import upcast
from jaxloss._core.reduction import fill
from jaxloss._core.typing import Array

Activation: TypeAlias = Literal["softmax", "sigmoid"] | None  # from logits, or predictions that are probabilities


class Evaluated(NamedTuple):
    """$p$ and $1 - p$, of the shape of the predictions, and of a softmax what it was made of."""

    p: Array
    q: Array
    stats: stable.RowStats | None = None


def softmax_stats(activation: Activation, x: Array, keep: Array | None) -> stable.RowStats | None:
    """Of pixels, if there is a softmax; a dropped class has probability 0, in a row with no class left all have."""
    if activation != "softmax":
        return None
    return stable.row_stats(x, -1) if keep is None else stable.row_stats(_kept(x, keep), -1, _scores)


class _Kept(NamedTuple):
    x: Array
    keep: Array | None
    none_left: Array | None  # pixels without any class that is kept


def _kept(x: Array, keep: Array | None) -> _Kept:
    if keep is None or keep.shape[-1] < x.shape[-1]:
        return _Kept(x, keep, None)
    return _Kept(x, keep, ~jnp.any(keep, -1, keepdims=True))


def _scores(kept: _Kept) -> Array:
    z = fill(kept.keep, upcast(kept.x))
    if kept.keep is None or kept.none_left is None:
        return z
    return jnp.where(kept.keep | kept.none_left, z, -jnp.inf)


def evaluate(
    activation: Activation, x: Array, keep: Array | None, stats: stable.RowStats | None, *, several: bool = False
) -> Evaluated:
    """`keep` says which entries take part, `stats` are `softmax_stats`.

    `several` says that what is found goes into several sums, for each of which XLA:CPU would compute it anew.
    """
    if stats is None:
        z = fill(keep, upcast(x))
        p, q = stable.sigmoids(z) if activation == "sigmoid" else (z, 1 - z)
        return Evaluated(fill(keep, p), fill(keep, q))
    z = _scores(_kept(x, keep))
    p = stable.softmax(z, stats, -1)
    p = computed_once(p) if several else p
    return Evaluated(fill(keep, p), fill(keep, stable.softmax_complement(z, p, stats, -1)), stats)


def pull(activation: Activation, found: Evaluated, g: Array, means: tuple[Array, Array] | None = None) -> Array:
    """The gradient by the predictions, from that by p with q = 1 - p; `means` are `class_means` of a softmax."""
    if activation is None:
        return g
    if found.stats is None:
        return g * found.p * found.q
    assert means is not None
    of_top, mean = (m[..., None] for m in means)
    return found.p * ((g - of_top) - mean)


class _Mean(NamedTuple):
    kept: _Kept
    given: Any
    stats: stable.RowStats  # with a class axis of length 1, as what follows
    of_top: Array | None = None


def class_means(
    x: Array, keep: Array | None, stats: stable.RowStats, given: Any, g: Callable[[Any], Array]
) -> tuple[Array, Array]:
    """Of a softmax: g at the class on top, and the mean by p of what g is more than that.

    Relative to that class, whose own share of the sum would leave nothing of a confident pixel's digits. (Of several
    equal ones it is relative to their sum, which is as good.) `g(given)` is the gradient by the probabilities, which
    depends element by element on arrays with the dimensions of x.
    """
    rows = stable.RowStats(*(s[..., None] for s in stats))

    def at_top(at: _Mean) -> Array:
        return jnp.where(_scores(at.kept) == at.stats.max, g(at.given), 0)

    def more(at: _Mean) -> Array:
        assert at.of_top is not None
        return stable.exp_minus(_scores(at.kept), at.stats.max) * (g(at.given) - at.of_top)

    kept, given = jax.tree.map(blocks.read_again, (_kept(x, keep), given))
    of_top = stable.row_sum(_Mean(kept, given, rows), -1, at_top, in_lanes=True)
    kept, given = jax.tree.map(blocks.read_again, (kept, given))
    sums = stable.row_sum(_Mean(kept, given, rows, of_top[..., None]), -1, more, in_lanes=True)
    return of_top, sums / (1 + stats.rest)
