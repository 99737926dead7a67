"""The Kullback-Leibler family: digits near equality, edges, both ends of beta, masks. Truth is mpmath or optax."""

import functools
import warnings

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import optax
import pytest
from compiled import as_users_do
from divergence_formulas import (
    error,
    exact,
    exact_gradients,
    exact_js,
    exact_kl,
    js_slopes,
    kl_slopes,
    pair_of_logits,
)

import jaxloss

INF, NAN = jnp.inf, jnp.nan


@functools.wraps(jaxloss.js_divergence)
def js_divergence(*args, **options):
    """Normalized is the harder half: it has limits at both ends."""
    return jaxloss.js_divergence(*args, normalized=True, **options)


FROM_LOGITS = [jaxloss.softmax_kl_divergence, js_divergence]
FROM_PROBABILITIES = [jaxloss.kl_divergence, jaxloss.kl_divergence_with_log_targets, jaxloss.generalized_kl_divergence]


@pytest.fixture(autouse=True)
def digits():
    with mpmath.workdps(60):
        yield


NEAR = [
    (classes, scale, noise, offset)
    for classes in (2, 60)
    for scale, noise in ((1e-3, 1e-6), (1.0, 1e-6), (3.0, 1e-3), (1.0, 1.0), (10.0, 10.0))
    for offset in (0.0, 5.3)
]


@functools.lru_cache
def value_and_gradients(loss, **options):
    return as_users_do(jax.value_and_grad(functools.partial(loss, **options), (0, 1)))


@pytest.mark.core
@pytest.mark.parametrize("classes, scale, noise, offset", NEAR)
def test_softmax_kl_has_all_digits(classes, scale, noise, offset):
    x, y = pair_of_logits(classes, scale, noise, offset)
    value, gradients = value_and_gradients(jaxloss.softmax_kl_divergence)(x, y)
    truth = exact_kl(exact(x), exact(y))
    assert value >= 0
    assert error(value, [truth]) < 2e-6
    for got, want in zip(gradients, kl_slopes(exact(x), exact(y)), strict=True):
        assert error(got, want) < 3e-6


@pytest.mark.parametrize("classes, scale, noise, offset", [c for c in NEAR if c[0] == 60 and c[3] == 0])
@pytest.mark.parametrize("beta", [0.0, 1e-4, 0.3, 0.5, 1.0])  # one after the other: it is compiled for each
def test_js_has_all_digits(classes, scale, noise, offset, beta):
    x, y = pair_of_logits(classes, scale, noise, offset)
    value, gradients = value_and_gradients(js_divergence, beta=beta)(x, y)
    assert value >= 0
    assert error(value, [exact_js(exact(x), exact(y), exact(np.float32(beta))[0])]) < 2e-6
    for got, want in zip(gradients, js_slopes(exact(x), exact(y), exact(np.float32(beta))[0]), strict=True):
        assert error(got, want) < 3e-6


def exact_bernoulli_kl(x, y):
    return exact_kl([x, mpmath.mpf(0)], [y, mpmath.mpf(0)])


@pytest.mark.parametrize("noise", [1e-6, 1e-3, 1.0, 30.0])
def test_sigmoid_kl_has_all_digits(noise):
    x, y = pair_of_logits(40, 3.0, noise, 0.0)
    x, y = x[x != y], y[x != y]
    values = as_users_do(jaxloss.sigmoid_kl_divergence)(x, y)
    slopes = as_users_do(jax.grad(lambda x, y: jaxloss.sigmoid_kl_divergence(x, y).sum(), (0, 1)))(x, y)
    for i, (a, b) in enumerate(zip(exact(x), exact(y), strict=True)):
        assert error(values[i], [exact_bernoulli_kl(a, b)]) < 2e-6
        for got, want in zip(slopes, exact_gradients(exact_bernoulli_kl, a, b), strict=True):
            assert error(got[i], want) < 3e-6


def test_confident_sides_keep_their_gradient():
    """Where one probability is 1 up to 1e-9, a mean and its largest term cancel unless the rest is kept apart."""
    x, y = np.float32([0.0, 3.0, 1.0]), np.float32([20.0, -1.0, 0.5])
    to_y = jax.grad(jaxloss.softmax_kl_divergence, 1)(x, y)
    assert error(to_y, kl_slopes(exact(x), exact(y))[1]) < 1e-6
    to_x = jax.grad(functools.partial(js_divergence, beta=1.0))(y, x)
    assert error(to_x, kl_slopes(exact(x), exact(y))[1]) < 1e-6


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize(
    "fn", [*FROM_LOGITS, jaxloss.sigmoid_kl_divergence, jaxloss.gaussian_kl], ids=lambda f: f.__name__
)
def test_half_precision_is_the_float32_answer(fn, dtype):
    x, y = (jnp.asarray(v).astype(dtype) for v in pair_of_logits(33, 2.0, 0.1, 0.0))
    wide = [v.astype(jnp.float32) for v in (x, y)]
    np.testing.assert_array_equal(fn(x, y), fn(*wide))
    got = jax.grad(lambda x, y: fn(x, y).sum(), (0, 1))(x, y)
    want = jax.grad(lambda x, y: fn(x, y).sum(), (0, 1))(*wide)
    for g, w in zip(got, want, strict=True):
        assert g.dtype == dtype
        np.testing.assert_array_equal(g, w.astype(dtype))


@pytest.mark.parametrize("noise", [1e-3, 1.0])
def test_temperature_is_differentiated(noise):
    x, y = pair_of_logits(6, 2.0, noise, 0.0)
    t = np.float32(1.7)
    for fn, formula in (
        (jaxloss.softmax_kl_divergence, exact_kl),
        (functools.partial(js_divergence, beta=0.25), lambda x, y, t: exact_js(x, y, mpmath.mpf(1) / 4, t)),
    ):
        got = jax.grad(lambda t, fn=fn: fn(x, y, temperature=t))(jnp.asarray(t))
        want = exact_gradients(functools.partial(formula, exact(x), exact(y)), exact(t)[0])[0]
        assert error(got, want) < 5e-6


def test_sigmoid_temperature_is_differentiated():
    x, y = pair_of_logits(6, 2.0, 1e-3, 0.0)
    t = np.float32(1.7)
    got = jax.grad(lambda t: jaxloss.sigmoid_kl_divergence(x, y, temperature=t).sum())(jnp.asarray(t))

    def total(t):
        return sum(exact_bernoulli_kl(a / t, b / t) for a, b in zip(exact(x), exact(y), strict=True))

    assert error(got, exact_gradients(total, exact(t)[0])[0]) < 5e-6


def test_temperature_squared_keeps_the_size_of_the_gradient():
    x, y = pair_of_logits(5, 1.0, 1.0, 0.0)
    plain = jaxloss.softmax_kl_divergence(x, y, temperature=3.0)
    np.testing.assert_allclose(
        jaxloss.softmax_kl_divergence(x, y, temperature=3.0, scale_by_temperature_squared=True), 9 * plain, rtol=1e-6
    )


# The ends of beta.


@pytest.mark.core
def test_js_is_continuous_and_exact_at_both_ends():
    x, y = pair_of_logits(7, 1.0, 2.0, 0.0)
    js = jax.jit(lambda beta: js_divergence(x, y, beta=beta))
    for end, truth in ((0.0, exact_kl(exact(x), exact(y))), (1.0, exact_kl(exact(y), exact(x)))):
        assert error(js(end), [truth]) < 1e-6
        assert error(js(abs(end - 1e-7)), [truth]) < 1e-5


@pytest.mark.core
@pytest.mark.parametrize("beta", [0.0, 1e-30, 0.3, 1.0])
def test_js_where_a_probability_underflows(beta):
    """At an end the mixture is the other side, whose exp(-90) is no number of float32."""
    x, y = np.float32([[0.0, 0.5, -90.0, -200.0], [0.0, -1.0, 10.0, -300.0]])[:: -1 if beta == 1 else 1]
    value, gradients = value_and_gradients(js_divergence, beta=beta)(x, y)
    sides = exact(x), exact(y), exact(np.float32(beta))[0]
    assert error(value, [exact_js(*sides)]) < 1e-6
    np.testing.assert_allclose(gradients, np.float64(js_slopes(*sides)), rtol=2e-6, atol=1e-7)
    by_beta = jax.grad(lambda b: js_divergence(x, y, beta=b))(jnp.float32(beta))
    assert np.isinf(by_beta) if beta in (0, 1) else np.isfinite(by_beta)
    assert np.isfinite(jax.hessian(functools.partial(js_divergence, beta=beta))(x, y)).all()


@pytest.mark.parametrize("beta", [0.0, 1e-3, 0.5, 0.8, 1.0])
def test_js_beta_is_differentiated(beta):
    x, y = pair_of_logits(5, 1.0, 1.0, 0.0)
    b = np.float32(beta)
    got = jax.grad(lambda b: js_divergence(x, y, beta=b))(jnp.asarray(b))
    h = mpmath.mpf(10) ** -16
    at = exact(b)[0]
    if beta == 0:
        want = (-3 * exact_js(exact(x), exact(y), 0) + 4 * exact_js(exact(x), exact(y), h)) / (2 * h)
        want -= exact_js(exact(x), exact(y), 2 * h) / (2 * h)
    elif beta == 1:
        want = (3 * exact_js(exact(x), exact(y), 1) - 4 * exact_js(exact(x), exact(y), 1 - h)) / (2 * h)
        want += exact_js(exact(x), exact(y), 1 - 2 * h) / (2 * h)
    else:
        want = exact_gradients(functools.partial(exact_js, exact(x), exact(y)), at)[0][0]
    assert error(got, [want]) < 1e-5


def test_classical_js_is_bounded_by_log_2():
    far = jaxloss.js_divergence(jnp.array([90.0, 0.0]), jnp.array([0.0, 90.0]))
    np.testing.assert_allclose(far, np.log(2.0), rtol=1e-6)
    x, y = pair_of_logits(5, 1.0, 1.0, 0.0)
    quarter = js_divergence(x, y) / 4
    np.testing.assert_allclose(jaxloss.js_divergence(x, y), quarter, rtol=1e-6)


def test_classical_js_vanishes_at_both_ends():
    disjoint = jnp.array([0.0, -INF]), jnp.array([-INF, 0.0])
    for beta in (0.0, 1.0):
        assert jaxloss.js_divergence(*disjoint, beta=beta) == 0
    x, y = pair_of_logits(5, 1.0, 1.0, 0.0)
    slope = jax.grad(lambda b: jaxloss.js_divergence(x, y, beta=b))(0.0)
    assert error(slope, [exact_kl(exact(x), exact(y))]) < 1e-6


# Edges.


def value_and_slopes(fn, x, y):
    return fn(x, y), *jax.grad(lambda x, y: fn(x, y).sum(), (0, 1))(x, y)


@pytest.mark.parametrize("fn", FROM_LOGITS, ids=lambda f: f.__name__)
def test_class_ruled_out_by_both_changes_nothing(fn):
    x, y = jnp.array([1.0, 0.5, -0.25]), jnp.array([0.5, 1.0, 2.0])
    want = value_and_slopes(fn, x, y)
    got = value_and_slopes(fn, jnp.append(x, -INF), jnp.append(y, -INF))
    np.testing.assert_allclose(got[0], want[0], rtol=1e-6)
    for g, w in zip(got[1:], want[1:], strict=True):
        np.testing.assert_allclose(g, jnp.append(w, 0.0), rtol=1e-6)
    tangent = jnp.array([0.1, 0.2, 0.3])
    pushed = jax.jvp(fn, (x, y), (tangent, tangent))[1]
    longer = jnp.append(tangent, 1.0)
    got = jax.jvp(fn, (jnp.append(x, -INF), jnp.append(y, -INF)), (longer, longer))[1]
    np.testing.assert_allclose(got, pushed, atol=1e-6)


def test_class_ruled_out_by_one_side():
    kl_divergence = jaxloss.softmax_kl_divergence
    value, to_x, to_y = value_and_slopes(kl_divergence, jnp.zeros(2), jnp.array([0.0, -INF]))
    np.testing.assert_allclose(value, np.log(2.0), rtol=1e-6)
    np.testing.assert_allclose(to_x, [-0.5, 0.5], rtol=1e-6)
    np.testing.assert_array_equal(to_y, [0.0, 0.0])
    value, to_x, to_y = value_and_slopes(kl_divergence, jnp.array([0.0, 0.0, -INF]), jnp.zeros(3))
    assert value == INF
    np.testing.assert_allclose(to_x, [1 / 6, 1 / 6, -1 / 3], rtol=1e-6)
    np.testing.assert_array_equal(to_y, [-INF, -INF, INF])
    value, to_x, to_y = value_and_slopes(js_divergence, jnp.array([0.0, -INF]), jnp.array([-INF, 0.0]))
    np.testing.assert_allclose(value, 4 * np.log(2.0), rtol=1e-6)
    np.testing.assert_array_equal(np.abs([to_x, to_y]), np.zeros((2, 2)))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 20.0, 1e4])
def test_class_ruled_out_at_any_temperature(temperature):
    kl_divergence = functools.partial(jaxloss.softmax_kl_divergence, temperature=temperature)
    assert kl_divergence(jnp.array([0.0, 0.0, -INF]), jnp.zeros(3)) == INF
    np.testing.assert_allclose(kl_divergence(jnp.zeros(2), jnp.array([0.0, -INF])), np.log(2.0), rtol=1e-6)
    assert kl_divergence(jnp.array([INF, 0.0]), jnp.zeros(2)) == INF
    np.testing.assert_allclose(kl_divergence(jnp.zeros(2), jnp.array([0.0, INF])), np.log(2.0), rtol=1e-6)
    assert jaxloss.sigmoid_kl_divergence(jnp.array(INF), jnp.array(0.0), temperature=temperature) == INF
    np.testing.assert_allclose(
        jaxloss.sigmoid_kl_divergence(jnp.array(0.0), jnp.array(-INF), temperature=temperature), np.log(2.0), rtol=1e-6
    )


LOGIT_DISTANCES = [
    *FROM_LOGITS,
    jaxloss.total_variation,
    jaxloss.hellinger_distance,
    jaxloss.wasserstein_1d,
    functools.partial(jaxloss.renyi_divergence, alpha=2.0),
]


@pytest.mark.parametrize("fn", LOGIT_DISTANCES, ids=lambda f: getattr(f, "__name__", "renyi_divergence"))
@pytest.mark.parametrize("large", [INF, np.finfo(np.float32).max], ids=["inf", "largest"])
def test_infinite_logit_is_the_whole_distribution(fn, large):
    x, sure = jnp.array([0.5, -1.0, 2.0]), jnp.array([0.0, large, 1.0])
    others_out = jnp.array([-INF, 0.0, -INF])
    for got, want in (
        (value_and_slopes(fn, x, sure), value_and_slopes(fn, x, others_out)),
        (value_and_slopes(fn, sure, x), value_and_slopes(fn, others_out, x)),
        (value_and_slopes(fn, sure, sure), (0.0, np.zeros(3), np.zeros(3))),
    ):
        for g, w in zip(got, want, strict=True):
            np.testing.assert_allclose(g, w, rtol=1e-6)


@pytest.mark.parametrize("fn", LOGIT_DISTANCES, ids=lambda f: getattr(f, "__name__", "renyi_divergence"))
def test_undefined_rows_are_nan(fn):
    for bad in (jnp.array([-INF, -INF]), jnp.array([NAN, 0.0]), jnp.array([INF, INF])):
        assert jnp.isnan(fn(bad, jnp.zeros(2)))
        assert jnp.isnan(fn(jnp.zeros(2), bad))


def test_sigmoid_kl_edges():
    x, y = jnp.array([INF, -INF, 0.0, 0.0, 1e4, NAN]), jnp.array([INF, -INF, INF, -INF, -1e4, 0.0])
    value, to_x, to_y = value_and_slopes(jaxloss.sigmoid_kl_divergence, x, y)
    np.testing.assert_allclose(value, [0.0, 0.0, np.log(2.0), np.log(2.0), 1e4, NAN], rtol=1e-6)
    np.testing.assert_allclose(to_x, [0.0, 0.0, -0.5, 0.5, 1.0, NAN], rtol=1e-6)
    np.testing.assert_allclose(to_y[:-1], np.zeros(5))
    assert jaxloss.sigmoid_kl_divergence(jnp.array(INF), jnp.array(0.0)) == INF


@pytest.mark.parametrize("fn", [jaxloss.kl_divergence, jaxloss.generalized_kl_divergence])
def test_zero_targets_of_a_softmax(fn):
    """A class that the targets' own logits rule out, which the gradient into these meets as 0 times the slope."""
    log_p, z = jnp.log(jnp.array([0.5, 0.25, 0.25])), jnp.array([1.0, -INF, 0.0])
    q = np.exp([1.0, -INF, 0.0]) / (1 + np.e)
    gaps = np.array([1.0, 0.0, 0.0]) - np.log(1 + np.e) - log_p
    want = q * (gaps - np.sum(q * gaps))
    np.testing.assert_allclose(jax.grad(lambda z: fn(log_p, jax.nn.softmax(z)))(z), want, rtol=1e-5, atol=1e-7)


@pytest.mark.core
def test_zero_targets():
    log_p, t = jnp.array([0.0, -INF, -1.0]), jnp.array([1.0, 0.0, 0.0])
    value, to_log_p, to_t = value_and_slopes(jaxloss.kl_divergence, log_p, t)
    assert value == 0
    np.testing.assert_array_equal(to_log_p, [-1.0, 0.0, 0.0])
    highest = float(jnp.finfo(jnp.float32).max)
    np.testing.assert_array_equal(to_t, [1.0, highest, -highest])
    value, to_log_p, to_t = value_and_slopes(jaxloss.generalized_kl_divergence, log_p, t)
    np.testing.assert_allclose(value, np.exp(-1.0), rtol=1e-6)
    np.testing.assert_allclose(to_log_p, [0.0, 0.0, np.exp(-1.0)], rtol=1e-6)
    np.testing.assert_array_equal(to_t, [0.0, highest, -highest])
    value, to_log_p, to_t = value_and_slopes(jaxloss.kl_divergence_with_log_targets, log_p, jnp.log(t))
    assert value == 0
    np.testing.assert_array_equal(to_log_p, [-1.0, 0.0, 0.0])
    np.testing.assert_array_equal(to_t, [1.0, 0.0, 0.0])


@pytest.mark.parametrize("fn", FROM_PROBABILITIES, ids=lambda f: f.__name__)
def test_impossible_prediction_costs_infinity_and_nan_stays(fn):
    target = jnp.log(jnp.array([0.5, 0.5])) if "log_targets" in fn.__name__ else jnp.array([0.5, 0.5])
    assert fn(jnp.array([0.0, -INF]), target) == INF
    assert jnp.isnan(fn(jnp.array([0.0, NAN]), target))


def test_generalized_kl_does_not_cancel():
    rng = np.random.default_rng(0)
    t = rng.uniform(0.1, 1.0, 50).astype(np.float32)
    log_p = (np.log(t) + 1e-2 * rng.standard_normal(50)).astype(np.float32)
    terms = [b * (mpmath.log(b) - a) - b + mpmath.exp(a) for a, b in zip(exact(log_p), exact(t), strict=True)]
    got = jaxloss.generalized_kl_divergence(log_p, t)
    assert error(got, [sum(terms)]) < 1e-5  # of the formula as it stands, 1e-3
    assert jnp.all(jax.vmap(jaxloss.generalized_kl_divergence)(log_p[:, None], t[:, None]) >= 0)


# Drop-in.


@pytest.mark.parametrize("axis", [-1, 0, (0, 2), None])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("fn", FROM_PROBABILITIES, ids=lambda f: f.__name__)
def test_same_as_optax(fn, axis, masked):
    rng = np.random.default_rng(0)
    log_p, t = (jnp.asarray(rng.uniform(lo, hi, (2, 3, 4)), jnp.float32) for lo, hi in ((-3.0, 0.0), (0.1, 1.0)))
    where = jnp.asarray(rng.random((2, 3, 4)) < 0.7) if masked else None
    theirs = getattr(optax.losses, fn.__name__)
    np.testing.assert_allclose(fn(log_p, t, axis, where), theirs(log_p, t, axis, where), rtol=2e-5, atol=1e-6)


def test_convex_kl_is_deprecated():
    args = jnp.array([0.0, -1.0]), jnp.array([0.3, 0.7])
    with pytest.warns(DeprecationWarning, match="generalized_kl_divergence"):
        got = jaxloss.convex_kl_divergence(*args)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(got, jaxloss.generalized_kl_divergence(*args))


# Masks.


@pytest.mark.parametrize("fn", FROM_LOGITS, ids=lambda f: f.__name__)
def test_masked_classes_are_left_out_of_both_distributions(fn):
    rng = np.random.default_rng(0)
    x, y = (jnp.asarray(rng.standard_normal((3, 6)), jnp.float32) for _ in range(2))
    keep = jnp.array([True, False, True, True, False, True])
    spoilt = [jnp.where(keep, v, NAN) for v in (x, y)]
    where = jnp.broadcast_to(keep, (3, 6))
    np.testing.assert_allclose(fn(*spoilt, where=where), fn(x[:, keep], y[:, keep]), rtol=1e-6)
    for got, want in zip(
        jax.grad(lambda x, y: fn(x, y, where=where).sum(), (0, 1))(*spoilt),
        jax.grad(lambda x, y: fn(x, y).sum(), (0, 1))(x[:, keep], y[:, keep]),
        strict=True,
    ):
        np.testing.assert_allclose(got[:, keep], want, rtol=1e-5, atol=1e-7)
        np.testing.assert_array_equal(got[:, ~keep], 0.0)
    slopes = jax.grad(lambda x, y: fn(x, y, where=where).sum(), (0, 1))(spoilt[0].at[0, 0].set(NAN), spoilt[1])
    for slope in slopes:
        assert jnp.all(jnp.isnan(slope[0, keep]))
        np.testing.assert_array_equal(slope[:, ~keep], 0.0)


@pytest.mark.parametrize("fn", FROM_LOGITS, ids=lambda f: getattr(f, "__name__", "js_divergence"))
def test_a_row_without_a_class_makes_no_nan_inside(fn):
    x, y = jnp.array([[1.0, 2.0], [0.5, -1.0]]), jnp.array([[0.0, 1.0], [2.0, 0.0]])
    where = jnp.array([[True, True], [False, False]])
    with jax.debug_nans(True):
        jax.block_until_ready(jax.value_and_grad(lambda x: fn(x, y, where=where, reduction="mean"))(x))
        _, pull = jax.vjp(lambda x, y: fn(x, y, where=where), x, y)
        jax.block_until_ready(pull(jnp.ones(2)))


@pytest.mark.parametrize("fn", [*FROM_LOGITS, *FROM_PROBABILITIES, jaxloss.gaussian_kl], ids=lambda f: f.__name__)
def test_dropped_rows_add_nothing(fn):
    rng = np.random.default_rng(0)
    x, y = (jnp.asarray(rng.uniform(0.1, 1.0, (3, 4)), jnp.float32) for _ in range(2))
    rows = jnp.array([True, False, True])
    spoilt = [v.at[1].set(NAN) for v in (x, y)]
    for where in (rows, jnp.broadcast_to(rows[:, None], (3, 4))):
        got = fn(*spoilt, where=where)
        np.testing.assert_array_equal(got, jnp.where(rows, fn(x, y), 0))
        mean = fn(*spoilt, where=where, reduction="mean")
        np.testing.assert_allclose(mean, fn(x[rows], y[rows]).mean(), rtol=1e-6)
        loss = functools.partial(lambda x, y, where: fn(x, y, where=where, reduction="sum"), where=where)
        for slope in jax.grad(loss, (0, 1))(*spoilt):
            np.testing.assert_array_equal(slope[1], 0.0)
            assert jnp.all(jnp.isfinite(slope))
        assert jnp.isfinite(jax.jvp(loss, tuple(spoilt), (x, y))[1])
    assert fn(*spoilt, where=jnp.zeros(3, bool), reduction="mean") == 0


@pytest.mark.parametrize("fn", [*FROM_LOGITS, *FROM_PROBABILITIES], ids=lambda f: f.__name__)
def test_several_axes_are_one(fn):
    rng = np.random.default_rng(0)
    x, y = (jnp.asarray(rng.uniform(0.1, 1.0, (2, 3, 4)), jnp.float32) for _ in range(2))
    flat = [jnp.moveaxis(v, 1, 0).reshape(3, 8) for v in (x, y)]
    np.testing.assert_allclose(fn(x, y, axis=(0, -1)), fn(*flat), rtol=1e-6)


# Second derivatives.


@pytest.mark.long
@pytest.mark.parametrize("outer", [jax.jacfwd, jax.jacrev])
@pytest.mark.parametrize("inner", [jax.jacfwd, jax.jacrev])
@pytest.mark.parametrize("fn", FROM_LOGITS, ids=lambda f: f.__name__)
def test_hessians(fn, inner, outer):
    with jax.enable_x64(True):
        z = jnp.asarray(np.random.default_rng(0).standard_normal((2, 3)))
        got = outer(inner(lambda z: fn(z[0], z[1], temperature=2.0)))(z).reshape(6, 6)
    half = mpmath.mpf(1) / 2
    slopes = kl_slopes if fn is jaxloss.softmax_kl_divergence else functools.partial(js_slopes, beta=half)
    h, at = mpmath.mpf(10) ** -20, exact(z)

    def slope(v):
        to_x, to_y = slopes(v[:3], v[3:], temperature=2)
        return to_x + to_y

    for i in range(6):
        up, down = ([v + (step if j == i else 0) for j, v in enumerate(at)] for step in (h, -h))
        want = [(a - b) / (2 * h) for a, b in zip(slope(up), slope(down), strict=True)]
        assert error(got[i], want) < 1e-9


# Bad input.


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: jaxloss.softmax_kl_divergence([1, 2], [1.0, 2.0]), "logits must have a floating-point dtype"),
        (lambda: jaxloss.softmax_kl_divergence([1.0, 2.0], [1, 2]), "target_logits must have a floating-point dtype"),
        (lambda: jaxloss.kl_divergence([0.0, -1.0], [0.5, 0.5], where=[1, 0]), "where must be boolean"),
        (lambda: js_divergence([0.0, 1.0], [0.0, 1.0], beta="half"), "beta"),
    ],
)
def test_wrong_dtype(call, message):
    with pytest.raises(TypeError, match=message):
        call()


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: jaxloss.softmax_kl_divergence(jnp.zeros(3), jnp.zeros((3, 1))), r"target_logits of shape \(3, 1\)"),
        (lambda: jaxloss.softmax_kl_divergence(jnp.zeros((2, 0)), jnp.zeros((2, 0))), "no classes along axis 1"),
        (lambda: jaxloss.softmax_kl_divergence(jnp.zeros(3), jnp.zeros(3), axis=1), "axis 1 is out of range"),
        (lambda: jaxloss.softmax_kl_divergence(jnp.zeros(3), jnp.zeros(3), temperature=0.0), "temperature must be in"),
        (
            lambda: jaxloss.softmax_kl_divergence(jnp.zeros((2, 3)), jnp.zeros((2, 3)), temperature=jnp.ones(2)),
            "temperature must be a single number",
        ),
        (lambda: js_divergence(jnp.zeros(3), jnp.zeros(3), beta=1.5), "beta must be in"),
        (lambda: jaxloss.kl_divergence(jnp.zeros(3), jnp.ones(3), reduction="avg"), "reduction must be one of"),
        (lambda: jaxloss.gaussian_kl(jnp.zeros((2, 3)), jnp.zeros((2, 1)), jnp.zeros(2)), "prior_mean of shape"),
        (lambda: jaxloss.kl_divergence(jnp.zeros((2, 3)), jnp.ones(3), where=jnp.ones((3, 2), bool)), "where of shape"),
    ],
)
def test_wrong_shape_or_option(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("fn", [*FROM_LOGITS, *FROM_PROBABILITIES], ids=lambda f: f.__name__)
def test_empty_batch(fn):
    assert fn(jnp.zeros((0, 3)), jnp.zeros((0, 3))).shape == (0,)
    assert fn(jnp.zeros((0, 3)), jnp.zeros((0, 3)), reduction="mean") == 0
