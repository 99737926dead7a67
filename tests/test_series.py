"""Elementary functions by series, against mpmath."""

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from compiled import as_users_do

from jaxloss._core import series

DTYPES = pytest.mark.parametrize("dtype, ulp", [(np.float32, 4), (np.float64, 8)], ids=["float32", "float64"])
UNIT = np.concatenate([-np.logspace(-18, 0, 90), [0], np.logspace(-18, 0, 90)])


@pytest.fixture(autouse=True)
def digits():
    with mpmath.workdps(60):
        yield


def exact(function, x):
    return [function(mpmath.mpf(float(v))) for v in x]


def assert_close(got, want, ulp, tiny=0.0):
    """Within some ULP of each exact number."""
    eps = float(jnp.finfo(got.dtype).eps)
    for g, w in zip(np.asarray(got, np.float64), want, strict=True):
        assert abs(mpmath.mpf(float(g)) - w) <= ulp * eps * abs(w) + tiny, (g, w)


def evaluated(function, x, dtype):
    x = np.asarray(x).astype(dtype)
    with jax.enable_x64(dtype is np.float64):
        return x, as_users_do(function)(x)


@DTYPES
def test_exp_down(dtype, ulp):
    lowest = -87.0 if dtype is np.float32 else -700.0
    x, got = evaluated(series.exp_down, np.concatenate([np.linspace(lowest, 0, 4001), UNIT[:91]]), dtype)
    assert_close(got, exact(mpmath.exp, x), ulp)
    np.testing.assert_array_equal(series.exp_down(jnp.array([0.0, -0.0, -88.0, -1e30, -jnp.inf])), [1, 1, 0, 0, 0])
    assert jnp.isnan(series.exp_down(jnp.nan))


@DTYPES
def test_exponential_near_zero(dtype, ulp):
    x, got = evaluated(series.expm1, np.concatenate([UNIT, np.linspace(-30, 30, 200)]), dtype)
    assert_close(got, exact(mpmath.expm1, x), ulp)
    x, got = evaluated(series.phi_near, UNIT, dtype)
    assert_close(got, exact(lambda v: mpmath.expm1(v) - v, x), ulp)
    x, (even, odd) = evaluated(series.even_and_odd, UNIT, dtype)
    assert_close(even, exact(lambda v: mpmath.cosh(v) - 1, x), ulp)
    assert_close(odd, exact(lambda v: mpmath.sinh(v) - v, x), ulp, tiny=1.2e-38)


@DTYPES
def test_log1p_ratios(dtype, ulp):
    x, (first, second) = evaluated(
        series.log1p_ratios, np.concatenate([UNIT[UNIT >= -0.5], np.linspace(-0.5, 1, 99)]), dtype
    )
    assert_close(first, exact(lambda v: mpmath.log1p(v) / v if v else mpmath.mpf(1), x), ulp)
    assert_close(second, exact(lambda v: (v - mpmath.log1p(v)) / v**2 if v else mpmath.mpf(1) / 2, x), ulp)


@DTYPES
def test_sigmoids(dtype, ulp):
    x, both = evaluated(series.sigmoids, np.concatenate([UNIT, np.linspace(-80, 80, 401)]), dtype)
    for sign, got in zip((1, -1), both, strict=True):
        assert_close(got, exact(lambda v, sign=sign: 1 / (1 + mpmath.exp(-sign * v)), x), ulp)
    np.testing.assert_array_equal(series.sigmoids(jnp.array([jnp.inf, -jnp.inf])), [[1, 0], [0, 1]])


def test_fused_softplus():
    x = np.array([-np.inf, -100, -80, -20, -1, 0, 1e-3, 1, 20, 100, np.inf], np.float32)
    np.testing.assert_allclose(series.fused_softplus(x), np.logaddexp(0, x.astype(np.float64)), rtol=5e-7, atol=1e-37)


@pytest.mark.parametrize(
    "function, at, derivatives",
    [
        (series.exp_down, -0.5, [np.exp(-0.5)] * 3),
        (series.expm1, 0.5, [np.exp(0.5)] * 3),
        (series.phi, 0.5, [np.expm1(0.5), np.exp(0.5), np.exp(0.5)]),
        (series.phi_near, 0.0, [0, 1, 1]),
        (series.fused_softplus, 0.0, [1 / 2, 1 / 4, 0]),
        (lambda x: series.sigmoids(x)[0], 0.0, [1 / 4, 0, -1 / 8]),
        (lambda x: series.sigmoids(x)[1], 0.0, [-1 / 4, 0, 1 / 8]),
        (lambda x: series.log1p_ratios(x)[0], 0.0, [-1 / 2, 2 / 3, -6 / 4]),
    ],
)
def test_derivatives(function, at, derivatives):
    for want in derivatives:
        function = jax.grad(function)
        np.testing.assert_allclose(function(at), want, rtol=2e-5, atol=1e-7)
