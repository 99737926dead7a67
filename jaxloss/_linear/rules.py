"""The two rules: statistics of every token for any cotangent, and a weighted total with its gradient at once.

- `token_statistics` (lean) keeps a few numbers for each token and makes the tiles again in the backward pass: four
  matrix products, and any cotangent.
- `weighted_total` (fast) knows in the forward pass by what each token will be multiplied. It makes the gradient while
  the tiles are at hand: three matrix products, the least there are. Not differentiated, it makes no gradient.

Nothing is computed for an operand that is not differentiated, nor for a chunk of which no token is kept.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxloss._core import stable
from jaxloss._core.autodiff import custom_vjp
from jaxloss._core.parts import Part, Weighed, merge, over_devices
from jaxloss._core.precision import compute_dtype
from jaxloss._core.remat import as_one, as_one_like
from jaxloss._core.rows import RowStats
from jaxloss._core.softmax import Row, Scores, Statistics, Target, part, slopes, totals
from jaxloss._linear.plan import Plan
from jaxloss._linear.symbolic import instantiated, split
from jaxloss._linear.tiles import (
    HELD_AS_IT_IS,
    Held,
    Piece,
    add,
    as_operand,
    count,
    cut,
    differing,
    held_back,
    held_by,
    loop,
    piece,
    project,
    rounded,
    to_hidden,
    to_kernel,
)


class Operands(NamedTuple):
    """What may be differentiated."""

    hidden: Array  # [N, D]
    kernel: Array  # by `Plan.layout`
    bias: Array | None = None  # [V]
    temperature: Array | None = None
    softcap: Array | None = None
    class_weights: Array | None = None  # [V]
    weights: Array | None = None  # dense targets [N, V]


class Tokens(NamedTuple):
    """What is not: the labels, counted from the first class of this device, and how many tokens in front are kept."""

    label: Array | None
    valid: Array | None
    kept: Array | None  # a number; None is: all


class Mix(NamedTuple):
    """What each token's statistics are multiplied by in the total."""

    cross: Array
    spread: Array | None
    square: Array | None  # of the log-normaliser


# The forward pass.


@functools.partial(custom_vjp, nondiff_argnums=(0,))
def token_statistics(plan: Plan, x: Operands, tokens: Tokens) -> Statistics:
    return _forward(plan, x, tokens)[0]


def _forward(plan: Plan, x: Operands, tokens: Tokens) -> tuple[Statistics, Row]:
    def chunk(rows: Piece) -> tuple[Statistics, Row]:
        return _chunk_totals(plan, x, tokens, rows, lambda i: _logits(plan, x, rows, i))

    return _by_chunks(plan, x, tokens, chunk)


def _by_chunks(plan: Plan, x: Operands, tokens: Tokens, chunk: Callable[[Piece], Any]) -> Any:
    """Results for every token, 0 for those of a chunk of which none is kept."""
    n, size = x.hidden.shape[0], plan.sizes.tokens
    shapes = jax.eval_shape(lambda: chunk(piece(0, n, size)))
    out = jax.tree.map(lambda s: jnp.zeros((n, *s.shape[1:]), s.dtype), shapes)
    out = differing(out, (x, tokens), but=plan.wanted.over)

    def step(j: Any, out: Any) -> Any:
        rows = piece(j, n, size)
        put = functools.partial(lax.dynamic_update_slice_in_dim, start_index=rows.start, axis=0)
        return when_kept(tokens, rows, lambda out: jax.tree.map(put, out, chunk(rows)), out)

    return loop(count(n, size), step, out)


def when_kept(tokens: Tokens, rows: Piece, run: Callable[[Any], Any], otherwise: Any) -> Any:
    if tokens.kept is None:
        return run(otherwise)
    return lax.cond(rows.first < tokens.kept, run, lambda same: same, otherwise)


def _chunk_totals(
    plan: Plan, x: Operands, tokens: Tokens, rows: Piece, logits: Callable[[Any], Array]
) -> tuple[Statistics, Row]:
    """Of the tokens `rows`, over all classes; `logits(i)` is the tile of block i."""
    at = chunk_of(tokens, rows)

    def step(i: Any, so_far: Part) -> Part:
        start = piece(i, plan.classes, plan.sizes.classes).start + _first_class(plan)
        return merge(so_far, part(plan.wanted, *_block(plan, x, at, rows, i, logits(i)), start))

    nothing = differing(_nothing(plan, x, at, rows.size), (x, tokens))
    whole = over_devices(loop(count(plan.classes, plan.sizes.classes), step, nothing), plan.wanted.over)
    return totals(whole, at.valid, plan.wanted)


def chunk_of(tokens: Tokens, rows: Piece) -> Tokens:
    label, valid = (None if t is None else cut(t, rows.start, rows.size, 0) for t in (tokens.label, tokens.valid))
    return Tokens(label, valid, tokens.kept)


def _nothing(plan: Plan, x: Operands, at: Tokens, n: int) -> Part:
    """The part of no class."""
    zero = jnp.zeros(n, compute_dtype(x.hidden, x.kernel))
    weighed = Weighed(zero, zero)
    return Part(
        RowStats(jnp.full_like(zero, -jnp.inf), zero),
        zero if at.label is not None else None,
        weighed if x.weights is not None else None,
        weighed if plan.wanted.spread else None,
        zero if plan.wanted.entropy else None,
        jnp.full(n, jnp.iinfo(jnp.int32).max) if plan.wanted.argmax else None,
    )


def _logits(plan: Plan, x: Operands, rows: Piece, i: Any) -> Array:
    block = piece(i, plan.classes, plan.sizes.classes)
    z = project(cut(x.hidden, rows.start, rows.size, 0), _kernel(plan, x, block), plan.layout)
    return z if x.bias is None else z + cut(x.bias, block.start, block.size, 0).astype(z.dtype)[None]


def _kernel(plan: Plan, x: Operands, block: Piece) -> Array:
    return cut(x.kernel, block.start, block.size, 1 if plan.layout == "dv" else 0)


def _block(
    plan: Plan, x: Operands, at: Tokens, rows: Piece, i: Any, logits: Array
) -> tuple[Scores, Target, Array | None]:
    """The scores of a tile, what they are held against, and the class weights of its block."""
    block = piece(i, plan.classes, plan.sizes.classes)
    mask = _new_classes(plan, block)
    keep = None if at.kept is None else rows.start + jnp.arange(rows.size) < at.kept
    label = at.label
    if label is not None and block.overlaps:
        label = jnp.where(label >= block.first, label - block.start, -1)
    elif label is not None:
        label = label - block.start
    weights = None if x.weights is None else cut(cut(x.weights, rows.start, rows.size, 0), block.start, block.size, 1)
    if weights is not None and mask is not None:
        weights = jnp.where(mask, weights, 0)
    c = None if x.class_weights is None else cut(x.class_weights, block.start, block.size, 0)
    return Scores(logits, mask, keep, x.temperature, x.softcap), Target(label, at.valid, weights), c


def _new_classes(plan: Plan, block: Piece) -> Array | None:
    """The classes of a block that were not in the one before, and are no padding."""
    k = block.start + jnp.arange(block.size)[None]
    mask = k >= block.first if block.overlaps else None
    over = plan.wanted.over
    devices = 1 if over is None else lax.axis_size(over)
    if plan.total < plan.classes * devices:
        real = k + _first_class(plan) < plan.total
        mask = real if mask is None else mask & real
    return mask


def _first_class(plan: Plan) -> Any:
    """The number of this device's first class."""
    over = plan.wanted.over
    return 0 if over is None else plan.classes * lax.axis_index(over)


# The gradient of a tile.


def zeros_for(plan: Plan, x: Operands, moving: Operands) -> Operands:
    """Where cotangents are added up, in float32 (or float64); `None` for what is not differentiated."""
    dtype = compute_dtype(x.hidden, x.kernel)

    def zeros(leaf: Any, moves: Any) -> Any:
        return jnp.zeros(leaf.shape, leaf.dtype if leaf is x.weights else dtype) if moves else None

    return differing(Operands(*map(zeros, x, moving)), x)


def add_gradient(
    plan: Plan,
    total: Operands,
    x: Operands,
    at: Tokens,
    rows: Piece,
    i: Any,
    logits: Array,
    row: Row,
    g: Statistics,
) -> Operands:
    """`total` and what one tile adds; `g` is 0 for tokens that were in the chunk before."""
    block = piece(i, plan.classes, plan.sizes.classes)
    scores, target, c = _block(plan, x, at, rows, i, logits)
    to_s, to_weights, to_classes = slopes(plan.wanted, scores, target, c, row, g)
    to_logits = to_s.logits
    small = rounded(to_logits, x.kernel.dtype)
    hidden, kernel, bias, temperature, softcap, class_weights, weights = total
    if hidden is not None:
        hidden = add(hidden, to_hidden(small, _kernel(plan, x, block), plan.layout), rows.start, 0)
    if kernel is not None:
        product = to_kernel(small, cut(x.hidden, rows.start, rows.size, 0), plan.layout)
        kernel = add(kernel, product, block.start, 1 if plan.layout == "dv" else 0)
    if bias is not None:
        bias = add(bias, jnp.sum(to_logits, 0), block.start, 0)
    if temperature is not None and to_s.temperature is not None:
        temperature = temperature + to_s.temperature
    if softcap is not None and to_s.softcap is not None:
        softcap = softcap + to_s.softcap
    if class_weights is not None and to_classes is not None:
        class_weights = add(class_weights, to_classes.astype(class_weights.dtype), block.start, 0)
    if weights is not None and to_weights is not None:
        if scores.mask is not None:
            to_weights = jnp.where(scores.mask, to_weights, 0)
        corner = rows.start, block.start
        old = lax.dynamic_slice(weights, corner, to_weights.shape)
        weights = lax.dynamic_update_slice(weights, old + to_weights, corner)
    return Operands(hidden, kernel, bias, temperature, softcap, class_weights, weights)


def finished(plan: Plan, total: Operands, x: Operands, convert: Any = as_operand) -> Operands:
    """In the dtypes of `convert`. All devices of a vocabulary have the hidden states: their gradients add up."""
    hidden = total.hidden
    if hidden is not None and plan.wanted.over is not None:
        total = total._replace(hidden=lax.psum(hidden, plan.wanted.over))
    return jax.tree.map(convert, total, x, is_leaf=_is_none)


def _is_none(leaf: Any) -> bool:
    return leaf is None


def new_rows(rows: Piece, g: Statistics) -> Statistics:
    """The cotangents of a chunk, 0 for tokens that were in the one before."""
    if not rows.overlaps:
        return g
    new = rows.start + jnp.arange(rows.size) >= rows.first
    return jax.tree.map(lambda v: jnp.where(new, v, 0), g)


# Lean: statistics of every token.


def _lean_forward(plan: Plan, x: Any, tokens: Any) -> Any:
    (x, moving), (tokens, _) = split(x), split(tokens)
    found, row = as_one(functools.partial(_forward, plan), x, tokens)
    return found, (x, tokens, row, moving)


def _lean_backward(plan: Plan, residuals: Any, g: Any) -> Any:
    # Why a rule: autodiff would keep every tile, which is the logits. Here each is made again.
    x, tokens, row, moving = residuals
    g = instantiated(g._replace(argmax=None))
    as_bits, plain = (functools.partial(_block_by_block, plan, moving, h) for h in (held_by(x.kernel), HELD_AS_IT_IS))
    return as_one_like(as_bits, plain, x, tokens, row, g), None


def _block_by_block(
    plan: Plan, moving: Operands, held: Held, x: Operands, tokens: Tokens, row: Row, g: Statistics
) -> Operands:
    """A block of the kernel's gradient is added up over the tokens in float32, and then put into its array once."""
    n, v, sizes = x.hidden.shape[0], plan.classes, plan.sizes
    axis = 1 if plan.layout == "dv" else 0
    start = differing(zeros_for(plan, x, moving), (x, tokens, g))
    zeros = None if start.kernel is None else lax.slice_in_dim(start.kernel, 0, sizes.classes, axis=axis)
    whole = None if start.kernel is None else held.store(start.kernel.astype(x.kernel.dtype))

    def block(i: Any, carry: Any) -> Any:
        def chunk(j: Any, total: Operands) -> Operands:
            rows = piece(j, n, sizes.tokens)
            at = chunk_of(tokens, rows)
            here, slope = (jax.tree.map(lambda a: cut(a, rows.start, rows.size, 0), t) for t in (row, g))

            def run(total: Operands) -> Operands:
                logits = _logits(plan, x, rows, i)
                return add_gradient(plan, total, x, at, rows, i, logits, here, new_rows(rows, slope))

            return when_kept(tokens, rows, run, total)

        whole, total = carry
        total = loop(count(n, sizes.tokens), chunk, total._replace(kernel=zeros))
        if whole is not None:
            at = piece(i, v, sizes.classes).start
            old = held.load(lax.dynamic_slice_in_dim(whole, at, sizes.classes, axis))
            new = old + total.kernel.astype(old.dtype)  # exact: one of the two is 0
            whole = lax.dynamic_update_slice_in_dim(whole, held.store(new), at, axis)
        return whole, total._replace(kernel=None)

    whole, total = loop(count(v, sizes.classes), block, (whole, start._replace(kernel=None)))
    return finished(plan, total._replace(kernel=None if whole is None else held.load(whole)), x)


token_statistics.defvjp(_lean_forward, _lean_backward, symbolic_zeros=True)


# Fast: a weighted total.


@functools.partial(custom_vjp, nondiff_argnums=(0,))
def weighted_total(plan: Plan, x: Operands, tokens: Tokens, mix: Mix) -> Array:
    found, _ = _forward(plan, x, tokens)
    return _total(found, mix)


def mixed(found: Statistics, mix: Mix) -> Array:
    assert found.cross is not None
    losses = stable.times(mix.cross, found.cross)
    if mix.spread is not None:
        assert found.spread is not None
        losses += stable.times(mix.spread, found.spread)
    if mix.square is not None:
        assert found.lse is not None
        losses += stable.times(mix.square, jnp.square(found.lse))
    return losses


def _total(found: Statistics, mix: Mix) -> Array:
    return jnp.sum(mixed(found, mix))


def _fast_forward(plan: Plan, x: Any, tokens: Any, mix: Any) -> Any:
    (x, moving), (tokens, _), (mix, _) = split(x), split(tokens), split(mix)
    if not any(m for m in moving if m is not None):
        found, _ = as_one(functools.partial(_forward, plan), x, tokens)
        return _total(found, mix), (_countable(found, mix), Operands(None, None))  # type: ignore[arg-type]
    found, gradients = as_one(functools.partial(_with_gradient, plan, moving), x, tokens, mix)
    return _total(found, mix), (_countable(found, mix), gradients)


def _countable(found: Statistics, mix: Mix) -> Statistics:
    """What the shares are multiplied by, for their gradient."""
    pairs = ((found.cross, mix.cross), (found.spread, mix.spread), (found.lse, mix.square))
    cross, spread, lse = (v if v is None or share is None else stable.countable(share, v) for v, share in pairs)
    return found._replace(cross=cross, spread=spread, lse=lse)


def _with_gradient(plan: Plan, moving: Operands, x: Operands, tokens: Tokens, mix: Mix) -> tuple[Statistics, Operands]:
    n, v, sizes = x.hidden.shape[0], plan.classes, plan.sizes
    found = differing(_no_statistics(plan, n, x, tokens), (x, tokens, mix), but=plan.wanted.over)

    def chunk(j: Any, carry: Any) -> Any:
        rows = piece(j, n, sizes.tokens)

        def run(carry: Any) -> Any:
            found, total = carry
            logits = _all_logits(plan, x, rows)
            tile = lambda i: cut(logits, i, 1, 0)[0]  # noqa: E731
            here, row = _chunk_totals(plan, x, tokens, rows, tile)
            put = functools.partial(lax.dynamic_update_slice_in_dim, start_index=rows.start, axis=0)
            g = _slopes_of_total(here, jax.tree.map(lambda m: cut(m, rows.start, rows.size, 0), mix))
            at, g = chunk_of(tokens, rows), new_rows(rows, g)
            step = lambda i, t: add_gradient(plan, t, x, at, rows, i, tile(i), row, g)  # noqa: E731
            return jax.tree.map(put, found, here), loop(count(v, sizes.classes), step, total)

        return when_kept(tokens, rows, run, carry)

    total = differing(zeros_for(plan, x, moving), (x, tokens, mix))
    found, total = loop(count(n, sizes.tokens), chunk, (found, total))
    return found, finished(plan, total, x, held_back)


def _no_statistics(plan: Plan, n: int, x: Operands, tokens: Tokens) -> Statistics:
    zero = jnp.zeros(n, compute_dtype(x.hidden, x.kernel))
    w = plan.wanted
    return Statistics(*(zero if wanted else None for wanted in (True, w.spread, w.lse, w.entropy)))


def _all_logits(plan: Plan, x: Operands, rows: Piece) -> Array:
    """The tiles of a chunk, [blocks, tokens, classes]."""
    n = count(plan.classes, plan.sizes.classes)
    if n == 1:
        return _logits(plan, x, rows, 0)[None]
    dtype = compute_dtype(x.hidden, x.kernel)
    tiles = differing(jnp.zeros((n, rows.size, plan.sizes.classes), dtype), x)

    def step(i: Any, tiles: Array) -> Array:
        return lax.dynamic_update_slice_in_dim(tiles, _logits(plan, x, rows, i)[None], i, 0)

    return loop(n, step, tiles)


def _slopes_of_total(found: Statistics, mix: Mix) -> Statistics:
    lse = None if mix.square is None or found.lse is None else 2 * mix.square * found.lse
    return Statistics(mix.cross, mix.spread, lse)


def _fast_backward(plan: Plan, residuals: Any, g: Any) -> Any:
    # Why a rule: the three matrix products of the gradient are done while a chunk of logits is at hand.
    found, gradients = residuals
    g = instantiated(g)
    to_x = jax.tree.map(lambda v: v.astype(compute_dtype(v)) * g, gradients)
    square = None if found.lse is None else g * jnp.square(found.lse)
    return to_x, None, Mix(g * found.cross, None if found.spread is None else g * found.spread, square)


weighted_total.defvjp(_fast_forward, _fast_backward, symbolic_zeros=True)
