"""Functions that several of the losses need, without overflow and without cancellation."""

from __future__ import annotations

import math

import jax.numpy as jnp

from jaxloss._core.typing import Array


def _is_wide(x: Array) -> bool:
    return x.dtype == jnp.float64


def log1p_square(v: Array) -> Array:
    """log(1 + v^2) for v >= 0, also where the square overflows."""
    large = v > 1e8
    far = 2 * jnp.log(jnp.where(large, v, 1))
    return jnp.where(large, far, jnp.log1p(jnp.square(jnp.where(large, 0, v))))


def over_one_plus_square(v: Array) -> Array:
    """v / (1 + v^2), for any v."""
    large = jnp.abs(v) > 1e8
    near = jnp.where(large, 0, v)
    return jnp.where(large, 1 / jnp.where(large, v, 1), near / (1 + jnp.square(near)))


def exp_moments(z: Array) -> tuple[Array, Array]:
    r"""$\int_0^1 e^{zt}\,dt$, which is expm1(z) / z, and $\int_0^1 t\,e^{zt}\,dt$."""
    near = jnp.abs(z) < 1
    small, large = jnp.where(near, z, 0), jnp.where(near, 1, z)
    terms = 20 if _is_wide(z) else 11
    zeroth = first = jnp.zeros_like(z)
    for n in reversed(range(terms)):
        zeroth = zeroth * small + 1 / math.factorial(n + 1)
        first = first * small + 1 / (math.factorial(n) * (n + 2))
    far = jnp.expm1(large) / large
    return jnp.where(near, zeroth, far), jnp.where(near, first, (jnp.exp(large) - far) / large)


def exp_moment_series(z: Array, u: Array) -> Array:
    r"""$\int_0^1 e^{zt} \frac{e^{-ut} - 1 + ut}{u^2}\,dt$ for 0 <= u <= 1 and z <= 1: moments of e^{zt}, by recursion.

    Downwards in the power of t it is stable near 0, upwards far below.
    """
    terms = 20 if _is_wide(z) else 11
    low = z < -8
    near, far = jnp.where(low, 0, z), jnp.where(low, z, -8)
    e, moment, down = jnp.exp(near), jnp.zeros_like(z), []
    for n in reversed(range(1, 3 * terms + 3)):
        moment = (e - near * moment) / n  # of t^(n - 1)
        down.append(moment)
    down.reverse()
    e, moment, up = jnp.exp(far), jnp.expm1(far) / far, []
    for n in range(1, terms + 2):
        up.append(moment)
        moment = (e - n * moment) / far
    up.append(moment)
    total = jnp.zeros_like(z)
    for n in reversed(range(2, terms + 2)):
        total = jnp.where(low, up[n], down[n]) * (1 / math.factorial(n)) - u * total
    return total
