"""The one rule behind every softmax cross-entropy: per-row statistics of the logits, differentiable in all arguments.

For scores z (the logits after temperature, softcap and masks), target weights t and class weights c it gives for each
row those numbers that are wanted; smoothing, label weights, z-loss and reductions are plain arithmetic on them:

- `cross`: sum_k t_k c_k (lse - z_k), or lse - z_y for an integer label y;
- `spread`: sum_k c_k (lse - z_k) over the classes that are kept, for label smoothing;
- `lse`: the log-normaliser;
- `entropy`: -sum_k p_k log p_k;
- `argmax`: the class of the largest score, of several the first; -1 for a row with NaN, or with no class left.

lse - z_k is formed as (max - z_k) + log1p(rest), both non-negative: no digit of a confident row is lost.

The classes at hand may be all of them or a block. `part` is what a block contributes, `totals` what all blocks
together give (see `parts.py`), `slopes` the gradient with respect to the logits of a block. `row_statistics` is one
block on each device; `jaxloss._linear` runs through many without having the logits of all.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxloss._core import entries, stable
from jaxloss._core.autodiff import custom_vjp
from jaxloss._core.blocks import read_again
from jaxloss._core.devices import vary_like
from jaxloss._core.label_rows import label_stats
from jaxloss._core.parts import Part, Weighed, over_devices
from jaxloss._core.precision import compute_dtype, cotangent, upcast
from jaxloss._core.tracing import traced_once


class Wanted(NamedTuple):
    """What is known while tracing: the class axis, which statistics, and the mesh axes that split the classes."""

    axis: int
    spread: bool = False
    lse: bool = False
    entropy: bool = False
    over: Any = None
    argmax: bool = False


class Statistics(NamedTuple):
    cross: Array | None = None
    spread: Array | None = None
    lse: Array | None = None
    entropy: Array | None = None
    argmax: Array | None = None


class Target(NamedTuple):
    """What the logits are held against: a label for each row, or the weight of every class at hand."""

    label: Array | None = None  # counted from the first class at hand
    valid: Array | None = None  # does the label name a class
    weights: Array | None = None


class Row(NamedTuple):
    """What the gradient needs of each row."""

    stats: stable.RowStats
    cross: Array | None
    mass: Array | None  # sum_k t_k c_k
    spread_mass: Array | None  # sum_k c_k
    mean_gap: Array | None  # sum_k p_k (max - z_k)


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
        temperature = s.temperature.astype(z.dtype)
        z = _where_finite(z, lambda x: x / temperature, z)
    if s.softcap is not None:
        cap = s.softcap.astype(z.dtype)
        z = _where_finite(z, lambda x: cap * jnp.tanh(x / cap), jnp.where(z > 0, cap, -cap))
    if s.mask is not None:
        z = jnp.where(s.mask, z, -jnp.inf)
    if s.keep is not None:  # a dropped row is finite all the way, so that its zero cotangent stays zero
        z = jnp.where(jnp.expand_dims(s.keep, axis), z, 0)
    return z


def _where_finite(z: Array, f: Callable[[Array], Array], limit: Array) -> Array:
    """f(z), and its limit at infinite entries, where the slope of f by an option would be 0 * inf."""
    infinite = jnp.isinf(z)
    return jnp.where(infinite, limit, f(jnp.where(infinite, 0, z)))


@functools.partial(custom_vjp, nondiff_argnums=(0,))
def row_statistics(wanted: Wanted, s: Scores, target: Array | None, class_weights: Array | None) -> Statistics:
    """`target` holds labels without the class axis, or weights of the shape of the logits."""
    return _forward(wanted, s, target, class_weights)[0]


@functools.partial(traced_once, static_argnums=0)  # by the function and by its rule
def _forward(wanted: Wanted, s: Scores, target: Array | None, class_weights: Array | None) -> Any:
    t = targets(target, s.logits.shape[wanted.axis], wanted.over)
    if t.label is not None and wanted == Wanted(wanted.axis):  # nothing else of these rows, which are whole
        x, of_x = _operand(s, wanted.axis)
        whole = Part(*label_stats(x, t.label, wanted.axis, of_x))
    else:
        first = 0 if wanted.over is None else s.logits.shape[wanted.axis] * lax.axis_index(wanted.over)
        whole = over_devices(part(wanted, s, t, class_weights, first), wanted.over)
    found, row = totals(whole, t.valid, wanted)
    return found, (s, target, class_weights, row)


def _backward(wanted: Wanted, residuals: Any, g: Statistics) -> Any:
    # Why a rule: autodiff saves exp(z - max) in float32, meets inf - inf at ruled-out classes, and scatters into the
    # label's place. Here the logits are kept in their own dtype with a few numbers for each row, and one fused pass
    # compares with an iota.
    s, target, class_weights, row = residuals
    s = read_again(s)  # scores that both passes compute would be written out
    t = targets(target, s.logits.shape[wanted.axis], wanted.over)
    if class_weights is None and wanted.over is None and entries.suit(s.logits, wanted.axis):
        return *_slopes_of_entries(wanted, s, t, row, g), None
    return slopes(wanted, s, t, class_weights, row, g)


def _slopes_of_entries(wanted: Wanted, s: Scores, target: Target, row: Row, g: Statistics) -> tuple[Any, Any]:
    logits = s.logits

    def of_entries(operands: tuple[Scores, Target, Row, Statistics]) -> tuple[Any, Any]:
        s, target, row, g = operands
        if target.label is not None:  # counted from the class of the entry
            target = target._replace(label=target.label - entries.classes(logits))
        return slopes(wanted._replace(axis=1), s, target, None, row, g)[:2]

    return entries.one_loop(of_entries, (s, target, row, g), logits)


row_statistics.defvjp(_forward, _backward)


def targets(target: Array | None, classes: int, over: Any) -> Target:
    """`target` for the classes at hand, of which every device has as many."""
    if target is None or not _is_label(target):
        return Target(weights=target)
    total, first = classes, 0
    if over is not None:
        total, first = classes * lax.axis_size(over), classes * lax.axis_index(over)
    label, valid = _label(target, total)
    return Target(label - first, valid)


def part(wanted: Wanted, s: Scores, target: Target, class_weights: Array | None, first: Any = 0) -> Part:
    """What the classes at hand contribute, of which `first` is the number of the first."""
    axis = wanted.axis
    stats = score_stats(s, axis)
    at_label = cost = spread = heat = None
    z, n = scores(s, axis), s.logits.shape[axis]
    at_hand = _AtHand(s, stable.reference(stats.max), target.weights, along(class_weights, z, axis))
    if target.label is not None:
        here = (target.label >= 0) & (target.label < n)
        at_label = jnp.where(here, stable.pick(z, target.label, axis), 0)
    elif target.weights is not None:
        cost = _weighed(at_hand, axis, _target_weight)
    if wanted.spread:
        spread = _weighed(at_hand, axis, _spread_weight)
    if wanted.entropy:
        heat = stable.row_sum(read_again(at_hand), axis, functools.partial(_heat, axis), in_lanes=True)
    argmax = first + stable.first_max(z, stats.max, axis) if wanted.argmax else None
    return Part(stats, at_label, cost, spread, heat, argmax)


def score_stats(s: Scores, axis: int) -> stable.RowStats:
    x, of_x = _operand(s, axis)
    return stable.part_stats(x, axis, of_x)


def _operand(s: Scores, axis: int) -> tuple[Any, Callable[[Any], Array]]:
    """What a pass over the scores reads, and the scores of a piece of it."""
    return (s.logits, upcast) if all(x is None for x in s[1:]) else (s, lambda cut: scores(cut, axis))


class _AtHand(NamedTuple):
    """The operands of a sum over classes; those with a class axis are cut along it."""

    s: Scores
    top: Array  # without the class axis
    target: Array | None
    class_weights: Array | None


def _weighed(at_hand: _AtHand, axis: int, weight: Callable[[_AtHand], Array]) -> Weighed:
    def gaps(x: _AtHand) -> Array:
        return stable.times(weight(x), _gap(axis, x))

    of_target = weight is _target_weight
    if of_target and not (at_hand.s.mask is None and at_hand.s.keep is None):
        # In slices XLA:CPU would write out which of them count.
        return Weighed(*stable.row_sums(read_again(at_hand), axis, lambda x: (weight(x), gaps(x))))
    # Two passes take less time than one loop that adds up both, which is not vectorised.
    if of_target and at_hand.class_weights is None:
        mass = stable.row_sum(read_again(at_hand.target), axis).astype(at_hand.top.dtype)
    else:
        mass = stable.row_sum(read_again(at_hand), axis, weight, in_lanes=True)
    return Weighed(mass, stable.row_sum(read_again(at_hand), axis, gaps, in_lanes=True))


def _target_weight(x: _AtHand) -> Array:
    assert x.target is not None
    t = target_weights(x.target, x.s, x.top.dtype)
    return t if x.class_weights is None else t * x.class_weights


def target_weights(target: Array, s: Scores, dtype: Any) -> Array:
    return where_counted(target, s, target.astype(dtype))


def where_counted(target: Array, s: Scores, x: Array) -> Array:
    """`x`, but 0 at a class that is ruled out, unless it has a weight: that makes the loss infinite."""
    return x if s.mask is None else jnp.where(s.mask | (target > 0), x, 0)


def _spread_weight(x: _AtHand) -> Array:
    return spread_weights(x.class_weights, x.s.mask, x.s.logits)


def _gap(axis: int, x: _AtHand) -> Array:
    z = scores(x.s, axis)
    return jnp.where(z == jnp.inf, 0, jnp.expand_dims(x.top, axis) - z)


def _heat(axis: int, x: _AtHand) -> Array:
    e = stable.exp_minus(scores(x.s, axis), jnp.expand_dims(x.top, axis))
    return e * jnp.where(e == 0, 0, _gap(axis, x))  # before the product: a cotangent of 0 would meet an infinite gap


def totals(whole: Part, valid: Array | None, wanted: Wanted) -> tuple[Statistics, Row]:
    """The statistics of all classes."""
    stats = stable.settled(whole.stats)
    log_rest = jnp.log1p(stats.rest)

    def total(w: Weighed | None) -> Array | None:
        return None if w is None else w.gaps + w.mass * log_rest

    cross = total(whole.cost)
    if whole.label is not None:
        gap = jnp.where(whole.label == jnp.inf, 0, stats.max - whole.label)
        assert valid is not None
        cross = jnp.where(valid, gap + log_rest, jnp.nan)
    # The maximum of nothing, or of NaN alone, which the rest tells.
    lse = stats.max + jnp.where(stats.max == -jnp.inf, whole.stats.rest, log_rest) if wanted.lse else None
    mean_gap = None if whole.heat is None else whole.heat / (1 + stats.rest)
    entropy = None if mean_gap is None else mean_gap + log_rest
    mass, spread_mass = (None if w is None else w.mass for w in (whole.cost, whole.spread))
    argmax = None if whole.argmax is None else jnp.where(stats.max > -jnp.inf, whole.argmax, -1)
    found = Statistics(cross, total(whole.spread), lse, entropy, argmax)
    return found, Row(stats, cross, mass, spread_mass, mean_gap)


def slopes(
    wanted: Wanted, s: Scores, target: Target, class_weights: Array | None, row: Row, g: Statistics
) -> tuple[Scores, Array | None, Array | None]:
    """The cotangents of the scores, the target and the class weights, for the classes at hand."""
    axis, stats = wanted.axis, row.stats
    z, pull = scores_and_pull(s, axis)
    g_cross, g_spread, g_lse, g_entropy = (None if x is None else jnp.expand_dims(x, axis) for x in g[:4])
    p = stable.softmax(z, stats, axis)
    c = along(class_weights, z, axis)
    to_scores = jnp.zeros_like(z)
    to_target = to_classes = None
    # A ruled-out class has an infinite gap. The largest number stands for it, so that a cotangent of 0 stays 0.
    gap = stable.gap(z, stats, axis) + jnp.expand_dims(jnp.log1p(stats.rest), axis)
    gap = jnp.minimum(gap, jnp.finfo(gap.dtype).max)

    if g_cross is not None and target.label is not None:
        assert row.cross is not None and target.valid is not None
        g_cross = g_cross * jnp.expand_dims(_nan_unless(target.valid, z.dtype), axis)
        at_label = jnp.expand_dims(jnp.expm1(-row.cross), axis)
        to_scores = g_cross * jnp.where(stable.is_label(z, target.label, axis), at_label, p)
    elif g_cross is not None:
        assert target.weights is not None and row.mass is not None
        t, c_or_1 = target_weights(target.weights, s, z.dtype), 1.0 if c is None else c
        to_scores = g_cross * mixture_slope(z, stats, p, t * c_or_1, jnp.expand_dims(row.mass, axis), axis)
        to_target = cotangent(g_cross * c_or_1 * where_counted(target.weights, s, gap), target.weights)
        to_classes = g_cross * t * gap
    if g_spread is not None:
        assert row.spread_mass is not None
        even = spread_weights(c, s.mask, z)
        to_scores += g_spread * (p * jnp.expand_dims(row.spread_mass, axis) - even)
        kept = (g_spread if s.mask is None else jnp.where(s.mask, g_spread, 0)) * gap
        to_classes = kept if to_classes is None else to_classes + kept
    if g_lse is not None:
        to_scores += g_lse * p
    if g_entropy is not None:
        assert row.mean_gap is not None
        below = jnp.where(p == 0, 0, stable.gap(z, stats, axis))  # a ruled-out class has an infinite one
        to_scores += g_entropy * p * (below - jnp.expand_dims(row.mean_gap, axis))

    to_logits, to_temperature, to_softcap = pull(to_scores)
    if class_weights is not None and to_classes is not None:
        others = tuple(i for i in range(z.ndim) if i != axis)
        to_classes = cotangent(jnp.sum(to_classes, others), class_weights)
    to_s = Scores(to_logits, temperature=to_temperature, softcap=to_softcap)
    return to_s, to_target, None if class_weights is None else to_classes


def scores_and_pull(s: Scores, axis: int) -> tuple[Array, Callable[[Array], tuple[Array, ...]]]:
    # One value for all devices: its gradients are added up over them at the end, not here, where tokens may be skipped.
    temperature, softcap = (x if x is None else vary_like(x, s.logits) for x in (s.temperature, s.softcap))

    def of(logits: Array, temperature: Array | None, softcap: Array | None) -> Array:
        return scores(s._replace(logits=logits, temperature=temperature, softcap=softcap), axis)

    return jax.vjp(of, s.logits, temperature, softcap)


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


def along(class_weights: Array | None, z: Array, axis: int) -> Array | None:
    """The class weights in the dtype and with the dimensions of the scores."""
    if class_weights is None:
        return None
    return jnp.expand_dims(class_weights.astype(z.dtype), [i for i in range(z.ndim) if i != axis])


def spread_weights(class_weights: Array | None, mask: Array | None, like: Array) -> Array:
    """The class weight of every class that is kept; `class_weights` has the dimensions of `like`."""
    dtype = compute_dtype(like)
    c = jnp.broadcast_to(jnp.ones((), dtype) if class_weights is None else class_weights, like.shape)
    return c if mask is None else jnp.where(mask, c, 0)


def mixture_slope(z: Array, stats: stable.RowStats, p: Array, t: Array, total: Array, axis: int) -> Array:
    """T p_k - t_k with T = sum t. A probability above one half is 1 minus something small, which is used there."""
    rest = jnp.expand_dims(stats.rest, axis)
    at_max = (total - t) - total * (rest / (1 + rest))
    return jnp.where(stable.is_likely(z, stats, axis), at_max, total * p - t)


def lookup(table: Array, index: Array, over: Any = None) -> Array:
    """`table[index]` for each row; an index outside gives the nearest entry (its loss is NaN already).

    With mesh axes `over`, every device has the entries of its own classes, and the index counts all of them.
    """
    if over is not None:
        here = targets(index, table.shape[0], over).label
        assert here is not None
        mine = (here >= 0) & (here < table.shape[0])
        return lax.psum(jnp.where(mine, lookup(table, here), 0), over)
    mesh = jax.typeof(index).sharding.mesh
    if mesh.empty or not mesh.explicit_axes:
        return table.at[index].get(mode="clip")
    return table.at[index].get(mode="clip", out_sharding=jax.typeof(index).sharding)
