"""Guarded primitives: exact where the plain formula overflows, cancels or meets 0 * inf.

Row statistics of a softmax are in `rows.py`, functions by series in `series.py`; both are named here too.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.custom_derivatives import SymbolicZero

from jaxloss._core.blocks import opaque
from jaxloss._core.devices import one_cpu
from jaxloss._core.exponentials import exp_minus, scaled_exp, two_difference
from jaxloss._core.lanes import class_index
from jaxloss._core.precision import upcast
from jaxloss._core.rows import (
    RowStats,
    first_max,
    gap,
    is_label,
    is_likely,
    label_gap,
    logsumexp,
    one_minus_probability,
    part_stats,
    pick,
    reference,
    row_count,
    row_max,
    row_stats,
    row_sum,
    row_sums,
    settled,
    softmax,
    softmax_complement,
)
from jaxloss._core.series import (
    even_and_odd,
    exp_down,
    expm1,
    fused_softplus,
    log1p_ratios,
    phi,
    phi_near,
    sigmoids,
    used_often,
)
from jaxloss._core.tracing import elementary

__all__ = [
    "RowStats",
    "class_index",
    "countable",
    "even_and_odd",
    "exp_down",
    "exp_minus",
    "expm1",
    "finite",
    "first_max",
    "fused_softplus",
    "gap",
    "is_label",
    "is_likely",
    "label_gap",
    "log1mexp",
    "log1p_ratios",
    "logsumexp",
    "one_minus_probability",
    "opaque",
    "part_stats",
    "phi",
    "phi_near",
    "pick",
    "power",
    "reference",
    "row_count",
    "row_max",
    "row_stats",
    "row_sum",
    "row_sums",
    "scaled_exp",
    "settled",
    "sigmoids",
    "softmax",
    "softmax_complement",
    "softplus",
    "times",
    "times_exp",
    "two_difference",
    "upcast",
    "used_often",
]


# Why a rule: the derivatives of the two summands do not add up at 0 and are NaN at the infinities.
@elementary(lambda value, x: jax.nn.sigmoid(x))
def softplus(x: Array) -> Array:
    """log(1 + exp(x)), for any x."""
    return jnp.maximum(x, 0) + jnp.log1p(jnp.exp(-jnp.abs(x)))


@elementary(lambda value, x: 1 / jnp.expm1(x))
def log1mexp(x: Array) -> Array:
    """log(1 - exp(-x)) for x >= 0; -inf at 0."""
    small = x < np.log(2)
    near = jnp.log(-jnp.expm1(-jnp.where(small, x, 1)))
    far = jnp.log1p(-jnp.exp(-jnp.where(small, 1, x)))
    return jnp.where(small, near, far)


def positive_part(x: Array) -> Array:
    """max(x, 0), for whatever a sum may follow: XLA:CPU's library drops NaN from a maximum that it adds up."""
    return jnp.where(x <= 0, 0, x)


def hinge(x: Array) -> Array:
    """max(x, 0), for an arithmetic rule (see `elements.py`), the constants of which are -0 and -3."""
    return -jnp.minimum(-x, -0.0) + -0.0 / (-3 - jnp.abs(x)) if one_cpu() else positive_part(x)


def where_above(x: Array, low: Any, value: Any) -> Array:
    """`value` where x > low and 0 where it is not, for slopes: NaN where x is NaN."""
    return jnp.where(x > low, value, jnp.where(x <= low, 0, x))


def power(base: Array, exponent: Array) -> Array:
    """base^exponent for base >= 0, 1 for exponent 0; at base 0 every derivative is 0 and not NaN."""
    zero = base == 0
    return jnp.where(zero, (exponent == 0).astype(base.dtype), jnp.power(jnp.where(zero, 1, base), exponent))


# Why a rule: by the value the slope is the weight alone, so that the value need not be kept.
@jax.custom_jvp
def times(weight: Array, value: Array) -> Array:
    """weight * value with 0 * inf = 0: what has weight zero does not count, even if it costs infinitely much.

    Elsewhere it is the plain product, whose derivative by a weight of 0 is the value.
    """
    return weight * countable(weight, value)


def countable(weight: Array, value: Array) -> Array:
    """What `times` multiplies by the weight, and so the slope by it."""
    return jnp.where((weight == 0) & jnp.isinf(value), 0, value)


@functools.partial(times.defjvp, symbolic_zeros=True)
def _times_jvp(primals: tuple[Array, Array], tangents: tuple[Any, Any]) -> tuple[Array, Array]:
    (weight, value), (weight_dot, value_dot) = primals, tangents
    out = times(weight, value)
    moved = jnp.zeros_like(out)
    if not isinstance(value_dot, SymbolicZero):
        moved += weight * value_dot
    if not isinstance(weight_dot, SymbolicZero):
        moved += countable(weight, value) * weight_dot
    return out, moved


@jax.custom_jvp
def times_exp(x: Array, exponent: Array) -> Array:
    """x exp(exponent), and 0 where x is 0; it overflows only where the product does."""
    half = jnp.exp(0.5 * jnp.minimum(exponent, 1.99 * jnp.log(jnp.finfo(x.dtype).max)))
    return opaque(x * half) * half


@times_exp.defjvp
def _times_exp_jvp(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    # Why a rule: the bound of the exponent would end the slope, and an infinite one meets a cotangent of 0.
    value = times_exp(*primals)
    return value, finite(jnp.exp(primals[1])) * tangents[0] + finite(value) * tangents[1]


def finite(x: Array) -> Array:
    """An infinite slope counts as the largest number, so that a cotangent of 0 stays 0."""
    largest = jnp.finfo(x.dtype).max
    return jnp.clip(x, -largest, largest)
