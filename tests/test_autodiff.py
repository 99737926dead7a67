"""`custom_vjp` as an interface: arguments, pytrees, dtypes and shapes."""

import dataclasses
import functools
import inspect
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from engine_rules import MODES, assert_modes_agree, assert_same, random, square, with_rule
from jax.custom_derivatives import SymbolicZero

from jaxloss import custom_vjp

pytestmark = pytest.mark.core
f32 = jnp.float32


# ---------------------------------------------------------------------------------------------------------------------
# Arguments.


def polynomial(x, degree, coefficient=2.0):
    return coefficient * x**degree


def _polynomial_fwd(x, degree, coefficient):
    return polynomial(x, degree, coefficient), (x, coefficient)


def _polynomial_bwd(degree, residuals, g):
    x, coefficient = residuals
    return g * coefficient * degree * x ** (degree - 1), g * x**degree


@pytest.mark.parametrize("how", [{"nondiff_argnums": (1,)}, {"nondiff_argnames": ("degree",)}])
def test_keywords_defaults_and_static_arguments(how):
    f = custom_vjp(polynomial, **how)
    f.defvjp(_polynomial_fwd, _polynomial_bwd)
    x = f32(3)
    calls = [
        lambda g: g(x, 2, 2.0),
        lambda g: g(x, degree=2),
        lambda g: g(degree=2, x=x),
        lambda g: g(x, coefficient=2.0, degree=2),
    ]
    for call in calls:
        assert float(call(f)) == 18.0
        assert float(jax.grad(lambda x, call=call: call(functools.partial(f)) + 0 * x)(x)) == 0.0
    assert float(jax.grad(lambda x: f(x, degree=2))(x)) == 12.0
    assert float(jax.jvp(lambda x: f(degree=2, x=x), (x,), (f32(1),))[1]) == 12.0
    assert float(jax.grad(lambda c: f(x, 2, coefficient=c))(2.0)) == 9.0
    assert float(jax.jvp(lambda c: f(x, coefficient=c, degree=2), (2.0,), (1.0,))[1]) == 9.0


def test_static_arguments_of_any_kind():
    """Functions, strings and unhashable containers, at several places; bwd gets them in order of position."""

    def apply(fn, x, options, y):
        return fn(x) * options["gain"] * y

    def bwd(fn, options, residuals, g):
        x, y = residuals
        slope = jax.grad(fn)(x)
        return g * slope * options["gain"] * y, g * fn(x) * options["gain"]

    f = custom_vjp(apply, nondiff_argnums=(0,), nondiff_argnames=["options"])
    f.defvjp(lambda fn, x, options, y: (apply(fn, x, options, y), (x, y)), bwd)
    args = (jnp.sin, f32(0.4), {"gain": 3, "names": ["a"]}, f32(2))
    ours, plain = (lambda x, y, h=h: h(args[0], x, args[2], y) for h in (f, apply))
    for derive in (jax.grad, jax.jacfwd):
        assert_same(derive(ours, (0, 1))(args[1], args[3]), derive(plain, (0, 1))(args[1], args[3]))
    assert_same(jax.jit(jax.grad(ours))(args[1], args[3]), 6 * jnp.cos(f32(0.4)))


def test_variadic_arguments():
    def total(*xs):
        return sum(x * x for x in xs)

    f = with_rule(total, lambda *xs: (total(*xs), xs), lambda xs, g: tuple(2 * x * g for x in xs))
    args = [f32(1), f32(2), f32(3)]
    assert_same(jax.grad(f, (0, 2))(*args), (f32(2), f32(6)))
    assert_same(jax.jvp(f, args, args), (f32(14), f32(28)))


def test_python_numbers_among_the_residuals():
    """They may be used as shapes and in `if`, whatever the mode and the transformation."""

    def bwd(residuals, g):
        n, reverse, x = residuals
        weights = jnp.arange(n, dtype=x.dtype)
        return (g * (weights[::-1] if reverse else weights),)

    f = with_rule(lambda x: jnp.dot(x, x), lambda x: (jnp.dot(x, x), (x.size, False, x)), bwd)
    x, want = jnp.ones(3), jnp.arange(3.0)
    for wrap in (lambda f: f, jax.jit, jax.checkpoint):
        assert_same(jax.jit(jax.grad(wrap(f)))(x), want)
        assert_same(jax.jit(jax.jacfwd(wrap(f)))(x), want)
    assert_same(jax.vmap(jax.jacfwd(f))(jnp.ones((2, 3))), jnp.stack([want, want]))
    assert_same(jax.jacrev(lambda xs: jax.lax.map(f, xs))(jnp.ones((1, 3)))[0, 0], want)


def test_keyword_only_arguments_with_defaults():
    def f(x, *, power=2):
        return x**power

    g = with_rule(f, lambda x: (f(x), x), lambda x, g: (2 * x * g,))
    assert float(jax.grad(g)(3.0)) == float(jax.jacfwd(g)(3.0)) == 6.0
    with pytest.raises(TypeError, match="could not be resolved to positions: power"):
        g(3.0, power=3)


@pytest.mark.parametrize(
    "fun",
    [
        functools.partial(lambda a, x: a * x * x, 2.0),
        functools.partial(lambda x, a: a * x * x, a=2.0),
        jax.jit(lambda x: 2 * x * x),
        type("Callable", (), {"__call__": lambda self, x: 2 * x * x})(),
        custom_vjp(lambda x: 2 * x * x),
    ],
    ids=["partial", "partial with a keyword", "jitted", "callable object", "custom_vjp"],
)
def test_kinds_of_functions(fun):
    if isinstance(fun, custom_vjp):
        fun.defvjp(lambda x: (fun.fun(x), x), lambda x, g: (0 * g,))
    f = with_rule(fun, lambda x: (fun(x), x), lambda x, g: (4 * x * g,))
    assert float(f(3.0)) == 18.0
    assert float(jax.grad(f)(3.0)) == float(jax.jacfwd(f)(3.0)) == 12.0


def test_function_without_a_signature():
    """A builtin has nothing to resolve keywords against."""
    f = with_rule(max, lambda x: (x[0], None), lambda _, g: ((g, 2 * g),))
    with pytest.raises(ValueError):
        inspect.signature(max)
    args = (f32(2), f32(1))
    assert float(f(args)) == 2.0
    assert_same(jax.grad(f)(args), (f32(1), f32(2)))
    assert float(jax.jvp(f, (args,), (args,))[1]) == 4.0


def test_methods():
    class Model:
        def __init__(self, gain):
            self.gain = gain

        def __call__(self, x):
            return self.rule(self, x)

        @functools.partial(custom_vjp, nondiff_argnums=(0,))
        def rule(self, x):
            return self.gain * x

        rule.defvjp(lambda self, x: (self.gain * x, None), lambda self, _, g: (10 * self.gain * g,))

    assert float(jax.grad(Model(3.0))(1.0)) == float(jax.jacfwd(Model(3.0))(1.0)) == 30.0


def test_closures():
    """What fun, fwd and bwd close over may be traced by jit and vmap; in forward mode bwd must be given it by fwd."""

    def outer(scale, x):
        f = with_rule(lambda x: scale * x, lambda x: (scale * x, None), lambda _, g: (scale * g,))
        h = with_rule(lambda x: scale * x, lambda x: (scale * x, scale), lambda scale, g: (scale * g,))
        return jax.value_and_grad(f)(x), jax.jvp(h, (x,), (x,)), jax.hessian(h)(x)

    want = ((f32(6), f32(2)), (f32(6), f32(6)), f32(0))
    assert_same(outer(f32(2), f32(3)), want)
    assert_same(jax.jit(outer)(f32(2), f32(3)), want)
    assert_same(jax.tree.map(lambda x: x[0], jax.vmap(outer)(jnp.full(2, 2.0), jnp.full(2, 3.0))), want)

    def forward(scale, x):
        f = with_rule(lambda x: scale * x, lambda x: (scale * x, None), lambda _, g: (scale * g,))
        return jax.jvp(f, (x,), (x,))

    with pytest.raises(jax.errors.UnexpectedTracerError, match="must be among the residuals"):
        jax.jit(forward)(f32(2), f32(3))
    with pytest.raises(jax.errors.UnexpectedTracerError):
        jax.vmap(forward)(jnp.ones(2), jnp.ones(2))


def test_differentiating_what_is_closed_over_raises():
    def loss(scale):
        f = with_rule(lambda x: scale * x, lambda x: (scale * x, x), lambda x, g: (scale * g,))
        return f(f32(2)) + f(scale)

    for derive in (jax.grad, jax.jacfwd):
        with pytest.raises(jax.errors.UnexpectedTracerError):
            derive(loss)(f32(3))


# ---------------------------------------------------------------------------------------------------------------------
# Pytrees.


@jax.tree_util.register_pytree_node_class
class Layer:
    """A user's node with a static field, which refuses to hold what is not an array."""

    def __init__(self, kernel, activation):
        if kernel is None:
            raise ValueError("a layer has a kernel")
        self.kernel, self.activation = kernel, activation

    def tree_flatten(self):
        return (self.kernel,), self.activation

    @classmethod
    def tree_unflatten(cls, activation, children):
        return cls(children[0], activation)


class Out(NamedTuple):
    y: jax.Array
    extra: dict


@functools.partial(jax.tree_util.register_dataclass, data_fields=["x", "mask"], meta_fields=["name"])
@dataclasses.dataclass
class Batch:
    x: jax.Array
    mask: jax.Array | None
    name: str


def _run_layer(layer, batch):
    y = layer.activation(batch.x * layer.kernel)
    return Out(y, {"total": jnp.sum(y), "none": None, "label": jnp.int32(3)})


def _layer_bwd(residuals, g):
    layer, batch = residuals
    _, pull = jax.vjp(lambda k, x: layer.activation(x * k), layer.kernel, batch.x)
    g_kernel, g_x = pull(g.y + g.extra["total"])
    return Layer(g_kernel, layer.activation), Batch(g_x, None, batch.name)


@pytest.mark.parametrize("mask", [None, np.array([True, False])])
def test_users_nodes(mask):
    """Static fields, `None` subtrees, a boolean leaf whose cotangent is `None`, integer outputs."""
    ours = with_rule(_run_layer, lambda *args: (_run_layer(*args), args), _layer_bwd)
    layer, batch = Layer(random(0, 2), jnp.tanh), Batch(random(1, 2), mask, "train")
    out = jax.jit(ours)(layer, batch)
    assert isinstance(out, Out) and out.extra["none"] is None and out.extra["label"] == 3

    def loss(f, kernel, x):
        out = f(Layer(kernel, jnp.tanh), Batch(x, mask, "train"))
        return jnp.sum(out.y**2) + out.extra["total"]

    assert_modes_agree(
        *(functools.partial(loss, f) for f in (ours, _run_layer)),
        layer.kernel,
        batch.x,
        modes=("jacrev", "jacfwd", "jacfwd of jacrev"),
    )
    (layer_ct, batch_ct) = jax.vjp(ours, layer, Batch(batch.x, None, "train"))[1](out)
    assert isinstance(layer_ct, Layer) and batch_ct.mask is None and batch_ct.name == "train"


@pytest.mark.parametrize("none", [None, (None, {"b": None}), (None, None)])
def test_none_stands_for_zeros(none):
    f = with_rule(lambda tree, y: tree[0] * y, lambda tree, y: (tree[0] * y, tree), lambda tree, g: (none, g * tree[0]))
    tree = (f32(2), {"b": random(0, 2)})
    grads = jax.grad(f, (0, 1))(tree, f32(5))
    assert_same(grads, ((f32(0), {"b": jnp.zeros(2)}), f32(2)))
    assert_same(jax.jvp(f, (tree, f32(5)), (tree, f32(3))), (f32(10), f32(6)))
    assert float(jax.jvp(lambda t: f(t, f32(5)), (tree,), (tree,))[1]) == 0.0
    assert_same(jax.jacrev(jax.grad(lambda t: f(t, f32(5))))(tree)[0][0], f32(0))


def test_cotangents_in_a_list():
    f = with_rule(lambda x, y: x * y, lambda x, y: (x * y, (x, y)), lambda res, g: [g * res[1], g * res[0]])
    assert_same(jax.grad(f, (0, 1))(f32(2), f32(3)), (f32(3), f32(2)))
    assert_same(jax.jvp(f, (f32(2), f32(3)), (f32(1), f32(1)))[1], f32(5))


def test_empty_pytrees():
    f = with_rule(lambda x, empty: (x, ()), lambda x, empty: ((x, ()), {}), lambda res, g: (3 * g[0], []))
    assert_same(jax.grad(lambda x: f(x, [])[0])(f32(1)), f32(3))
    assert_same(jax.jvp(lambda x: f(x, [])[0], (f32(1),), (f32(1),))[1], f32(3))
    g = with_rule(lambda: f32(1), lambda: (f32(1), None), lambda res, g: ())
    assert float(jax.jit(g)()) == 1.0
    h = with_rule(lambda x: None, lambda x: (None, x), lambda x, g: (x,))
    assert h(f32(1)) is None and jax.jvp(h, (f32(1),), (f32(1),)) == (None, None)


# ---------------------------------------------------------------------------------------------------------------------
# Dtypes and shapes.


def test_integer_and_boolean_arguments():
    """They have float0 tangents, and whatever bwd returns for them is not looked at."""

    def pick(x, index, mask):
        return jnp.where(mask, x[index], 0)

    def bwd(residuals, g):
        index, mask, n = residuals
        return jnp.zeros(n).at[index].add(jnp.where(mask, g, 0)), index, None

    f = with_rule(pick, lambda x, i, m: (pick(x, i, m), (i, m, x.size)), bwd)
    x, index, mask = random(0, 3), jnp.array([2, 0, 2]), jnp.array([True, True, False])
    assert_same(jax.vjp(f, x, index, mask)[1](jnp.ones(3))[0], jnp.array([1.0, 0.0, 1.0]))
    gradients = jax.grad(lambda *args: jnp.sum(f(*args)), (0, 1, 2), allow_int=True)(x, index, mask)
    assert [g.dtype for g in gradients] == [f32, jax.dtypes.float0, jax.dtypes.float0]
    zero = np.zeros(3, jax.dtypes.float0)
    assert_same(jax.jvp(f, (x, index, mask), (x, zero, zero))[1], pick(x, index, mask))
    assert_same(jax.jit(jax.jacfwd(f))(x, index, mask), jax.jacrev(pick)(x, index, mask))
    assert_same(jax.vmap(jax.grad(lambda x, i: f(x, i, True)), (None, 0))(x, index), jnp.eye(3)[index])


def test_integer_outputs():
    def best(x):
        return jnp.max(x), jnp.argmax(x), jnp.any(x > 1)

    def bwd(residuals, g):
        x, i = residuals
        assert g[1].dtype == g[2].dtype == jax.dtypes.float0 or isinstance(g[1], SymbolicZero)
        return (g[0] * (jnp.arange(x.size) == i).astype(x.dtype),)

    f = with_rule(best, lambda x: (best(x), (x, jnp.argmax(x))), bwd)
    x = jnp.array([1.0, 3.0, 2.0])
    for run in (lambda f: f, jax.jit):
        assert_same(run(jax.grad(lambda x: f(x)[0]))(x), jnp.array([0.0, 1.0, 0.0]))
        out, tangent = run(lambda x: jax.jvp(f, (x,), (10 * x,)))(x)
        assert float(tangent[0]) == 30.0 and int(out[1]) == 1 and tangent[1].dtype == jax.dtypes.float0
    only = with_rule(lambda x: jnp.argmax(x), lambda x: (jnp.argmax(x), None), lambda _, g: (None,))
    assert jax.jvp(only, (x,), (x,))[1].dtype == jax.dtypes.float0
    assert_same(jax.grad(lambda x: only(x).astype(f32) * x[0])(x), jnp.array([1.0, 0.0, 0.0]))


@pytest.mark.parametrize("mode", ["vjp", "jvp", "linearize"])
def test_complex_numbers(mode):
    f = with_rule(square, lambda z: (z * z, z), lambda z, g: (2 * z * g,))
    z = jax.lax.complex(random(0, 3), random(1, 3))
    assert_same(MODES[mode](f, z), MODES[mode](square, z))
    assert_same(jax.grad(lambda z: jnp.sum(f(z).real))(z), jax.grad(lambda z: jnp.sum(square(z).real))(z))


@pytest.mark.parametrize("shape", [(0,), (3, 0)])
def test_zero_size(shape):
    f = with_rule(jnp.sin, lambda x: (jnp.sin(x), x), lambda x, g: (jnp.cos(x) * g,))
    x = jnp.zeros(shape)
    assert_same(jax.jvp(f, (x,), (x,)), (x, x))
    assert jax.jacfwd(f)(x).shape == jax.jacrev(f)(x).shape == shape + shape
    assert jax.vmap(jax.vmap(f) if len(shape) > 1 else f)(x).shape == shape


def test_python_scalars_and_weak_types():
    f = with_rule(lambda x: 2 * x, lambda x: (2 * x, None), lambda _, g: (2.0 * g,))
    assert (f(3), f(3.0)) == (6, 6.0)
    assert jax.make_jaxpr(f)(3.0).out_avals[0].weak_type and jax.make_jaxpr(jax.grad(f))(3.0).out_avals[0].weak_type
    assert float(jax.grad(f)(3.0)) == 2.0
    assert float(jax.jvp(f, (3.0,), (1.0,))[1]) == 2.0
    constant = with_rule(lambda x: 1.0, lambda x: (1.0, None), lambda _, g: (0.0,))  # Python numbers, in and out
    assert float(jax.grad(constant)(2.0)) == float(jax.jvp(constant, (2.0,), (1.0,))[1]) == 0.0
    half = jnp.ones(2, jnp.bfloat16)
    assert (f(half) + jax.grad(lambda x: f(x)[0])(half)).dtype == jnp.bfloat16


@pytest.mark.parametrize("ct", [jnp.float16, jnp.bfloat16, jnp.float32, jnp.int32])
@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32])
def test_gradient_has_the_dtype_of_its_argument(dtype, ct):
    f = with_rule(lambda x: x, lambda x: (x, None), lambda _, g: ((3 * g).astype(ct),))
    x = jnp.ones(2, dtype)
    used_twice = jax.grad(lambda x: jnp.sum(f(x) + f(2 * x)))(x)
    assert used_twice.dtype == dtype and used_twice.tolist() == [9.0, 9.0]
    if ct != jnp.int32:
        assert jax.jvp(f, (x,), (x,))[1].tolist() == [3.0, 3.0]


def test_random_keys_as_arguments():
    def noisy(key, x):
        return x * jax.random.uniform(key, x.shape)

    f = with_rule(noisy, lambda k, x: (noisy(k, x), k), lambda k, g: (None, noisy(k, g)))
    key, x = jax.random.key(0), jnp.ones(3)
    assert_same(jax.grad(lambda x: jnp.sum(f(key, x)))(x), noisy(key, x))
    assert_same(jax.jvp(lambda x: f(key, x), (x,), (x,))[1], noisy(key, x))
    keys = jax.random.split(key)
    mapped = jax.vmap(lambda k: jax.jvp(lambda x: f(k, x), (x,), (x,))[1])
    assert_same(mapped(keys), jax.vmap(lambda k: noisy(k, x))(keys))
