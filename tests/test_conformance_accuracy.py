"""Values, gradients and Hessians against 100 digits, other libraries, and what low precision costs without care."""

import functools

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from compiled import as_users_do
from registry import BUILT_APART, CASES, KINDS, apart, jit_of, only
from registry_case import INF, cast, lift
from registry_formulas import EXACT, plain

from jaxloss._testing.subject import jit_once

pytestmark = pytest.mark.filterwarnings("ignore:.*convex_kl_divergence.*:DeprecationWarning")
CASE = pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
STEP = EXACT.number(1e-30)[()]  # the formulas have 100 digits: differences are exact to 40 and more
TINY = float(jnp.finfo(jnp.float32).tiny)


def floating(args):
    return [i for i, a in enumerate(args) if jnp.issubdtype(a.dtype, jnp.floating)]


@functools.lru_cache
def compiled(case, dtype, jit=as_users_do):
    """Losses and the gradient of their sum, by the floating arguments."""

    def both(*args, **options):
        moving = tuple(floating(args))
        losses, pullback = jax.vjp(lambda *m: case.fn(*_placed(args, moving, m), **options), *(args[i] for i in moving))
        return losses, pullback(jnp.ones_like(losses))

    return jit(both)


def _placed(args, places, values):
    args = list(args)
    for i, value in zip(places, values, strict=True):
        args[i] = value
    return args


def exact_gradient(case, args, i, **options):
    """The gradient of the sum of the exact losses by argument `i`."""
    exact = [lift(EXACT, a) for a in args]
    shape = np.shape(case.exact(*exact, **options))
    # Of losses that depend on their own entries alone, one entry of each is moved at once.
    apart = case.kind in ("elementwise", "axis") and exact[i].shape[: len(shape)] == shape
    places = [(..., *own) for own in np.ndindex(exact[i].shape[len(shape) :])] if apart else np.ndindex(exact[i].shape)
    gradient = np.zeros(exact[i].shape)
    for place in places:
        values = []
        for step in (STEP, -STEP):
            moved = exact[i].copy()
            moved[place] = moved[place] + step
            values.append(case.exact(*_placed(exact, [i], [moved]), **options))
        change = values[0] - values[1]
        gradient[place] = (change if apart else np.sum(change)) / (2 * STEP)
    return gradient


def assert_ulp(got, want, ulp, eps, what, slack=0.0):
    """Elementwise relative error wherever the exact entry is a normal number; below that, it may be flushed to 0."""
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    assert got.shape == want.shape
    error = np.abs(got - want) - slack - np.where(np.abs(want) < TINY, 2 * TINY, 0)
    ulps = np.where(error > 0, error / (np.maximum(np.abs(want), TINY) * eps), 0.0)
    worst = np.unravel_index(np.argmax(ulps), ulps.shape) if ulps.size else ()
    assert np.all(ulps <= ulp), f"{what}: {ulps[worst]:.3g} ULP at {worst}: {got[worst]} instead of {want[worst]}"


def exact_results(case, args):
    """The exact losses, and the exact gradients by the floating arguments."""
    losses = np.asarray(case.exact(*args), np.float64)
    return [losses, *(exact_gradient(case, args, i) for i in floating(args))]


def last_bit(case, args, want):
    """How far the exact results move when the last bit of each floating argument does, which no code can know."""
    rng = np.random.default_rng(6)
    moved = []
    for _ in range(3):
        near = list(args)
        for i in floating(args):
            near[i] = np.nextafter(args[i], rng.choice([-INF, INF], args[i].shape).astype(args[i].dtype))
        moved.append([np.abs(r - w) for r, w in zip(exact_results(case, near), want, strict=True)])
    return [2 * np.max(m, axis=0) for m in zip(*moved, strict=True)]


# Float64 arguments stay float64, to 2000 ULP: library code has no series of 16 digits.
@pytest.mark.parametrize(
    "dtype, ulp",
    [pytest.param(np.float32, 8, id="float32"), pytest.param(np.float64, 2000, id="float64", marks=pytest.mark.long)],
)
@pytest.mark.parametrize(
    "case, scale", [(c, s) for c in CASES if c.accurate for s in c.scales], ids=lambda x: getattr(x, "name", x)
)
def test_digits(case, scale, dtype, ulp):
    args = cast(case.accurate(np.random.default_rng(3), (3, 5), scale), dtype)
    with jax.enable_x64(dtype is np.float64):
        losses, gradients = compiled(case, dtype)(*args)
        assert losses.dtype == dtype
    want = exact_results(case, args)
    slack = last_bit(case, args, want) if scale >= case.conditioned else [0.0] * len(want)
    names = ["loss", *(f"gradient of argument {i}" for i in floating(args))]
    for name, got, exact, unknown in zip(names, [losses, *gradients], want, slack, strict=True):
        assert_ulp(got, exact, ulp, np.finfo(dtype).eps, name, unknown)


@pytest.mark.parametrize(
    "case, name",
    [*((c, "default") for c in CASES), *(apart(c, "everything") for c in CASES if "everything" in c.options)],
    ids=lambda x: getattr(x, "name", x),
)
def test_hessian(case, name):
    args, options = case.arguments(np.float32, name, (2, 3)), case.option_set(name, (2, 3))
    _, want = exact_second_order(case, args, options)
    got = hessian(case, args, options)
    np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-6 * np.max(np.abs(want)) + 1e-30)


def _two_directions(args):
    rng = np.random.default_rng(4)
    return [rng.standard_normal((2, *np.shape(args[i]))).astype(np.float32) for i in floating(args)]


def hessian(case, args, options):
    """That of the sum of the losses along two random directions."""
    moving, directions = floating(args), _two_directions(args)

    def along(e):
        moved = [args[i] + jnp.tensordot(e, v, 1) for i, v in zip(moving, directions, strict=True)]
        return jnp.sum(case.fn(*_placed(args, moving, moved), **options))

    return jit_once(jax.hessian(along))(jnp.zeros(2))


def exact_second_order(case, args, options, side=1):
    """The exact slopes along the two directions, and the Hessian, from one side of the point."""
    moving, directions = floating(args), [lift(EXACT, v) for v in _two_directions(args)]
    exact = [lift(EXACT, a) for a in args]

    def total(a, b):
        moved = [exact[i] + side * STEP * (v[0] * a + v[1] * b) for i, v in zip(moving, directions, strict=True)]
        return np.sum(case.exact(*_placed(exact, moving, moved), **options))

    at = {(a, b): total(a, b) for a in range(3) for b in range(3 - a)}
    slopes = np.array([at[1, 0] - at[0, 0], at[0, 1] - at[0, 0]]) / (side * STEP)
    mixed = at[1, 1] - at[1, 0] - at[0, 1] + at[0, 0]
    own = [at[2, 0] - 2 * at[1, 0] + at[0, 0], at[0, 2] - 2 * at[0, 1] + at[0, 0]]
    bent = np.array([[own[0], mixed], [mixed, own[1]]]) / STEP**2
    return slopes.astype(np.float64), bent.astype(np.float64)


def meeting_points(args):
    """Where branches of a rule meet: as from a head of zeros, with the target as prediction, and with ties."""
    first, *others = args
    yield "zeros", [np.zeros_like(first), *others]
    if others and (others[0].shape, others[0].dtype) == (first.shape, first.dtype):
        yield "equal", [others[0], *others]
    yield "ties", [np.round(a) if a.dtype.kind == "f" else a for a in args]


def smooth_hessian(case, args, options):
    """The exact one where it and the slopes are the same from both sides, else `None`."""
    try:
        both = [exact_second_order(case, args, options, side) for side in (1, -1)]
    except (ArithmeticError, ValueError, TypeError):  # the formula has no value there, or a complex one
        return None
    finite = all(np.isfinite(x).all() for side in both for x in side)
    same = finite and all(np.allclose(x, y, rtol=1e-9, atol=1e-9) for x, y in zip(*both, strict=True))
    return both[0][1] if same else None


NOT_THERE = {
    ("sigmoid_focal_loss", "ties"): "slopes by x and by a hard label y that agree are not each other's derivatives",
    ("iou_loss", "zeros"): "an empty box has a kink in other directions than the two",
}
# With kinks at all these points under some options: an error, a margin or an overlap of 0, or probabilities of 1.
KINKED = {
    "absolute_error",
    "expectile_loss",
    "iou_loss",
    "lovasz_hinge_loss",
    "multiclass_perceptron_loss",
    "orpo_loss",
    "perceptron_loss",
    "quantile_loss",
}


@pytest.mark.parametrize(
    "case, name",
    [
        only(BUILT_APART if o == "default" else (), c, o)
        for c in CASES
        for o in ("default", *c.options)
        if len(c.shapes.get(o, (2, 3))) == 2
    ],
    ids=lambda x: getattr(x, "name", x),
)
def test_hessian_where_branches_meet(case, name):
    shape = (4, 3) if case.kind in ("batch", "total") else (2, 3)
    options, compared = case.option_set(name, shape), []
    for point, args in meeting_points(case.arguments(np.float32, name, shape)):
        want = smooth_hessian(case, args, options)
        if want is None or (case.name, point) in NOT_THERE:
            continue
        got = hessian(case, args, options)
        atol = 2e-6 * np.max(np.abs(want)) + 1e-5  # entries of order 1 cancel along the directions
        np.testing.assert_allclose(got, want, rtol=2e-5, atol=atol, err_msg=point)
        compared.append(point)
    assert compared or case.name in KINKED, "smooth nowhere"


@pytest.mark.parametrize("case", [only(KINDS, c) for c in CASES if c.optax], ids=lambda c: c.name)
def test_optax_agrees(case):
    """At mild arguments, where optax has its digits too."""
    args = case.arguments(np.float32)
    theirs = getattr(optax.losses, case.optax)

    def both(x, *rest):
        return theirs(x, *rest), jax.grad(lambda x: jnp.sum(theirs(x, *rest)))(x)

    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        want, slope = jit_once(both)(*(jnp.asarray(a) for a in args))
    losses, gradients = compiled(case, np.float32)(*args)
    np.testing.assert_allclose(losses, want, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(gradients[0], slope, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "dtype", [jnp.bfloat16, pytest.param(jnp.float16, marks=pytest.mark.long)], ids=["bfloat16", "float16"]
)
@pytest.mark.parametrize("case", [apart(c) for c in CASES], ids=lambda c: getattr(c, "name", c))
def test_error_budget_of_low_precision(case, dtype):
    """Truth in float64 of the rounded arguments; the formula as written in jax.numpy; ours, no worse anywhere."""
    args = case.arguments(dtype, shape=(4, 5))
    places = floating(args)

    def naive(*values):
        return case.reference(*_placed(args, places, values), maths=plain(dtype))

    def baseline(x, *rest):
        return naive(x, *rest), jax.grad(lambda x: jnp.sum(naive(x, *rest)))(x)

    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        naive_losses, naive_slope = jit_once(baseline)(*(args[i] for i in places))
    losses, gradients = compiled(case, dtype)(*args)
    wide = [a.astype(np.float64) if i in floating(args) else a for i, a in enumerate(args)]
    truth = np.asarray(case.reference(*wide), np.float64)
    budget = np.abs(np.asarray(naive_losses, np.float64) - truth)
    assert np.all(np.abs(np.asarray(losses, np.float64) - truth) <= budget + 4e-6 * np.abs(truth) + 1e-7)
    want = exact_gradient(case, args, 0)
    budget = np.abs(np.asarray(naive_slope, np.float64) - want)
    rounding = np.abs(want) * float(jnp.finfo(dtype).eps) + float(jnp.finfo(dtype).smallest_subnormal)
    assert np.all(np.abs(np.asarray(gradients[0], np.float64) - want) <= budget + rounding)


SHAPES = ((3, 7), (2, 1, 4), (5,))  # all of them in the long run: each is compiled


@CASE
@hypothesis.given(data=st.data())
def test_any_shape_and_value(pytestconfig, case, data):
    shapes = SHAPES if pytestconfig.getoption("--long") else SHAPES[: 1 + (case.name in KINDS)]
    shape, seed = data.draw(st.sampled_from(shapes)), data.draw(st.integers(0, 2**31))
    rng = np.random.default_rng(seed)
    scales = [s for s in case.scales if s < case.conditioned]
    exact = case.accurate is not None and len(scales) > 0
    made = case.accurate(rng, shape, data.draw(st.sampled_from(scales))) if exact else case.make(rng, shape)
    args = cast(made, np.float32)
    losses, gradients = compiled(case, np.float32, jit_of(case, pytestconfig))(*args)
    truth = np.asarray(case.exact(*args), np.float64)
    if exact:
        assert_ulp(losses, truth, 8, np.finfo(np.float32).eps, "loss")
    else:
        np.testing.assert_allclose(losses, truth, rtol=1e-5, atol=1e-6 * max(1, np.prod(shape)))
    assert all(np.all(np.isfinite(g)) for g in gradients)
    if case.nonnegative:
        assert np.all(np.asarray(losses) >= 0)
