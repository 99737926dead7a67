"""Lengths and directions of vectors: nothing overflows, vanishes or loses digits, however long or short they are.

- `norm(x, axis, over)`: the Euclidean length; `unit(x, axis, over)`: the direction x / |x|. Axes keep length 1. A zero
  vector has length 0 and direction 0, both with gradient 0; an infinite entry gives NaN.
- `cosines(axes, x, y, keep)`: the cosines of rows, and 1 minus them, which keeps its digits where two directions nearly
  agree. The cosine of a zero vector is 0.
- `dots(u, v)`: all dot products of the rows of two matrices.

`over` names mesh axes (inside `shard_map`) or mapped axes (inside `vmap`) along which a vector is split.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxloss._core import blocks
from jaxloss._core.autodiff import custom_vjp
from jaxloss._core.precision import cotangent, promote
from jaxloss._core.reduction import fill
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


class Cosines(NamedTuple):
    """Of rows, without the axes of the vectors."""

    cosine: Array
    gap: Array  # 1 - cosine
    x_norm: Array
    y_norm: Array


@functools.partial(custom_vjp, nondiff_argnums=(0,))
def cosines(axes: tuple[int, ...], x: Array, y: Array, keep: Array | None) -> Cosines:
    """`y` and the mask `keep` have as many dimensions as `x`, each of the same length or 1."""

    def rows(x: Array, y: Array, keep: Array | None) -> tuple[Array, ...]:
        x, y = _vectors(x, y, keep)
        (x_scale, x, x_length), (y_scale, y, y_length) = (_scaled(v, axes, None) for v in (x, y))
        some = (x_length != 0) & (y_length != 0)
        u, v = x / jnp.where(x_length == 0, 1, x_length), y / jnp.where(y_length == 0, 1, y_length)
        # 1 - u v = |u - v|^2 / 2.
        gap = jnp.where(some, 0.5 * jnp.sum(jnp.square(u - v), axes, keepdims=True), 1)
        values = jnp.sum(u * v, axes, keepdims=True), gap, x_scale * x_length, y_scale * y_length
        return tuple(jnp.squeeze(v, axes) for v in values)

    return Cosines(*blocks.per_row(rows, (x, y, keep), axes))


def _vectors(x: Array, y: Array, keep: Array | None) -> tuple[Array, Array]:
    given = promote(x, y)
    return tuple(fill(keep, jnp.broadcast_to(v, x.shape)) for v in given)  # pyright: ignore[reportReturnType]


def _cosines_fwd(axes: tuple[int, ...], x: Array, y: Array, keep: Array | None) -> tuple[Cosines, Any]:
    found = cosines(axes, x, y, keep)
    return found, (x, y, keep, found)


def _cosines_bwd(axes: tuple[int, ...], residuals: Any, g: Cosines) -> tuple[Array | None, ...]:
    # Why a rule: autodiff keeps both directions in float32. With four numbers for each row they are made again, in one
    # loop with what becomes of them.
    x, y, keep, found = residuals
    cosine, gap, x_norm, y_norm = (jnp.expand_dims(v, axes) for v in found)
    to_cosine, to_gap, to_x_norm, to_y_norm = (jnp.expand_dims(v, axes) for v in g)
    a, b = _vectors(x, y, keep)
    u, v = (jnp.where(n == 0, 0, z / jnp.where(n == 0, 1, n)) for z, n in ((a, x_norm), (b, y_norm)))

    def turn(u: Array, v: Array) -> Array:
        """cos u - v, of two forms the one that does not cancel."""
        return jnp.where(cosine > 0.5, (u - v) - gap * u, cosine * u - v)

    def pulled(turned: Array, u: Array, n: Array, to_norm: Array, primal: Array) -> Array | None:
        slope = jnp.where(n == 0, 0, (to_gap - to_cosine) * turned / jnp.where(n == 0, 1, n)) + to_norm * u
        return cotangent(summed(slope if keep is None else jnp.where(keep, slope, 0), primal.shape), primal)

    return pulled(turn(u, v), u, x_norm, to_x_norm, x), pulled(turn(v, u), v, y_norm, to_y_norm, y), None


cosines.defvjp(_cosines_fwd, _cosines_bwd)


def summed(ct: Array, shape: tuple[int, ...]) -> Array:
    """The cotangent of what was broadcast from a shape with as many dimensions."""
    axes = tuple(i for i, (n, m) in enumerate(zip(shape, ct.shape, strict=True)) if n != m)
    return jnp.sum(ct, axes, keepdims=True) if axes else ct


def dots(u: Array, v: Array) -> Array:
    """u v^T. A cosine is divided by a small temperature: it needs the digits that a tensor core would drop, unless
    `jax.default_matmul_precision` says that they are not wanted."""
    precision = lax.Precision.HIGHEST if jax.config.jax_default_matmul_precision is None else None  # pyright: ignore
    return jnp.matmul(u, v.T, precision=precision)
