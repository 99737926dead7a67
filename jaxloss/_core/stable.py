"""Guarded primitives: exact where the plain formula overflows, cancels or meets 0 * inf.

Row statistics of a softmax are in `rows.py` and are named here too.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

from jaxloss._core.precision import upcast
from jaxloss._core.rows import (
    RowStats,
    exp_minus,
    gap,
    is_label,
    label_gap,
    logsumexp,
    one_minus_probability,
    pick,
    row_stats,
    row_sum,
    softmax,
    two_difference,
)

__all__ = [
    "RowStats",
    "exp_minus",
    "gap",
    "is_label",
    "label_gap",
    "logsumexp",
    "one_minus_probability",
    "phi",
    "pick",
    "row_stats",
    "row_sum",
    "softmax",
    "two_difference",
    "upcast",
]


@jax.custom_jvp
def phi(d: Array) -> Array:
    """exp(d) - 1 - d >= 0, without cancellation near 0."""
    small = jnp.abs(d) < 0.5
    near = jnp.where(small, d, 0)
    series = jnp.zeros_like(near)
    for n in range(12, 1, -1):  # d^2 / 2 (1 + d / 3 (1 + d / 4 (...)))
        series = 1 + near / (n + 1) * series if n < 12 else jnp.ones_like(near)
    return jnp.where(small, near * near / 2 * series, jnp.expm1(d) - d)


@phi.defjvp
def _phi_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    return phi(*primals), jnp.expm1(primals[0]) * tangents[0]
