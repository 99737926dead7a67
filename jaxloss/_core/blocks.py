"""Rules in blocks of rows: what stands between their steps stays in the cache, and is no array of the input's size.

- `per_row(f, operands, axis)`: `f(*operands)`, arrays without the class axis (or axes), each row of its own; what
  else a row has comes behind the other axes.
- `total(f, operands)`: the sum of all elements of `f(*operands)`, each of its own.
- `folded(operands, axis)`: a long axis as two, for sums over it in parts.
- `add_up(values, axis)`: `jnp.sum`, to be used in both. `completed`, `read_again`: hints for XLA:CPU;
  `opaque` one for every XLA.
- `is_local(x)`: is there one CPU and no mesh, so that slices, loops and branches cost no communication.
- `pays_a_branch(x)`: are there so many entries, too, that two ways may be compiled to take the shorter one.

The first operand has the shape; the others have as many dimensions, each of the same length or 1, or are scalars. The
derivative is that of the plain call, any number of times. Under vmap the mapped axis is one more axis of rows.

Why: XLA:CPU does not fuse a rule with its sums. They are a library's (YNNPACK), and what is summed is written out, as
is what the sum has in common with a gradient: for value and gradient of softmax_kl_divergence at [4096, 1024] float32
three arrays of that size and 38 ms, instead of 0.8 MB and 9 ms. Elsewhere XLA fuses, and where there are several
devices a block might be sliced out of a sharded axis: there, and for arrays of one block, both are the plain call.
"""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.custom_batching import custom_vmap

from jaxloss._core.devices import may_slice, one_cpu
from jaxloss._core.remat import as_one_like

Rule = Callable[..., Any]
Axes = tuple[int, ...] | None  # those which belong to a row; `None` is: all, and the blocks add up

# Entries of a block. XLA splits a loop between cores from 2^16 entries on, so that each core has 2^15 (128 KB). Many
# cores get more only where the array is so large that five such blocks in float32 are less than 4% of it. A block costs
# more than what is done in it, which counts where the array itself is nearly in the cache: there are fewer.
_LEAST, _FOR_EACH_CORE, _PARTS = 2**16, 2**15, 128
_SMALL = 2**21
_SHORT = 128  # entries of a row
_RUN = 64  # entries that lie together, at least
_EVEN = 128  # what the length of a block is a multiple of
_COUNTED = 2**31 - 1  # entries that the loop can number
_GROUP = 16  # blocks whose entries are added one to another: of more the roundings would add up


class _How(NamedTuple):
    small: float
    copies: bool = False


def per_row(
    f: Rule,
    operands: Sequence[Any],
    axis: int | tuple[int, ...],
    like: Rule | None = None,
    *,
    small: float = 4,
    copies: bool = False,
) -> Any:
    """`f(*operands)`; `like` is the same function for the sake of its derivative, if that is to be another one. Of a
    small array blocks are `small` times as large: more for a rule of many steps, less for what is done but seldom. A
    rule that sums its operands in lanes is given `copies` of short rows."""
    ndim = jax.tree.leaves(operands)[0].ndim
    axes = tuple(sorted(a % ndim for a in (axis if isinstance(axis, tuple) else (axis,))))
    return _on_leaves(f, like or f, axes, operands, _How(small, copies))


def total(f: Rule, operands: Sequence[Any]) -> Array:
    return _on_leaves(f, f, None, operands, _How(2))


def folded(operands: Any, axis: int) -> Any:
    """The arrays with `axis` in lines, so that some of these with all classes, the last axis, are a block. As they are
    where it is short, where its length has no such divisor, and where there are no blocks."""
    x = jax.tree.leaves(operands)[0]
    line = _line(x.shape[axis], x.shape[-1]) if is_local(x) else None
    if line is None:
        return operands

    def fold(a: Array) -> Array:
        n = a.shape[axis]
        return a.reshape(*a.shape[:axis], *((n // line, line) if n > 1 else (1, 1)), *a.shape[axis + 1 :])

    return jax.tree.map(fold, operands)


def _line(length: int, classes: int) -> int | None:
    most = max(1, _LEAST // classes)
    if length <= 2 * most:
        return None
    return next((n for n in range(most, most // 16, -1) if length % n == 0), None)


def add_up(values: Array, axis: int | tuple[int, ...] | None = None) -> Array:
    return jnp.sum(completed(values), axis)


@jax.custom_jvp
def completed(values: Array) -> Array:
    """The values, computed by XLA before they are summed. YNNPACK would take over the last of the arithmetic with the
    sum, and spend 2.1 ns on an element of `gaussian_kl` where XLA spends 1.1; of a maximum it would drop NaN. A select
    it leaves alone."""
    is_float = jnp.issubdtype(values.dtype, jnp.floating)
    return opaque(values) if jax.default_backend() == "cpu" and is_float else values


@completed.defjvp
def _completed_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    return completed(*primals), tangents[0]


def opaque(x: Array) -> Array:
    """x itself, by a select: XLA does not look through it. For z / c or c z before it is squared: if both are constants
    of the program, XLA makes z z / (c c), out of range."""
    return jnp.where(x == x, x, jnp.nan)


def read_again(tree: Any) -> Any:
    """The same arrays. What two gradients share would be an array of their size; from here on they share nothing."""
    return lax.optimization_barrier(tree) if one_cpu() else tree


def _on_leaves(f: Rule, like: Rule, axes: Axes, operands: Sequence[Any], how: _How) -> Any:
    leaves, tree = jax.tree.flatten(tuple(operands))

    def of(f: Rule) -> Rule:
        return lambda *leaves: f(*jax.tree.unflatten(tree, leaves))

    def in_blocks(*leaves: Array) -> Any:
        return _mappable(of(f), axes, how)(*leaves) if is_local(leaves[0]) else _whole(of(f), axes)(*leaves)

    # The transpose of a loop over slices would be a loop that adds up whole arrays: the derivative is the plain call's.
    return as_one_like(in_blocks, _whole(of(like), axes), *leaves)


def _whole(f: Rule, axes: Axes) -> Rule:
    return f if axes is not None else lambda *leaves: add_up(f(*leaves))


def is_local(x: Array) -> bool:
    """On one CPU, in no mesh, whose types of arrays (varying, explicitly sharded) the loop would have to carry."""
    return may_slice(x) and jax.typeof(x).sharding.mesh.empty and jax.sharding.get_abstract_mesh().empty


def pays_a_branch(x: Array) -> bool:
    """Is a shorter way worth being compiled beside the careful one? For a small array neither takes long."""
    return is_local(x) and x.size >= _LEAST


def _mappable(f: Rule, axes: Axes, how: _How) -> Any:
    @custom_vmap
    def run(*leaves: Array) -> Any:
        return _run_total(f, leaves, how.small) if axes is None else _run_rows(f, axes, leaves, how)

    @run.def_vmap
    def _(size: int, mapped: Sequence[bool], *leaves: Array) -> tuple[Any, Any]:
        out = _run_mapped(_whole(f, axes), axes, how, size, mapped, leaves)
        return out, jax.tree.map(lambda _: True, out)

    return run


def _run_mapped(f: Rule, axes: Axes, how: _How, size: int, mapped: Sequence[bool], leaves: Sequence[Array]) -> Any:
    over = functools.partial(jax.vmap, f, [0 if m else None for m in mapped])
    ndim = leaves[0].ndim
    if not mapped[0] or any(m and x.ndim < ndim for x, m in zip(leaves, mapped, strict=True)):
        return over(axis_size=size)(*leaves)
    shared = [not m and x.ndim > 0 for x, m in zip(leaves, mapped, strict=True)]

    def rows(*leaves: Array) -> Any:
        return over()(*(x[0] if s else x for x, s in zip(leaves, shared, strict=True)))

    axes = tuple(range(1, ndim)) if axes is None else tuple(a + 1 for a in axes)
    return _mappable(rows, axes, how)(*(x[None] if s else x for x, s in zip(leaves, shared, strict=True)))


def _run_rows(f: Rule, axes: tuple[int, ...], leaves: Sequence[Array], how: _How) -> Any:
    shape = leaves[0].shape
    block = _block(shape, axes, how.small)
    if block == shape:
        return f(*leaves)
    if shape[-1] == 1:  # XLA:CPU would give this axis another layout in the loop, for which it copies the operands
        last = len(shape) - 1
        return _run_rows(_with_last(f), tuple(a for a in axes if a != last), _without_last(leaves), how)
    grid = [-(-n // b) for n, b in zip(shape, block, strict=True)]
    kept = [i for i in range(len(shape)) if i not in axes]  # dimensions of the result

    def step(i: Array, out: Any) -> Any:
        starts, _ = _place(i, shape, block, grid)
        pieces = [_cut(x, i, starts, block) for x in leaves]
        copied = how.copies and math.prod(shape[a] for a in axes) <= _SHORT
        found = _of_copies(f, i, pieces) if copied else f(*pieces)
        return jax.tree.map(functools.partial(_put, at=[starts[d] for d in kept]), out, found)

    piece = _shape_of_block(f, leaves, block)
    out = jax.tree.map(
        lambda p: jnp.zeros((*(shape[d] for d in kept), *p.shape[len(kept) :]), _carried(p.dtype)), piece
    )
    out = lax.fori_loop(0, math.prod(grid), step, out)
    return jax.tree.map(lambda o, p: o.astype(p.dtype), out, piece)


def _of_copies(f: Rule, i: Any, pieces: Sequence[Array]) -> Any:
    """`f(*pieces)`, of pieces that are copied, as they are for a branch: within a slice of its operand XLA:CPU does not
    vectorise a loop over a short row."""
    nothing = jax.eval_shape(f, *pieces)
    never = lambda *_: jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), nothing)  # noqa: E731
    return lax.cond(i >= 0, f, never, *pieces)


def _run_total(f: Rule, leaves: Sequence[Array], small: float) -> Array:
    """The blocks are added to one another, in one fused loop each, and only a few times are their entries added up."""
    flat = leaves[0].size <= _COUNTED and all(x.ndim == 0 or x.shape == leaves[0].shape for x in leaves)
    if flat:
        leaves = [x if x.ndim == 0 else x.reshape(-1) for x in leaves]
    shape = leaves[0].shape
    block = _block(shape, (), small, 2 if leaves[0].dtype.itemsize > 2 else 1, 2)
    if block == shape or max(shape) > _COUNTED:
        return add_up(f(*leaves))
    if shape[-1] == 1:
        return _run_total(lambda *leaves: _with_last(f)(*leaves)[..., 0], _without_last(leaves), small)
    if flat:
        block = (_even_block(shape[0], block[0]),)
    grid = [n // b if flat else -(-n // b) for n, b in zip(shape, block, strict=True)]
    count = math.prod(grid)
    groups = -(-count // _GROUP)
    dtype = _shape_of_block(f, leaves, block).dtype

    def add(i: Array, lanes: Array) -> Array:
        whole = [g * b for g, b in zip(grid, block, strict=True)] if flat else shape
        starts, repeated = _place(i, whole, block, grid)
        values, fresh = f(*(_cut(x, i, starts, block) for x in leaves)), _fresh(repeated, block)
        return lanes + (values if fresh is None else jnp.where(fresh, values, 0))

    def add_group(g: Array, sums: Array) -> Array:
        last = jnp.minimum((g + 1) * _GROUP, count)
        lanes = lax.fori_loop(g * _GROUP, last, add, jnp.zeros(block, dtype))
        return lax.dynamic_update_index_in_dim(sums, jnp.sum(lanes), g, 0)

    found = jnp.sum(lax.fori_loop(0, groups, add_group, jnp.zeros(groups, dtype)))
    left = shape[0] % block[0] if flat else 0
    if left:
        found += add_up(f(*(x if x.ndim == 0 else lax.slice_in_dim(x, shape[0] - left, shape[0]) for x in leaves)))
    return found


def _even_block(n: int, most: int) -> int:
    """Even, and a divisor of n where there is one: XLA:CPU does not vectorise an odd length, nor some rules in a mask,
    so that what is left is apart."""
    least = -(-n // most)
    count = next((c for c in range(least - least // 8, 2 * least) if n % (c * _EVEN) == 0), None)
    return n // count if count else max(most - most % _EVEN, min(most, _EVEN))


def _with_last(f: Rule) -> Rule:
    return lambda *leaves: f(*(x if x.ndim == 0 else x[..., None] for x in leaves))


def _without_last(leaves: Sequence[Array]) -> list[Array]:
    return [x if x.ndim == 0 else x[..., 0] for x in leaves]


def _shape_of_block(f: Rule, leaves: Sequence[Array], block: Sequence[int]) -> Any:
    return jax.eval_shape(lambda *xs: f(*(_cut(x, 0, [0] * len(block), block) for x in xs)), *leaves)


def _put(whole: Array, piece: Array, at: Sequence[Any]) -> Array:
    return lax.dynamic_update_slice(whole, piece.astype(whole.dtype), [*at, *[0] * (whole.ndim - len(at))])


def _is_half(dtype: Any) -> bool:
    return jnp.issubdtype(dtype, jnp.floating) and jnp.dtype(dtype).itemsize == 2


def _carried(dtype: Any) -> Any:
    """XLA:CPU updates a slice of half precision in float32, and so converts the whole array, twice for each block."""
    return jnp.float32 if _is_half(dtype) else dtype


def _block(shape: tuple[int, ...], axes: Sequence[int], small: float, share: int = 1, room: int = 1) -> tuple[int, ...]:
    """The shape of a block: whole rows, and of the other dimensions, from the last one on, what there is room for.

    `small` says how many times as large a block of a small array is; `share`, how much of a large array it may be, and
    `room`, how much of the cache.
    """
    size = math.prod(shape)
    least = _LEAST if size > _SMALL else int(small * _LEAST)
    most = min(max(least, share * size // _PARTS), max(least, room * _FOR_EACH_CORE * (os.cpu_count() or 1)))
    block = list(shape)
    for i, n in enumerate(shape):
        now = math.prod(block)
        if i not in axes and now > most:
            run = _RUN if i == len(shape) - 1 else 1
            count = max(1, n // max(run, -(-n * most // now)))
            block[i] = -(-n // count)  # nearly even parts: few entries are in two of them
    return tuple(block)


def _place(i: Any, shape: Sequence[int], block: Sequence[int], grid: Sequence[int]) -> tuple[list[Any], list[Any]]:
    """Where block i starts, in each dimension, and how many entries the block before has too (`None`: it has none)."""
    starts, repeated = [], []
    for n, b, count in reversed(list(zip(shape, block, grid, strict=True))):
        first = i % count * b if count > 1 else 0
        starts.append(jnp.minimum(first, n - b) if n % b else first)
        repeated.append(first - starts[-1] if n % b else None)
        i = i // count
    return starts[::-1], repeated[::-1]


def _fresh(repeated: Sequence[Any], block: Sequence[int]) -> Array | None:
    masks = [lax.broadcasted_iota(r.dtype, block, d) >= r for d, r in enumerate(repeated) if r is not None]
    return functools.reduce(jnp.logical_and, masks) if masks else None


def _cut(x: Array, i: Any, starts: Sequence[Any], block: Sequence[int]) -> Array:
    if x.ndim == 0:
        return x
    sizes = [min(n, b) for n, b in zip(x.shape, block, strict=True)]
    starts = [0 if n == 1 else start for n, start in zip(x.shape, starts, strict=True)]
    if not _is_half(x.dtype):
        return lax.dynamic_slice(x, starts, sizes)
    # XLA:CPU slices half precision in float32, of which it makes a copy of the whole array before the loop. As bits it
    # does not, and the barrier keeps the bits from being copied there.
    x, _ = lax.optimization_barrier((x, i))
    bits = lax.dynamic_slice(lax.bitcast_convert_type(x, jnp.uint16), starts, sizes)
    return lax.bitcast_convert_type(bits, x.dtype)
