"""The bi-tempered loss of distributions, and its limits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tempered_formulas as formulas
from registry_formulas import FLOAT64

import jaxloss

RNG = np.random.default_rng(0)
X = RNG.standard_normal((6, 4)).astype(np.float32)
Y = RNG.dirichlet(np.ones(4), 6).astype(np.float32)


@pytest.mark.parametrize("t1, t2", [(0.8, 1.2), (1.0, 1.0), (0.2, 4.0), (0.5, 0.5)])
def test_distributions(t1, t2):
    want = formulas.bi_tempered_logistic_loss(FLOAT64, X.astype(float), Y.astype(float), t1=t1, t2=t2)
    np.testing.assert_allclose(jaxloss.bi_tempered_logistic_loss(X, Y, t1=t1, t2=t2), want, rtol=2e-6)


def test_equal_distributions_cost_nothing():
    value, slope = jax.value_and_grad(jaxloss.bi_tempered_logistic_loss)(jnp.zeros(2), jnp.full(2, 0.5))
    assert value == 0 and not np.any(slope)


def test_labels_have_no_gradient():
    with pytest.raises(TypeError, match="labels has no gradient"):
        jax.grad(lambda y: jnp.sum(jaxloss.bi_tempered_logistic_loss(X, y)))(jnp.asarray(Y))


def test_temperatures_of_1_are_cross_entropy():
    labels = jnp.arange(6) % 4
    got = jaxloss.bi_tempered_logistic_loss(X, labels, t1=1.0, t2=1.0)
    np.testing.assert_allclose(got, jaxloss.softmax_cross_entropy_with_integer_labels(X, labels), rtol=2e-6)


def test_alpha_of_2_is_the_sparsemax_loss():
    labels = jnp.arange(6) % 4
    got = jaxloss.entmax_loss(X, labels, alpha=2.0)
    np.testing.assert_allclose(got, jaxloss.multiclass_sparsemax_loss(X, labels), rtol=2e-6, atol=1e-7)


@pytest.mark.parametrize("given", [{"t1": 1.5}, {"t2": -1.0}, {"label_smoothing": 2.0}])
def test_options_out_of_range(given):
    (name,) = given
    with pytest.raises(ValueError, match=f"{name} must be in"):
        jaxloss.bi_tempered_logistic_loss(X, Y, **given)


def test_options_that_are_arrays():
    with pytest.raises(TypeError, match="t1 must be a Python number"):
        jaxloss.bi_tempered_logistic_loss(X, Y, t1=jnp.float32(0.5))
    with pytest.raises(TypeError, match="alpha must be a Python number"):
        jaxloss.entmax_loss(X, jnp.zeros(6, int), alpha=jnp.float32(1.5))
