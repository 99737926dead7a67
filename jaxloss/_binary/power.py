"""Powers of a probability, as weights of the logarithm of another."""

from __future__ import annotations

import jax.numpy as jnp

from jaxloss._core.typing import Array


def power(base: Array, exponent: Array) -> Array:
    """base^exponent for base >= 0, 1 for exponent 0; at base 0 every derivative is 0 and not NaN."""
    zero = base == 0
    return jnp.where(zero, (exponent == 0).astype(base.dtype), jnp.power(jnp.where(zero, 1, base), exponent))


def times(weight: Array, value: Array) -> Array:
    """weight * value, with 0 * inf = 0: what weighs nothing does not count, however far its logit is off."""
    return jnp.where(weight == 0, 0, weight * jnp.where(weight == 0, 0, value))
