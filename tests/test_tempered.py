"""The bi-tempered loss of distributions, and its limits."""

import jax
import jax.numpy as jnp
import mpmath
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


def exact_entmax(s, alpha):
    """To 300 digits: a root of the ninth degree needs that many for thirty of its own."""
    with mpmath.workdps(300):
        n, top = mpmath.mpf(alpha) - 1, max(s)

        def at(tau):
            rooms = [n * (mpmath.mpf(float(x)) - float(top)) - tau for x in s]
            return [r ** (1 / n) if r > 0 else mpmath.mpf(0) for r in rooms]

        low, high = mpmath.mpf(-1), mpmath.mpf(0)
        for _ in range(900):
            middle = (low + high) / 2
            low, high = (middle, high) if sum(at(middle)) > 1 else (low, middle)
        return np.array([float(p) for p in at(low)])


@pytest.mark.parametrize(
    "alpha, scores, label, loss",
    [
        (5.0, [0.2206, -0.3437, -0.1977, -0.0241, -0.1698], 2, 0.418314108),
        (10.0, [0.058, 0.1346, 0.0814, -0.0063, -0.1909], 1, 0.00202910069),
        (20.0, [0.02, 0.0, 0.03, -0.01], 2, None),
    ],
)
def test_large_alpha(alpha, scores, label, loss):
    """Where probabilities end steeply; the losses are those of mpmath."""
    s = np.float32(scores)
    got, slope = jax.value_and_grad(lambda s: jaxloss.entmax_loss(s, label, alpha=alpha))(jnp.asarray(s))
    p = exact_entmax(s, alpha)
    np.testing.assert_allclose(slope, p - (np.arange(len(s)) == label), rtol=2e-6, atol=3e-7)
    if loss is None:
        loss = p @ s.astype(float) - s[label] + (1 - np.sum(p**alpha)) / (alpha * (alpha - 1))
    np.testing.assert_allclose(got, loss, rtol=2e-6)


@pytest.mark.parametrize("alpha", [5.0, 10.0])
def test_hessian_of_large_alpha(alpha):
    """diag(p^(2-alpha)), less its rank-one part, over the classes that have any probability."""
    s = np.float32([0.01, 0.02, 0.0, -5.0])
    hessian = jax.hessian(lambda s: jaxloss.entmax_loss(s, 0, alpha=alpha))(jnp.asarray(s))
    p = exact_entmax(s, alpha)
    slopes = np.where(p > 0, np.where(p > 0, p, 1) ** (2 - alpha), 0)
    want = np.diag(slopes) - np.outer(slopes, slopes) / slopes.sum()
    np.testing.assert_allclose(hessian, want, rtol=2e-5, atol=1e-5 * np.max(np.abs(want)))


@pytest.mark.parametrize("alpha", [1.3, 1.5, 1.7, 2.0, 3.0, 10.0])
def test_thousands_of_nearly_equal_classes(alpha):
    """The derivative by a label that is not on top is p_y - 1, by the rest p: together the sum of p, less 1."""
    s = np.float32(1e-4 ** (1 if alpha < 3 else 2)) * RNG.standard_normal(8192).astype(np.float32)
    label = int(np.argsort(s)[-2])
    slope = jax.grad(lambda s: jaxloss.entmax_loss(s, label, alpha=alpha))(jnp.asarray(s))
    np.testing.assert_allclose(np.sum(np.asarray(slope, np.float64)), 0, atol=5e-7)


@pytest.mark.parametrize("alpha", [1.3, 1.5, 1.7, 2.0, 5.0])
def test_only_differences_of_scores_count(alpha):
    near = jnp.asarray([0.125, 0.0, -0.5, 0.0625], jnp.float32)
    here = jax.value_and_grad(lambda s: jaxloss.entmax_loss(s, 1, alpha=alpha))
    for got, want in zip(here(near + 2.0**18), here(near), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("t1", [1.0, 0.8])
def test_a_dropped_label_is_a_logit_of_minus_infinity(t1, smoothing):
    options = {"t1": t1, "label_smoothing": smoothing}
    x, keep = np.array([[1.0, 2.0, 0.0]]), np.array([[True, True, False]])
    got = jaxloss.bi_tempered_logistic_loss(np.float32(x), jnp.array([2]), where=keep, **options)
    with np.errstate(all="ignore"):
        want = formulas.bi_tempered_logistic_loss(FLOAT64, x, np.array([2]), where=keep, **options)
    np.testing.assert_allclose(got, want, rtol=2e-6)
    assert np.isinf(got[0]) == (t1 == 1)
    spread = jnp.array([[smoothing / 2, smoothing / 2, 1 - smoothing]])
    ruled_out = jnp.where(keep, x, -jnp.inf)

    def slope(x, y, **given):
        return jax.grad(lambda x: jnp.sum(jaxloss.bi_tempered_logistic_loss(x, y, t1=t1, **given)))(x)

    same = jaxloss.bi_tempered_logistic_loss(ruled_out, spread, t1=t1)
    np.testing.assert_allclose(got, same, rtol=1e-6)
    if t1 < 1:
        masked = slope(jnp.float32(x), jnp.array([2]), where=keep, label_smoothing=smoothing)
        np.testing.assert_allclose(masked, slope(ruled_out, spread), rtol=1e-5, atol=1e-7)


def test_distributions_over_dropped_classes():
    """What they say of those counts, and NaN says nothing."""
    x, keep = jnp.array([1.0, 2.0, 0.0]), jnp.array([True, True, False])
    assert jaxloss.bi_tempered_logistic_loss(x, jnp.array([0.5, 0.0, 0.5]), where=keep, t1=1.0) == jnp.inf
    kept = jaxloss.bi_tempered_logistic_loss(x[:2], jnp.array([0.5, 0.5]))
    got = jaxloss.bi_tempered_logistic_loss(x, jnp.array([0.5, 0.5, jnp.nan]), where=keep)
    np.testing.assert_allclose(got, kept, rtol=1e-6)


@pytest.mark.parametrize("given", [{"t1": 1.5}, {"t2": -1.0}, {"label_smoothing": 2.0}])
def test_options_out_of_range(given):
    (name,) = given
    with pytest.raises(ValueError, match=f"{name} must be in"):
        jaxloss.bi_tempered_logistic_loss(X, Y, **given)


def test_options_that_are_arrays():
    with pytest.raises(TypeError, match="t1 must be a Python number.*got an array"):
        jaxloss.bi_tempered_logistic_loss(X, Y, t1=jnp.float32(0.5))
    with pytest.raises(TypeError, match="alpha must be a Python number.*got an array"):
        jaxloss.entmax_loss(X, jnp.zeros(6, int), alpha=jnp.float32(1.5))
