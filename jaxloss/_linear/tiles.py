"""Tiles of the logits: a chunk of tokens times a block of the vocabulary.

The last chunk and the last block are moved back to end with the array, so that nothing is padded or copied. What they
share with the one before is dropped there: `first` is where the new part begins.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.sharding import NamedSharding, PartitionSpec

from jaxloss._core.devices import products_in_float32, vary, varying
from jaxloss._core.precision import compute_dtype
from jaxloss._core.remat import as_one_like

T = TypeVar("T")


class Piece(NamedTuple):
    """`size` entries of an axis from `start`; those before `first` were in the piece before."""

    start: Any
    first: Any
    size: int
    overlaps: bool  # known while tracing


def count(n: int, size: int) -> int:
    return -(-n // size)


def piece(i: Any, n: int, size: int) -> Piece:
    first = i * size
    return Piece(jnp.minimum(first, n - size), first, size, n % size != 0)


def loop(n: int, body: Callable[[Any, T], T], init: T) -> T:
    """`lax.fori_loop`, without a loop for one step."""
    return body(0, init) if n == 1 else lax.fori_loop(0, n, body, init)


def cut(x: Array, start: Any, size: int, axis: int) -> Array:
    if x.shape[axis] == size:
        return x
    if x.dtype.itemsize != 2 or jax.default_backend() != "cpu":
        return lax.dynamic_slice_in_dim(x, start, size, axis)
    # XLA:CPU slices half precision as float32: it would make such a copy of all of x before the loop.
    plain = functools.partial(lax.dynamic_slice_in_dim, slice_size=size, axis=axis)

    def as_bits(x: Array, start: Any) -> Array:
        return lax.bitcast_convert_type(plain(lax.bitcast_convert_type(x, jnp.uint16), start), x.dtype)

    return as_one_like(as_bits, plain, x, start)


class Held(NamedTuple):
    """How an array is held that a loop updates in slices."""

    store: Callable[[Array], Array]
    load: Callable[[Array], Array]


HELD_AS_IT_IS = Held(lambda x: x, lambda x: x)


def held_by(like: Array) -> Held:
    if like.dtype.itemsize != 2 or jax.default_backend() != "cpu":
        return HELD_AS_IT_IS
    # XLA:CPU updates a slice of half precision in float32: it would convert the whole array twice for each slice.
    return Held(
        lambda x: lax.bitcast_convert_type(x, jnp.uint16), lambda bits: lax.bitcast_convert_type(bits, like.dtype)
    )


def add(total: Array, part: Array, start: Any, axis: int) -> Array:
    """`part` added to `total` in place."""
    if total.shape[axis] == part.shape[axis]:
        return total + part
    old = lax.dynamic_slice_in_dim(total, start, part.shape[axis], axis)
    return lax.dynamic_update_slice_in_dim(total, old + part, start, axis)


def project(hidden: Array, kernel: Array, layout: str) -> Array:
    """hidden [C, D] times kernel, added up in float32."""
    return _dot(hidden, kernel, (1, 0 if layout == "dv" else 1))


def to_hidden(to_logits: Array, kernel: Array, layout: str) -> Array:
    return _dot(to_logits, kernel, (1, 1 if layout == "dv" else 0))


def to_kernel(to_logits: Array, hidden: Array, layout: str) -> Array:
    """In float32. Without the barrier XLA would contract the first axis of a left operand, which is slower on the CPU:
    the small operand is turned round first."""
    turned = lax.optimization_barrier(hidden.T)
    product = _dot(turned, to_logits, (1, 0))
    return product if layout == "dv" else product.T


def _dot(a: Array, b: Array, axes: tuple[int, int]) -> Array:
    dims = (((axes[0],), (axes[1],)), ((), ()))
    dtype = compute_dtype(a, b)
    if a.dtype != b.dtype or products_in_float32():
        a, b = a.astype(dtype), b.astype(dtype)
    return lax.dot_general(a, b, dims, preferred_element_type=dtype, out_sharding=_type_of_product(a, b, axes))


def _type_of_product(a: Array, b: Array, axes: tuple[int, int]) -> NamedSharding | None:
    """On explicit axes of a mesh: where the axes are contracted, devices add up."""
    types = [jax.typeof(x).sharding for x in (a, b)]
    mesh = next((t.mesh for t in types if not t.mesh.empty and t.mesh.explicit_axes), None)
    if mesh is None:
        return None
    return NamedSharding(mesh, PartitionSpec(*(t.spec[1 - axis] for t, axis in zip(types, axes, strict=True))))


def rounded(to_logits: Array, dtype: Any) -> Array:
    """A tile's cotangent as an operand of the products. In float16 the share of one token in a mean would be 0."""
    if dtype == jnp.float16:
        return to_logits
    if dtype == jnp.bfloat16 and products_in_float32():
        return lax.reduce_precision(to_logits, exponent_bits=8, mantissa_bits=7)  # it would only be converted back
    return to_logits.astype(dtype)


def as_operand(total: Array | None, leaf: Array) -> Array | None:
    return None if total is None else total.astype(leaf.dtype)


def held_back(total: Array | None, leaf: Array) -> Array | None:
    """In the dtype of the operand, but for float16: the share of one token in a mean may be below its range, from which
    the scale of the loss is to lift it."""
    return total if total is None or leaf.dtype == jnp.float16 else as_operand(total, leaf)


def differing(x: Any, like: Any, but: Any = None) -> Any:
    """Zeros to start a loop from, which differ between devices as the operands do, but not along `but`."""
    axes = frozenset().union(*(varying(jax.typeof(leaf)) for leaf in jax.tree.leaves(like)))
    axes -= frozenset() if but is None else frozenset(but if isinstance(but, tuple) else (but,))

    def one(leaf: Array) -> Array:
        missing = tuple(sorted(axes - varying(jax.typeof(leaf))))
        return vary(leaf, missing) if missing else leaf

    return jax.tree.map(one, x)
