"""Losses with one value for each row of vectors: their arguments, and the distance of any degree."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.custom_derivatives import SymbolicZero

from jaxloss._core import blocks, checks, stable
from jaxloss._core.autodiff import custom_vjp
from jaxloss._core.devices import alike
from jaxloss._core.directions import summed
from jaxloss._core.precision import compute_dtype, cotangent, promote
from jaxloss._core.reduction import fill, reduce
from jaxloss._core.remat import as_one

Axes = tuple[int, ...]


class Rows:
    """Checked vectors along `axis`, the first of which must be floating and sets the shape.

    `vectors` holds them as they came, `keep` the mask with axes of length 1 for the vectors (`None`: all are kept).
    """

    def __init__(self, fn: str, axis: Any, where: Any, /, **vectors: Any) -> None:
        (first, x), *others = vectors.items()
        x = checks.floating(fn, first, x)
        self.fn, self.axes = fn, checks.axes(fn, axis, x.ndim)
        self.shape = tuple(n for i, n in enumerate(x.shape) if i not in self.axes)
        others = [checks.align(fn, arg, checks.floating(fn, arg, v), x.shape, first) for arg, v in others]
        self.vectors, self.dtype = alike(x, *others), compute_dtype(x, *others)
        self.where = self.keep = None
        if where is not None:
            self.where = checks.mask(fn, "where", where)
            self.keep = jnp.expand_dims(checks.align(fn, "where", self.where, self.shape, "losses"), self.axes)

    def option(self, arg: str, value: Any) -> Array:
        """A number, or one for each row, in the dtype of the computation."""
        given = checks.number(self.fn, arg, value).astype(self.dtype)
        if given.ndim == 0:
            return given
        return fill(self.where, checks.broadcast(self.fn, arg, given, self.shape, "losses"), 1)  # which each may be

    def distances(self, *pairs: tuple[int, int], degree: Any = 2, eps: Any = 0.0) -> list[Array]:
        """(sum |x - y|^p + eps)^(1/p) for pairs of the vectors. The derivative by coordinates that agree is 0."""
        p, eps = (jnp.asarray(v).astype(self.dtype) for v in (degree, eps))
        known = _Known(self.axes, pairs, degree if checks.static_number(degree) else None)
        return _measures(known, self.vectors, self.keep, p, eps).distances

    def distance_and_half_square(self) -> tuple[Array, Array]:
        """Of the first two vectors; half of the square has all its derivatives at 0."""
        zero = jnp.zeros((), self.dtype)
        found = _measures(_Known(self.axes, ((0, 1),), 2, True), self.vectors, self.keep, zero, zero)
        return found.distances[0], found.half_squares[0]

    def reduce(self, losses: Array, weights: Any, reduction: str) -> Array:
        return reduce(losses, where=self.where, weights=weights, reduction=reduction, fn=self.fn)


class _Known(NamedTuple):
    """While tracing."""

    axes: Axes
    pairs: tuple[tuple[int, int], ...]
    degree: Any  # `None`: an array
    squares: bool = False


class _Measures(NamedTuple):
    """Of each pair and row, without the axes of the vectors."""

    distances: list[Array]
    half_squares: list[Array]


@functools.partial(custom_vjp, nondiff_argnums=(0,))
def _measures(known: _Known, vectors: tuple[Array, ...], keep: Array | None, p: Array, eps: Array) -> _Measures:
    def rows(vectors: tuple[Array, ...], keep: Array | None, p: Array, eps: Array) -> _Measures:
        between = _differences(known, vectors, keep)
        squares = [0.5 * jnp.sum(jnp.square(z), known.axes) for z in between if known.squares]
        return _Measures([_length(known, z, p, eps) for z in between], squares)

    def careful() -> _Measures:
        return blocks.per_row(rows, (vectors, keep, p, eps), known.axes)

    if known.degree not in (1, 2) or not blocks.pays_a_branch(vectors[0]):
        return careful()
    powers = _powers(known, vectors, keep, p)
    totals = [s + eps for s in powers]
    half = jnp.finfo(eps.dtype).maxexp // 2
    # One pass, where no power is near the ends of the range of numbers. Of a number among them, what vanished is less
    # than a rounding.
    usual = jnp.all(jnp.array([(t > 2.0**-half) & (t < 2.0**half) for t in totals]))
    halves = [0.5 * s for s in powers if known.squares]
    return lax.cond(usual, lambda: _Measures([_root(known, t, p) for t in totals], halves), careful)


def _powers(known: _Known, vectors: tuple[Array, ...], keep: Array | None, p: Array) -> Sequence[Array]:
    """sum |z|^p of each pair, as it comes."""

    def terms(operands: tuple[tuple[Array, ...], Array | None]) -> tuple[Array, ...]:
        return tuple(_power(known, z, p) for z in _differences(known, *operands))

    if keep is None and all(v.dtype == p.dtype for v in vectors):  # XLA:CPU's library subtracts and multiplies, too
        return [jnp.sum(term, known.axes) for term in terms((vectors, keep))]
    return stable.row_sums((vectors, keep), known.axes, terms)


def _differences(known: _Known, vectors: tuple[Array, ...], keep: Array | None) -> list[Array]:
    """Of each pair, and 0 where it is dropped."""
    shape = vectors[0].shape
    given = [fill(keep, jnp.broadcast_to(v, shape)) for v in promote(*vectors)]
    return [given[i] - given[j] for i, j in known.pairs]


def _length(known: _Known, z: Array, p: Array, eps: Array) -> Array:
    """(sum |z|^p + eps)^(1/p), scaled so that no power overflows or vanishes."""
    top = jnp.max(jnp.abs(z), known.axes, keepdims=True, initial=0)
    if known.degree == math.inf:
        return jnp.squeeze(top, known.axes)
    scale = jnp.maximum(lax.stop_gradient(top), _root(known, *lax.stop_gradient((eps, p))))
    scale = jnp.where((scale > 0) & (scale < jnp.inf), scale, 1)
    powers = jnp.sum(_power(known, stable.opaque(z / scale), p), known.axes)
    scale = jnp.squeeze(scale, known.axes)
    total = powers + eps / jnp.maximum(_power(known, scale, p), jnp.finfo(z.dtype).tiny)
    nothing = total == 0
    return jnp.where(nothing, 0, scale * _root(known, jnp.where(nothing, 1, total), p))


def _measures_fwd(
    known: _Known, vectors: tuple[Array, ...], keep: Array | None, p: Array, eps: Array
) -> tuple[_Measures, Any]:
    found = _measures(known, vectors, keep, p, eps)
    return found, (vectors, keep, p, eps, found.distances)


def _measures_bwd(known: _Known, residuals: Any, g: _Measures) -> tuple[Any, ...]:
    # Why a rule: autodiff keeps scaled differences in float32. With one number for each row the slopes are made again,
    # in one loop with what becomes of them, and a vector's are added up before they are rounded to half precision.
    vectors, keep, p, eps, distances = residuals
    slopes: list[Any] = [0] * len(vectors)
    to_p, to_eps = jnp.zeros_like(p), jnp.zeros_like(eps)
    between = _differences(known, blocks.read_again(vectors), keep)
    for k, (pair, z) in enumerate(zip(known.pairs, between, strict=True)):
        to_distance = jnp.expand_dims(g.distances[k], known.axes)
        slope = to_distance * _slope(known, z, jnp.expand_dims(distances[k], known.axes), p)
        if known.squares:
            slope += jnp.expand_dims(g.half_squares[k], known.axes) * z
        for i, sign in zip(pair, (1, -1), strict=True):
            slopes[i] += sign * (slope if keep is None else jnp.where(keep, slope, 0))
        pulled = jax.vjp(lambda p, eps, z=z: _length(known, z, p, eps), p, eps)[1](g.distances[k])
        to_p, to_eps = to_p + pulled[0], to_eps + pulled[1]
    to_vectors = tuple(cotangent(summed(s, v.shape), v) for s, v in zip(slopes, vectors, strict=True))
    return to_vectors, None, to_p, to_eps


_measures.defvjp(_measures_fwd, _measures_bwd)


def _slope(known: _Known, z: Array, d: Array, p: Array) -> Array:
    """Of a distance: sign(z) (|z| / d)^(p - 1)."""
    ratio = z / jnp.where(d == 0, 1, d)
    if known.degree == 2:
        return ratio
    if known.degree == 1:
        return jnp.sign(z)
    if known.degree == math.inf:
        largest = jnp.where(jnp.abs(z) == d, jnp.sign(z), 0)
        return largest / jnp.maximum(jnp.sum(jnp.abs(largest), known.axes, keepdims=True), 1)
    return as_one(_odd, ratio, p - 1)


def _power(known: _Known, x: Array, p: Array) -> Array:
    if known.degree in (1, 2):
        return jnp.abs(x) if known.degree == 1 else jnp.square(x)
    return as_one(_even, x, p)


def _root(known: _Known, x: Array, p: Array) -> Array:
    if known.degree in (1, 2):
        return x if known.degree == 1 else jnp.sqrt(x)
    return jnp.power(x, 1 / p)


# |x|^q and sign(x) |x|^q are each other's derivatives, but for the factor q.


@jax.custom_jvp
def _even(x: Array, q: Array) -> Array:
    """|x|^q, which at 0 is 0 for a negative q too: in the middle of a cusp."""
    size = jnp.abs(x)
    return jnp.where((size == 0) & (q != 0), 0, jnp.power(jnp.where(size == 0, 1, size), q))


@jax.custom_jvp
def _odd(x: Array, q: Array) -> Array:
    return jnp.sign(x) * as_one(_even, x, q)


def _jvp(value: Any, other: Any, primals: tuple[Array, Array], tangents: tuple[Any, Any]) -> tuple[Array, Array]:
    # Why a rule: autodiff has 0 * inf at 0, and for an even q it does not see that the second derivative is not 0.
    (x, q), (x_dot, q_dot) = primals, tangents
    out = as_one(value, x, q)
    moved = jnp.zeros_like(out)
    if not isinstance(x_dot, SymbolicZero):
        moved += q * as_one(other, x, q - 1) * x_dot
    if not isinstance(q_dot, SymbolicZero):
        moved += out * jnp.log(jnp.where(x == 0, 1, jnp.abs(x))) * q_dot
    return out, moved


_even.defjvp(functools.partial(_jvp, _even, _odd), symbolic_zeros=True)
_odd.defjvp(functools.partial(_jvp, _odd, _even), symbolic_zeros=True)
