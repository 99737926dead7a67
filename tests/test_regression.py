"""Regression losses: against other libraries, limits between them, options that are learned, bad options."""

import functools

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import peers
import pytest
import scipy.stats
from compiled import as_users_do, traced_in
from formulas_regression import robust_loss as robust_formula
from registry_formulas import EXACT

import jaxloss
from jaxloss._core import directions

RNG = np.random.default_rng(0)
X, Y = (RNG.standard_normal((8, 5)).astype(np.float32) for _ in range(2))
POSITIVE = RNG.uniform(0.2, 3.0, (8, 5)).astype(np.float32)
COUNTS = RNG.poisson(3.0, (8, 5)).astype(np.float32)


def close(got, want, rtol=2e-6, atol=1e-6):
    np.testing.assert_allclose(np.asarray(got), np.asarray(want), rtol=rtol, atol=atol)


# Other libraries


def torch_losses():
    return {
        "huber": (lambda f, x, y: f.huber_loss(x, y, reduction="none", delta=0.7), jaxloss.huber_loss, {"delta": 0.7}),
        "smooth l1": (
            lambda f, x, y: f.smooth_l1_loss(x, y, reduction="none", beta=0.7),
            jaxloss.smooth_l1_loss,
            {"beta": 0.7},
        ),
        "l1": (lambda f, x, y: f.l1_loss(x, y, reduction="none"), jaxloss.absolute_error, {}),
        "poisson": (lambda f, x, y: f.poisson_nll_loss(x, y, reduction="none"), jaxloss.poisson_nll, {}),
        "cosine": (lambda f, x, y: f.cosine_similarity(x, y, dim=1), jaxloss.cosine_similarity, {"axis": 1}),
    }


@pytest.mark.peers
@pytest.mark.parametrize("name", torch_losses())
def test_torch(name):
    torch = peers.load("torch")
    theirs, ours, options = torch_losses()[name]
    x = torch.tensor(X, requires_grad=True)
    losses = theirs(torch.nn.functional, x, torch.tensor(COUNTS if name == "poisson" else Y))
    losses.sum().backward()
    target = COUNTS if name == "poisson" else Y
    got, slope = jax.value_and_grad(lambda x: jnp.sum(ours(x, target, **options)))(jnp.asarray(X))
    close(ours(X, target, **options), losses.detach())
    close(got, losses.detach().sum(), rtol=1e-5)
    close(slope, x.grad, rtol=1e-5)


@pytest.mark.peers
def test_torch_gaussian():
    torch = peers.load("torch")
    theirs = torch.nn.functional.gaussian_nll_loss
    want = theirs(torch.tensor(X), torch.tensor(Y), torch.tensor(POSITIVE), full=True, reduction="none")
    close(jaxloss.gaussian_nll(X, Y, POSITIVE, full=True), want)


def test_scipy_densities():
    wide = [a.astype(np.float64) for a in (X, Y, POSITIVE, COUNTS)]
    x, y, s, n = wide
    stats = scipy.stats
    pairs = [
        (jaxloss.gaussian_nll(X, Y, POSITIVE, full=True), stats.norm.logpdf(y, x, np.sqrt(s))),
        (jaxloss.gaussian_nll(X, Y, X, full=True, log_variance=True), stats.norm.logpdf(y, x, np.exp(x / 2))),
        (jaxloss.laplace_nll(X, Y, POSITIVE, full=True), stats.laplace.logpdf(y, x, s)),
        (jaxloss.student_t_nll(X, Y, POSITIVE, dof=3.5, full=True), stats.t.logpdf(y, 3.5, x, s)),
        (jaxloss.poisson_nll(X, COUNTS, full=True), stats.poisson.logpmf(n, np.exp(x))),
        (jaxloss.gamma_nll(X, POSITIVE, shape=2.5), stats.gamma.logpdf(s, 2.5, scale=np.exp(x) / 2.5)),
        (
            jaxloss.negative_binomial_nll(X, COUNTS, dispersion=0.4, full=True),
            stats.nbinom.logpmf(n, 2.5, 1 / (1 + 0.4 * np.exp(x))),
        ),
    ]
    for got, want in pairs:
        close(got, -want, rtol=5e-6)


def test_scipy_crps():
    """The integral of the squared difference of the distribution functions."""
    grid = np.linspace(-30, 30, 600001)
    for x, y, s in zip(X[0].astype(float), Y[0].astype(float), POSITIVE[0].astype(float), strict=True):
        squares = (scipy.stats.norm.cdf(grid, x, s) - (grid >= y)) ** 2
        close(jaxloss.gaussian_crps(x, y, s), np.sum(squares) * 1e-4, rtol=5e-4)


@pytest.mark.parametrize("power", [1.0, 1.3, 2.0, 3.0])
def test_sklearn_deviances(power):
    metrics = pytest.importorskip("sklearn.metrics")
    mean = np.exp(X).astype(np.float32)
    want = metrics.mean_tweedie_deviance(POSITIVE.ravel().astype(float), mean.ravel().astype(float), power=power)
    for prediction, is_log in ((X, True), (mean, False)):
        got = jaxloss.tweedie_deviance(prediction, POSITIVE, power=power, log_input=is_log, reduction="mean")
        close(got, want, rtol=1e-5)


def test_sklearn_means():
    metrics = pytest.importorskip("sklearn.metrics")
    x, y, s = (a.ravel().astype(float) for a in (X, Y, POSITIVE))
    close(jaxloss.quantile_loss(X, Y, quantile=0.3, reduction="mean"), metrics.mean_pinball_loss(y, x, alpha=0.3))
    got = jaxloss.absolute_percentage_error(X, POSITIVE, reduction="mean")
    close(got, metrics.mean_absolute_percentage_error(s, x))
    got = jaxloss.squared_log_error(POSITIVE, COUNTS, reduction="mean")
    close(got, metrics.mean_squared_log_error(COUNTS.ravel(), s))


# Digits where terms are large


def exact_deviance(mean, y, power):
    terms = (y ** (2 - power) / ((1 - power) * (2 - power)), y * mean ** (1 - power) / (power - 1))
    return 2 * (sum(terms) + mean ** (2 - power) / (2 - power))


@pytest.mark.parametrize(
    "log_mean, y, power", [(-18.09, 1.14e-8, 7), (-18.09, 1.7e-8, 7), (-43.0, 1e-18, 4), (3.0, 1e-19, 4)]
)
def test_a_deviance_below_overflow(log_mean, y, power):
    """Its terms are not. An exponent of 90 is rounded by 4e-6."""
    log_mean, y = np.float32(log_mean), np.float32(y)
    with mpmath.workdps(50):
        mean, target = mpmath.exp(float(log_mean)), mpmath.mpf(float(y))
        want = float(exact_deviance(mean, target, power))
        slope = float(2 * (mean - target) * mean ** (1 - power))
    got = jax.value_and_grad(functools.partial(jaxloss.tweedie_deviance, power=power))(log_mean, y)
    np.testing.assert_allclose(got[0], want, rtol=2e-5)
    np.testing.assert_allclose(got[1], slope if abs(slope) < 3e38 else np.sign(slope) * np.inf, rtol=2e-5)


@pytest.mark.parametrize("power", [1.0, 1.5])
def test_a_weight_of_0_drops_an_infinite_slope(power):
    loss = functools.partial(jaxloss.tweedie_deviance, power=power, weights=jnp.array([0.0, 1.0]), reduction="sum")
    assert jnp.all(jax.grad(lambda y: loss(jnp.zeros(2), y))(jnp.array([0.0, 1.0])) == 0)


LARGE = np.float32([3, 10, 1e3, 1e5, 1e6, 43300624, 1e9])


@pytest.mark.parametrize("log_input", [False, True])
@pytest.mark.parametrize("off", [1.0, 1.001, 0.6, 4.0, 0.01])
def test_likelihoods_of_large_counts(off, log_input):
    """The logarithm of a factorial is far larger than the loss."""
    mean = LARGE * np.float32(off)
    x = np.log(mean) if log_input else mean
    got, pullback = jax.vjp(functools.partial(jaxloss.poisson_nll, log_input=log_input, full=True), x, LARGE)
    slope, to_target = pullback(jnp.ones_like(got))
    with mpmath.workdps(50):
        pairs = [(mpmath.mpf(float(a)), mpmath.mpf(float(y))) for a, y in zip(x, LARGE, strict=True)]
        logs = [a if log_input else mpmath.log(a) for a, _ in pairs]
        means = [mpmath.exp(a) for a in logs]
        terms = list(zip(means, logs, (y for _, y in pairs), strict=True))
        want = np.array([float(m - y * a + mpmath.loggamma(y + 1)) for m, a, y in terms])
        by_mean = np.array([float(m - y if log_input else 1 - y / m) for m, _, y in terms])
        by_count = np.array([float(mpmath.digamma(y + 1) - a) for _, a, y in terms])
    bit = np.abs(x) * 2.0**-24 * log_input  # of a logarithm: half of it is what no code can know
    np.testing.assert_array_less(np.abs(got - want), 1e-6 * np.abs(want) + 1e-30 + np.abs(by_mean) * bit)
    np.testing.assert_array_less(np.abs(slope - by_mean), 1e-6 * np.abs(by_mean) + 1e-30 + 3 * LARGE * 1e-7 * log_input)
    np.testing.assert_array_less(np.abs(to_target - by_count), 2e-6 * np.abs(by_count) + 2 * bit)


def exact_negative_binomial(mean, y, dispersion):
    """With the factorial, and the slopes in target and dispersion, in numbers of mpmath."""
    r, log = 1 / dispersion, mpmath.log1p(dispersion * mean)
    pull = mean / (1 + dispersion * mean)
    ratio = mpmath.loggamma(r + y) - mpmath.loggamma(r) - y * mpmath.log(r)
    value = (r + y) * log - y * mpmath.log(mean) - ratio + mpmath.loggamma(y + 1)
    by_count = log - mpmath.log(mean) - mpmath.digamma(r + y) + mpmath.log(r) + mpmath.digamma(y + 1)
    by_r = log - dispersion**2 * (r + y) * pull - mpmath.digamma(r + y) + mpmath.digamma(r) + y / r
    return float(value), float(by_count), float(-by_r * r * r)


@pytest.mark.parametrize("log_input", [False, True])
@pytest.mark.parametrize("dispersion", [1e-8, 0.008, 0.2, 0.3, 2.0, 1e3])
@pytest.mark.parametrize("off", [1.0, 1.001, 0.6, 4.0])
def test_overdispersed_large_counts(off, dispersion, log_input):
    mean, dispersion = LARGE * np.float32(off), np.float32(dispersion)
    x = np.log(mean) if log_input else mean
    loss = functools.partial(jaxloss.negative_binomial_nll, log_input=log_input)
    alphas = np.full_like(x, dispersion)
    got, pullback = jax.vjp(lambda x, y, a: loss(x, y, dispersion=a, full=True), x, LARGE, alphas)
    slope, to_target, to_dispersion = pullback(jnp.ones_like(got))
    alone = jax.grad(lambda a: jnp.sum(loss(x, LARGE, dispersion=a)))(alphas)
    with mpmath.workdps(60):
        numbers = [[mpmath.mpf(float(v)) for v in (a, y, dispersion)] for a, y in zip(x, LARGE, strict=True)]
        means = [mpmath.exp(a) if log_input else a for a, _, _ in numbers]
        pairs = list(zip(means, numbers, strict=True))
        want, by_count, by_dispersion = np.transpose([exact_negative_binomial(m, y, a) for m, (_, y, a) in pairs])
        by_log = np.array([float((m - y) / (1 + a * m)) for m, (_, y, a) in pairs])
    bit = (1 + np.abs(x) if log_input else 1) * 2.0**-23  # of the logarithm of the mean, which decides the digits
    shift = bit * mean / (1.0 + dispersion * mean) + 2 * bit * np.abs(by_log)
    np.testing.assert_array_less(np.abs(got - want), 2e-6 * np.abs(want) + np.abs(by_log) * bit * 2)
    np.testing.assert_array_less(np.abs(slope * (1 if log_input else x) - by_log), 4 * shift + 1e-30)
    np.testing.assert_array_less(np.abs(to_target - by_count), 2e-6 * np.abs(by_count) + 2 * bit)
    for by in (to_dispersion, alone):
        np.testing.assert_array_less(
            np.abs(by - by_dispersion), 3e-6 * np.abs(by_dispersion) + 2 * np.abs(by_log) * shift
        )


# One loss as the limit of another


def test_limits():
    close(jaxloss.huber_loss(X, Y, delta=0.5) / 0.5, jaxloss.smooth_l1_loss(X, Y, beta=0.5))
    close(jaxloss.expectile_loss(X, Y), jaxloss.l2_loss(X, Y))
    close(2 * jaxloss.quantile_loss(X, Y), jaxloss.absolute_error(X, Y))
    close(jaxloss.robust_loss(X, Y, alpha=1.0, scale=0.5) * 0.25, jaxloss.pseudo_huber_loss(X, Y, delta=0.5))
    close(jaxloss.robust_loss(X, Y, alpha=2.0), jaxloss.l2_loss(X, Y))
    close(jaxloss.negative_binomial_nll(X, COUNTS, dispersion=0.0), jaxloss.poisson_nll(X, COUNTS))
    gaussian = jaxloss.gaussian_nll(X, Y, jnp.square(POSITIVE), full=True)
    close(jaxloss.student_t_nll(X, Y, POSITIVE, dof=jnp.inf, full=True), gaussian)
    close(jaxloss.student_t_nll(X, Y, POSITIVE, dof=1e9, full=True), gaussian, atol=1e-5)
    close(jaxloss.tweedie_deviance(X, POSITIVE, power=1 + 1e-6), jaxloss.tweedie_deviance(X, POSITIVE, power=1), 1e-4)
    close(jaxloss.tweedie_deviance(X, POSITIVE, power=2 + 1e-6), jaxloss.tweedie_deviance(X, POSITIVE, power=2), 1e-4)


def test_the_mean_of_targets_is_where_each_loss_is_least():
    """Quantiles of a sample, by gradient descent on all at once."""
    sample = jnp.asarray(np.random.default_rng(1).exponential(size=4001), jnp.float32)
    levels = (0.1, 0.5, 0.9)
    slope = jax.grad(
        lambda q: jaxloss.quantile_loss(
            jnp.broadcast_to(q, (4001, 3)), sample[:, None], quantile=levels, reduction="mean"
        )
    )
    q = jax.lax.fori_loop(0, 4000, lambda i, q: q - 20 / (i + 20) * slope(q), jnp.zeros(3))
    close(q, np.quantile(sample, levels), rtol=0.02)


# Options that are learned


@pytest.mark.parametrize("error", [1e-3, 0.1, 1.0, 10.0, 1e3])
@pytest.mark.parametrize("alpha", [-8.0, -2.0, -1e-3, 0.0, 1e-3, 0.5, 0.999, 1.0, 1.5, 1.99])
def test_shape_of_the_robust_loss_is_learned(alpha, error):
    """Its derivative is a difference of large terms near 0, 2 and for small errors."""
    error, alpha = np.float32(error), np.float32(alpha)
    got = jax.grad(lambda a: jaxloss.robust_loss(jnp.asarray(error), alpha=a))(jnp.asarray(alpha))
    step = mpmath.mpf(10) ** -25

    def exact(shift):
        at = np.asarray(EXACT.number(float(alpha))[()] + shift, object)
        return robust_formula(EXACT, EXACT.number(float(error)), alpha=at)

    want = (exact(step) - exact(-step)) / (2 * step)
    close(got, float(want), rtol=2e-5, atol=0)


def test_limits_of_the_robust_shape():
    slope = jax.grad(lambda a, e: jnp.sum(jaxloss.robust_loss(e, alpha=a)))
    assert slope(jnp.float32(2.0), jnp.float32(1.0)) == jnp.inf
    assert slope(jnp.float32(2.0), jnp.float32(0.0)) == 0
    assert slope(jnp.float32(-jnp.inf), jnp.float32(1.0)) == 0


def exact_cosine_distance(x, y):
    """Value and gradients in 19 digits, by the sine: 1 minus the cosine would have none left of 1e-14."""
    x, y = x.astype(np.longdouble), y.astype(np.longdouble)
    xx, yy, xy = (np.sum(u * v, 1, keepdims=True) for u, v in ((x, x), (y, y), (x, y)))
    off, lengths = x - xy / yy * y, np.sqrt(xx * yy)
    cosine = xy / lengths
    value = np.where(cosine > 0, np.sum(off * off, 1, keepdims=True) / xx / (1 + cosine), 1 - cosine)
    return value[:, 0], (xy / xx * x - y) / lengths, -off / lengths


@pytest.fixture(params=[False, True], ids=["devices", "one CPU"])  # which has a shortcut for distant rows
def form(request, monkeypatch):
    monkeypatch.setattr(directions.blocks, "pays_a_branch", lambda x: request.param)
    traced_in(("cosines", request.param))
    yield


@as_users_do
def cosine_distance_and_gradients(x, y):
    value, pullback = jax.vjp(jaxloss.cosine_distance, x, y)
    return value, *pullback(jnp.ones_like(value))


@pytest.mark.usefixtures("form")
@pytest.mark.parametrize("apart", [1e-7, 1e-5, 1e-3, 0.1, 10.0])
@pytest.mark.parametrize("lengths", [(0, 0), (-100, 0), (0, 83), (83, -100)])  # powers of two, which do not round
def test_cosines_keep_their_digits(apart, lengths):
    rng = np.random.default_rng(5)
    x = rng.normal(size=(40, 64)).astype(np.float32)
    y = ((x + apart * rng.normal(size=x.shape)) * 3).astype(np.float32)
    want = exact_cosine_distance(x, y)
    x_length, y_length = 2.0 ** np.array(lengths)
    x, y = x * np.float32(x_length), y * np.float32(y_length)
    value, to_x, to_y = jax.device_get(cosine_distance_and_gradients(x, y))
    np.testing.assert_allclose(value, want[0].astype(float), rtol=2e-6)
    for got, exact in ((to_x * x_length, want[1]), (to_y * y_length, want[2])):
        error = np.linalg.norm((got - exact).astype(float), axis=1)
        assert np.all(error <= 1e-6 * np.linalg.norm(exact.astype(float), axis=1))


@pytest.mark.usefixtures("form")
def test_no_cosine_is_above_one():
    x = np.random.default_rng(6).normal(size=(1000, 7)).astype(np.float32)
    assert np.all(jaxloss.cosine_similarity(x, 3 * x) <= 1) and np.all(jaxloss.cosine_similarity(x, -7 * x) >= -1)
    np.testing.assert_array_equal(jaxloss.cosine_similarity(x, x), 1)


@pytest.mark.usefixtures("form")
@pytest.mark.parametrize("lengths", [(1e-30, 1.0), (1.0, 1e-30), (1e-30, 1e30), (1e30, 1e-30)])
def test_epsilon_of_lengths_whose_squares_are_no_numbers(lengths):
    rng = np.random.default_rng(7)
    x, y = (np.float32(length) * rng.normal(size=(5, 8)).astype(np.float32) for length in lengths)
    a, b = x.astype(np.float64), y.astype(np.float64)
    norms = [np.maximum(np.sqrt(np.sum(v * v, 1)), 1e-4) for v in (a, b)]
    want = np.sum(a * b, 1) / (norms[0] * norms[1])
    np.testing.assert_allclose(jaxloss.cosine_similarity(x, y, epsilon=1e-8), want, rtol=2e-6)


def test_tuples_are_arrays():
    given = jaxloss.quantile_loss(X[:, :3], Y[:, :1], quantile=(0.1, 0.5, 0.9))
    array = jaxloss.quantile_loss(X[:, :3], Y[:, :1], quantile=jnp.array([0.1, 0.5, 0.9]))
    columns = [jaxloss.quantile_loss(X[:, i], Y[:, 0], quantile=q) for i, q in enumerate((0.1, 0.5, 0.9))]
    np.testing.assert_array_equal(given, array)
    close(given, np.stack(columns, 1))


def test_options_do_not_widen_and_do_not_narrow():
    with jax.enable_x64(True):
        assert jaxloss.huber_loss(jnp.float32(1.0), delta=0.1).dtype == jnp.float32
        assert jaxloss.quantile_loss(jnp.float32([1.0]), 0.5, quantile=(0.1,)).dtype == jnp.float32
        assert jaxloss.huber_loss(jnp.float64(1.0), delta=0.1) == 0.1 * (1 - 0.05)


def test_noise_is_learned():
    """Every likelihood finds the spread of a sample, from a bad start."""
    rng = np.random.default_rng(2)
    sample = jnp.asarray(3 * rng.standard_normal(2000), jnp.float32)
    size = float(jnp.mean(jnp.abs(sample)))
    found = {
        "gaussian": (lambda s: jaxloss.gaussian_nll(jnp.zeros_like(sample), sample, s, log_variance=True), 2.0, 3.0),
        "laplace": (lambda s: jaxloss.laplace_nll(jnp.zeros_like(sample), sample, jnp.exp(s)), 1.0, size),
        "crps": (lambda s: jaxloss.gaussian_crps(jnp.zeros_like(sample), sample, jnp.exp(s)), 1.0, 3.0),
    }
    for losses, power, want in found.values():
        slope = jax.grad(lambda s, losses=losses: jnp.mean(losses(s)))
        s = jax.lax.fori_loop(0, 2000, lambda _, s, slope=slope: s - 0.1 * slope(s), jnp.float32(-3.0))
        close(np.exp(s / power), want, rtol=0.05)


# Second derivatives through a loop


SMOOTH = {
    "log_cosh": (jaxloss.log_cosh, Y),
    "pseudo_huber_loss": (jaxloss.pseudo_huber_loss, Y),
    "robust_loss": (functools.partial(jaxloss.robust_loss, alpha=0.3), Y),
    "squared_log_error": (lambda x, y: jaxloss.squared_log_error(x * x, y), POSITIVE),
    "poisson_nll": (functools.partial(jaxloss.poisson_nll, full=True), COUNTS),
    "negative_binomial_nll": (jaxloss.negative_binomial_nll, COUNTS),
    "gamma_nll": (jaxloss.gamma_nll, POSITIVE),
    "tweedie_deviance": (jaxloss.tweedie_deviance, POSITIVE),
    "student_t_nll": (lambda x, y: jaxloss.student_t_nll(x, y, jnp.ones_like(x)), Y),
    "cosine_distance": (jaxloss.cosine_distance, Y),
}


@pytest.mark.parametrize("name", SMOOTH)
def test_second_derivatives_through_a_scan(name):
    loss, target = SMOOTH[name]

    def scanned(w):
        step = lambda c, z: (c + jnp.sum(loss(z[0] * w, z[1])), None)  # noqa: E731
        return jax.lax.scan(step, jnp.float32(0), (jnp.asarray(X), jnp.asarray(target)))[0]

    def plain(w):
        return jnp.sum(loss(X * w[None], jnp.asarray(target)))

    w, v = jnp.linspace(0.5, 1.5, 5), jnp.linspace(1.0, -1.0, 5)
    got, want = (jax.jit(lambda w, v, f=f: jax.jvp(jax.grad(f), (w,), (v,))[1])(w, v) for f in (scanned, plain))
    close(got, want, rtol=1e-5, atol=1e-5 * float(jnp.max(jnp.abs(want))))


# Outside of the domain: NaN in value and gradient, not a number that is lower the farther outside


@pytest.mark.parametrize("y", [-0.5, -1.0, -3.0])
def test_counts_below_0(y):
    rules = [
        functools.partial(loss, log_input=log, **options)
        for log in (False, True)
        for loss, options in (
            *((jaxloss.poisson_nll, {"full": full}) for full in (False, True)),
            *(
                (jaxloss.negative_binomial_nll, {"full": full, "dispersion": dispersion})
                for full in (False, True)
                for dispersion in (0.0, 0.5)
            ),
            *((jaxloss.gamma_nll, {"shape": shape}) for shape in (0.5, 1.0, 2.0, 5.0)),
            (jaxloss.tweedie_deviance, {}),
        )
    ]
    for rule in rules:
        assert np.isnan(jax.value_and_grad(rule)(0.3, y)).all()


def test_a_scale_below_0():
    for scale in (-0.1, -1e3):
        found = jax.value_and_grad(jaxloss.gaussian_crps, (0, 2))(4.0, 7.0, scale)
        assert np.isnan(jnp.stack(jax.tree.leaves(found))).all()


def test_a_shape_above_2():
    for error in (0.0, 1.0, 3.0):
        found = jax.value_and_grad(lambda x, a: jaxloss.robust_loss(x, alpha=a), (0, 1))(error, jnp.array(2.001))
        assert np.isnan(jnp.stack(jax.tree.leaves(found))).all()


# Bad options


@pytest.mark.parametrize(
    "loss, name, values",
    [
        (jaxloss.huber_loss, "delta", (-1.0, float("nan"))),
        (jaxloss.pseudo_huber_loss, "delta", (0.0, -1.0)),
        (jaxloss.epsilon_insensitive_loss, "epsilon", (-0.1,)),
        (jaxloss.robust_loss, "alpha", (2.5,)),
        (jaxloss.robust_loss, "scale", (0.0,)),
        (jaxloss.quantile_loss, "quantile", (0.0, 1.0, (0.5, 1.5))),
        (jaxloss.expectile_loss, "expectile", (0.0, 1.0)),
        (jaxloss.absolute_percentage_error, "epsilon", (0.0,)),
        (jaxloss.negative_binomial_nll, "dispersion", (-0.1,)),
        (jaxloss.gamma_nll, "shape", (0.0,)),
        (jaxloss.tweedie_deviance, "power", (0.5, float("inf"))),
        (jaxloss.cosine_distance, "epsilon", (-1e-8,)),
        (functools.partial(jaxloss.student_t_nll, scales=POSITIVE), "dof", (0.0,)),
    ],
)
def test_options_out_of_range(loss, name, values):
    for value in values:
        with pytest.raises(ValueError, match=rf"{name} must be in "):
            loss(X, POSITIVE, **{name: value})


def test_the_power_of_a_deviance_is_not_learned():
    with pytest.raises(TypeError, match="tweedie_deviance.*power.*Python number"):
        jax.grad(lambda p: jnp.sum(jaxloss.tweedie_deviance(X, POSITIVE, power=p)))(1.5)


def test_options_that_do_not_broadcast():
    with pytest.raises(ValueError, match=r"huber_loss.*delta.*\(4,\).*\(8, 5\).*predictions"):
        jaxloss.huber_loss(X, Y, delta=jnp.ones(4))
    with pytest.raises(ValueError, match=r"gaussian_nll.*variances.*\(8, 1, 5\)"):
        jaxloss.gaussian_nll(X, Y, POSITIVE[:, None])


def test_keywords_are_not_positions():
    with pytest.raises(TypeError, match="positional"):
        jaxloss.huber_loss(X, Y, 1.0)


def test_smooth_l1_without_a_parabola_is_not_curved():
    """beta = 0 is the absolute error, whose second derivative at 0 is taken for 0."""
    curve = jax.hessian(lambda x: jaxloss.smooth_l1_loss(x, beta=0.0, reduction="sum"))(jnp.array([-1.0, 0.0, 2.0]))
    np.testing.assert_array_equal(curve, jnp.zeros((3, 3)))
