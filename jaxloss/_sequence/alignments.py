"""The sum over all alignments of labels with frames, and the posterior of each label in each frame.

The recursion of Graves et al. (2006) on numbers with an exponent of their own (`_core/scaled.py`), time first, examples
last: arrays are `[frames, labels, examples]`. After n labels an alignment is in a blank, or still in label n; both are
arrays of N + 1 rows, row n for n labels.

The backward pass is not the recursion in beta. `_step` finds which share of each state came from each of its
predecessors; a posterior is passed back in these shares. They add up to 1: it needs no exponent, rounding errors do
not grow, and small posteriors keep their digits.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jaxloss._core import scaled
from jaxloss._core.devices import divided_as_rows, is_known, vary_like
from jaxloss._core.scaled import NEVER, ZERO, Number, aligned, normal


class Frames(NamedTuple):
    """What the recursion reads of the frames."""

    scores: Array  # [frames, 1 + labels, examples], at most 0: of the blank, then of the labels
    closed: Array  # [frames, examples]: padded, so that every alignment stays where it is
    repeated: Array  # [labels, examples]: the same as the label before, so that a blank must come between


class State(NamedTuple):
    """The alignments of all frames so far that have put out n labels, by row n."""

    blank: Number
    label: Number


Shares: TypeAlias = tuple[Array, Array, Array, Array, Array]


def log_likelihood(frames: Frames, lengths: Array) -> Array:
    """log of the sum over all alignments of the product of exp(scores); -inf where there is no alignment."""
    return _result(_over_blocks(frames)[0], lengths)[0]


def log_likelihood_and_posteriors(frames: Frames, lengths: Array) -> tuple[Array, tuple[Array, Array]]:
    """Also the probability that a frame is aligned with a blank, `[frames, examples]`, and that it is with a label,
    `[frames, labels, examples]`; 0 without alignment."""
    if _blocks(frames) == 1:
        last, shares = _advance(_start(frames), frames, keep=True)
        result, posterior = _result(last, lengths)
        return result, lax.scan(_step_back, posterior, shares, reverse=True)[1]
    last, starts = _over_blocks(frames)
    result, posterior = _result(last, lengths)

    def back(posterior: Any, block: tuple[State, Frames]) -> Any:
        return lax.scan(_step_back, posterior, _advance(*block, keep=True)[1], reverse=True)

    posteriors = lax.scan(back, posterior, (starts, _in_blocks(frames)), reverse=True)[1]
    blank, label = (x.reshape(-1, *x.shape[2:])[: frames.scores.shape[0]] for x in posteriors)
    return result, (blank, label)


def log_forward(frames: Frames) -> tuple[Array, Array]:
    """log alpha of blanks `[frames, 1 + labels, examples]` and of labels `[frames, labels, examples]`.

    As optax has it, the last frame of blanks includes alignments that end in the label.
    """

    def log(state: State) -> tuple[Array, Array]:
        return scaled.log(state.blank), scaled.log(state.label)

    *parts, skip = _parts(frames)
    last, (blank, label) = lax.scan(
        lambda state, x: (state := _step(state, x, skip, True)[0], log(state)), _start(frames), tuple(parts)
    )
    if blank.shape[0] > 0:
        (of_blank, of_label), e = aligned(last)
        blank = blank.at[-1].set(scaled.log((of_blank + of_label, e)))
    return blank, label[:, 1:]


def _start(frames: Frames) -> State:
    """Before the first frame: no label, in a blank."""
    _, rows, examples = frames.scores.shape
    first = np.arange(rows)[:, None] == 0
    values = first, np.where(first, 0, ZERO), np.zeros(first.shape), np.full(first.shape, ZERO)
    full = (jnp.broadcast_to(jnp.asarray(v, frames.scores.dtype), (rows, examples)) for v in values)
    mb, eb, ml, el = (divided_as_rows(vary_like(v, *frames), frames.scores, 0) for v in full)
    return State((mb, eb), (ml, el))


def _parts(frames: Frames) -> tuple[Array, Array, Array, Array]:
    """Mantissas and exponents of exp(scores), and what is added to an exponent on the way to another state: in each
    frame, and from each label to the next."""
    m, e = scaled.exp(frames.scores)
    gate, skip = (jnp.where(x, NEVER, 0).astype(m.dtype) for x in (frames.closed, frames.repeated))
    return m, e, gate[:, None], skip


def _advance(state: State, frames: Frames, keep: bool) -> tuple[State, Any]:
    """The last state, and if `keep`, the shares in each frame."""
    *parts, skip = _parts(frames)
    # In fewer frames no mantissa leaves float32: a step multiplies it by 0.7 to 4.3.
    many = frames.scores.shape[0] > _BLOCK
    state = state if many else State(*(normal(*x) for x in state))

    def step(state: State, x: Any) -> tuple[State, Shares | None]:
        state, shares = _step(state, x, skip, many)
        return state, shares() if keep else None

    return lax.scan(step, state, tuple(parts))


def _step(state: State, x: Any, skip: Array, normalize: bool) -> tuple[State, Any]:
    """The states after a frame, and a function that gives the shares of their predecessors (see `_step_back`)."""
    m, e, gate = x
    (mb, eb), (ml, el) = state
    to_blank, blank_e = aligned([(mb, eb), (ml, el + gate)])
    to_label, label_e = aligned([(ml[1:], el[1:]), (mb[:-1], eb[:-1] + gate), (ml[:-1], el[:-1] + (skip + gate))])
    blanks, labels = to_blank[0] + to_blank[1], to_label[0] + to_label[1] + to_label[2]
    blank, label = (blanks, blank_e), (labels, label_e)
    if normalize:
        blank, label = normal(*blank), normal(*label)
    new = State(
        (blank[0] * m[:1], blank[1] + e[:1]),
        (_first_row(label[0] * m[1:], 0.0), _first_row(label[1] + e[1:], ZERO)),
    )

    def shares() -> Shares:
        of_blank, of_label = (jnp.where(s == 0, 1, s) for s in (blanks, labels))
        return (*(t / of_blank for t in to_blank), *(t / of_label for t in to_label))  # type: ignore[return-value]

    return new, shares


def _step_back(posterior: tuple[Array, Array], shares: Shares) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """From the posterior of the states after a frame to that before it; put out is that of the frame: of any blank, and
    of each label."""
    blank, label = posterior
    found = jnp.sum(blank, 0), label
    blank_stays, label_to_blank, label_stays, blank_to_label, label_to_label = shares
    before = (
        blank * blank_stays + _last_row(label * blank_to_label),
        (blank * label_to_blank)[1:] + label * label_stays + _last_row((label * label_to_label)[1:]),
    )
    return before, found


def _first_row(x: Array, value: float) -> Array:
    return lax.pad(x, np.asarray(value, x.dtype), ((1, 0, 0), (0, 0, 0)))


def _last_row(x: Array) -> Array:
    return lax.pad(x, np.asarray(0, x.dtype), ((0, 1, 0), (0, 0, 0)))


def _result(last: State, lengths: Array) -> tuple[Array, tuple[Array, Array]]:
    """The log-likelihood, and the posterior of the states after the last frame."""
    rows = last.blank[0].shape[0]
    ends = jnp.arange(rows, dtype=lengths.dtype)[:, None] == lengths[None]
    mantissas, e = aligned(last)
    blank, label = (jnp.where(ends, m, 0) for m in mantissas)
    total = jnp.sum(blank + label, 0)
    some = jnp.where(total == 0, 1, total)[None]
    return scaled.log((total, jnp.sum(jnp.where(ends, e, 0), 0))), (blank / some, (label / some)[1:])


# Shares are five arrays of [frames, labels, examples]. On a CPU, from 8 MB on, it is faster to keep the states before
# blocks of frames and to make the shares of a block again when it is its turn, in the processor's cache.

_BLOCK = 32  # frames, at most
_SMALL = 2**23


def _blocks(frames: Frames) -> int:
    t = frames.scores.shape[0]
    if jax.default_backend() != "cpu" or not is_known(frames.scores) or 5 * frames.scores.nbytes <= _SMALL:
        return 1
    return math.ceil(t / min(_BLOCK, round(math.sqrt(t))))


def _in_blocks(frames: Frames) -> Frames:
    """With `[blocks, frames of a block, ...]`; frames that are too many are closed."""
    t, blocks = frames.scores.shape[0], _blocks(frames)
    length = -(-t // blocks)

    def split(x: Array, fill: Any) -> Array:
        x = lax.pad(x, np.asarray(fill, x.dtype), [(0, blocks * length - t, 0)] + [(0, 0, 0)] * (x.ndim - 1))
        return x.reshape(blocks, length, *x.shape[1:])

    repeated = jnp.broadcast_to(frames.repeated, (blocks, *frames.repeated.shape))
    return Frames(split(frames.scores, 0), split(frames.closed, True), repeated)


def _over_blocks(frames: Frames) -> tuple[State, State]:
    """The last state, and those before each block."""

    def step(state: State, block: Frames) -> tuple[State, State]:
        return _advance(state, block, keep=False)[0], state

    return lax.scan(step, _start(frames), _in_blocks(frames))
