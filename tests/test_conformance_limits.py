"""Edges, zeros, memory: where the mathematics is finite so is the loss, and it keeps nothing that it does not need."""

import functools
import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import one_device
import pytest
from compiled import CHANGES_FUSIONS
from jax.experimental import checkify
from registry import ALIASES, BY_NAME, CASES, KINDS, apart, jit_of, only, value_and_gradient

import jaxloss
from jaxloss._testing.subject import jit_once

pytestmark = pytest.mark.filterwarnings("ignore:.*convex_kl_divergence.*:DeprecationWarning")
EDGES = [(c, e) for c in CASES for e in c.edges]
LENGTH = max(np.size(a) for c, e in EDGES if c.kind == "elementwise" for a in e.args)
DTYPES = ("float32", "bfloat16")


def floating(args):
    return [i for i, a in enumerate(args) if jnp.issubdtype(a.dtype, jnp.floating)]


def place(args, moving, values):
    return [values[moving.index(i)] if i in moving else a for i, a in enumerate(args)]


def as_arrays(edge, dtype, length=0):
    """With the last entry again and again up to `length`, so that edges of an elementwise loss share a program."""
    args = [np.asarray(a) for a in edge.args]
    if all(a.ndim == 1 for a in args):
        args = [np.pad(a, (0, max(0, length - len(a))), mode="edge") for a in args]
    return [jnp.asarray(a, dtype if a.dtype.kind == "f" else None) for a in args]


def assert_edge(got, want, dtype, what, ulps=2):
    got = np.asarray(got, np.float64)
    if isinstance(want, str):
        assert want == "any" or np.all(np.isfinite(got)), f"{what}: {got}"
        return
    eps = float(jnp.finfo(dtype).eps)
    with np.errstate(over="ignore"):  # what the dtype cannot hold is infinite in it
        want = np.asarray(np.asarray(want), np.float64).astype(dtype).astype(np.float64)
    np.testing.assert_allclose(got, want, rtol=ulps * eps, atol=1e-44, err_msg=what)


@functools.lru_cache
def compiled(case, options, jit):
    """Losses, gradients, and for each argument the tangent that a tangent of ones gives; the edges share it."""

    def everything(*args):
        moving = floating(args)
        points = [args[i] for i in moving]

        def loss(*m):
            return case.fn(*place(args, moving, m), **dict(options))

        losses, pullback = jax.vjp(loss, *points)
        pushed = []
        for k, x in enumerate(points):
            alone = functools.partial(lambda k, x: loss(*points[:k], x, *points[k + 1 :]), k)
            pushed.append(jax.jvp(alone, [x], [jnp.ones_like(x)])[1])
        return losses, pullback(jnp.ones_like(losses)), pushed

    return jit(everything)


def holds(dtype, edge):
    """Are the arguments numbers of this dtype? If not, exact results would be those of other arguments."""
    given = [a for a in map(np.asarray, edge.args) if a.dtype.kind == "f"]
    same = all(np.array_equal(a.astype(dtype).astype(a.dtype), a, equal_nan=True) for a in given)
    return same or (isinstance(edge.value, str) and edge.value == "finite")


IN_BFLOAT16 = [apart(c, e, "bfloat16") for c, e in EDGES if holds(jnp.bfloat16, e)]


@pytest.mark.parametrize(
    "case, edge, dtype",
    [*((c, e, "float32") for c, e in EDGES), *IN_BFLOAT16],
    ids=lambda x: getattr(x, "name", x).replace(" ", "_"),
)
def test_edge(pytestconfig, case, edge, dtype):
    dtype = jnp.dtype(dtype)
    args = as_arrays(edge, dtype, LENGTH if case.kind == "elementwise" else 0)
    found = compiled(case, tuple(edge.options.items()), jit_of(case, pytestconfig))(*args)
    own = slice(np.size(edge.args[0]))
    losses, gradients, pushed = jax.tree.map(lambda x: x[own], found) if case.kind == "elementwise" else found
    assert_edge(losses, edge.value, jnp.float32, "value")
    wants = [edge.gradients] * len(gradients) if isinstance(edge.gradients, str) else edge.gradients
    finite = isinstance(edge.value, str) or np.all(np.isfinite(np.asarray(edge.value, np.float64)))
    for k, (got, want) in enumerate(zip(gradients, wants, strict=True)):
        assert_edge(got, want, dtype, f"gradient {k}")
        got = np.asarray(got, np.float64)
        if finite and np.all(np.isfinite(got)):
            size = np.sum(np.abs(got)) + 1e-30
            total = np.sum(np.asarray(pushed[k], np.float64))
            np.testing.assert_allclose(
                total, np.sum(got), atol=4 * float(jnp.finfo(dtype).eps) * size, err_msg=f"jvp {k}"
            )


@pytest.mark.parametrize("case", [c for c in CASES if c.edges], ids=lambda c: c.name)
def test_edges_that_are_constants(case):
    """Of a program: XLA reorders products and quotients of constants, which then may be out of range.

    It also divides by them with their inverses, each rounded once more.
    """

    def found(edge, x, *others):
        loss = functools.partial(case.fn, **edge.options)
        return value_and_gradient(loss, x, *others) if floating([x]) else (loss(x, *others), None)

    given = [as_arrays(edge, jnp.float32) for edge in case.edges]
    firsts, others = [a[0] for a in given], [[np.asarray(x) for x in a[1:]] for a in given]

    def everything(firsts):
        return [
            found(edge, x, *map(jnp.asarray, constants))
            for edge, x, constants in zip(case.edges, firsts, others, strict=True)
        ]

    for edge, (losses, gradient) in zip(case.edges, jit_once(everything)(firsts), strict=True):
        assert_edge(losses, edge.value, jnp.float32, f"value, {edge.name}", ulps=4)
        want = edge.gradients if isinstance(edge.gradients, str) or gradient is None else edge.gradients[0]
        if gradient is not None:
            assert_edge(gradient, want, jnp.float32, f"gradient, {edge.name}", ulps=4)


@pytest.mark.parametrize(
    "dtype", [jnp.float32, pytest.param(jnp.bfloat16, marks=pytest.mark.long)], ids=["float32", "bfloat16"]
)
@pytest.mark.parametrize("case", [c for c in CASES if c.zero], ids=lambda c: c.name)
def test_zero_at_the_truth(case, dtype):
    args = [
        np.asarray(a).astype(dtype) if np.asarray(a).dtype.kind == "f" else a
        for a in case.zero(np.random.default_rng(5), case.shape)
    ]
    assert np.all(np.asarray(jax.jit(case.fn)(*args)) == 0)
    if case.nonnegative:  # then it is a minimum
        gradient = jax.jit(jax.grad(lambda x: jnp.sum(case.fn(x, *args[1:]))))(jnp.asarray(args[0]))
        np.testing.assert_allclose(np.asarray(gradient, np.float64), 0, atol=1e-6)


@pytest.mark.parametrize(
    "case", [only(KINDS | {"contrastive_loss"}, c) for c in CASES if c.name not in ALIASES], ids=lambda c: c.name
)
def test_no_false_alarm(case):
    """Of `checkify.float_checks`: at ordinary arguments nothing on the way is NaN or divided by 0."""
    args = [jnp.asarray(a) for a in case.arguments()]
    run = jax.value_and_grad(lambda x: jnp.sum(case.fn(x, *args[1:])))
    error, _ = jit_once(checkify.checkify(run, errors=checkify.float_checks))(args[0])
    assert error.get() is None


LABELLED = [c for c in CASES if [a.dtype.kind for a in c.arguments()] == ["f", "i"] and c.kind == "axis"]


@pytest.mark.parametrize("case", [c for c in LABELLED if not c.name.startswith("margin_softmax")], ids=lambda c: c.name)
@pytest.mark.parametrize("gap", [30.0, 60.0, 300.0])
def test_hessian_of_confident_rows(case, gap):
    """Far from the truth and at it, where squares of small probabilities underflow; a cosine is never that large."""
    rows = jnp.asarray([[gap, 0.0, -gap]] * 3)
    hessian = jit_once(jax.hessian(lambda x: jnp.sum(case.fn(x, jnp.arange(3)))))(rows)
    assert np.all(np.isfinite(hessian))


MEASURED = [c for c in CASES if c.kind != "total" and c.name not in ALIASES]
OF_EACH_KIND, OTHERS = ([c for c in MEASURED if (c.name in KINDS) == there] for there in (True, False))


def measured_temporaries(names):
    """XLA's own count for the compiled value and gradient, beyond arguments and results, in sizes of the prediction."""
    found = {}
    for case in (BY_NAME[name] for name in names):
        made = case.arguments(shape=(2048, 4096))
        for dtype in map(jnp.dtype, DTYPES):
            args = [jax.ShapeDtypeStruct(a.shape, dtype if a.dtype.kind == "f" else a.dtype) for a in made]
            run = jax.jit(jax.value_and_grad(functools.partial(case.fn, reduction="sum")))
            memory = run.lower(*args).compile().memory_analysis()
            size = args[0].size * args[0].dtype.itemsize
            found[f"{case.name} {dtype}"] = memory.temp_size_in_bytes / size
    return found


def temporaries_on_one_device(names):
    code = f"import json, test_conformance_limits as t; print(json.dumps(t.measured_temporaries({names})))"
    return json.loads(one_device.output_of(code, without=CHANGES_FUSIONS))


@pytest.mark.parametrize(
    "cases", [OF_EACH_KIND, pytest.param(OTHERS, marks=pytest.mark.long)], ids=["one of each kind", "the others"]
)
def test_temporaries(cases):
    """None of the size of the input is the promise.

    XLA for the CPU does not fuse every rule with its sum. Where it does not, the case says how many arrays it keeps, so
    that this cannot grow unseen. One test for many losses, as they are measured in one process.
    """
    allowed = {f"{c.name} {d}": most + 0.1 for c in cases for d, most in zip(DTYPES, c.temporaries, strict=True)}
    found = temporaries_on_one_device([c.name for c in cases])
    assert found.keys() == allowed.keys()
    assert not {name: kept for name, kept in found.items() if kept > allowed[name]}


ARITHMETIC = {  # what XLA's library computes in one pass with their sum
    "squared_error",
    "l2_loss",
    "absolute_error",
    "huber_loss",
    "smooth_l1_loss",
    "quantile_loss",
    "expectile_loss",
    "epsilon_insensitive_loss",
    "hinge_loss",
    "squared_hinge_loss",
    "perceptron_loss",
}


def measured_of_means_by_the_caller(names):
    """Temporaries as above, and bytes accessed, where the caller takes the mean."""
    found = {}
    for case, dtype in itertools.product((BY_NAME[name] for name in names), DTYPES):
        made = case.arguments(shape=(2048, 4096))
        args = [jax.ShapeDtypeStruct(a.shape, dtype if a.dtype.kind == "f" else a.dtype) for a in made]
        run = jax.jit(jax.value_and_grad(lambda *args, fn=case.fn: jnp.mean(fn(*args)))).lower(*args).compile()
        size = args[0].size * args[0].dtype.itemsize
        kept, moved = run.memory_analysis().temp_size_in_bytes / size, run.cost_analysis()["bytes accessed"] / size
        found[f"{case.name} {dtype}"] = kept, moved
    return found


@pytest.mark.skipif(jax.__version_info__[:2] != (0, 10), reason="what XLA fuses is measured for one version")
def test_a_mean_by_the_caller():
    """As users of optax write it: at most the losses are written, and those of sums and products are not."""
    names = [c.name for c in CASES if c.kind == "elementwise" and c.name not in ALIASES]
    code = f"import json, test_conformance_limits as t; print(json.dumps(t.measured_of_means_by_the_caller({names})))"
    found = json.loads(one_device.output_of(code, without=CHANGES_FUSIONS))
    assert set(names) > ARITHMETIC and len(found) == 2 * len(names)
    for name, (kept, moved) in found.items():
        loss, dtype = name.split()
        written = 0 if loss in ARITHMETIC else 4 / jnp.dtype(dtype).itemsize
        assert kept < max(written, BY_NAME[loss].temporaries[dtype == DTYPES[1]]) + 0.01, name
        if loss in ARITHMETIC:  # both operands twice, and the gradient
            assert moved < 5.1, name


ROWS = (2048, 4096)
OPTIONS = {  # of cross-entropies: a number, or the shape of a mask
    "temperature": 2.0,
    "logit_softcap": 30.0,
    "label_smoothing": 0.1,
    "z_loss": 1e-3,
    "where": ROWS[:1],
    "where of classes": ROWS,
}


def measured_temporaries_of_options(name, options):
    found = {}
    second = (ROWS, None) if name == "softmax_cross_entropy" else (ROWS[:1], jnp.int32)
    for option, dtype in itertools.product(options, DTYPES):
        x = jax.ShapeDtypeStruct(ROWS, dtype)
        target = jax.ShapeDtypeStruct(second[0], second[1] or dtype)
        value, keyword = OPTIONS[option], option.split()[0]
        masks = [jax.ShapeDtypeStruct(value, bool)] if isinstance(value, tuple) else []

        def mean(x, target, *mask, keyword=keyword, value=value):
            given = {keyword: mask[0] if mask else value}
            return getattr(jaxloss, name)(x, target, reduction="mean", **given)

        for what, f in (("value", mean), ("gradient", jax.value_and_grad(mean))):
            memory = jax.jit(f).lower(x, target, *masks).compile().memory_analysis()
            found[f"{option} {dtype}, {what}"] = memory.temp_size_in_bytes / (x.size * x.dtype.itemsize)
    return found


@pytest.mark.parametrize(
    "name, options",
    [
        ("softmax_cross_entropy", ("temperature", "where of classes")),
        pytest.param("softmax_cross_entropy", tuple(OPTIONS), marks=pytest.mark.long),
        pytest.param("softmax_cross_entropy_with_integer_labels", tuple(OPTIONS), marks=pytest.mark.long),
    ],
)
def test_temporaries_of_options(name, options):
    """Scores that are not the logits as they came are computed in every pass, and never written."""
    args = f"{name!r}, {options!r}"
    code = f"import json, test_conformance_limits as t; print(json.dumps(t.measured_temporaries_of_options({args})))"
    found = json.loads(one_device.output_of(code, without=CHANGES_FUSIONS))
    assert len(found) == 4 * len(options)
    assert not {what: size for what, size in found.items() if size > 0.2}


CHANNELS = ["softmax_cross_entropy_with_integer_labels", "softmax_cross_entropy", "kl_divergence", "multi_margin_loss"]


def measured_temporaries_of_channels():
    """Those of images whose classes are the second axis, in sizes of the logits."""
    found = {}
    for name, dtype in itertools.product(CHANNELS, DTYPES):
        x = jax.ShapeDtypeStruct((4, 21, 256, 256), dtype)
        dense = BY_NAME[name].arguments()[1].dtype.kind == "f"
        target = x if dense else jax.ShapeDtypeStruct((4, 256, 256), jnp.int32)
        run = jax.jit(jax.value_and_grad(lambda x, y, n=name: jnp.mean(BY_NAME[n].fn(x, y, axis=1))))
        memory = run.lower(x, target).compile().memory_analysis()
        found[f"{name} {dtype}"] = memory.temp_size_in_bytes / (x.size * x.dtype.itemsize)
    return found


@pytest.mark.skipif(jax.__version_info__[:2] != (0, 10), reason="what XLA fuses is measured for one version")
def test_temporaries_of_channels():
    """A few float32 numbers for each pixel, of 21 classes, and no array of the logits' size."""
    code = "import json, test_conformance_limits as t; print(json.dumps(t.measured_temporaries_of_channels()))"
    found = json.loads(one_device.output_of(code, without=CHANGES_FUSIONS))
    assert len(found) == 2 * len(CHANNELS)
    for name, kept in found.items():
        assert kept < 7 * 4 / jnp.dtype(name.split()[1]).itemsize / 21, name


@pytest.mark.parametrize(
    "case",
    [apart(c) for c in CASES if c.kind == "elementwise" and c.arguments()[1].dtype.kind == "f"],
    ids=lambda c: c.name,
)
def test_targets_broadcast_and_their_gradient_adds_up(case):
    first, *rest = case.arguments()
    small = [r[0] for r in rest]
    losses = case.fn(first, *small)
    want = case.fn(first, *(np.broadcast_to(s, first.shape) for s in small))
    # The last bit may differ: XLA divides by what is shared by way of its reciprocal.
    np.testing.assert_allclose(losses, want, rtol=2 * float(jnp.finfo(jnp.float32).eps))
    got = jax.grad(lambda t: jnp.sum(case.fn(first, t, *small[1:])))(jnp.asarray(small[0]))
    full = jax.grad(lambda t: jnp.sum(case.fn(first, t, *small[1:])))(jnp.broadcast_to(small[0], first.shape))
    np.testing.assert_allclose(got, np.sum(full, axis=0), rtol=1e-5)
