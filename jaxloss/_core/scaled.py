"""Numbers m 2^e with an exponent of their own: products of thousands of probabilities neither underflow nor overflow.

A number is a pair of arrays, the mantissa m >= 0 and the exponent e, a float with an integral value. It is exact where
float32 would be 0, and adding two of them takes no logarithm and no exponential, only powers of two, which are bits. A
sum of logarithms has an absolute error that grows with the logarithm; here errors are relative.

The derivative of a number is that of its mantissa: exponents are constants, so JAX differentiates all this as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

Number: TypeAlias = tuple[Array, Array]

# Exponents of 0: above it is every product of float32 numbers, and a sum with NEVER is still a finite float32.
ZERO = -1e37
NEVER = -1e38
_IMPOSSIBLE = -1e35  # exp of less is 0
_LOG2_HIGH, _LOG2_LOW = 0.693359375, -2.12194440054690583e-4  # log 2 in two parts, the first of 9 bits


def exp(x: Array) -> Number:
    """exp(x) for x <= 0."""
    n = _exponent(x)
    # Beyond 2^22 the remainder has no digits.
    r = jnp.clip((x - n * _const(x, _LOG2_HIGH)) - n * _const(x, _LOG2_LOW), _const(x, -0.5), _const(x, 0.5))
    return jnp.exp(jnp.where(x < _const(x, _IMPOSSIBLE), -jnp.inf, r)), n


def _exponent(x: Array) -> Array:
    return jnp.maximum(jnp.round(lax.stop_gradient(x) * _const(x, 1 / np.log(2))), _const(x, -1e36))


def log(x: Number) -> Array:
    """-inf at 0, with derivative 0."""
    m, e = x
    some = ~(m == 0)
    return jnp.where(some, jnp.log(jnp.where(some, m, 1)) + e * _const(m, np.log(2)), -jnp.inf)


def aligned(numbers: Sequence[Number]) -> tuple[list[Array], Array]:
    """The mantissas of all with one exponent, the largest: their sum is that of the numbers."""
    top = numbers[0][1]
    for _, e in numbers[1:]:
        top = jnp.maximum(top, e)
    top = jnp.maximum(top, _const(top, ZERO))
    return [m * _power_of_two(e - top) for m, e in numbers], top


def normal(m: Array, e: Array) -> Number:
    """The same number, with its mantissa in [1, 2) unless that is 0."""
    bits, dtype = _layout(m)
    pattern = lax.bitcast_convert_type(lax.stop_gradient(m), dtype)
    exponent = pattern & np.asarray(((1 << (dtype.itemsize * 8 - 1 - bits)) - 1) << bits, dtype)
    bias = 1 - jnp.finfo(m.dtype).minexp
    inverse = lax.bitcast_convert_type(np.asarray((2 * bias) << bits, dtype) - exponent, m.dtype)
    return m * inverse, e + ((exponent >> np.asarray(bits, dtype)) - np.asarray(bias, dtype)).astype(m.dtype)


def _power_of_two(e: Array) -> Array:
    """2^e for e <= 0; 0 below the smallest normal number."""
    bits, dtype = _layout(e)
    lowest = jnp.finfo(e.dtype).minexp - 1
    # An integral float is in the low bits of a sum with 1.5 * 2^bits.
    moved = jnp.maximum(e, _const(e, lowest)) + _const(e, 1.5 * 2.0**bits - lowest)
    return lax.bitcast_convert_type(lax.bitcast_convert_type(moved, dtype) << np.asarray(bits, dtype), e.dtype)


def _layout(x: Array) -> tuple[int, np.dtype]:
    """How many bits of the mantissa are stored, and the integers of this size."""
    info = jnp.finfo(x.dtype)
    return info.nmant, np.dtype(f"int{info.bits}")


def _const(x: Array, value: float) -> Any:
    return np.asarray(value, x.dtype)
