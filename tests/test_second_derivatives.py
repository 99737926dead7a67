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
