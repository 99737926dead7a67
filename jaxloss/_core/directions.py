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
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from jaxloss._core import blocks, stable
from jaxloss._core.autodiff import custom_vjp
from jaxloss._core.devices import is_explicit
from jaxloss._core.precision import compute_dtype, cotangent, promote
from jaxloss._core.reduction import fill
from jaxloss._core.remat import as_one
from jaxloss._core.tracing import traced_once

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
    scaled = stable.opaque(x / jnp.where(scale == 0, 1, scale))
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


class _Frame(NamedTuple):
    """What the slopes need of each row: with w = x - ratio y, once both are multiplied by powers of two."""

    x_scale: Array
    y_scale: Array
    x_length: Array
    y_length: Array
    ratio: Array  # nearly that of the lengths, of the sign of the cosine
    along_x: Array  # w x / x^2
    along_y: Array


class _Products(NamedTuple):
    xx: Array
    yy: Array
    xy: Array


@functools.partial(custom_vjp, nondiff_argnums=(0,))
def cosines(axes: tuple[int, ...], x: Array, y: Array, keep: Array | None) -> Cosines:
    """`y` and the mask `keep` have as many dimensions as `x`, each of the same length or 1."""
    return _compared(axes, x, y, keep)[0]


@functools.partial(traced_once, static_argnums=0)
def _compared(axes: tuple[int, ...], x: Array, y: Array, keep: Array | None) -> tuple[Cosines, _Frame]:
    sums = functools.partial(_sums, axes, x, y, keep)
    # XLA:CPU's library multiplies what it adds up, if nothing else is to be done to it.
    if keep is None and x.shape == y.shape and x.dtype == y.dtype == compute_dtype(x):
        products = _Products(*(jnp.sum(v, axes) for v in _products(x, y)))
    else:
        products = _Products(*sums(_products))
    scales = _scale(products.xx), _scale(products.yy)

    def usual() -> tuple[Cosines, _Frame]:
        xx, yy, xy = products
        ratio = _ratio(products)
        return _found(scales, products, ratio, xx - 2 * ratio * xy + ratio * ratio * yy, xy - ratio * yy)

    careful = functools.partial(_with_care, axes)
    operands = (x, y, keep, *(jnp.expand_dims(v, axes) for v in scales))
    if not blocks.pays_a_branch(x):
        return careful(*operands)
    # One pass instead of three, where no square is out of range and no two directions nearly agree.
    in_range = (scales[0] == 1) & (scales[1] == 1)
    near = jnp.any(~in_range | _is_near(products))
    return lax.cond(near, lambda: blocks.per_row(careful, operands, axes), usual)


def _sums(
    axes: tuple[int, ...],
    x: Array,
    y: Array,
    keep: Array | None,
    terms: Callable[..., tuple[Array, ...]],
    *of_rows: Array,
) -> tuple[Array, ...]:
    def of_vectors(operands: tuple[Any, ...]) -> tuple[Array, ...]:
        return terms(*_vectors(*operands[:3]), *operands[3:])

    return stable.row_sums((x, y, keep, *of_rows), axes, of_vectors)


def _with_care(
    axes: tuple[int, ...], x: Array, y: Array, keep: Array | None, x_scale: Array, y_scale: Array
) -> tuple[Cosines, _Frame]:
    sums, scales = functools.partial(_sums, axes, x, y, keep), (x_scale, y_scale)
    scaled = _Products(*sums(lambda x, y, a, b: _products(stable.opaque(x * a), stable.opaque(y * b)), *scales))
    ratio = _ratio(scaled)

    def off(x: Array, y: Array, x_scale: Array, y_scale: Array, ratio: Array) -> tuple[Array, Array]:
        y = stable.opaque(y * y_scale)
        w = _off(x * x_scale, y, ratio)
        return w * w, w * y

    of_rows = tuple(jnp.squeeze(v, axes) for v in scales)
    ww, wy = sums(off, *scales, jnp.expand_dims(ratio, axes))
    return _found((of_rows[0], of_rows[1]), scaled, ratio, ww, wy)


def _found(scales: tuple[Array, Array], products: _Products, ratio: Array, ww: Array, wy: Array) -> Any:
    """From the sums over both vectors, multiplied by `scales`, and over w = x - ratio y."""
    xx, yy, _ = products
    x_length, y_length, cosine = _lengths_and_cosine(products)
    along_x, along_y = (ww + ratio * wy) / _nonzero(xx), wy / _nonzero(yy)
    # Near 1 the cosine comes from the sine, which keeps its digits there: the part of x not along y.
    small = jnp.maximum(ww - wy * along_y, 0) / _nonzero(xx) / (1 + jnp.abs(cosine))
    gap = jnp.where(cosine > 0.5, small, 1 - cosine)
    cosine = jnp.where(_is_near(products), jnp.sign(cosine) * (1 - small), cosine)
    found = Cosines(cosine, gap, x_length / scales[0], y_length / scales[1])
    return found, _Frame(*scales, x_length, y_length, ratio, along_x, along_y)


def _lengths_and_cosine(products: _Products) -> tuple[Array, Array, Array]:
    x_length, y_length = _root(products.xx), _root(products.yy)
    return x_length, y_length, products.xy / (_nonzero(x_length) * _nonzero(y_length))


def _is_near(products: _Products) -> Array:
    return jnp.abs(_lengths_and_cosine(products)[2]) > 0.5


def _ratio(products: _Products) -> Array:
    """Of the lengths, with the sign of the cosine, as a constant. In half of the digits, unless the directions nearly
    agree: the other half would cost w a digit."""
    x_length, y_length, cosine = _lengths_and_cosine(products)
    ratio = lax.stop_gradient(jnp.where(cosine < 0, -1, 1) * _nonzero(x_length) / _nonzero(y_length))
    return jnp.where(_is_near(products), ratio, _half_of_the_digits(ratio))


def _products(x: Array, y: Array) -> tuple[Array, Array, Array]:
    return x * x, y * y, x * y


def _vectors(x: Array, y: Array, keep: Array | None) -> tuple[Array, Array]:
    given = promote(x, y)
    return tuple(fill(keep, jnp.broadcast_to(v, x.shape)) for v in given)  # pyright: ignore[reportReturnType]


def _scale(square: Array) -> Array:
    """A power of two that brings a vector with this square, which may have overflowed or vanished, among the numbers
    whose squares are numbers; 1 if it is there."""
    half = jnp.finfo(square.dtype).maxexp // 2
    scale = jnp.where(square > 2.0 ** (half + half // 2), 2.0 ** (-half - 8), jnp.ones_like(square))
    scale = jnp.where(square < 2.0 ** (-half - half // 4), 2.0 ** (half + half // 2), scale)
    return lax.stop_gradient(scale)


def _off(x: Array, y: Array, ratio: Array) -> Array:
    """x - ratio y, as if the product were exact: it is, of half of the digits of each, and what is left is small."""
    high, first = _half_of_the_digits(y), _half_of_the_digits(ratio)
    return ((x - first * high) - first * (y - high)) - (ratio - first) * y


def _half_of_the_digits(x: Array) -> Array:
    """Rounded so that the product of two such numbers is exact; a constant."""
    digits, _ = _layout(x)
    return _with_bits(x, lambda bits: ((bits + (1 << (digits - 1))) >> digits) << digits)


def _layout(x: Array) -> tuple[int, int]:
    """How many bits half of the digits have, and the mask of the exponent."""
    return (27, 0x7FF << 52) if x.dtype == jnp.float64 else (12, 0xFF << 23)


def _with_bits(x: Array, change: Callable[[Array], Array]) -> Array:
    wide = x.dtype == jnp.float64
    bits = lax.bitcast_convert_type(lax.stop_gradient(x), jnp.int64 if wide else jnp.int32)
    return lax.bitcast_convert_type(change(bits), x.dtype)


def _nonzero(x: Array) -> Array:
    return jnp.where(x == 0, 1, x)


def _root(x: Array) -> Array:
    """The square root, with derivative 0 at 0."""
    return jnp.where(x == 0, 0, jnp.sqrt(_nonzero(x)))


def _cosines_fwd(axes: tuple[int, ...], x: Array, y: Array, keep: Array | None) -> tuple[Cosines, Any]:
    found, frame = _compared(axes, x, y, keep)
    return found, (x, y, keep, frame)


def _cosines_bwd(axes: tuple[int, ...], residuals: Any, g: Cosines) -> tuple[Array | None, ...]:
    # Why a rule: autodiff keeps both directions in float32. With seven numbers for each row the slopes are made again,
    # in one loop with what becomes of them; and what is left of two nearly equal directions keeps its digits.
    x, y, keep, frame = residuals
    f, (to_cosine, to_gap, to_x_norm, to_y_norm) = jax.tree.map(lambda v: jnp.expand_dims(v, axes), (frame, g))
    a, b = (v * scale for v, scale in zip(_vectors(x, y, keep), (f.x_scale, f.y_scale), strict=True))
    x_length, y_length = _nonzero(f.x_length), _nonzero(f.y_length)
    w = _off(a, b, f.ratio)
    some = (f.x_length != 0) & (f.y_length != 0)
    pull = jnp.where(some, (to_cosine - to_gap) / (x_length * y_length), 0)
    to_x = pull * ((f.along_x * a - w) / f.ratio) + to_x_norm / (f.x_scale * x_length) * a
    to_y = pull * (w - f.along_y * b) + to_y_norm / (f.y_scale * y_length) * b

    def pulled(slope: Array, scale: Array, primal: Array) -> Array | None:
        slope = slope * scale
        return cotangent(summed(slope if keep is None else jnp.where(keep, slope, 0), primal.shape), primal)

    return pulled(to_x, f.x_scale, x), pulled(to_y, f.y_scale, y), None


cosines.defvjp(_cosines_fwd, _cosines_bwd)


def summed(ct: Array, shape: tuple[int, ...]) -> Array:
    """The cotangent of what was broadcast from a shape with as many dimensions."""
    axes = tuple(i for i, (n, m) in enumerate(zip(shape, ct.shape, strict=True)) if n != m)
    return jnp.sum(ct, axes, keepdims=True) if axes else ct


def dots(u: Array, v: Array) -> Array:
    """u v^T. A cosine is divided by a small temperature: it needs the digits that a tensor core would drop, unless
    `jax.default_matmul_precision` says that they are not wanted."""
    precision = lax.Precision.HIGHEST if jax.config.jax_default_matmul_precision is None else None  # pyright: ignore
    sharding = jax.typeof(u).sharding
    # Where types say how arrays are divided: as the rows of u are, and not at all along those of v.
    out = NamedSharding(sharding.mesh, P(sharding.spec[0], None)) if is_explicit(u) else None
    return jnp.matmul(u, v.T, precision=precision, out_sharding=out)
