"""`custom_vjp` as an interface: the options of `defvjp`, and the decorated object."""

import copy
import inspect
import pydoc
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from engine_rules import PAIRS, assert_modes_agree, assert_same, random, with_rule
from jax.custom_derivatives import SymbolicZero

from jaxloss import custom_vjp

pytestmark = pytest.mark.core
f32 = jnp.float32


# ---------------------------------------------------------------------------------------------------------------------
# Options of defvjp.


def _product_with_symbolic_zeros(seen):
    def fwd(x, y):
        seen.append(("perturbed", x.perturbed, y.perturbed))
        return (x.value * y.value, y.value + 1), (x.value, y.value)

    def bwd(residuals, g):
        x, y = residuals
        seen.append(("zero", *(isinstance(ct, SymbolicZero) for ct in g)))
        g = [jnp.zeros(ct.shape, ct.dtype) if isinstance(ct, SymbolicZero) else ct for ct in g]
        return g[0] * y, g[0] * x + g[1]

    return with_rule(lambda x, y: (x * y, y + 1), fwd, bwd, symbolic_zeros=True)


def test_symbolic_zeros():
    seen = []
    f = _product_with_symbolic_zeros(seen)
    x, y = f32(2), f32(3)
    assert_same(f(x, y), (f32(6), f32(4)))
    assert_same(jax.grad(lambda x: f(x, y)[0])(x), f32(3))
    assert seen == [("perturbed", True, False), ("zero", False, True)]
    seen.clear()
    assert_same(jax.grad(lambda x, y: f(x, y)[1], (0, 1))(x, y), (f32(0), f32(1)))
    assert seen == [("perturbed", True, True), ("zero", True, False)]
    seen.clear()
    assert_same(jax.jvp(lambda y: f(x, y), (y,), (f32(1),))[1], (f32(2), f32(1)))
    assert seen[0] == ("perturbed", False, True)
    assert_same(jax.vmap(jax.jacfwd(lambda x, y: f(x, y)[0]))(jnp.ones(2), jnp.full(2, 3.0)), jnp.full(2, 3.0))


def test_symbolic_zero_of_the_wrong_type():
    f = with_rule(
        lambda x: x,
        lambda x: (x.value, None),
        lambda _, g: (SymbolicZero(jax.typeof(jnp.zeros(3))),),
        symbolic_zeros=True,
    )
    with pytest.raises(ValueError, match=r"SymbolicZero with a shape/dtype that does not match.*output\[0\].*\[3\]"):
        jax.grad(f)(1.0)


def test_without_symbolic_zeros_unused_outputs_have_zero_cotangents():
    f = with_rule(lambda x: (x, x), lambda x: ((x, x), None), lambda _, g: (g[0] + 10 * g[1],))
    assert [float(jax.grad(lambda x, i=i: f(x)[i])(1.0)) for i in (0, 1)] == [1.0, 10.0]


def _opaque(count, name, x):
    """A call that dead-code elimination cannot look into."""

    def run(x):
        count.append(name)
        return np.sin(x), np.cos(x)

    return jax.pure_callback(run, (jax.ShapeDtypeStruct(x.shape, x.dtype),) * 2, x, vmap_method="sequential")


@pytest.mark.parametrize("optimize", [False, True])
def test_optimize_remat(optimize):
    """Under `jax.checkpoint` the plain function stands for an opaque fwd where residuals are not kept."""
    ran = []

    def plain(x):
        ran.append("trace of fun")
        return jnp.sin(x)

    def fwd(x):
        sin, cos = _opaque(ran, "fwd", x)
        return sin, cos

    f = with_rule(plain, fwd, lambda cos, g: (g * cos,), optimize_remat=optimize)
    x = random(0, 3)
    run = jax.jit(jax.value_and_grad(lambda x: jnp.sum(jax.checkpoint(lambda x: jnp.exp(f(x)))(x))))
    value, grad = run(x)
    jax.block_until_ready(grad)
    assert_same((value, grad), (jnp.sum(jnp.exp(jnp.sin(x))), jnp.exp(jnp.sin(x)) * jnp.cos(x)))
    assert ran.count("fwd") == (1 if optimize else 2)
    ran.clear()
    jax.block_until_ready(jax.jit(jax.grad(lambda x: jnp.sum(f(x))))(x))
    assert ran.count("fwd") == 1


def test_optimize_remat_in_every_mode():
    _, plain, (x,) = PAIRS["elementwise"]

    def bwd(x, g):
        return (jax.vjp(plain, x)[1](g)[0],)

    f = with_rule(plain, lambda x: (plain(x), x), bwd, optimize_remat=True)
    modes = ("vjp", "jvp", "jacfwd of jacrev", "jacrev of jacfwd")
    for wrap in (lambda h: h, lambda h: jax.vmap(jax.checkpoint(h))):
        assert_modes_agree(wrap(f), plain, x, modes=modes)


# ---------------------------------------------------------------------------------------------------------------------
# The decorated object.


@custom_vjp
def documented(x: jax.Array, power: int = 2) -> jax.Array:
    """Raise to a power.

    >>> documented(2.0)
    4.0
    """
    return x**power


documented.defvjp(lambda x, power: (x**power, (x, power)), lambda res, g: (res[1] * res[0] * g, None))


def test_what_a_reader_sees():
    assert documented.__name__ == "documented" and documented.__doc__.startswith("Raise to a power.")
    assert documented.__module__ == __name__ and documented.__qualname__ == "documented"
    assert documented.__wrapped__ is documented.fun and documented.fun(3) == 9
    assert inspect.signature(documented) == inspect.signature(documented.fun)
    page = pydoc.plain(pydoc.render_doc(documented))
    assert "Raise to a power." in page
    assert "documented" in str(jax.make_jaxpr(documented)(1.0))
    assert "documented" in str(jax.make_jaxpr(lambda x: jax.jvp(documented, (x,), (x,)))(1.0))


def test_copies_and_subclassing():
    for f in (copy.copy(documented), copy.deepcopy(documented)):
        assert float(jax.grad(f)(3.0)) == float(jax.jacfwd(f)(3.0)) == 6.0
    f = copy.copy(documented)
    f.defvjp(lambda x, power: (x, None), lambda _, g: (7 * g, None))  # the copy's own rule
    assert float(jax.grad(f)(3.0)) == 7.0 and float(jax.grad(documented)(3.0)) == 6.0


def test_rule_can_be_replaced():
    f = with_rule(lambda x: x, lambda x: (x, None), lambda _, g: (100 * g,))
    assert float(jax.grad(f)(1.0)) == float(jax.jacfwd(f)(1.0)) == 100.0
    f.defvjp(fwd=lambda x: (x, None), bwd=lambda _, g: (5 * g,))
    assert float(jax.grad(f)(1.0)) == float(jax.jacfwd(f)(1.0)) == 5.0


def test_compiled_once():
    """The rule is traced anew for each call, but does not defeat the cache of a jitted function around it."""
    traces = []

    @jax.jit
    def step(x):
        traces.append(1)
        return jax.value_and_grad(lambda x: jnp.sum(PAIRS["elementwise"].ours(x)))(x), jax.jvp(documented, (x,), (x,))

    for i in range(3):
        step(random(i, 3))
    assert len(traces) == 1


def test_threads():
    ours, plain, _ = PAIRS["pytrees"]

    def work(n):
        params, x = {"w": random(n, n, 2), "b": random(n, 2)}, random(n + 1, n)

        def both(f):
            gradient = jax.grad(lambda p: jnp.sum(f(p, x)["y"] ** 2))(params)
            return gradient, jax.jvp(f, (params, x), (params, x))

        return jax.jit(lambda: (both(ours), both(plain)))()

    with ThreadPoolExecutor(4) as pool:
        for got, want in pool.map(work, [2, 3, 4, 5, 2, 3, 4, 5]):
            assert_same(got, want)


@pytest.mark.parametrize("options", [{}, {"optimize_remat": True}])
def test_nothing_leaks(options):
    """No tracer outlives its trace: a rule that held on to residuals would keep them in memory."""
    ours, plain, (x,) = PAIRS["elementwise"]
    f = with_rule(plain, ours.fwd, ours.bwd, **options)
    with jax.checking_leaks():
        for derive in (
            lambda x: jax.jvp(f, (x,), (x,)),
            jax.grad(jax.checkpoint(lambda x: jnp.sum(jax.lax.map(f, x)))),
            jax.hessian(lambda x: jnp.sum(f(x))),
        ):
            jax.jit(derive).trace(x)


def test_debug_nans():
    f = with_rule(lambda x: jnp.sqrt(x), lambda x: (jnp.sqrt(x), x), lambda x, g: (g * (x / x),))
    with jax.debug_nans(True):
        for run in (jax.grad(f), jax.jit(jax.grad(f)), lambda x: jax.jvp(f, (x,), (f32(1),))[1]):
            assert float(run(f32(4))) == 1.0
            with pytest.raises(FloatingPointError):
                jax.block_until_ready(run(f32(0)))


def test_debug_print_in_rules(capfd):
    def fwd(x):
        jax.debug.print("fwd {}", x)
        return x, None

    def bwd(_, g):
        jax.debug.print("bwd {}", g)
        return (2 * g,)

    f = with_rule(lambda x: x, fwd, bwd)
    for derive in (jax.grad, jax.jit, lambda f: lambda x: jax.jvp(f, (x,), (1.0,))[1]):
        derive(f)(3.0)
    assert float(jax.jit(jax.grad(f))(3.0)) == 2.0
    jax.effects_barrier()
    assert "fwd 3.0" in capfd.readouterr().out
