"""Functions that several of the losses need, without overflow and without cancellation."""

from __future__ import annotations

import math

import jax.numpy as jnp
from jax.scipy.special import digamma, gammaln

from jaxloss._core import stable
from jaxloss._core.typing import Array


def _is_wide(x: Array) -> bool:
    return x.dtype == jnp.float64


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


def log_gamma_ratio(y: Array, a: Array) -> tuple[Array, Array, Array]:
    r"""$\log\Gamma(r + y) - \log\Gamma(r) - y\log r$ for r = 1 / a, y >= 0 and a >= 0, and the slopes in y and a.

    Of the order of a for small a, where the logarithms cancel: it comes from Stirling's series at r + 8, and 8 factors.
    """
    down = 1 + _SHIFT * a
    value, to_y, to_a = _ratio_of_large(y, a / down)
    value, to_y, to_a = (
        value + y * jnp.log1p(_SHIFT * a),
        to_y + jnp.log1p(_SHIFT * a),
        to_a / down**2 + _SHIFT * y / down,
    )
    for j in range(0, _SHIFT, 2):
        factors = [1 + (j + i) * a for i in (0, 1)]
        step, other = (y * a / f for f in factors)
        value = value - jnp.log1p(step + other + step * other)
        for f in factors:
            to_y = to_y - a / (f + y * a)
            to_a = to_a - y / (f * (f + y * a))
    return value, to_y, to_a


_SHIFT = 8
_BERNOULLI = (1 / 6, -1 / 30, 1 / 42, -1 / 30, 5 / 66, -691 / 2730, 7 / 6)  # of index 2, 4, ...


def _ratio_of_large(y: Array, a: Array) -> tuple[Array, Array, Array]:
    t = y * a
    small = t <= 1
    log, over = jnp.log1p(t), 1 / (1 + t)
    second = stable.log1p_ratios(jnp.where(small, t, 0))[1]
    bend = jnp.where(small, y * y * second, (t - log) / jnp.square(jnp.where(small, 1, a)))  # (t - log1p(t)) / a^2
    value = (y - 0.5) * log - a * bend + _stirling(a * over) - _stirling(a)
    to_a = bend - y * over / 2
    for n, bernoulli in enumerate(_BERNOULLI, 1):
        to_a = to_a + bernoulli / (2 * n) * a ** (2 * n - 2) * (over ** (2 * n) - 1)
    return value, log + _digamma_less_log(a * over), to_a


def _stirling(a: Array) -> Array:
    """For z = 1 / a: the logarithm of the gamma function less (z - 1/2) log(z) - z + log(2 pi) / 2."""
    terms = [bernoulli / (2 * n * (2 * n - 1)) for n, bernoulli in enumerate(_BERNOULLI, 1)]
    return a * _horner(a * a, terms)


def _digamma_less_log(a: Array) -> Array:
    terms = [-bernoulli / (2 * n) for n, bernoulli in enumerate(_BERNOULLI, 1)]
    return -a / 2 + a * a * _horner(a * a, terms)


def _horner(x: Array, coefficients: list[float]) -> Array:
    total = jnp.zeros_like(x)
    for c in reversed(coefficients):
        total = total * x + c
    return total


def log_gamma_excess(k: Array) -> tuple[Array, Array]:
    r"""$\log\Gamma(k) - k\log k + k$ for k > 0, and its slope $\psi(k) - \log k$: for large k by Stirling's series."""
    near = k >= _SHIFT
    a, small = 1 / jnp.where(near, k, _SHIFT), jnp.where(near, 1, k)
    value = jnp.where(
        near, jnp.log(2 * math.pi * a) / 2 + _stirling(a), gammaln(small) - small * jnp.log(small) + small
    )
    return value, jnp.where(near, _digamma_less_log(a), digamma(small) - jnp.log(small))
