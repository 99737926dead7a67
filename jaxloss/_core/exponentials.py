"""exp(x - top) without a rounded difference, in a form that XLA:CPU computes in few operations."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.custom_derivatives import SymbolicZero

from jaxloss._core.remat import as_one
from jaxloss._core.tracing import traced_once

_LOG_TINY = -87.3365  # log of the smallest normal float32, 2^-126
_HUGE = np.finfo(np.float32).max
_ABOVE = np.float32(2048)  # above every reduced maximum
_LOG2_E = np.float32(1 / np.log(2))
_LOG2_HIGH, _LOG2_LOW = np.float32(0.693359375), np.float32(-2.1219444e-4)  # log 2 in two parts, the first of 9 bits
_ROUND = np.float32(1.5 * 2**23)  # n + _ROUND has the integer n in its low bits
# exp(r) on |r| <= log(2) / 2, highest power first: least relative error, 1.3e-7. One more power would cost the sum of a
# row 8% more.
_EXP = (0.00834061299, 0.0418949500, 0.166667923, 0.499991894, 1.0, 1.0)

FARTHEST = 59.0  # above the middle: the sum of 2^18 such entries is the largest that float32 holds


@traced_once
def exp_minus(x: Array, top: Array) -> Array:
    """exp(x - top) for x <= top; 0 where that is below the smallest normal number, 1 where both are +inf."""
    return scaled_exp(x, top, jnp.ones_like(top))


def row_exp(top: Array) -> tuple[Callable[[Array], Array], Array]:
    """exp(z - top) for z <= top, up to a factor for each row, to be applied to the sum.

    Without the factor the sum of many classes far below the maximum would lose those that are subnormal: a quarter of
    it for 131072 classes and a loss of 1e-35.
    """
    if not by_parts(top):
        low = top - 44
        return lambda z: exp_minus(z, low), exp_minus(low, top)
    reduced, missing = _reduced_top(top, 64)
    return lambda z: _exp_by_parts(_at_least(z - reduced.shift, reduced.lowest), reduced.magic), missing


def row_exp_around(middle: Array) -> tuple[Callable[[Array], Array], Array]:
    """As `row_exp`, for z up to `middle + FARTHEST`; what lies above counts as that. In float32 on a CPU alone."""
    reduced, missing = _reduced_top(middle, 24)
    highest = reduced.lowest + np.float32(24 * np.log(2) - _LOG_TINY + FARTHEST)

    def exp(z: Array) -> Array:
        z = _at_least(z - reduced.shift, reduced.lowest)
        return _exp_by_parts(jnp.where(z > highest, highest, z), reduced.magic)

    return exp, missing


def _at_least(z: Array, lowest: Array) -> Array:
    """A class that is too far below adds 2^-126, which the factor makes 0."""
    return jnp.where(z < lowest, lowest, z)  # one instruction; `jnp.maximum` takes five


def scaled_exp(x: Array, top: Array, factor: Array) -> Array:
    """exp(x - top) * factor to 3 ULP: the rounding of x - top alone would be an error of 4e-6 at -80."""
    return as_one(_scaled_exp, x, top, factor)


@jax.custom_jvp
def _scaled_exp(x: Array, top: Array, factor: Array) -> Array:
    if by_parts(x):
        reduced, missing = _reduced_top(top, 16)
        z = jnp.minimum(x - reduced.shift, _ABOVE)  # +inf meets +inf as an ordinary number
        return jnp.where(z < reduced.lowest, 0, _exp_by_parts(z, reduced.magic)) * (missing * factor)
    high, low = two_difference(x, top)
    e = jnp.exp(high)
    tiny = np.log(jnp.finfo(e.dtype).tiny)
    compensated = jnp.where(high < tiny, 0, e + e * low)  # low is NaN where high is -inf
    return jnp.where(x == jnp.inf, 1, compensated) * factor


@functools.partial(_scaled_exp.defjvp, symbolic_zeros=True)
def _scaled_exp_jvp(primals: tuple[Array, ...], tangents: tuple[Any, ...]) -> tuple[Array, Array]:
    value = scaled_exp(*primals)
    x_dot, top_dot, factor_dot = tangents
    value_dot = jnp.zeros_like(value)
    if not isinstance(x_dot, SymbolicZero):
        value_dot += value * x_dot
    if not isinstance(top_dot, SymbolicZero):
        value_dot -= value * top_dot
    if not isinstance(factor_dot, SymbolicZero):
        value_dot += exp_minus(primals[0], primals[1]) * factor_dot
    return value, value_dot


def by_parts(x: Array) -> bool:
    return jax.default_backend() == "cpu" and x.dtype == jnp.float32


class _ReducedTop(NamedTuple):
    shift: Array
    lowest: Array  # what is less has no normal exponential
    magic: Array


@functools.partial(traced_once, static_argnums=1)
def _reduced_top(top: Array, lift: int) -> tuple[_ReducedTop, Array]:
    """What `_exp_by_parts` needs for each row, and the factor that its result lacks, 2^-lift among it: what is normal
    after the factor is normal before."""
    shift = jnp.where(jnp.abs(top) > 1024, jnp.clip(top, -_HUGE, _HUGE), 0)
    z = jnp.minimum(top - shift, _ABOVE)
    n = jnp.round(z * _LOG2_E)
    r = (z - n * _LOG2_HIGH) - n * _LOG2_LOW
    lowest = z + np.float32(_LOG_TINY - lift * np.log(2))
    return _ReducedTop(shift, lowest, (_ROUND + lift) - n), jnp.exp(-r) * np.float32(2.0**-lift)


@traced_once
def _exp_by_parts(z: Array, magic: Array) -> Array:
    """exp(z - top), up to the factor of `_reduced_top`, in 14 vector operations instead of 36: it sets the time on CPU.

    z and top, both less `shift`, are each reduced modulo log 2 (Cody and Waite), so that no large difference of them is
    rounded. The products n * _LOG2_HIGH are exact for |n| < 2^15; a larger maximum is subtracted first, which is exact
    for every x that matters. XLA's own conversion to int32 would check for overflow, in five operations. (Rounding by
    adding `magic` and subtracting it again would save one more, but XLA drops both where the maximum is a constant.)
    """
    n = jnp.round(z * _LOG2_E)
    r = (z - n * _LOG2_HIGH) - n * _LOG2_LOW
    e = jnp.full_like(r, _EXP[0])
    for c in _EXP[1:]:
        e = e * r + np.float32(c)
    exponent = lax.bitcast_convert_type(n + magic, jnp.int32) << 23
    return lax.bitcast_convert_type(lax.bitcast_convert_type(e, jnp.int32) + exponent, jnp.float32)


@traced_once
def two_difference(x: Array, y: Array) -> tuple[Array, Array]:
    """x - y as rounded, and what the rounding left out (Knuth's TwoSum)."""
    high = x - y
    minus_y = high - x
    return high, (x - (high - minus_y)) - (y + minus_y)
