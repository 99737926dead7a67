"""The derived modes of `custom_vjp` against plain autodiff of the same function, under every transformation."""

import functools

import jax
import jax.numpy as jnp
import pytest
from engine_rules import MODES, PAIRS, assert_modes_agree, assert_same, directions, random, swish, with_rule

from jaxloss import custom_vjp

pytestmark = pytest.mark.core


FIRST = ("jvp", "vjp")
SECOND = ("jacfwd of jacrev", "jacrev of jacfwd")


@pytest.mark.parametrize("mode", MODES)
def test_every_mode(mode):
    ours, plain, args = PAIRS["elementwise"]
    assert_modes_agree(ours, plain, *args, modes=[mode])


@pytest.mark.parametrize("pair", [p for p in PAIRS if p != "elementwise"])
def test_pair(pair):
    ours, plain, args = PAIRS[pair]
    assert_modes_agree(ours, plain, *args, modes=FIRST + SECOND)


@pytest.mark.parametrize("mode", ["jacfwd of jacfwd of jacrev", "jacrev of jacfwd of jacrev"])
def test_third_derivatives_of_a_function_of_two_arguments(mode):
    ours, plain, args = PAIRS["scalar output"]
    assert_modes_agree(ours, plain, *args, modes=[mode])


@pytest.mark.parametrize("mode", ["vjp", "jvp", "linearize", "jacfwd of jacrev", "jacrev of jacfwd"])
def test_mode_without_jit(mode):
    ours, plain, args = PAIRS["elementwise"]
    assert_same(MODES[mode](ours, *args), MODES[mode](plain, *args), rtol=3e-5)


def _scanned(f):
    return lambda x: jax.lax.scan(lambda c, x_t: (c + jnp.sum(f(x_t)), f(x_t * c)), jnp.float32(1), x)


def _carried(f):
    return lambda x: jax.lax.fori_loop(0, 3, lambda i, c: f(c) + jnp.sin(x), x)


def _while(f):
    def twice(x):
        return jax.lax.while_loop(lambda c: c[0] < 2, lambda c: (c[0] + 1, f(c[1]) * x), (0, x))[1]

    return twice


TRANSFORMED = {
    "jit": jax.jit,
    "vmap": jax.vmap,
    "vmap in_axes=1": lambda f: lambda x: jax.vmap(f, in_axes=1, out_axes=1)(x),
    "vmap of vmap": lambda f: jax.vmap(jax.vmap(f)),
    "remat": jax.checkpoint,
    "remat, nothing saved": functools.partial(jax.checkpoint, policy=jax.checkpoint_policies.nothing_saveable),
    "scan": _scanned,
    "remat of scan": lambda f: jax.checkpoint(_scanned(f)),
    "vmap of remat of scan": lambda f: jax.vmap(jax.checkpoint(_scanned(f))),
    "remat of vmap of jit": lambda f: jax.checkpoint(jax.vmap(jax.jit(f))),
    "associative scan": lambda f: lambda x: jax.lax.associative_scan(lambda a, b: f(a) + b, x),
    "fori": _carried,
    "cond": lambda f: lambda x: jax.lax.cond(jnp.sum(x) > 0, f, jnp.negative, x),
    "cond, not taken": lambda f: lambda x: jax.lax.cond(jnp.sum(x) < 0, f, jnp.sin, x),
    "switch": lambda f: lambda x: jax.lax.switch(jnp.argmax(x[0]), [jnp.sin, f, lambda x: f(f(x)), jnp.cos], x),
    "twice": lambda f: lambda x: f(f(x)),
    "fan-out": lambda f: lambda x: f(x) * f(2 * x) + x,
    "other variables": lambda f: lambda x: f(jax.lax.stop_gradient(x)) * x,
}


SECOND_ORDER = ["vmap", "vmap of vmap", "remat", "scan", "remat of vmap of jit", "cond", "twice", "fan-out"]


@pytest.mark.parametrize("transformation", TRANSFORMED)
def test_transformed(transformation):
    ours, plain, _ = PAIRS["elementwise"]
    wrap, modes = TRANSFORMED[transformation], FIRST + (SECOND if transformation in SECOND_ORDER else ())
    assert_modes_agree(wrap(ours), wrap(plain), random(0, 2, 3), modes=modes)


def test_while_loop_forward():
    ours, plain, _ = PAIRS["elementwise"]
    modes = ["jvp", "linearize", "jacfwd of jacfwd"]
    assert_modes_agree(_while(ours), _while(plain), random(0, 3), modes=modes)


@pytest.mark.parametrize("axes", [(None, 0), (0, None), (1, 0)])
def test_vmap_over_some_arguments(axes):
    """A shared argument gets the sum of its gradients; it may be shared in the rule but not in the tangents."""
    ours, plain, _ = PAIRS["scalar output"]
    args = tuple(random(i, 3) if a is None else random(i, *((2, 3) if a == 0 else (3, 2))) for i, a in enumerate(axes))
    assert_modes_agree(*(jax.vmap(f, in_axes=axes) for f in (ours, plain)), *args, modes=FIRST + SECOND)


def test_vmap_of_tangents_only():
    ours, plain, (x,) = PAIRS["elementwise"]
    steps = random(1, 4, 3)
    for linear in (lambda f: lambda t: jax.jvp(f, (x,), (t,)), lambda f: jax.vjp(f, x)[1]):
        for run in (jax.vmap, lambda f: jax.jit(jax.vmap(f))):
            assert_same(run(linear(ours))(steps), run(linear(plain))(steps))


def test_vmap_of_grad_jvp_and_hessian():
    ours, plain, _ = PAIRS["scalar output"]
    x, y = random(0, 4, 3), random(1, 4, 3)
    for derive in (jax.grad, jax.jacfwd, jax.hessian):
        assert_same(jax.jit(jax.vmap(derive(ours)))(x, y), jax.jit(jax.vmap(derive(plain)))(x, y))


# ---------------------------------------------------------------------------------------------------------------------
# Collectives over a named axis of vmap.


def _softmax_over(x):
    return jnp.exp(x) / jax.lax.psum(jnp.exp(x), "i")


def _softmax_over_bwd(p, g):
    return (p * (g - jax.lax.psum(g * p, "i")),)


def test_axis_name():
    """`psum` in fwd and bwd: a softmax across the mapped axis."""
    ours = with_rule(_softmax_over, lambda x: (p := _softmax_over(x), p), _softmax_over_bwd)
    mapped = jax.vmap(ours, axis_name="i")
    assert_modes_agree(mapped, lambda x: jax.nn.softmax(x, axis=0), random(0, 3, 2), modes=FIRST + SECOND)


def test_axis_index_in_bwd():
    f = with_rule(lambda x: x, lambda x: (x, None), lambda _, g: (g * (1 + jax.lax.axis_index("i")).astype(g.dtype),))
    x = jnp.ones(3)
    mapped = jax.vmap(f, axis_name="i")
    assert_same(jax.vjp(mapped, x)[1](x)[0], jnp.array([1.0, 2.0, 3.0]))
    assert_same(jax.jvp(mapped, (x,), (x,))[1], jnp.array([1.0, 2.0, 3.0]))


# ---------------------------------------------------------------------------------------------------------------------
# A rule inside a rule.


@pytest.mark.parametrize("place", ["fun", "fwd", "bwd", "bwd, on the cotangent"])
def test_rule_in_rule(place):
    inner = PAIRS["elementwise"].ours
    scale = with_rule(lambda g: 2 * g, lambda g: (2 * g, None), lambda _, h: (2 * h,))
    slope = jax.grad(lambda x: jnp.sum(jnp.exp(swish(x))))

    def plain(x):
        return jnp.exp(swish(x))

    def fwd(x):
        return jnp.exp(inner(x) if place in ("fun", "fwd") else swish(x)), x

    def bwd(x, g):
        if place == "bwd":
            return (g * jnp.exp(inner(x)) * jax.grad(lambda x: jnp.sum(inner(x)))(x),)
        return (scale(g) / 2 * slope(x) if place == "bwd, on the cotangent" else g * slope(x),)

    ours = with_rule((lambda x: jnp.exp(inner(x))) if place == "fun" else plain, fwd, bwd)
    assert_modes_agree(ours, plain, random(0, 3), modes=(*FIRST, *SECOND, "jacrev of jacrev"))


def test_jax_rules_beside_ours():
    """jax's own `custom_jvp` and (in reverse) `custom_vjp` functions inside and around ours."""
    ours, plain, (x,) = PAIRS["elementwise"]

    @jax.custom_jvp
    def cube(x):
        return x**3

    cube.defjvps(lambda t, out, x: 3 * x**2 * t)
    assert_modes_agree(lambda x: cube(ours(cube(x))), lambda x: plain(x**3) ** 3, x, modes=FIRST + SECOND)


def test_third_derivative_of_scalar():
    f = custom_vjp(lambda x: x**5)
    f.defvjp(lambda x: (x**5, x), lambda x, g: (5 * x**4 * g,))
    d = functools.reduce(lambda f, d: d(f), [jax.grad, jax.jacfwd, jax.grad], f)
    assert_same(d(jnp.float32(1.5)), jnp.float32(60 * 1.5**2))


# ---------------------------------------------------------------------------------------------------------------------
# Which rule runs in which mode: reverse mode runs bwd itself, and nothing but fwd and bwd.


def test_each_mode_runs_what_it_should():
    seen = []
    f = custom_vjp(lambda x: (seen.append("fun"), jnp.sin(x))[1])
    f.defvjp(lambda x: (seen.append("fwd"), (jnp.sin(x), x))[1], lambda x, g: (seen.append("bwd"), (7 * g,))[1])

    def ran(run):
        seen.clear()
        run()
        return set(seen)

    x = jnp.float32(0.3)
    assert ran(lambda: f(x)) == {"fun"}
    assert ran(lambda: jax.jit(f)(x)) == {"fun"}
    assert ran(lambda: jax.grad(f)(x)) == {"fwd", "bwd"}
    assert ran(lambda: jax.vjp(f, x)) == {"fwd"}
    assert ran(lambda: jax.jvp(f, (x,), (x,))) == {"fwd", "bwd"}
    assert float(jax.grad(f)(x)) == float(jax.jvp(f, (x,), (jnp.ones_like(x),))[1]) == 7.0  # the rule's, not cos


def test_reverse_mode_calls_bwd_once():
    calls = []
    f = with_rule(jnp.sin, lambda x: (jnp.sin(x), x), lambda x, g: (calls.append(1), (g * jnp.cos(x),))[1])
    jax.grad(f)(jnp.float32(1))
    assert len(calls) == 1
    jax.jit(jax.grad(lambda x: jnp.sum(jax.vmap(f)(x))))(random(0, 3))
    assert len(calls) == 2


def test_linearize_keeps_linear_map():
    ours, plain, (x,) = PAIRS["elementwise"]
    _, push = jax.linearize(ours, x)
    t = directions(x)
    assert_same(jax.jit(push)(t), jax.jvp(plain, (x,), (t,))[1])
    assert_same(jax.linear_transpose(push, x)(t)[0], jax.vjp(plain, x)[1](t)[0])
    assert_same(jax.jvp(push, (t,), (2 * t,))[1], push(2 * t))


@pytest.mark.parametrize("order", [jax.jacfwd, jax.jacrev])
def test_derivative_with_respect_to_the_tangent(order):
    """The map is linear in all tangents together, and one of them may move alone; with or without its point."""
    ours, plain, (x, y) = PAIRS["scalar output"]
    for argnums in (0, (1, 2, 3)):

        def pushed(f, argnums=argnums):
            push = lambda t, u, x, y: jnp.exp(jax.jvp(f, (x, y), (t, u))[1])  # noqa: E731
            return jax.jit(order(push, argnums))(jnp.cos(x), jnp.sin(y), x, y)

        assert_same(pushed(ours), pushed(plain))


def _straight_through(**options):
    """The derivative of its body is 0."""

    @custom_vjp
    def rounded(x):
        return jnp.round(x)

    rounded.defvjp(lambda x: (rounded(x), None), lambda _, g: (g,), **options)
    return rounded


def _scan(f, xs):
    return jax.lax.scan(lambda c, x: (c + f(x), None), jnp.float32(0), xs)[0]


LOOPS = {
    "scan": _scan,
    "scan, two steps at once": lambda f, xs: jax.lax.scan(lambda c, x: (c + f(x), None), 0.0, xs, unroll=2)[0],
    "fori_loop": lambda f, xs: jax.lax.fori_loop(0, len(xs), lambda i, c: c + f(xs[i]), jnp.float32(0)),
    "map": lambda f, xs: jnp.sum(jax.lax.map(f, xs)),
    "scan of checkpoint": lambda f, xs: _scan(jax.checkpoint(f), xs),
    "checkpoint of scan": lambda f, xs: jax.checkpoint(functools.partial(_scan, f))(xs),
    "scan of scan": lambda f, xs: _scan(lambda x: _scan(f, x[None]), xs),
    "scan of jit": lambda f, xs: _scan(jax.jit(f), xs),
    "vmap of scan": lambda f, xs: jnp.sum(jax.vmap(functools.partial(_scan, f))(xs[:, None])),
}


@pytest.mark.parametrize(
    "loop, optimize_remat", [*((n, False) for n in LOOPS), *((n, True) for n in LOOPS if "checkpoint" in n)]
)
def test_second_derivatives_of_a_loop_are_the_rules(loop, optimize_remat):
    # Where the body is not what the rule differentiates (a straight-through estimator, a guarded square root), a loop
    # must not fall back on it.
    f = _straight_through(optimize_remat=optimize_remat)
    x = jnp.array([0.4, 1.6], jnp.float32)
    of_loop = functools.partial(LOOPS[loop], lambda x: f(x) ** 2)
    for second in (jax.jacrev, jax.jacfwd):
        assert_same(second(jax.grad(of_loop))(x), 2 * jnp.eye(2), rtol=0)
    assert_same(jax.jacrev(jax.jacfwd(of_loop))(x), 2 * jnp.eye(2), rtol=0)
