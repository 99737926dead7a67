"""A bwd that is not linear in the cotangent: reverse mode as written, forward mode an error, never a wrong number."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from engine_rules import assert_modes_agree, assert_same, random, with_rule
from jax.ad_checkpoint import checkpoint_name

pytestmark = pytest.mark.core


def identity_with(bwd):
    """The identity, with a bwd of (x, cotangent)."""
    return with_rule(lambda x: x, lambda x: (x, x), lambda x, g: (bwd(x, g),))


def _round_trip(g):
    return jnp.round(g * 16).astype(jnp.int8).astype(g.dtype) / 16


@jax.custom_jvp
def _straight_through(g):
    return jnp.round(g)


_straight_through.defjvp(lambda primals, tangents: (jnp.round(primals[0]), tangents[0]))


@jax.custom_jvp
def _product_with_rule(x, g):
    return x * g


@_product_with_rule.defjvp
def _(primals, tangents):
    (x, g), (x_dot, g_dot) = primals, tangents
    return _product_with_rule(x, g), x_dot * g + x * g_dot


def _normalised_in_loop(x, g):
    return jax.lax.while_loop(lambda h: jnp.sum(h * h) > 1, lambda h: h / 2, g)


NOT_LINEAR = {
    "clip": lambda x, g: jnp.clip(g, -0.5, 0.5),
    "clip by norm": lambda x, g: g / jnp.maximum(jnp.sqrt(jnp.sum(g * g)), 1),
    "only positive": lambda x, g: jnp.where(g > 0, g, 0),
    "square": lambda x, g: g * g,
    "exp": lambda x, g: jnp.exp(g),
    "abs": lambda x, g: jnp.abs(g) * x,
    "drop NaN": lambda x, g: jnp.where(jnp.isnan(g), 0, g),
    "sorted": lambda x, g: jnp.sort(g),
    "maximum of two": lambda x, g: jnp.maximum(g, x * g),
    "inside jit": jax.jit(lambda x, g: jnp.tanh(g)),
    "inside scan": lambda x, g: jax.lax.scan(lambda c, g: (c, jnp.sin(g)), 0, g)[1],
    "inside while": _normalised_in_loop,
    "inside cond": lambda x, g: jax.lax.cond(g[0] > 0, lambda: g, lambda: x * g),
    # A derivative of zero is the same everywhere, so it takes another look to find these.
    "sign": lambda x, g: jnp.sign(g) * x,
    "round": lambda x, g: jnp.round(g),
    "floor": lambda x, g: jnp.floor(g) + g,
    "step": lambda x, g: jnp.where(g > 0, x, -x),
    "int8": lambda x, g: _round_trip(g),
    "straight through": lambda x, g: _straight_through(g),
    "stop_gradient": lambda x, g: jax.lax.stop_gradient(g) * x,
    "sign in scan": lambda x, g: jax.lax.scan(lambda c, g: (c + jnp.sign(g), c), jnp.float32(0), g)[1],
    "counted": lambda x, g: x * jnp.sum(g > 0).astype(x.dtype),
    # A term that does not depend on the cotangent.
    "constant": lambda x, g: jnp.ones_like(g),
    "residual": lambda x, g: x,
    "plus constant": lambda x, g: g * x + 1,
    "weight decay": lambda x, g: g + 0.1 * x,
    "one entry set": lambda x, g: (g * x).at[0].set(1.0),
    "one entry added": lambda x, g: g.at[0].add(x[0]),
    "padded": lambda x, g: jnp.concatenate([g[:2], x[2:]]),
    "where mask": lambda x, g: jnp.where(x > 1, g, x),
    "constant in scan": lambda x, g: jax.lax.scan(lambda c, g: (c, g + c), x[0], g)[1],
    "constant in cond": lambda x, g: jax.lax.cond(x[0] > 0, lambda: g, lambda: x),
    "constant in jit": jax.jit(lambda x, g: g * 2 - x),
    "constant array": lambda x, g: g + np.array([0, 0, 1], np.float32),
}


@pytest.mark.parametrize("name", NOT_LINEAR)
def test_reverse_mode_runs_bwd_and_forward_mode_raises(name):
    bwd = NOT_LINEAR[name]
    f, x, g = identity_with(bwd), random(0, 3), jnp.array([0.3, -2.0, 1.4])
    assert_same(jax.vjp(f, x)[1](g)[0], bwd(x, g))
    assert_same(jax.jit(lambda x, g: jax.vjp(f, x)[1](g)[0])(x, g), bwd(x, g))
    forward = lambda x: jax.jvp(f, (x,), (x,))  # noqa: E731
    for run in (forward, jax.jit(forward), lambda x: jax.vmap(forward)(jnp.stack([x, x]))):
        with pytest.raises(TypeError, match=r"can't apply forward-mode.*<lambda>: its bwd rule is not linear"):
            run(x)


@pytest.mark.parametrize(
    "derive",
    [
        jax.jacfwd,
        lambda f: jax.jit(jax.jacfwd(f)),
        lambda f: jax.vmap(jax.jacfwd(f)),
        lambda f: lambda x: jax.linearize(f, x)[1](x),
        lambda f: jax.jacfwd(lambda x: jax.lax.scan(lambda c, x: (c, f(x)), 0, x)[1]),
        lambda f: jax.jacfwd(jax.checkpoint(f)),
        lambda f: jax.jacfwd(lambda x: jax.lax.fori_loop(0, jnp.int32(2), lambda i, c: c + f(x * c), 1.0)),
        lambda f: jax.grad(lambda x: jnp.sum(jax.jvp(f, (x,), (x,))[1])),
    ],
)
def test_forward_mode_raises_everywhere(derive):
    loss = identity_with(lambda x, g: jnp.clip(g, -1, 1))
    with pytest.raises(TypeError, match="clips, rounds or normalises"):
        derive(lambda x: jnp.sum(loss(jnp.sin(x))))(random(0, 2, 3))


def test_clipping_in_reverse_mode():
    """Under every transformation, second derivatives included."""
    f = identity_with(lambda x, g: jnp.clip(g, -1, 1))

    def loss(x):
        return jnp.sum(3 * jnp.sin(f(x)) + x**2)

    x = random(0, 4)
    want = jnp.clip(3 * jnp.cos(x), -1, 1) + 2 * x
    assert_same(jax.grad(loss)(x), want)
    assert_same(jax.jit(jax.grad(loss))(x), want)
    assert_same(jax.vmap(jax.grad(loss))(x), want)
    assert_same(jax.grad(lambda x: jnp.sum(jax.vmap(loss)(x)))(x), want)
    assert_same(jax.grad(lambda x: jax.lax.scan(lambda c, x: (c + loss(x), None), 0.0, x)[0])(x), want)
    assert_same(jax.grad(jax.checkpoint(loss))(x), want)
    assert_same(jax.grad(lambda x: jax.lax.cond(x[0] > 0, loss, jnp.sum, x))(x), want)
    second = jnp.where(jnp.abs(3 * jnp.cos(x)) < 1, -3 * jnp.sin(x), 0) + 2
    for wrap in (lambda f: f, jax.jit, jax.checkpoint):
        assert_same(jnp.diag(jax.jacrev(jax.jacrev(wrap(loss)))(x)), second)


def test_normalised_gradient_in_shard_map():
    """The norm is that of the whole gradient: bwd may talk to the other devices."""

    def bwd(x, g):
        return g / jnp.sqrt(jax.lax.psum(jnp.sum(g * g), "d"))

    f, mesh = identity_with(bwd), jax.make_mesh((4,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = jax.sharding.PartitionSpec("d")
    sharded = jax.shard_map(f, mesh=mesh, in_specs=spec, out_specs=spec)
    x = random(0, 8)
    want = 2 * x / jnp.linalg.norm(2 * x)
    assert_same(jax.jit(jax.grad(lambda x: jnp.sum(sharded(x) ** 2)))(x), want)
    with pytest.raises(TypeError, match="not linear"):
        jax.jit(lambda x: jax.jvp(sharded, (x,), (x,)))(x)


def _cumulated(x, g):
    """x-dependent linear map with a loop, a branch, an index and a custom function inside."""
    half = with_rule(lambda g: g / 2, lambda g: (g / 2, None), lambda _, h: (h / 2,))
    g = jax.lax.scan(lambda c, gx: (c + gx[0] * gx[1],) * 2, jnp.zeros_like(g[0]), (g, x))[1]
    g = jax.lax.cond(x[0] > 0, lambda: jnp.flip(g), lambda: jnp.zeros_like(g))
    return jnp.zeros_like(g).at[jnp.array([1, 0, 1])].add(half(g))


LINEAR = {
    "zeros_like": lambda x, g: jnp.zeros_like(x),
    "zeros": lambda x, g: jnp.zeros(3),
    "numpy zeros": lambda x, g: np.zeros(3, np.float32),
    "full of 0": lambda x, g: jnp.full_like(x, 0.0),
    "0 * x": lambda x, g: 0.0 * x,
    "0 * g": lambda x, g: 0 * g,
    "where of zeros": lambda x, g: jnp.where(x > 1, 0.0, jnp.zeros_like(x)),
    "None": lambda x, g: None,
    "where": lambda x, g: jnp.where(x > 1, g, 0),
    "where, NaN-safe": lambda x, g: jnp.where(x > 1, g / jnp.where(x > 1, x, 1), 0),
    "masked": lambda x, g: (x > 1).astype(x.dtype) * g,
    "set a zero": lambda x, g: (g * x).at[0].set(0.0),
    "set from g": lambda x, g: jnp.zeros_like(g).at[1].set(g[0]),
    "padded with zeros": lambda x, g: jnp.concatenate([g[:1], jnp.zeros(1), g[1:2]]),
    "pad": lambda x, g: jnp.pad(g[:2], (0, 1)),
    "flip, roll, cumsum": lambda x, g: jnp.cumsum(jnp.roll(jnp.flip(g), 1)),
    "matrix": lambda x, g: jnp.outer(x, x) @ g,
    "einsum": lambda x, g: jnp.einsum("i,j,j->i", x, jnp.exp(x), g),
    "convolution": lambda x, g: jnp.convolve(g, x, mode="same"),
    "sort by x": lambda x, g: g[jnp.argsort(x)],
    "mean": lambda x, g: jnp.broadcast_to(jnp.mean(g), g.shape),
    "quotient": lambda x, g: g / jnp.linalg.norm(x),
    "solve": lambda x, g: jnp.linalg.solve(jnp.diag(x) + 1, g),
    "triangular solve": lambda x, g: jax.scipy.linalg.solve_triangular(jnp.diag(x) + jnp.eye(3), g),
    "fft": lambda x, g: jnp.fft.ifft(jnp.fft.fft(x) * jnp.fft.fft(g)).real,
    "bfloat16": lambda x, g: g.astype(jnp.bfloat16),
    "fori_loop": lambda x, g: jax.lax.fori_loop(0, 3, lambda i, h: h * x + jnp.roll(h, 1), g),
    "scan, cond, scatter": _cumulated,
    "remat": jax.checkpoint(lambda x, g: g * jnp.sin(x)),
    "pullback": lambda x, g: jax.vjp(lambda x: jnp.cumprod(x) * jax.nn.logsumexp(x), x)[1](g)[0],
    "pullback of max": lambda x, g: jax.vjp(lambda x: jnp.max(x) + jax.lax.cummax(x), x)[1](g)[0],
    "pushforward": lambda x, g: jax.jvp(jnp.sin, (x,), (g,))[1],
    "custom_jvp of x and g": lambda x, g: _product_with_rule(x, g),
    "named": lambda x, g: checkpoint_name(g * x, "ct"),
    "printed": lambda x, g: (jax.debug.callback(lambda g: None, g), g * x)[1],
    "isfinite of x": lambda x, g: jnp.where(jnp.isfinite(x), g, 0) * jnp.sign(x) * jnp.round(x + 1),
}


@pytest.mark.parametrize("name", LINEAR)
def test_linear_rules_are_not_refused(name):
    """The tangent is the transpose of bwd, as a matrix."""
    bwd = LINEAR[name]
    f, x = identity_with(bwd), jnp.array([0.4, 1.7, 1.1])
    matrix = jax.jit(jax.vmap(jax.vjp(f, x)[1]))(jnp.eye(3))[0]  # row i: the pullback of e_i
    assert_same(jax.jit(jax.jacfwd(f))(x), matrix)
    if name != "printed":
        assert_same(jax.jvp(f, (x,), (jnp.ones(3),))[1], matrix.sum(axis=1), rtol=1e-2 if name == "bfloat16" else 1e-5)


def test_zero_in_one_argument_only():
    """An argument whose cotangent is the constant zero, in a rule that is otherwise linear."""
    f = with_rule(lambda x, y: x * y, lambda x, y: (x * y, (x, y)), lambda r, g: (g * r[1], jnp.zeros_like(r[1])))
    x, y = random(0, 3), random(1, 3)
    assert_same(jax.jvp(f, (x, y), (x, y))[1], x * y)
    assert_same(jax.jvp(lambda y: f(x, y), (y,), (y,))[1], jnp.zeros(3))


def test_nonlinear_in_an_argument_that_stands_still():
    """Only what is differentiated must be linear."""
    f = with_rule(lambda x, y: x * y, lambda x, y: (x * y, (x, y)), lambda r, g: (g * r[1], jnp.sign(g) * r[0]))
    x, y = random(0, 3), random(1, 3)
    assert_same(jax.jvp(lambda x: f(x, y), (x,), (x,))[1], x * y)
    with pytest.raises(TypeError, match="not linear"):
        jax.jvp(f, (x, y), (x, y))


def test_bwd_that_differentiates_inside():
    """Second-order rules: bwd holds a Jacobian product of its own, which stays linear."""

    def plain(x):
        return jnp.sum(jnp.sin(x)) * jnp.cos(x)

    def bwd(x, g):
        return jax.linear_transpose(jax.linearize(plain, x)[1], x)(g)

    f = with_rule(plain, lambda x: (plain(x), x), bwd)
    assert_modes_agree(f, plain, random(0, 3), modes=("jvp", "jacfwd of jacrev", "jacrev of jacfwd"))
