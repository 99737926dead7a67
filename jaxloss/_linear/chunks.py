"""Any loss of single tokens on whole rows of logits, a chunk of tokens at a time.

- `total` knows in the forward pass by what each loss will be multiplied, and makes the gradient while the logits of a
  chunk are at hand: three matrix products for each kernel, the least there are. Not differentiated, it makes none.
- `each` gives the loss of every token, and makes the logits again in the backward pass: four, for any cotangent.

The loss may look at the logits of several kernels (a student's and a teacher's). What it closes over is an operand like
any other. Nothing is computed for an operand that is not differentiated, nor for a chunk of which no token is kept.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.core import eval_jaxpr

from jaxloss._core import stable
from jaxloss._core.autodiff import custom_vjp
from jaxloss._core.devices import divided_like, is_explicit, vary, vary_like, varying
from jaxloss._core.precision import compute_dtype, upcast
from jaxloss._core.remat import as_one
from jaxloss._linear.plan import block_of
from jaxloss._linear.symbolic import instantiated, split
from jaxloss._linear.tiles import (
    Piece,
    add,
    count,
    cut,
    held_back,
    loop,
    piece,
    project,
    rounded,
    to_hidden,
    to_kernel,
)


class Factors(NamedTuple):
    """What logits are made of."""

    hidden: Any  # [N, D]
    kernel: Any  # by `Chunks.layouts`
    bias: Any = None  # [V]


class Operands(NamedTuple):
    """What may be differentiated; also its cotangents, with `None` for what is frozen."""

    heads: tuple[Factors, ...]
    targets: tuple[Any, ...]  # [N, ...]
    closed: tuple[Any, ...] = ()  # what the loss closes over


class Chunks(NamedTuple):
    """What is known while tracing."""

    loss: Callable[..., Array]  # (*logits [C, V], *targets [C, ...]) -> [C]
    layouts: tuple[str, ...]
    size: int
    program: Any = None  # of the loss, in which what it closes over is an argument


def closed_over(fn: str, chunks: Chunks, x: Operands) -> tuple[Chunks, Operands]:
    """The loss as a program, and what it closes over as operands.

    A traced array in a closure would have no gradient, or be met outside of its transformation.
    """
    found: list[Any] = []

    def trace() -> None:
        logits, targets = _at_hand(chunks, x, piece(0, x.heads[0].hidden.shape[0], chunks.size))
        found.append(jax.make_jaxpr(chunks.loss)(*logits, *targets))
        _require_per_token(fn, chunks.size, found[0].out_avals)
        if is_explicit(x.heads[0].hidden):
            return  # one more token could not be divided between devices as these are
        one_more = [jnp.concatenate([a, a[:1]]) for a in (*logits, *targets)]
        try:
            again = jax.make_jaxpr(chunks.loss)(*one_more).out_avals
        except (TypeError, ValueError) as e:
            raise ValueError(
                f"{fn}: loss_fn takes {chunks.size} tokens but not {chunks.size + 1}. Tokens come in chunks, and in "
                "another order where some are dropped: give an array with a row for each of them as one of the targets"
            ) from e
        _require_per_token(fn, chunks.size + 1, again)

    jax.eval_shape(trace)
    return chunks._replace(program=found[0]), x._replace(closed=tuple(found[0].consts))


def _require_per_token(fn: str, n: int, out: Any) -> None:
    if len(out) != 1 or out[0].shape != (n,):
        got = ", ".join(str(a.shape) for a in out) or "nothing"
        raise ValueError(
            f"{fn}: loss_fn must return one loss for each of the {n} tokens of a chunk, of shape ({n},), got {got}; do "
            'not reduce tokens in it (reduction="none"), the arguments here do'
        )
    if not jnp.issubdtype(out[0].dtype, jnp.floating):
        raise TypeError(f"{fn}: loss_fn must return floating-point losses, got {out[0].dtype}")


def dtype_of_losses(chunks: Chunks) -> Any:
    return jnp.promote_types(chunks.program.out_avals[0].dtype, jnp.float32)


def differ_as_losses(chunks: Chunks, x: Operands, keep: Array | None) -> bool:
    """May `total` be differentiated? Its gradient for an operand which devices share, but not the losses, would be
    added up over devices before each of them knows its own cotangent."""
    axes = _axes_of_losses(chunks, keep)
    floating = (leaf for leaf in (*x.targets, *x.closed) if jnp.issubdtype(leaf.dtype, jnp.floating))
    return all(axes <= varying(jax.typeof(leaf)) for leaf in (*(h.hidden for h in x.heads), *floating))


def _axes_of_losses(chunks: Chunks, keep: Array | None) -> frozenset[str]:
    return varying(chunks.program.out_avals[0]) | (frozenset() if keep is None else varying(jax.typeof(keep)))


# The forward pass.


@functools.partial(custom_vjp, nondiff_argnums=(0,))
def each(chunks: Chunks, x: Operands, keep: Array | None) -> Array:
    return _losses(chunks, x, keep)


@functools.partial(custom_vjp, nondiff_argnums=(0,))
def total(chunks: Chunks, x: Operands, keep: Array | None, factors: Array) -> Array:
    return jnp.sum(stable.times(factors, _losses(chunks, x, keep)))


def _losses(chunks: Chunks, x: Operands, keep: Array | None) -> Array:
    def run(rows: Piece, losses: Array) -> Array:
        logits, targets = _at_hand(chunks, x, rows)
        return _put(losses, _loss(chunks, logits, targets, x.closed), rows, keep)

    return _over_chunks(chunks, x, keep, run, _no_losses(chunks, x, keep))


def _over_chunks(chunks: Chunks, x: Operands, keep: Array | None, run: Callable[[Piece, Any], Any], init: Any) -> Any:
    n = x.heads[0].hidden.shape[0]

    def step(j: Any, carry: Any) -> Any:
        rows = piece(j, n, chunks.size)
        if keep is None or is_explicit(x.heads[0].hidden):
            return run(rows, carry)
        any_kept = jnp.any(cut(keep, rows.start, rows.size, 0))
        return lax.cond(any_kept, functools.partial(run, rows), lambda same: same, carry)

    return loop(count(n, chunks.size), step, init)


def _no_losses(chunks: Chunks, x: Operands, keep: Array | None) -> Array:
    """Zeros that differ between devices as the losses will."""
    axes = _axes_of_losses(chunks, keep)
    zeros = jnp.zeros(x.heads[0].hidden.shape[0], dtype_of_losses(chunks))
    return vary(zeros, tuple(sorted(axes))) if axes else zeros


def _at_hand(chunks: Chunks, x: Operands, rows: Piece) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
    """The logits and the targets of a chunk."""

    def logits(head: Factors, layout: str) -> Array:
        z = project(_of(rows, head.hidden), head.kernel, layout)
        return z if head.bias is None else z + head.bias.astype(z.dtype)[None]

    return tuple(map(logits, x.heads, chunks.layouts)), tuple(_of(rows, t) for t in x.targets)


def _loss(chunks: Chunks, logits: Any, targets: Any, closed: Any) -> Array:
    return upcast(eval_jaxpr(chunks.program.jaxpr, closed, *logits, *targets)[0])


def _of(rows: Piece, x: Array) -> Array:
    return cut(x, rows.start, rows.size, 0)


def _put(whole: Array, part: Array, rows: Piece, keep: Array | None = None) -> Array:
    """`part` in the place of the chunk, 0 for tokens that are dropped."""
    part = part if keep is None else jnp.where(_along(_of(rows, keep), part), part, 0)
    part = part.astype(whole.dtype)
    # All tokens, as the devices have them (with an explicit mesh, slices of them could not be put together).
    return part if part.shape == whole.shape else lax.dynamic_update_slice_in_dim(whole, part, rows.start, 0)


def _along(row: Array, like: Array) -> Array:
    return row.reshape(-1, *[1] * (like.ndim - 1))


# The gradient.


def _gradient(chunks: Chunks, moving: Operands, x: Operands, keep: Array | None, g: Array) -> tuple[Array, Operands]:
    """The losses, and the cotangents of what is differentiated for the cotangents `g` of the losses."""

    def run(rows: Piece, carry: tuple[Array, Operands]) -> tuple[Array, Operands]:
        losses, so_far = carry
        logits, targets = _at_hand(chunks, x, rows)
        live = _live(rows, keep)
        slope = _of(rows, g)
        slope = slope if live is None else jnp.where(live, slope, 0)
        found, to_logits, to_targets, to_closed = _pulled(chunks, moving, logits, targets, x.closed, slope)

        def add_head(layout: str, so_far: Factors, head: Factors, to_logits: Array | None) -> Factors:
            return so_far if to_logits is None else _add_head(layout, so_far, head, to_logits, rows, live)

        heads = tuple(map(add_head, chunks.layouts, so_far.heads, x.heads, to_logits))
        of_targets = tuple(_put_live(t, c, rows, live) for t, c in zip(so_far.targets, to_targets, strict=True))
        of_closed = tuple(
            None if c is None else t + c.astype(t.dtype) for t, c in zip(so_far.closed, to_closed, strict=True)
        )
        return _put(losses, found, rows, keep), Operands(heads, of_targets, of_closed)

    start = _no_losses(chunks, x, keep), _zeros(moving, x)
    return _over_chunks(chunks, x, keep, run, start)


def _live(rows: Piece, keep: Array | None) -> Array | None:
    """Tokens that are kept and were not in the chunk before; None is: all."""
    live = None if keep is None else _of(rows, keep)
    if not rows.overlaps:
        return live
    new = rows.start + jnp.arange(rows.size) >= rows.first
    return new if live is None else new & live


def _zeros(moving: Operands, x: Operands) -> Operands:
    """Where cotangents are added up, in float32 (or float64), but for targets: each is written once.

    Between devices they differ as what `_pulled` gives: those of logits as the logits, of which the products with
    hidden states and kernel are parts of a sum; all others as the operand itself, the devices being added up already.
    """

    def wide(leaf: Array, moves: bool, *like: Array) -> Array | None:
        return vary_like(jnp.zeros(leaf.shape, compute_dtype(leaf)), *(like or (leaf,))) if moves else None

    def of_head(head: Factors, moving: Factors) -> Factors:
        parts = jax.tree.leaves(head)
        return jax.tree.map(lambda leaf, moves: wide(leaf, moves, *parts), head, moving)

    targets = (vary_like(jnp.zeros_like(t), t) if m else None for t, m in zip(x.targets, moving.targets, strict=True))
    heads = tuple(map(of_head, x.heads, moving.heads))
    return Operands(heads, tuple(targets), jax.tree.map(wide, x.closed, moving.closed))


def _pulled(
    chunks: Chunks, moving: Operands, logits: Any, targets: Any, closed: Any, slope: Array
) -> tuple[Array, Any, Any, Any]:
    """The losses of a chunk; the cotangents of logits, targets and what is closed over, None for what is frozen."""
    moves = (*(any(jax.tree.leaves(h)) for h in moving.heads), *moving.targets, *moving.closed)
    given = (*logits, *targets, *closed)
    a, b = len(logits), len(logits) + len(targets)

    def at(*points: Array) -> Array:
        values = iter(points)
        full = [next(values) if m else v for v, m in zip(given, moves, strict=True)]
        return _loss(chunks, full[:a], full[a:b], full[b:])

    found, pull = jax.vjp(at, *(v for v, m in zip(given, moves, strict=True) if m))
    values = iter(pull(divided_like(vary_like(slope.astype(found.dtype), found), found)))
    full = [next(values) if m else None for m in moves]
    return found, full[:a], full[a:b], full[b:]


def _add_head(
    layout: str, so_far: Factors, head: Factors, to_logits: Array, rows: Piece, live: Array | None
) -> Factors:
    if live is not None:  # exactly 0, whatever the loss makes of a slope of 0
        to_logits = jnp.where(live[:, None], to_logits, 0)
    small = rounded(to_logits, head.kernel.dtype)
    hidden, kernel, bias = so_far
    if hidden is not None:
        hidden = _put_live(hidden, to_hidden(small, head.kernel, layout), rows, live)
    if kernel is not None:
        kernel = _add_kernel(layout, kernel, small, _of(rows, head.hidden))
    if bias is not None:
        bias = bias + jnp.sum(to_logits, 0)
    return Factors(hidden, kernel, bias)


def _add_kernel(layout: str, so_far: Array, to_logits: Array, hidden: Array) -> Array:
    """In blocks of classes where those stay in the cache: a whole product would be one more array like the kernel."""
    n = to_logits.shape[1]
    size = block_of(n)

    def step(i: Any, so_far: Array) -> Array:
        block = piece(i, n, size)
        part = cut(to_logits, block.start, size, 1)
        if block.overlaps:
            part = jnp.where(block.start + jnp.arange(size)[None] >= block.first, part, 0)
        return add(so_far, to_kernel(part, hidden, layout), block.start, 1 if layout == "dv" else 0)

    return loop(count(n, size), step, so_far)


def _put_live(so_far: Array | None, part: Array | None, rows: Piece, live: Array | None) -> Array | None:
    """Cotangents of single tokens: what the chunk before wrote stays."""
    if so_far is None or part is None:
        return so_far
    part = part.astype(so_far.dtype)
    return _put(so_far, part if live is None else jnp.where(_along(live, part), part, _of(rows, so_far)), rows)


# The two rules.


def _each_fwd(chunks: Chunks, x: Any, keep: Any) -> Any:
    (x, moving), (keep, _) = split(x), split(keep)
    return as_one(functools.partial(_losses, chunks), x, keep), (x, keep, moving)


def _each_bwd(chunks: Chunks, residuals: Any, g: Any) -> Any:
    # Why a rule: autodiff would keep the logits of every chunk. Here they are made again.
    x, keep, moving = residuals
    return as_one(lambda *args: _gradient(chunks, moving, *args)[1], x, keep, instantiated(g)), None


each.defvjp(_each_fwd, _each_bwd, symbolic_zeros=True)


def _total_fwd(chunks: Chunks, x: Any, keep: Any, factors: Any) -> Any:
    (x, moving), (keep, _), (factors, _) = split(x), split(keep), split(factors)
    if not any(jax.tree.leaves(moving)):
        losses, slopes = as_one(functools.partial(_losses, chunks), x, keep), None
    else:
        losses, slopes = as_one(functools.partial(_finished_gradient, chunks, moving), x, keep, factors)
    return jnp.sum(stable.times(factors, losses)), (stable.countable(factors, losses), slopes)


def _finished_gradient(chunks: Chunks, moving: Operands, x: Operands, keep: Array | None, factors: Array) -> Any:
    losses, slopes = _gradient(chunks, moving, x, keep, factors)
    return losses, jax.tree.map(held_back, slopes, x, is_leaf=lambda leaf: leaf is None)


def _total_bwd(chunks: Chunks, residuals: Any, g: Any) -> Any:
    # Why a rule: the matrix products of the gradient are done while a chunk of logits is at hand.
    losses, slopes = residuals
    g = instantiated(g)
    return jax.tree.map(lambda v: upcast(v) * g.astype(compute_dtype(v)), slopes), None, g * losses


total.defvjp(_total_fwd, _total_bwd, symbolic_zeros=True)
