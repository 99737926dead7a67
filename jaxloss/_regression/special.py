"""Functions that several of the losses need, without overflow and without cancellation."""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax.numpy as jnp
from jax.lax import digamma, lgamma

from jaxloss._core import stable
from jaxloss._core.elements import with_slopes
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

    Of the order of a for small a, where the logarithms cancel: it comes from Stirling's series, and a few factors.
    """
    shift = 8 if _is_wide(a) else 4  # the series is used at r + shift
    down, log = 1 + shift * a, jnp.log1p(shift * a)
    value, to_y, to_a = _ratio_of_large(y, stable.opaque(a / down))
    value, to_y, to_a = value + y * log, to_y + log, to_a / down**2 + shift * y / down
    for j in range(0, shift, 2):
        factors = [1 + (j + i) * a for i in (0, 1)]
        step, other = (stable.opaque(y * a / f) for f in factors)
        value = value - jnp.log1p(step + other + step * other)
        for f in factors:
            to_y = to_y - a / (f + y * a)
            to_a = to_a - y / (f * (f + y * a))
    return value, to_y, to_a


_BERNOULLI = (1 / 6, -1 / 30, 1 / 42, -1 / 30, 5 / 66, -691 / 2730, 7 / 6)  # of index 2, 4, ...

# The logarithm of the gamma function at 2 + t, divided by t: 1 - Euler's constant, then (-1)^k (zeta(k) - 1) / k.
_NEAR_TWO = (
    0.4227843351,
    0.3224670334,
    -0.06735230105,
    0.02058080843,
    -0.007385551029,
    0.002890510331,
    -0.001192753912,
    0.0005096695247,
    -0.0002231547585,
    9.945751278e-5,
    -4.492623674e-5,
    2.050721278e-5,
    -9.439488275e-6,
)


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


def _stirling_slope(a: Array) -> Array:
    return _horner(a * a, [bernoulli / (2 * n) for n, bernoulli in enumerate(_BERNOULLI, 1)])


def _digamma_less_log(a: Array) -> Array:
    return -a / 2 - a * a * _stirling_slope(a)


def _horner(x: Array, coefficients: Sequence[float]) -> Array:
    total = jnp.zeros_like(x)
    for c in reversed(coefficients):
        total = total * x + c
    return total


def is_large(x: Array) -> Array:
    """Has Stirling's series the digits of the dtype?"""
    return x >= (8 if _is_wide(x) else 3)


def log_factorial_excess(y: Array) -> tuple[Array, Array]:
    r"""$\log y! - y\log y + y$ for large y, by Stirling's series, and the slope $\psi(y + 1) - \log y$."""
    a = 1 / y
    return (jnp.log(y) + math.log(2 * math.pi)) / 2 + _stirling(a), a + _digamma_less_log(a)


def log_gamma_excess_change(y: Array, a: Array) -> tuple[Array, Array, Array]:
    """The `log_gamma_excess` of r = 1 / a less that of r + y, for large y, and the slopes in y and a."""
    shift = 8 if _is_wide(a) else 4
    large = a * shift <= 1  # r is
    small, near = jnp.where(large, 1, a), jnp.where(large, a, 0)
    r, over = 1 / small, 1 / (1 + y * a)
    of_sum, by_sum = _stirling(a * over), _digamma_less_log(a * over)
    apart = log_gamma_excess(r)[0] + jnp.log((r + y) / (2 * math.pi)) / 2
    value = jnp.where(large, jnp.log1p(y * a) / 2 + _stirling(near), apart) - of_sum
    to_a = y * over / 2 + _stirling_slope(near) - over * over * _stirling_slope(a * over)
    # The digamma function less the logarithm at r, from that at r + shift: XLA's own has few digits.
    by_r = _digamma_less_log(small / (1 + shift * small)) + jnp.log1p(shift * small)
    by_r = by_r - sum(small / (1 + j * small) for j in range(shift))
    return value, -by_sum, jnp.where(large, to_a, r * (r * (by_sum - by_r)))


def less_log1p(v: Array, a: Array, log: Array) -> tuple[Array, Array]:
    """u - log(1 + u) for u = a v, over a and over a^2; `log` is that logarithm, in use where nothing cancels."""
    u = a * v
    near = jnp.abs(u - 0.25) <= 0.75
    second = stable.log1p_ratios(jnp.where(near, u, 0))[1]
    far = (u - log) / jnp.where(near, 1, a)
    return jnp.where(near, v * u * second, far), jnp.where(near, v * v * second, far / jnp.where(near, 1, a))


def log_gamma_excess(k: Array) -> tuple[Array, Array]:
    r"""$\log\Gamma(k) - k\log k + k$ for k > 0, and its slope $\psi(k) - \log k$: for large k by Stirling's series."""
    near = is_large(k)
    a, small = 1 / jnp.where(near, k, 8), jnp.where(near, 1, k)
    far = log_gamma(small) - small * jnp.log(small) + small
    value = jnp.where(near, jnp.log(2 * math.pi * a) / 2 + _stirling(a), far)
    return value, jnp.where(near, _digamma_less_log(a), digamma(small) - jnp.log(small))


@with_slopes
def log_gamma(x: Array) -> tuple[Array, tuple[Array]]:
    """For x > 0. XLA's own is off by 5e-7 at 1 and 2, where the logarithm of a factorial is 0."""
    if _is_wide(x):
        return lgamma(x), (digamma(x),)
    large = x >= 3
    z = jnp.where(large, x, 3)
    far = (z - 0.5) * jnp.log(z) - z + _stirling(1 / z) + math.log(2 * math.pi) / 2
    z = jnp.where(large, 2, x)
    up = jnp.where(z < 0.5, z * (z + 1), jnp.where(z < 1.5, z, 1))
    down = jnp.where(z >= 2.5, z - 1, 1)
    t = z - jnp.where(z < 0.5, 0, jnp.where(z < 1.5, 1, jnp.where(z < 2.5, 2, 3)))
    return jnp.where(large, far, t * _horner(t, _NEAR_TWO) + jnp.log(down) - jnp.log(up)), (digamma(x),)
