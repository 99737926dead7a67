"""How the tokens and the vocabulary are cut, from a budget of bytes."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax

from jaxloss._core import checks
from jaxloss._core.softmax import Wanted

METHODS = ("auto", "dense", "fast", "lean")
_MIB = 2**20


class Sizes(NamedTuple):
    """Tokens in a chunk and classes in a block; the last of each overlaps the one before."""

    tokens: int
    classes: int


class Plan(NamedTuple):
    """What the rules know while tracing."""

    wanted: Wanted
    layout: str  # "dv": kernel [D, V]; "vd": [V, D]
    sizes: Sizes
    classes: int  # on this device
    total: int  # in all; what is beyond on the last device is padding


class Shape(NamedTuple):
    tokens: int
    width: int
    classes: int
    itemsize: int


def choose(
    fn: str, shape: Shape, reduced: bool, method: str, chunk_size: int | None, memory_budget: int | None
) -> tuple[str, Sizes]:
    """The method, and how it cuts.

    Temporaries of a chunk of logits: dense holds them and their gradient, fast a chunk of tokens and one block of
    gradients, lean one block for all tokens. Kernel gradients are summed in float32, which is a temporary unless the
    kernel is float32 itself.
    """
    checks.choice(fn, "method", method, METHODS)
    budget = _budget(fn, shape.width * shape.classes * shape.itemsize, memory_budget)
    chunk = None if chunk_size is None else _positive(fn, "chunk_size", chunk_size)
    whole = 8 * shape.tokens * shape.classes
    if method == "fast" and not reduced:
        raise ValueError(
            f'{fn}: method="fast" makes the gradient before the cotangent; with reduction="none" use "lean"'
        )
    if method == "auto":
        method = "dense" if whole <= budget and chunk is None else "fast" if reduced else "lean"
        if method == "fast" and chunk is None and 4 * _LEAST_TOKENS * shape.classes > budget:
            method = "lean"  # chunks so small that the kernel gradient is read and written more than it is computed
    if method == "dense":
        return method, Sizes(max(shape.tokens, 1), shape.classes)
    if memory_budget is not None and 4 * min(shape.classes, _BLOCK) > budget:
        least = 4 * min(shape.classes, _BLOCK)
        raise ValueError(f"{fn}: memory_budget={memory_budget} does not hold one row of a block; give at least {least}")
    if method == "fast":
        tokens = chunk or _tokens_of_fast(fn, shape, memory_budget)
        return method, Sizes(_even(shape.tokens, tokens), block_of(shape.classes))
    classes = block_of(shape.classes)
    tokens = chunk or min(max(budget // (8 * classes), 1), _MOST_TOKENS_LEAN)
    return method, Sizes(_even(shape.tokens, tokens), classes)


def _tokens_of_fast(fn: str, shape: Shape, memory_budget: int | None) -> int:
    """How many tokens have their logits held. The sum of the kernel's gradients is read and written once for each
    chunk, so that without a budget a chunk may be twice as large as that is."""
    row = 4 * shape.classes
    if memory_budget is not None and row > memory_budget:
        raise ValueError(
            f'{fn}: memory_budget={memory_budget} does not hold one row of logits, which method="fast" needs; give at '
            f'least {row}, or use "lean"'
        )
    room = _budget(fn, 8 * shape.width * shape.classes, memory_budget)
    # In three chunks at least: tokens that are not kept lie in the last ones, which are skipped.
    most = min(_MOST_TOKENS, max(_LEAST_TOKENS, -(-shape.tokens // 3)))
    return min(max(room // row, 1), most)


def rows_in_chunk(
    fn: str, tokens: int, classes: int, kernel_bytes: int, chunk_size: int | None, memory_budget: int | None
) -> int:
    """Tokens in a chunk where whole rows are held, of `classes` logits in all, and their gradient."""
    budget = _budget(fn, kernel_bytes, memory_budget)
    if chunk_size is not None:
        return _even(tokens, _positive(fn, "chunk_size", chunk_size))
    row = 8 * classes
    if memory_budget is not None and row > budget:
        raise ValueError(f"{fn}: memory_budget={memory_budget} does not hold one row of logits; give at least {row}")
    most = max(budget // row, 1)
    return _even(tokens, min(most, _MOST_TOKENS) if jax.default_backend() == "cpu" else most)


# Chosen by measurement (`benchmarks/linear.py`). On the CPU a tile of float32 logits should stay in the cache;
# elsewhere matrix products want to be large, and a block is the whole vocabulary.
_LEAST_TOKENS = 256
_MOST_TOKENS, _MOST_TOKENS_LEAN = 512, 1024
_BLOCK = 2048


def block_of(classes: int) -> int:
    if jax.default_backend() != "cpu":
        return classes
    return _even(classes, _BLOCK)


def _even(n: int, most: int) -> int:
    """The size of equal pieces, none larger than `most`, in multiples of 16 where that is possible."""
    if n <= most:
        return max(n, 1)
    size = -(-n // -(-n // most))
    return min(-(-size // 16) * 16, most, n)


def _budget(fn: str, kernel_bytes: int, given: Any) -> int:
    return max(64 * _MIB, kernel_bytes) if given is None else _positive(fn, "memory_budget", given)


def _positive(fn: str, arg: str, value: Any) -> int:
    value = checks.python_int(fn, arg, value)
    if value <= 0:
        raise ValueError(f"{fn}: {arg} must be positive, got {value}")
    return value
