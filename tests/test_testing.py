"""What `check_loss` says of a loss that raises: the whole suite shows that it is silent about those that do not."""

import jax
import jax.numpy as jnp
import pytest

from jaxloss.testing import check_loss

X, Y = jnp.arange(1.0, 7.0).reshape(2, 3), jnp.ones((2, 3))


@jax.custom_vjp
def reverse_only(x, y):
    return x * y


reverse_only.defvjp(lambda x, y: (x * y, (x, y)), lambda xy, g: (g * xy[1], g * xy[0]))


def branching(x, y):
    return x * x if float(x[0, 0]) > 0 else x * y


def pair(x, y):
    return x * y, x


def asserting(x, y):
    raise AssertionError("x is\nnot y")


@pytest.mark.parametrize(
    "loss, promise, cause, message",
    [
        (reverse_only, "modes", TypeError, r"`\"jacobians\": .*`: can't apply forward-mode"),
        (branching, "transformations", jax.errors.ConcretizationTypeError, "`.*vmap.*`: Abstract tracer value"),
        (pair, "value", AttributeError, r"`.*losses\.dtype.*`: 'tuple' object has no attribute"),
        (asserting, "value", AssertionError, "`losses = .*`: x is$"),
    ],
)
def test_an_error_of_the_loss_breaks_the_promise(loss, promise, cause, message):
    said = f"^{loss.__name__} breaks '{promise}': {cause.__name__} in {message}"
    with pytest.raises(AssertionError, match=said) as e:
        check_loss(loss, (X, Y), promises=[promise])
    assert isinstance(e.value.__cause__, cause)


def test_what_a_check_finds_has_no_cause():
    with pytest.raises(AssertionError, match="^<lambda> breaks 'value': the value is not finite") as e:
        check_loss(lambda x, y: x / (y - y), (X, Y), promises=["value"])
    assert e.value.__cause__ is None
