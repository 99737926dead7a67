"""What `custom_vjp` says when it is used wrongly."""

import jax
import jax.numpy as jnp
import pytest
from engine_rules import with_rule

from jaxloss import custom_vjp

pytestmark = pytest.mark.core


def identity(x):
    return x


def fwd(x):
    return x, None


def test_no_rule():
    with pytest.raises(AttributeError, match="No VJP defined for custom_vjp function identity using defvjp"):
        custom_vjp(identity)(1.0)


@pytest.mark.parametrize("result", [lambda x: x, lambda x: (x, None, None), lambda x: {"out": x, "residuals": x}])
def test_fwd_must_return_a_pair(result):
    f = with_rule(identity, result, lambda _, g: (g,))
    for derive in (jax.grad, jax.jacfwd, lambda f: jax.jit(jax.grad(f))):
        with pytest.raises(TypeError, match="fwd rule .* for function identity must produce a pair"):
            derive(f)(1.0)


@pytest.mark.parametrize("optimize_remat", [False, True])
def test_fwd_must_agree_with_the_function(optimize_remat):
    """Known where the function itself was traced: under jit, scan, remat."""
    tree = with_rule(identity, lambda x: ((x, x), None), lambda _, g: (g,), optimize_remat=optimize_remat)
    with pytest.raises(TypeError, match=r"first element had container/pytree structure:\s+\(f.*, f.*\)"):
        jax.grad(jax.jit(lambda x: tree(x)))(1.0)
    shape = with_rule(identity, lambda x: (jnp.stack([x, x]), None), lambda _, g: (g,), optimize_remat=optimize_remat)
    with pytest.raises(TypeError, match=r"shapes/dtypes of:\s+\S*32\[2\]\s+while .* identity had .*\s+\S*32\[\]"):
        jax.grad(jax.jit(lambda x: jnp.sum(shape(x))))(jnp.float32(1))


@pytest.mark.parametrize("result", [lambda g: g, lambda g: (g, g), lambda g: ((g,),), lambda g: {"x": g}, lambda g: ()])
def test_bwd_must_return_the_structure_of_the_arguments(result):
    f = with_rule(identity, fwd, lambda _, g: result(g))
    for derive in (jax.grad, jax.jacfwd, lambda f: jax.jit(jax.grad(f)), lambda f: jax.jit(jax.jacfwd(f))):
        with pytest.raises(TypeError, match=r"bwd rule must .* same container \(pytree\) structure as the args tuple"):
            derive(f)(1.0)


@pytest.mark.parametrize(
    ("ct", "got"), [(jnp.ones(3), r"float32\[3\]|f32\[3\]"), (jnp.complex64(1j), r"complex64\[\]|c64\[\]")]
)
def test_bwd_must_return_the_types_of_the_arguments(ct, got):
    f = with_rule(lambda tree: tree["a"], lambda tree: (tree["a"], None), lambda _, g: ({"a": ct},))
    for derive in (jax.grad, jax.jacfwd, lambda f: jax.jit(jax.grad(f))):
        with pytest.raises(ValueError, match=rf"at output\[0\]\['a'\] the bwd rule produced an output of type ({got})"):
            derive(f)({"a": jnp.float32(1)})


def test_checks_can_be_switched_off():
    if not hasattr(jax.config, "jax_disable_bwd_checks"):
        pytest.skip("this jax has no such option")
    f = with_rule(lambda x, y: x, lambda x, y: (x, None), lambda _, g: (jnp.zeros(3), g))
    jax.config.update("jax_disable_bwd_checks", True)
    try:
        assert float(jax.grad(f, 1)(1.0, 2.0)) == 1.0
    finally:
        jax.config.update("jax_disable_bwd_checks", False)
    with pytest.raises(ValueError):
        jax.grad(f)(1.0, 2.0)


def test_tracer_in_a_static_argument():
    f = custom_vjp(lambda n, x: n * x, nondiff_argnums=(0,))
    f.defvjp(lambda n, x: (n * x, None), lambda n, _, g: (n * g,))
    for run in (jax.jit(f), jax.grad(f), jax.jacfwd(f), lambda n, x: jax.vmap(f, (0, None))(jnp.stack([n, n]), x)):
        with pytest.raises(jax.errors.UnexpectedTracerError, match="in a position indicated by nondiff_argnums"):
            run(jnp.float32(2), 1.0)


@pytest.mark.parametrize("names", ["degree", ["x", "degree"]])
def test_unknown_static_name(names):
    with pytest.raises(ValueError, match=r"nondiff_argnames \['degree'\] are not arguments of identity, .* \['x'\]"):
        custom_vjp(identity, nondiff_argnames=names)


def test_negative_static_position():
    with pytest.raises(ValueError, match="must count from the front"):
        custom_vjp(identity, nondiff_argnums=(-1,))


@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        ((), {}, "missing a required argument: 'x'"),
        ((1.0, 2.0), {}, "too many"),
        ((), {"y": 1.0}, "missing|unexpected"),
    ],
)
def test_arguments_that_do_not_bind(args, kwargs, message):
    f = with_rule(identity, fwd, lambda _, g: (g,))
    with pytest.raises(TypeError, match=rf"function identity could not be resolved to positional.*\s.*({message})"):
        f(*args, **kwargs)


def test_arguments_that_are_not_arrays():
    f = with_rule(identity, fwd, lambda _, g: (g,))
    with pytest.raises(TypeError, match="not a valid JAX type|as a JAX value"):
        f("text")


def test_symbolic_zeros_with_optimize_remat():
    with pytest.raises(NotImplementedError, match="does not support symbolic_zeros"):
        with_rule(identity, fwd, lambda _, g: (g,), symbolic_zeros=True, optimize_remat=True)


def test_error_inside_a_rule_is_the_users_own():
    def bwd(_, g):
        raise RuntimeError("my own mistake")

    f = with_rule(identity, fwd, bwd)
    for derive in (jax.grad, jax.jacfwd, lambda f: jax.jit(jax.grad(f))):
        with pytest.raises(RuntimeError, match="my own mistake"):
            derive(f)(1.0)
