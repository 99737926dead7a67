"""The divergence of diagonal Gaussians: digits near equality, narrow and far ones, curvature. Truth is mpmath."""

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from compiled import as_users_do
from divergence_formulas import error, exact, exact_gradients

import jaxloss


@pytest.fixture(autouse=True)
def digits():
    with mpmath.workdps(60):
        yield


def exact_gaussian_kl(mean, log_var, mean0, log_var0):
    terms = zip(mean, log_var, mean0, log_var0, strict=True)
    return sum((mpmath.exp(s - s0) - 1 - (s - s0) + (m - m0) ** 2 * mpmath.exp(-s0)) / 2 for m, s, m0, s0 in terms)


@pytest.mark.parametrize("scale", [1e-6, 1e-3, 1.0, 10.0])
def test_all_digits(scale):
    rng = np.random.default_rng(0)
    args = [(scale * rng.standard_normal(6)).astype(np.float32) for _ in range(4)]
    args[3] = (args[3] * 0 + 2.0).astype(np.float32)
    args[1] = args[1] + args[3]
    value, slopes = as_users_do(jax.value_and_grad(jaxloss.gaussian_kl, (0, 1, 2, 3)))(*args)
    lists = [exact(a) for a in args]
    assert error(value, [exact_gaussian_kl(*lists)]) < 1e-6
    for got, want in zip(slopes, exact_gradients(exact_gaussian_kl, *lists), strict=True):
        assert error(got, want) < 1e-6
    standard = [exact(np.zeros(6))] * 2
    assert error(jaxloss.gaussian_kl(*args[:2]), [exact_gaussian_kl(*lists[:2], *standard)]) < 1e-6


def test_no_early_overflow():
    got = jaxloss.gaussian_kl(jnp.array([1e25]), jnp.array([100.0]), None, jnp.array([100.0]))
    np.testing.assert_allclose(got, 0.5 * (1e25 * np.exp(-50.0)) ** 2, rtol=1e-5)
    mean = jnp.zeros(1)
    for narrow in (jnp.array([-190.0]), jnp.array([-400.0])):
        value, slopes = jax.value_and_grad(jaxloss.gaussian_kl, (0, 1, 2, 3))(mean, narrow, mean, narrow)
        assert value == 0
        for slope in slopes:
            np.testing.assert_array_equal(jnp.abs(slope), 0.0)


def test_curvature_at_the_prior():
    mean, prior = jnp.zeros(1), jnp.array([-1.0])
    curvature = jax.hessian(lambda m: jaxloss.gaussian_kl(m, prior, jnp.zeros(1), prior))(mean)
    np.testing.assert_allclose(curvature, [[np.exp(1.0)]], rtol=1e-6)
