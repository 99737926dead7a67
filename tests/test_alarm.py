"""Labels out of range are named by `checkify`, wherever the loss stands, and who does not ask pays nothing."""

import functools

import jax
import jax.numpy as jnp
import pytest
from jax.experimental import checkify
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P
from registry import CASES

import jaxloss

X, GOOD, BAD = jnp.ones((4, 3)), jnp.array([0, 1, 2, 0]), jnp.array([0, 1, 3, 0])
cross_entropy = jaxloss.softmax_cross_entropy_with_integer_labels


def loss(x, y):
    return jnp.sum(cross_entropy(x, y))


@jax.custom_vjp
def with_rule(x, y):
    return loss(x, y)


with_rule.defvjp(lambda x, y: jax.vjp(loss, x, y), lambda pullback, g: pullback(g))


def scanned(x, y):
    return jax.lax.scan(lambda total, row: (total + loss(row[0][None], row[1][None]), None), 0.0, (x, y))[0]


def sharded(x, y):
    def local(x, y):
        return jax.lax.psum(loss(x, y), "i")

    mesh = jax.make_mesh((2,), ("i",), axis_types=(AxisType.Auto,))
    return jax.shard_map(local, mesh=mesh, in_specs=P("i"), out_specs=P())(x, y)


PLACES = {
    "plain": loss,
    "jit": jax.jit(loss),
    "grad": jax.grad(loss),
    "jvp": lambda x, y: jax.jvp(lambda x: loss(x, y), (x,), (x,)),
    "hessian": lambda x, y: jax.hessian(loss)(x, y),
    "vmap": lambda x, y: jax.vmap(cross_entropy)(x, y),
    "vmap over labels": lambda x, y: jax.vmap(cross_entropy, (None, 0))(x[0], y),
    "grad of vmap": lambda x, y: jax.grad(lambda x: jnp.sum(jax.vmap(cross_entropy)(x, y)))(x),
    "remat": jax.grad(jax.checkpoint(loss)),
    "scan": jax.grad(scanned),
    "cond": lambda x, y: jax.lax.cond(x[0, 0] > 0, jax.grad(loss), lambda x, y: x, x, y),
    "a rule": jax.grad(with_rule),
    "shard_map": jax.grad(sharded),
}


@pytest.mark.core
@pytest.mark.parametrize("place", PLACES)
def test_named_wherever_the_loss_stands(place):
    checked = jax.jit(checkify.checkify(PLACES[place], errors=checkify.user_checks))
    checked(X, GOOD)[0].throw()  # nothing to say
    with pytest.raises(checkify.JaxRuntimeError, match=r"labels must be in \[0, 3\)"):
        checked(X, BAD)[0].throw()


@pytest.mark.core
def test_named_under_a_mapped_checkify():
    error, _ = jax.vmap(checkify.checkify(cross_entropy, errors=checkify.user_checks))(X, BAD)
    with pytest.raises(checkify.JaxRuntimeError, match=r"labels must be in \[0, 3\)"):
        error.throw()


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
@pytest.mark.filterwarnings("ignore:.*is deprecated")
def test_no_effect_that_slows_down_every_call(case):
    """`jax.jit` calls a program that has an effect by way of Python."""
    fn = functools.partial(case.fn, **case.option_set("default"))
    assert not jax.make_jaxpr(fn)(*case.arguments()).effects
