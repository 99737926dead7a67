"""`custom_vjp` on several devices: `shard_map`, sharded `jit`, `vmap` with an axis of the mesh."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from engine_rules import PAIRS, assert_same, random, with_rule
from jax.sharding import AxisType, NamedSharding, PartitionSpec

pytestmark = pytest.mark.core
P = PartitionSpec


@pytest.fixture(scope="module")
def mesh():
    return jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))


def layer(w, x):
    return jnp.tanh(x @ w)


def _layer_fwd(w, x):
    y = layer(w, x)
    return y, (w, x, y)


def _layer_bwd(residuals, g):
    w, x, y = residuals
    g = g * (1 - y * y)
    return x.T @ g, g @ w.T


ours = with_rule(layer, _layer_fwd, _layer_bwd)
W, X = random(0, 3, 2), random(1, 8, 3)


def total(f, mesh, **options):
    """sum(f(w, x)^2): rows of x on different devices, w on all of them."""

    @functools.partial(jax.shard_map, mesh=mesh, in_specs=(P(), P("data")), out_specs=P(), **options)
    def sharded(w, x):
        return jax.lax.psum(jnp.sum(f(w, x) ** 2), "data")

    return sharded


def reference(w, x):
    return jnp.sum(layer(w, x) ** 2)


@pytest.mark.parametrize("check_vma", [True, False])
@pytest.mark.parametrize("jit", [True, False])
def test_replicated_argument_gets_the_sum_of_its_gradients(mesh, check_vma, jit):
    f = total(ours, mesh, check_vma=check_vma)
    wrap = jax.jit if jit else lambda f: f
    assert_same(wrap(f)(W, X), reference(W, X))
    assert_same(wrap(jax.grad(f, (0, 1)))(W, X), jax.grad(reference, (0, 1))(W, X))


@pytest.mark.parametrize("check_vma", [True, False])
@pytest.mark.parametrize("jit", [True, False])
def test_forward_mode(mesh, check_vma, jit):
    f = total(ours, mesh, check_vma=check_vma)
    wrap = jax.jit if jit else lambda f: f
    push = lambda f: lambda w, x: jax.jvp(f, (w, x), (jnp.cos(w), jnp.sin(x)))  # noqa: E731
    assert_same(wrap(push(f))(W, X), push(reference)(W, X))
    only_w = lambda f: lambda w, x: jax.jvp(lambda w: f(w, x), (w,), (jnp.cos(w),))  # noqa: E731
    assert_same(wrap(only_w(f))(W, X), only_w(reference)(W, X))


@pytest.mark.parametrize("check_vma", [True, False])
@pytest.mark.parametrize("modes", [(jax.jacfwd, jax.jacrev), (jax.jacrev, jax.jacfwd), (jax.jacrev, jax.jacrev)])
def test_second_derivatives(mesh, modes, check_vma):
    outer, inner = modes
    f = total(ours, mesh, check_vma=check_vma)
    got = jax.jit(outer(inner(f)))(W, X)
    assert_same(got, outer(inner(reference))(W, X), rtol=3e-5)


def test_gradient_taken_inside(mesh):
    """Where jax.custom_vjp raises and asks for a psum: the cotangent of a replicated value is its sum over devices."""

    @jax.jit
    @functools.partial(jax.shard_map, mesh=mesh, in_specs=(P(), P("data")), out_specs=(P(), P("data")))
    def gradients(w, x):
        return jax.grad(lambda w, x: jnp.sum(ours(w, x) ** 2), (0, 1))(w, x)

    assert_same(gradients(W, X), jax.grad(reference, (0, 1))(W, X))


def test_tangent_taken_inside(mesh):
    @jax.jit
    @functools.partial(jax.shard_map, mesh=mesh, in_specs=(P(), P("data")), out_specs=P())
    def tangent(w, x):
        return jax.lax.psum(jax.jvp(lambda w: jnp.sum(ours(w, x) ** 2), (w,), (jnp.cos(w),))[1], "data")

    assert_same(tangent(W, X), jax.jvp(lambda w: reference(w, X), (W,), (jnp.cos(W),))[1])


def test_bwd_that_sums_itself(mesh):
    """As jax.custom_vjp wants it: then nothing is added."""

    def bwd(residuals, g):
        g_w, g_x = _layer_bwd(residuals, g)
        return jax.lax.psum(g_w, "data"), g_x

    f = total(with_rule(layer, _layer_fwd, bwd), mesh)
    assert_same(jax.jit(jax.grad(f, (0, 1)))(W, X), jax.grad(reference, (0, 1))(W, X))
    assert_same(jax.jit(jax.jacfwd(f))(W, X), jax.grad(reference)(W, X))


def test_zero_cotangents_and_integers(mesh):
    """`None`, and a replicated constant as the cotangent of a value that differs between devices."""

    def pick(x, i, y):
        return x[i] + 0 * y

    f = with_rule(
        pick,
        lambda x, i, y: (pick(x, i, y), (i, x.shape[0])),
        lambda res, g: (jnp.zeros(res[1]).at[res[0]].add(g), None, jnp.zeros(2)),
    )

    @functools.partial(jax.shard_map, mesh=mesh, in_specs=(P(), P("data"), P("data")), out_specs=P("data"))
    def sharded(x, i, y):
        return f(x, i, y)

    x, i, y = random(0, 5), jnp.arange(8) % 5, random(1, 8)
    derive = lambda f: lambda x, y: jax.vjp(lambda x, y: f(x, i, y), x, y)[1](jnp.arange(8.0))  # noqa: E731
    assert_same(jax.jit(derive(sharded))(x, y), derive(pick)(x, y))
    assert_same(jax.jit(lambda x: jax.jvp(lambda x: sharded(x, i, y), (x,), (x,)))(x), (x[i], x[i]))


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_sharded_arguments_of_jit(kind):
    f, plain, _ = PAIRS["elementwise"]
    mesh = jax.make_mesh((4,), ("data",), axis_types=(kind,))
    loss = lambda f: lambda x: jnp.sum(f(x) ** 2)  # noqa: E731
    with jax.set_mesh(mesh):
        x = jax.device_put(X, NamedSharding(mesh, P("data")))
        gradient = jax.jit(jax.grad(loss(f)))(x)
        tangent = jax.jit(lambda x: jax.jvp(loss(f), (x,), (x,))[1])(x)
        rows = jax.jit(lambda x: jax.jvp(jax.vmap(f), (x,), (x,))[1])(x)
        second = jax.jit(lambda x: jax.jvp(jax.grad(loss(f)), (x,), (x,))[1])(x)
    assert gradient.sharding.is_equivalent_to(x.sharding, 2) and rows.sharding.is_equivalent_to(x.sharding, 2)
    assert_same(np.asarray(gradient), jax.grad(loss(plain))(X))
    assert_same(np.asarray(tangent), jax.jvp(loss(plain), (X,), (X,))[1])
    assert_same(np.asarray(rows), jax.jvp(plain, (X,), (X,))[1])
    assert_same(np.asarray(second), jax.jvp(jax.grad(loss(plain)), (X,), (X,))[1])


def test_spmd_axis_name(mesh):
    """The axis of the mesh reaches the constraint inside the rule."""

    def constrained(x):
        return jax.lax.with_sharding_constraint(jnp.sin(x), NamedSharding(mesh, P(None)))

    f = with_rule(
        constrained,
        lambda x: (constrained(x), x),
        lambda x, g: (jax.lax.with_sharding_constraint(g * jnp.cos(x), NamedSharding(mesh, P(None))),),
    )
    x = random(0, 4, 2)
    mapped = jax.vmap(f, spmd_axis_name="data")
    lowered = jax.jit(lambda x: jax.jvp(mapped, (x,), (x,))[1]).lower(x)
    constraints = [line for line in lowered.as_text().splitlines() if "sdy.sharding_constraint" in line]
    assert len(constraints) == 2 and all('[{"data"' in line for line in constraints)  # of fwd, of the transpose of bwd
    assert_same(jax.jit(jax.jacfwd(mapped))(x), jax.jacrev(jnp.sin)(x))
    assert_same(jax.jit(jax.grad(lambda x: jnp.sum(mapped(x))))(x), jnp.cos(x))


def test_vmap_inside_shard_map(mesh):
    @functools.partial(jax.shard_map, mesh=mesh, in_specs=(P(), P("data")), out_specs=P("data"))
    def rows(w, x):
        return jax.vmap(lambda x: ours(w, x[None])[0])(x)

    loss = lambda f: lambda w, x: jnp.sum(f(w, x) ** 2)  # noqa: E731
    assert_same(jax.jit(jax.grad(loss(rows), (0, 1)))(W, X), jax.grad(reference, (0, 1))(W, X))
    assert_same(jax.jit(jax.jacfwd(loss(rows), (0, 1)))(W, X), jax.grad(reference, (0, 1))(W, X))
    assert_same(jax.jit(jax.grad(jax.checkpoint(loss(rows))))(W, X), jax.grad(reference)(W, X))
