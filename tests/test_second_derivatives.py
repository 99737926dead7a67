"""Second derivatives where a rule has a branch: at ties, at equal distributions, behind masks. Truth is autodiff."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxloss

LOG_SOFTMAX = jax.nn.log_softmax
TIES = np.float32([[0.0, 0.0, 0.0], [1.0, 1.0, 0.0], [2.0, 0.0, 0.0], [0.3, 0.1, 2.0]])
SHARES = np.float32([0.2, 0.3, 0.5])


def assert_second_derivatives(ours, plain, *args):
    """Of the sum of the losses, along one direction, reverse over reverse and forward over reverse."""
    which = tuple(range(len(args)))
    steps = jax.tree.map(lambda x: jnp.cos(1 + jnp.arange(jnp.size(x), dtype=jnp.float32)).reshape(jnp.shape(x)), args)

    def gradient(f):
        return jax.grad(lambda *args: jnp.sum(f(*args)), which)

    def reverse(f):
        def along(*args):
            return sum(jnp.vdot(g, s) for g, s in zip(gradient(f)(*args), steps, strict=True))

        return jax.grad(along, which)(*args)

    want = reverse(plain)
    for got in (reverse(ours), jax.jvp(gradient(ours), args, steps)[1]):
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), got, want)


def _poly(x, t, epsilon):
    return jnp.sum(t * (epsilon * (1 - jnp.exp(LOG_SOFTMAX(x))) - LOG_SOFTMAX(x)))


def _focal(x, t, gamma):
    return -jnp.sum(t * (1 - jnp.exp(LOG_SOFTMAX(x))) ** gamma * LOG_SOFTMAX(x))


def _generalized(x, t, q):
    return jnp.sum(t * (1 - jnp.exp(q * LOG_SOFTMAX(x))) / q)


OF_SHARES = {
    "poly": (lambda x, t, o: jaxloss.poly_loss_cross_entropy(x, t, epsilon=o), _poly, 1.5),
    "focal": (lambda x, t, o: jaxloss.softmax_focal_loss(x, t, gamma=o), _focal, 2.0),
    "generalized": (lambda x, t, o: jaxloss.generalized_cross_entropy(x, t, q=o), _generalized, 0.7),
}


@pytest.mark.parametrize("loss", OF_SHARES)
def test_at_ties(loss):
    ours, plain, option = OF_SHARES[loss]
    assert_second_derivatives(ours, plain, TIES, np.tile(SHARES, (len(TIES), 1)), np.float32(option))


@pytest.mark.parametrize("beta", [0.5, 0.25])
def test_js_divergence_of_equal_classes(beta):
    def plain(x, y):
        p, q = jax.nn.softmax(x), jax.nn.softmax(y)
        log_m = jnp.log(beta * q + (1 - beta) * p)
        return beta * jnp.sum(q * (jnp.log(q) - log_m)) + (1 - beta) * jnp.sum(p * (jnp.log(p) - log_m))

    x, y = np.float32([[1.0, 0.0, 0.5]] * 2), np.float32([[1.0, 0.0, 0.5], [0.0, 1.0, 0.5]])
    assert_second_derivatives(functools.partial(jaxloss.js_divergence, beta=beta), plain, x, y)


def test_margin_softmax_by_scale():
    def ours(cosines, scale):
        return jaxloss.margin_softmax_cross_entropy(cosines, 0, scale=scale, angular_margin=0.5)

    def plain(cosines, scale):
        moved = jnp.cos(jnp.arccos(cosines[0]) + 0.5)
        return -LOG_SOFTMAX(scale * jnp.concatenate([moved[None], cosines[1:]]))[0]

    assert_second_derivatives(ours, plain, np.float32([0.5, 0.3, -0.2]), np.float32(4))


@pytest.mark.parametrize("loss", ["dice_loss", "focal_tversky_loss"])
def test_regions_behind_a_mask(loss):
    # Of integers, which have no derivative, floats are made: a rule is called of which nothing moves.
    target, keep = jnp.array([[0, 1, 2, 0]]), jnp.array([True, False, True, True])
    f = getattr(jaxloss, loss)

    def masked(x):
        return f(x, target, where=keep[None])

    assert_second_derivatives(masked, lambda x: f(x[:, keep], target[:, keep]), TIES[None])


def test_robust_loss_at_its_minimum():
    def plain(error):
        return jnp.sqrt(1 + (error / 0.5) ** 2) - 1

    assert_second_derivatives(functools.partial(jaxloss.robust_loss, scale=0.5), plain, np.float32([0.0, 1e-3, -1.0]))


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_binary_losses_of_a_head_of_zeros(gamma):
    labels, x = np.float32([0.0, 1.0]), np.zeros(2, np.float32)

    def focal(x):
        sign = 2 * labels - 1
        return jax.nn.sigmoid(-sign * x) ** gamma * jax.nn.softplus(-sign * x)

    assert_second_derivatives(lambda x: jaxloss.sigmoid_focal_loss(x, labels, gamma=gamma), focal, x)
    both = {"gamma_pos": gamma, "gamma_neg": gamma, "margin": 0.0}
    assert_second_derivatives(lambda x: jaxloss.asymmetric_loss(x, labels, **both), focal, x)


def test_counts_of_none_by_the_count():
    x, none = np.float32([0.5, 2.0]), np.float32([0.0, 0.0])
    assert_second_derivatives(
        lambda x, y: jaxloss.poisson_nll(x, y, log_input=False), lambda x, y: x - y * jnp.log(x), x, none
    )

    def of_slope(loss):  # by mean and count; by the count alone XLA's trigamma has few digits
        return jax.vmap(jax.grad(jax.grad(loss), 1))(x, none)

    got = of_slope(lambda x, y: jaxloss.negative_binomial_nll(x, y, log_input=False))
    np.testing.assert_allclose(got, of_slope(lambda x, y: (1 + y) * jnp.log1p(x) - y * jnp.log(x)), rtol=1e-5)


def test_student_t_where_error_and_scale_are_equal():
    def plain(x, scale):
        return jnp.log(scale) + 2.5 * jnp.log1p((x / scale) ** 2 / 4)

    def ours(x, scale):
        return jaxloss.student_t_nll(x, jnp.zeros_like(x), scale, dof=4.0)

    assert_second_derivatives(ours, plain, np.float32([2.0, -2.0, 1.0]), np.float32([1.0, 1.0, 1.0]))


def test_margin_softmax_at_a_cosine_of_one():
    def ours(cosines):
        return jaxloss.margin_softmax_cross_entropy(cosines, 0, scale=4, cosine_margin=0.35, angular_margin=0.0)

    def plain(cosines):
        return -LOG_SOFTMAX(4 * cosines.at[0].add(-0.35))[0]

    assert_second_derivatives(ours, plain, np.float32([1.0, 0.3, -1.0]))


KEPT = np.bool_([[True, False, True]])
MASKED = {
    "entropy": lambda x, where: jaxloss.entropy(x, where=where),
    "js_divergence": lambda x, where: jaxloss.js_divergence(x, jnp.cos(x), where=where),
    "js_divergence, other side": lambda x, where: jaxloss.js_divergence(jnp.cos(x), x, where=where, beta=0.3),
    "focal": lambda x, where: jaxloss.softmax_focal_loss(x, np.int32([0]), where=where, label_smoothing=0.1),
}


@pytest.mark.parametrize("loss", MASKED)
@pytest.mark.parametrize("x", [np.zeros((1, 3), np.float32), np.float32([[0.3, 1.0, -0.2]])], ids=["equal", "unequal"])
def test_behind_a_mask_of_classes(loss, x):
    """A class that is ruled out is infinitely far away: every order of differentiation, mapped and not, agrees."""

    def total(x):
        return jnp.sum(MASKED[loss](x, KEPT))

    step = jnp.float32([[1.0, 0.5, -0.3]])
    forward = jax.jvp(jax.grad(total), (x,), (step,))[1]
    assert np.isfinite(forward).all()

    def over_reverse(step):
        return jax.grad(lambda x: jnp.vdot(jax.grad(total)(x), step))(x), jax.jvp(jax.grad(total), (x,), (step,))[1]

    mapped = [h[0] for h in jax.vmap(over_reverse)(jnp.stack([step, 2 * step]))]
    for got in (*over_reverse(step), *mapped):
        np.testing.assert_allclose(got, forward, rtol=1e-4, atol=1e-6)
    near = 1e-3 * step
    change = (jax.grad(total)(x + near) - jax.grad(total)(x - near)) / 2e-3
    np.testing.assert_allclose(forward, change, rtol=2e-2, atol=2e-3)
