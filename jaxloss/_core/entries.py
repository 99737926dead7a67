"""Rows of a few classes in half precision, on one CPU: every entry as a row of its own, in one loop.

XLA:CPU makes a loop over the classes of a row. With conversions in it, one of 9 to 15 rounds takes longer for each
entry than one of 8 or 16, and than one loop over all entries.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxloss._core.blocks import is_local
from jaxloss._core.lanes import class_index, is_half
from jaxloss._core.tracing import traced_once

_UNROLLED = range(9, 16)  # classes
_WORTH_IT = 2**15  # entries; below, it compiles longer than it gains
_SHARES = 64  # what the rows are to be divided by: unequal shares of the threads take XLA longer than the plain loop


def suit(logits: Array, axis: int) -> bool:
    """Does the loop gain by it?"""
    is_last = logits.ndim > 1 and axis % logits.ndim == logits.ndim - 1
    if not (is_last and is_half(logits) and is_local(logits)):
        return False
    classes = logits.shape[-1]
    return classes in _UNROLLED and logits.size >= _WORTH_IT and logits.size // classes % _SHARES == 0


def one_loop(f: Callable[..., Any], operands: Any, logits: Array) -> Any:
    """`f(operands)` of rows of one class, with the class axis last, in the shape of the logits where it has one.

    Operands have the dimensions of the logits, or of their rows, or are single numbers.
    """

    def entries(x: Array) -> Array:
        if x.ndim == logits.ndim:
            return jnp.broadcast_to(x, logits.shape).reshape(-1, 1)
        rows = jnp.expand_dims(x, -1)
        return jnp.broadcast_to(rows, logits.shape).reshape(-1) if x.ndim else x

    of_entries = traced_once(lambda operands: f(jax.tree.map(entries, operands)))

    def whole(operands: Any) -> Any:
        # Flat here: XLA moves a reshape of the result to the operands, unless it is outside of a branch.
        return jax.tree.map(jnp.ravel, of_entries(operands))

    shapes = jax.eval_shape(of_entries, operands)
    nothing = [jnp.zeros(s.size, s.dtype) for s in jax.tree.leaves(shapes)]
    first = lax.bitcast_convert_type(logits[(0,) * logits.ndim], jnp.uint16)
    always = first | 1 != 0  # which XLA does not know
    flat = lax.cond(always, whole, lambda _: jax.tree.unflatten(jax.tree.structure(shapes), nothing), operands)
    return jax.tree.map(lambda x, s: x.reshape(logits.shape if s.size == logits.size else s.shape), flat, shapes)


def classes(logits: Array) -> Array:
    """Of each entry."""
    return jnp.broadcast_to(class_index(logits, -1, jnp.int32), logits.shape).reshape(-1)
