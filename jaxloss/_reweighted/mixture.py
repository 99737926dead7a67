"""Sums over the classes of t_k c_k f(-log p_k): losses of label distributions that are functions of each class's cost.

With a_k = t_k c_k f'(-log p_k) the gradient is p_k sum_j a_j - a_k. At the class on top both terms may agree but for a
rest that is far below their last digit: there it is p_k sum_{j != k} a_j - a_k (1 - p_k).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array

from jaxloss._core import stable
from jaxloss._core.autodiff import custom_vjp
from jaxloss._core.class_rows import Rows
from jaxloss._core.elements import with_slopes
from jaxloss._core.precision import cotangent
from jaxloss._core.softmax import (
    Scores,
    along,
    score_stats,
    scores,
    scores_and_pull,
    spread_weights,
    target_weights,
    times,
    where_counted,
)


class Chance(NamedTuple):
    """The probability of a class three times, each with all its digits."""

    cost: Array  # -log p
    right: Array  # p
    wrong: Array  # 1 - p


# f: its value, its slope by the cost and its slope by an option, which is a number.
OfChance = Callable[[Chance, Array], tuple[Array, Array, Array]]


def of_label(f: OfChance) -> Callable[[Array, Array], Array]:
    """f of the costs of the labels, one for each row."""

    @with_slopes
    def losses(cost: Array, option: Array) -> tuple[Array, tuple[Array, Array]]:
        value, by_cost, by_option = f(Chance(cost, jnp.exp(-cost), -jnp.expm1(-cost)), option)
        return value, (by_cost, by_option)

    return losses


def _chance(z: Array, stats: stable.RowStats, axis: int, right: Array) -> Chance:
    """Only the class on top can have a probability above one half: the rest says by how much it is below 1."""
    gap, rest = stable.gap(z, stats, axis), jnp.expand_dims(stats.rest, axis)
    return Chance(gap + jnp.log1p(rest), right, jnp.where(gap == 0, rest / (1 + rest), 1 - right))


def mixture(f: OfChance, rows: Rows, target: Array | None, class_weights: Array | None, option: Array) -> Array:
    """The losses of the rows; `target` None stands for 1 at every class that is kept."""
    return _mixture(f, rows.axis, rows.scores(), target, class_weights, option)


class _Row(NamedTuple):
    stats: stable.RowStats
    others: Array  # sum of a_k over the classes below the maximum
    top: Array  # sum of t_k c_k over those at it


class _AtHand(NamedTuple):
    s: Scores
    stats: stable.RowStats
    target: Array | None
    class_weights: Array | None
    option: Array


@functools.partial(custom_vjp, nondiff_argnums=(0, 1))
def _mixture(
    f: OfChance, axis: int, s: Scores, target: Array | None, class_weights: Array | None, option: Array
) -> Array:
    return _forward(f, axis, s, target, class_weights, option)[0]


def _forward(
    f: OfChance, axis: int, s: Scores, target: Array | None, class_weights: Array | None, option: Array
) -> tuple[Array, Any]:
    stats = stable.settled(score_stats(s, axis))

    def terms(x: _AtHand) -> tuple[Array, Array, Array]:
        z = scores(x.s, axis)
        # Not as in the backward pass: XLA would compute it once for both, and write it to memory in float32.
        e = stable.exp_minus(z, jnp.expand_dims(x.stats.max, axis))
        at = _chance(z, x.stats, axis, e * jnp.expand_dims(1 / (1 + x.stats.rest), axis))
        weight = _weights(x.target, x.s, x.class_weights, z)
        value, slope, _ = f(at, x.option)
        is_top = z == jnp.expand_dims(x.stats.max, axis)
        return times(weight, value), jnp.where(is_top, 0, weight * slope), jnp.where(is_top, weight, 0)

    z = scores(s, axis)
    at_hand = _AtHand(s, stats, target, along(class_weights, z, axis), option.astype(z.dtype))
    losses, others, top = stable.row_sums(at_hand, axis, terms, given=True)
    return losses, (s, target, class_weights, option, _Row(stats, others, top))


def _weights(target: Array | None, s: Scores, class_weights: Array | None, z: Array) -> Array:
    if target is None:
        return spread_weights(class_weights, s.mask, z)
    t = target_weights(target, s, z.dtype)
    return t if class_weights is None else t * class_weights


def _backward(f: OfChance, axis: int, residuals: Any, g: Array) -> Any:
    # Why a rule: autodiff keeps several float32 arrays of the size of the logits, and 1 - p of a confident row cancels.
    s, target, class_weights, option, row = residuals
    z, pull = scores_and_pull(s, axis)
    stats, others, top, g_row = row.stats, *(jnp.expand_dims(x, axis) for x in (row.others, row.top, g))
    rest = jnp.expand_dims(stats.rest, axis)
    c = along(class_weights, z, axis)
    at = _chance(z, stats, axis, stable.softmax(z, stats, axis))
    at = at._replace(cost=jnp.minimum(at.cost, jnp.finfo(z.dtype).max))
    value, slope, by_option = f(at, option.astype(z.dtype))
    weight = _weights(target, s, c, z)
    slope = weight * slope
    total = others + top * f(Chance(jnp.log1p(rest), 1 / (1 + rest), rest / (1 + rest)), option.astype(z.dtype))[1]
    alone = (z == jnp.expand_dims(stats.max, axis)) & (rest < 1)
    to_scores = jnp.where(alone, at.right * others - slope * at.wrong, at.right * total - slope)

    to_target = to_classes = None
    if target is not None:
        to_target = cotangent(g_row * where_counted(target, s, value if c is None else c * value), target)
    if class_weights is not None:
        of_class = g_row * _weights(target, s, None, z) * value
        to_classes = cotangent(jnp.sum(of_class, tuple(i for i in range(z.ndim) if i != axis)), class_weights)
    to_option = cotangent(jnp.sum(g_row * weight * by_option), option)
    to_logits, _, _ = pull(g_row * to_scores)
    return Scores(to_logits), to_target, to_classes, to_option


_mixture.defvjp(_forward, _backward)
