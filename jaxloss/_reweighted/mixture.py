"""Sums over the classes of t_k c_k f(-log p_k): losses of label distributions that are functions of each class's cost.

With a_k = t_k c_k f'(-log p_k) the gradient is p_k sum_j a_j - a_k. At the class on top both terms may agree but for a
rest that is far below their last digit: there it is p_k sum_{j != k} a_j - a_k (1 - p_k).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp

from jaxloss._core import blocks, stable
from jaxloss._core.autodiff import custom_vjp
from jaxloss._core.class_rows import Rows
from jaxloss._core.elements import with_slopes
from jaxloss._core.lanes import computed_once
from jaxloss._core.pair import rule_out
from jaxloss._core.precision import cotangent, upcast
from jaxloss._core.reduction import fill
from jaxloss._core.typing import Array

_LARGER = 8  # blocks of small arrays, as there is much to do in one


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


def mixture(f: OfChance, rows: Rows, target: Array | None, class_weights: Array | None, option: Array) -> Array:
    """The losses of the rows; `target` None stands for 1 at every class that is kept."""
    return _mixture(f, rows.axis, rows.logits, rows.keep_of_entries(), target, class_weights, option)


class _Row(NamedTuple):
    stats: stable.RowStats
    others: Array  # sum of a_k over the other classes
    top: Array  # t_k c_k of a class that is likelier than the others together


@functools.partial(custom_vjp, nondiff_argnums=(0, 1))
def _mixture(f: OfChance, axis: int, *operands: Any) -> Array:
    """The operands are the logits, what is kept of them (classes or rows), the target, class weights and the option."""
    of_block = lambda *operands: _in_block(f, axis, *operands)[1]  # noqa: E731
    return blocks.per_row(of_block, _aligned(axis, *operands), axis, small=_LARGER, copies=True)


def _aligned(axis: int, x: Array, keep: Any, target: Any, class_weights: Array | None, option: Array) -> Any:
    """The class weights, with the dimensions of the logits, and the option, in the dtype of the computation. What is
    aligned already stays."""
    dtype = upcast(x).dtype
    if class_weights is not None and class_weights.ndim < x.ndim:
        class_weights = jnp.expand_dims(class_weights.astype(dtype), [i for i in range(x.ndim) if i != axis])
    return x, keep, target, class_weights, option.astype(dtype)


def _in_block(f: OfChance, axis: int, *operands: Any) -> tuple[_Row, Array]:
    x, keep, target, class_weights, option = operands
    z = upcast(rule_out(keep, x, axis))
    stats = stable.row_stats(z, axis)
    value, slope, _ = f(_chance(z, stats, axis, computed_once(stable.softmax(z, stats, axis))), option)
    weight, is_top = _weights(z, keep, target, class_weights, axis), stable.is_likely(z, stats, axis)
    terms = stable.times(weight, value), jnp.where(is_top, 0, weight * slope), jnp.where(is_top, weight, 0)
    losses, others, top = (blocks.add_up(term, axis) for term in terms)
    return _Row(stats, others, top), losses


def _chance(z: Array, stats: stable.RowStats, axis: int, right: Array) -> Chance:
    cost = stable.gap(z, stats, axis) + jnp.expand_dims(jnp.log1p(stats.rest), axis)
    return Chance(cost, right, stable.softmax_complement(z, right, stats, axis))


def _weights(z: Array, keep: Array | None, target: Array | None, class_weights: Array | None, axis: int) -> Array:
    """A class that is dropped counts if it has a weight: that makes the loss infinite."""
    weight = _where_counted(jnp.ones_like(z) if target is None else target.astype(z.dtype), keep, target, axis)
    return weight if class_weights is None else weight * class_weights


def _where_counted(values: Array, keep: Array | None, target: Array | None, axis: int) -> Array:
    if keep is None or keep.shape[axis] < values.shape[axis]:
        return values
    return jnp.where(keep if target is None else keep | (target > 0), values, 0)


def _forward(f: OfChance, axis: int, *operands: Any) -> tuple[Array, Any]:
    def by_rule(*operands: Any) -> tuple[_Row, Array]:  # the second derivative of the losses is the rule's too
        return _in_block(f, axis, *operands)[0], _mixture(f, axis, *operands)

    of_block = functools.partial(_in_block, f, axis)
    row, losses = blocks.per_row(of_block, _aligned(axis, *operands), axis, by_rule, small=_LARGER, copies=True)
    return losses, (*operands, row)


def _backward(f: OfChance, axis: int, residuals: Any, g: Array) -> tuple[Array | None, ...]:
    # Why a rule: autodiff keeps several float32 arrays of the size of the logits, and 1 - p of a confident row cancels.
    *operands, row = residuals
    x, keep, target, c, option = _aligned(axis, *operands)
    z, g = upcast(rule_out(keep, x, axis)), jnp.expand_dims(g, axis)
    others, top, rest = (jnp.expand_dims(v, axis) for v in (row.others, row.top, row.stats.rest))
    at = _chance(z, row.stats, axis, stable.softmax(z, row.stats, axis))
    at = at._replace(cost=jnp.minimum(at.cost, jnp.finfo(z.dtype).max))
    value, slope, by_option = f(at, option)
    weight = _weights(z, keep, target, c, axis)
    slope = weight * slope
    total = others + top * f(Chance(jnp.log1p(rest), 1 / (1 + rest), rest / (1 + rest)), option)[1]
    is_top = stable.is_likely(z, row.stats, axis)
    to_x = fill(keep, g * jnp.where(is_top, at.right * others - slope * at.wrong, at.right * total - slope))

    to_target = to_classes = None
    if target is not None:
        to_target = cotangent(g * _where_counted(value if c is None else c * value, keep, target, axis), target)
    if c is not None:
        of_class = g * _weights(z, keep, target, None, axis) * value
        of_class = jnp.sum(of_class, [i for i in range(z.ndim) if i != axis])
        to_classes = cotangent(of_class.reshape(operands[3].shape), operands[3])
    to_option = cotangent(jnp.sum(g * weight * by_option), operands[4])
    return cotangent(to_x, x), None, to_target, to_classes, to_option


_mixture.defvjp(_forward, _backward)
