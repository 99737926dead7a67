"""Lengths and directions of vectors: nothing overflows, vanishes or loses digits, however long or short they are.

- `norm(x, axis, over)`: the Euclidean length; `unit(x, axis, over)`: the direction x / |x|. Axes keep length 1. A zero
  vector has length 0 and direction 0, both with gradient 0; an infinite entry gives NaN.
- `one_minus_cosine(u, v, axis)` of two directions: |u - v|^2 / 2, which keeps its digits where they nearly agree.
- `dots(u, v)`: all dot products of the rows of two matrices.

`over` names mesh axes (inside `shard_map`) or mapped axes (inside `vmap`) along which a vector is split.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxloss._core.remat import as_one

Axes = int | tuple[int, ...]


def norm(x: Array, axis: Axes = -1, over: Any = None) -> Array:
    return as_one(lambda x: _norm(x, axis, over), x)


def unit(x: Array, axis: Axes = -1, over: Any = None) -> Array:
    return as_one(lambda x: _unit(x, axis, over), x)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1, 2))
def _norm(x: Array, axis: Axes, over: Any) -> Array:
    scale, _, length = _scaled(x, axis, over)
    return scale * length


@_norm.defjvp
def _norm_jvp(axis: Axes, over: Any, primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    return norm(*primals, axis, over), _sum(unit(*primals, axis, over) * tangents[0], axis, over)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1, 2))
def _unit(x: Array, axis: Axes, over: Any) -> Array:
    _, scaled, length = _scaled(x, axis, over)
    return scaled / jnp.where(length == 0, 1, length)


@_unit.defjvp
def _unit_jvp(axis: Axes, over: Any, primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    # Why a rule: squares overflow from 2e19 on and vanish below 1e-19, and at 0 autodiff has 0 / 0. What moves a
    # vector along itself does not turn it.
    (x_dot,) = tangents
    u, length = unit(*primals, axis, over), norm(*primals, axis, over)
    across = x_dot - u * _sum(u * x_dot, axis, over)
    return u, jnp.where(length == 0, 0, across / jnp.where(length == 0, 1, length))


def _scaled(x: Array, axis: Axes, over: Any) -> tuple[Array, Array, Array]:
    """The largest entry, the vector divided by it, and the length of that."""
    scale = jnp.max(jnp.abs(x), axis, keepdims=True, initial=0)
    scale = scale if over is None else lax.pmax(scale, over)
    scaled = x / jnp.where(scale == 0, 1, scale)
    return scale, scaled, jnp.sqrt(_sum(jnp.square(scaled), axis, over))


def _sum(x: Array, axis: Axes, over: Any) -> Array:
    total = jnp.sum(x, axis, keepdims=True)
    return total if over is None else lax.psum(total, over)


def one_minus_cosine(u: Array, v: Array, axis: Axes = -1) -> Array:
    return 0.5 * jnp.sum(jnp.square(u - v), axis)


def dots(u: Array, v: Array) -> Array:
    """u v^T. A cosine is divided by a small temperature: it needs the digits that a tensor core would drop, unless
    `jax.default_matmul_precision` says that they are not wanted."""
    precision = lax.Precision.HIGHEST if jax.config.jax_default_matmul_precision is None else None  # pyright: ignore
    return jnp.matmul(u, v.T, precision=precision)
