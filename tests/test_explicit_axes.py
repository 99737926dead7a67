"""Batches on explicit mesh axes, which the types of arrays carry. What else a loss is given may be whole.

JAX divides what is whole for sums and products, but raises for a select, and for a cotangent of another type.
"""

import contextlib
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from registry import ALIASES, BUILT_APART, BY_NAME, CASES

import jaxloss

NAMES = [c.name for c in CASES if c.name not in ALIASES]
SELECTS = {"kto_loss", "negative_binomial_nll", "policy_gradient_loss", "squared_log_error", "student_t_nll"}


@contextlib.contextmanager
def types_alone(_):
    """No mesh of a context."""
    assert jax.sharding.get_abstract_mesh().empty
    yield


@functools.cache
def mesh():
    return jax.make_mesh((2,), ("data",), axis_types=(AxisType.Explicit,), devices=jax.devices()[:2])


def value_and_gradients(case, args):
    """The losses, and the derivative of their sum by all arrays of numbers."""
    moving = [i for i, a in enumerate(args) if jnp.issubdtype(a.dtype, jnp.floating)]

    def losses(*moved):
        given = list(args)
        for i, x in zip(moving, moved, strict=True):
            given[i] = x
        return case.fn(*given)

    values, pull = jax.vjp(losses, *(args[i] for i in moving))
    return values, pull(jnp.ones_like(values))


def placed(args, divided):
    for x, is_divided in zip(args, divided, strict=True):
        yield jax.device_put(x, NamedSharding(mesh(), PartitionSpec(*["data"] * is_divided)))


def test_every_loss(pytestconfig):
    names = NAMES if pytestconfig.getoption("--long") else sorted({*BUILT_APART, *SELECTS} & set(NAMES))
    for name in names:
        print(name)  # shown where it fails
        case = BY_NAME[name]
        args = [jnp.asarray(a) for a in case.arguments()]
        batch = args[0].shape[:1]
        has_batch = [a.shape[:1] == batch for a in args]
        twice = [jnp.concatenate([a, a]) if has else a for a, has in zip(args, has_batch, strict=True)]
        want = jax.jit(functools.partial(value_and_gradients, case))(twice)
        first = [True] + [False] * (len(args) - 1)
        for divided, context in ((has_batch, jax.set_mesh), (first, jax.set_mesh), (first, types_alone)):
            with context(mesh()):
                got = jax.jit(functools.partial(value_and_gradients, case))(list(placed(twice, divided)))
            for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
                np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6 * float(np.max(np.abs(b))), err_msg=name)


@pytest.mark.core
def test_cotangent_of_what_is_whole():
    @jaxloss.custom_vjp
    def product(x, y):
        return x * y

    product.defvjp(lambda x, y: (x * y, (x, y)), lambda xy, g: (g * xy[1], g * xy[0]))
    x, y = jnp.arange(8.0).reshape(4, 2), jnp.ones((4, 2))
    with jax.set_mesh(mesh()):
        x_, y_ = placed((x, y), (True, False))
        for got, like, want in zip(
            jax.grad(lambda *a: product(*a).sum(), (0, 1))(x_, y_), (x_, y_), (y, x), strict=True
        ):
            assert jax.typeof(got) == jax.typeof(like)
            np.testing.assert_array_equal(got, want)
        moved = jax.jvp(product, (x_, y_), (x_, y_))[1]
    np.testing.assert_array_equal(moved, 2 * x * y)
