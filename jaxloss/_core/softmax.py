"""The one rule behind every softmax cross-entropy: per-row statistics of the logits, differentiable in all arguments.

For scores z (the logits after temperature, softcap and masks), target weights t and class weights c it gives three
numbers for each row; smoothing, label weights, z-loss and reductions are plain arithmetic on them:

- `cross`: sum_k t_k c_k (lse - z_k), or lse - z_y for an integer label y;
- `spread`: sum_k c_k (lse - z_k) over the classes that are kept, for label smoothing;
- `lse`: the log-normaliser.

lse - z_k is formed as (max - z_k) + log1p(rest), both non-negative: no digit of a confident row is lost.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxloss._core import stable
from jaxloss._core.autodiff import custom_vjp
from jaxloss._core.precision import cotangent, upcast


class Wanted(NamedTuple):
    """What is known while tracing: the class axis, and which optional statistics are asked for."""

    axis: int
    spread: bool = False
    lse: bool = False


class Scores(NamedTuple):
    """Logits and what is done to each of them before the softmax. `None` is: nothing."""

    logits: Array
    mask: Array | None = None  # classes to keep, as many dimensions as the logits
    keep: Array | None = None  # rows to keep, without the class axis
    temperature: Array | None = None
    softcap: Array | None = None


def scores(s: Scores, axis: int) -> Array:
    z = upcast(s.logits)
    if s.temperature is not None or s.softcap is not None:  # their slopes at a dropped NaN would be NaN
        z = z if s.mask is None else jnp.where(s.mask, z, 0)
        z = z if s.keep is None else jnp.where(jnp.expand_dims(s.keep, axis), z, 0)
    if s.temperature is not None:
        z = z / s.temperature.astype(z.dtype)
    if s.softcap is not None:
        cap = s.softcap.astype(z.dtype)
        z = cap * jnp.tanh(z / cap)
    if s.mask is not None:
        z = jnp.where(s.mask, z, -jnp.inf)
    if s.keep is not None:  # a dropped row is finite all the way, so that its zero cotangent stays zero
        z = jnp.where(jnp.expand_dims(s.keep, axis), z, 0)
    return z


@functools.partial(custom_vjp, nondiff_argnums=(0,))
def row_statistics(
    wanted: Wanted, s: Scores, target: Array | None, class_weights: Array | None
) -> tuple[Array | None, Array | None, Array | None]:
    """`(cross, spread, lse)`; `target` holds labels without the class axis, or weights of the shape of the logits."""
    return _forward(wanted, s, target, class_weights)[0]


def _forward(wanted: Wanted, s: Scores, target: Array | None, class_weights: Array | None) -> Any:
    axis = wanted.axis
    z = scores(s, axis)
    plain = all(x is None for x in s[1:])
    stats = stable.row_stats(s.logits, axis) if plain else stable.row_stats(s, axis, lambda cut: scores(cut, axis))
    log_rest = jnp.log1p(stats.rest)
    cross = spread = lse = None
    if target is not None and _is_label(target):
        label, valid = _label(target, z.shape[axis])
        cross = jnp.where(valid, stable.label_gap(z, stats, label, axis) + log_rest, jnp.nan)
    elif target is not None:
        t = target.astype(z.dtype) * _along(class_weights, z, axis)
        cross = stable.row_sum(_times(t, stable.gap(z, stats, axis) + jnp.expand_dims(log_rest, axis)), axis)
    if wanted.spread:
        spread = spread_sum(stable.gap(z, stats, axis) + jnp.expand_dims(log_rest, axis), class_weights, s.mask, axis)
    if wanted.lse:
        lse = jnp.where(stats.max == -jnp.inf, -jnp.inf, stats.max + log_rest)
    return (cross, spread, lse), (s, target, class_weights, stats, cross)


def _backward(wanted: Wanted, residuals: Any, cotangents: tuple[Array | None, Array | None, Array | None]) -> Any:
    # Why a rule: autodiff saves exp(z - max) in float32, meets inf - inf at ruled-out classes, and scatters into the
    # label's place. Here the logits are kept in their own dtype with three numbers for each row, and one fused pass
    # compares with an iota.
    axis, (s, target, class_weights, stats, cross) = wanted.axis, residuals
    traced = (s.logits, s.temperature, s.softcap)
    z, pull = jax.vjp(lambda x, t, cap: scores(s._replace(logits=x, temperature=t, softcap=cap), axis), *traced)
    g_cross, g_spread, g_lse = (None if g is None else jnp.expand_dims(g, axis) for g in cotangents)
    p = stable.softmax(z, stats, axis)
    to_scores = jnp.zeros_like(z)
    to_target = to_classes = None
    # A ruled-out class has an infinite gap. The largest number stands for it, so that a cotangent of 0 stays 0.
    gap = stable.gap(z, stats, axis) + jnp.expand_dims(jnp.log1p(stats.rest), axis)
    gap = jnp.minimum(gap, jnp.finfo(gap.dtype).max)

    if g_cross is not None and _is_label(target):
        label, valid = _label(target, z.shape[axis])
        g_cross = g_cross * jnp.expand_dims(_nan_unless(valid, z.dtype), axis)
        at_label = jnp.expand_dims(jnp.expm1(-cross), axis)
        to_scores = g_cross * jnp.where(stable.is_label(z, label, axis), at_label, p)
    elif g_cross is not None:
        c = _along(class_weights, z, axis)
        t = target.astype(z.dtype) * c
        to_scores = g_cross * _mixture_slope(z, stats, p, t, axis)
        to_target = cotangent(g_cross * c * gap, target)
        to_classes = g_cross * target.astype(z.dtype) * gap
    if g_spread is not None:
        c = _spread_weights(class_weights, s.mask, z, axis)
        to_scores += g_spread * (p * jnp.expand_dims(stable.row_sum(c, axis), axis) - c)
        kept = (g_spread if s.mask is None else jnp.where(s.mask, g_spread, 0)) * gap
        to_classes = kept if to_classes is None else to_classes + kept
    if g_lse is not None:
        to_scores += g_lse * p

    to_logits, to_temperature, to_softcap = pull(to_scores)
    to_s = Scores(to_logits, temperature=to_temperature, softcap=to_softcap)
    if class_weights is not None and to_classes is not None:
        others = tuple(i for i in range(z.ndim) if i != axis)
        to_classes = cotangent(jnp.sum(to_classes, others), class_weights)
    return to_s, to_target, None if class_weights is None else to_classes


row_statistics.defvjp(_forward, _backward)


@functools.partial(custom_vjp, nondiff_argnums=(0, 1))
def pick(axis: int, classes: int, z: Array, label: Array) -> Array:
    """The entry of each row that a label names, NaN for a label that names none."""
    label, valid = _label(label, classes)
    return jnp.where(valid, stable.pick(z, label, axis), jnp.nan)


def _pick_fwd(axis: int, classes: int, z: Array, label: Array) -> tuple[Array, Array]:
    return pick(axis, classes, z, label), label


def _pick_bwd(axis: int, classes: int, label: Array, g: Array) -> tuple[Array, None]:
    # Why a rule: autodiff of a gather is a scatter; comparing with an iota fuses with what comes before and after.
    label, valid = _label(label, classes)
    shape = (*g.shape[:axis], classes, *g.shape[axis:])
    g = jnp.broadcast_to(jnp.expand_dims(g, axis), shape)
    at_label = jnp.where(stable.is_label(g, label, axis), g, 0)
    return at_label * jnp.expand_dims(_nan_unless(valid, g.dtype), axis), None


pick.defvjp(_pick_fwd, _pick_bwd)


def _is_label(target: Array) -> bool:
    return jnp.issubdtype(target.dtype, jnp.integer)


def _label(label: Array, classes: int) -> tuple[Array, Array]:
    """Labels as signed integers wide enough to compare, and which of them name a class."""
    label = label.astype(jnp.int64 if label.dtype.itemsize == 8 else jnp.int32)
    return label, (label >= 0) & (label < classes)


def _nan_unless(valid: Array, dtype: Any) -> Array:
    """A factor, so that the rule stays linear in its cotangent."""
    return jnp.where(valid, jnp.ones((), dtype), jnp.nan)


def _along(class_weights: Array | None, z: Array, axis: int) -> Array:
    if class_weights is None:
        return jnp.ones((), z.dtype)
    return jnp.expand_dims(class_weights.astype(z.dtype), [i for i in range(z.ndim) if i != axis])


def spread_sum(gap: Array, class_weights: Array | None, mask: Array | None, axis: int) -> Array:
    """sum_k c_k gap_k over the classes that are kept."""
    return stable.row_sum(_times(_spread_weights(class_weights, mask, gap, axis), gap), axis)


def _spread_weights(class_weights: Array | None, mask: Array | None, z: Array, axis: int) -> Array:
    c = jnp.broadcast_to(_along(class_weights, z, axis), z.shape)
    return c if mask is None else jnp.where(mask, c, 0)


def _times(weight: Array, value: Array) -> Array:
    """weight * value with 0 * inf = 0: a class of weight zero does not count, even if it is ruled out.

    Elsewhere it is the plain product, whose derivative by a weight of 0 is the value.
    """
    return weight * jnp.where((weight == 0) & jnp.isinf(value), 0, value)


def _mixture_slope(z: Array, stats: stable.RowStats, p: Array, t: Array, axis: int) -> Array:
    """T p_k - t_k with T = sum t. A probability above one half is 1 minus something small, which is used there."""
    total = jnp.expand_dims(stable.row_sum(jnp.broadcast_to(t, z.shape), axis), axis)
    rest = jnp.expand_dims(stats.rest, axis)
    at_max = (total - t) - total * (rest / (1 + rest))
    return jnp.where((z == jnp.expand_dims(stats.max, axis)) & (rest < 1), at_max, total * p - t)


def lookup(table: Array, index: Array) -> Array:
    """`table[index]` for each row; an index outside gives the nearest entry (its loss is NaN already)."""
    mesh = jax.typeof(index).sharding.mesh
    if mesh.empty or not mesh.explicit_axes:
        return table.at[index].get(mode="clip")
    return table.at[index].get(mode="clip", out_sharding=jax.typeof(index).sharding)
