"""On one CPU device rules run in lanes and blocks; the other tests have several devices, where they are plain.

What comes out must be the same, at sizes where there is more than one block.
"""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import one_device
import pytest
import scipy.special
from jax.sharding import AbstractMesh, AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from registry import ALIASES, BUILT_APART, BY_NAME, CASES, value_and_gradient

import jaxloss

SHAPES = ((600, 120), (70, 1001))  # one axis is as many blocks as the other; and one whose length fits no lanes
TOLERANCE = 4e-6  # 32 ULP of the largest entry: sums of hundreds in another order, over a temperature; 2.5e-6 is seen
NAMES = [c.name for c in CASES if c.name not in ALIASES]
SEEN = [n for n in NAMES if n != "nll_loss"]  # which looks at the label's entry alone
LINEAR = {  # in the first argument
    "weighted_sum",
    "uncertainty_weighted_sum",
    "kl_divergence",
    "kl_divergence_with_log_targets",
    "hinge_embedding_loss",  # for pairs that belong together, as this one
}


def computed(name, option_set, shape, dtype):
    """The loss, and the gradients of the sum of all, as float64."""
    case = BY_NAME[name]
    args, options = case.arguments(dtype, option_set, shape), case.option_set(option_set, shape)
    moving = tuple(i for i, a in enumerate(args) if jnp.issubdtype(a.dtype, jnp.floating))

    def both(*args):
        def total(*args):
            losses = case.fn(*args, **options)
            return jnp.sum(losses), losses

        (_, losses), gradients = jax.value_and_grad(total, moving, has_aux=True)(*args)
        return losses, *gradients

    return [np.asarray(x.astype(jnp.float32), np.float64) for x in jax.jit(both)(*args)]


def save(file, cases, shape, dtype):
    assert jax.device_count() == 1
    found = {case: computed(*case, shape, dtype) for case in cases}
    np.savez(file, **{f"{case} {i}": x for case, xs in found.items() for i, x in enumerate(xs)})


def hidden(names, of):
    """Where NaN in the first argument, one or a row, does not reach `of` the mean of the losses."""
    found = []
    for name in names:
        case = BY_NAME[name]
        size = SHAPES[0] if case.kind in ("elementwise", "axis", "tokens") else case.shape
        x, *others = case.arguments(np.float32, "default", size)
        middle = tuple(n // 2 for n in x.shape)
        program = jax.jit(of(functools.partial(_mean, case.fn, **case.option_set("default", size))))
        for place in (middle, middle[:-1], ()):
            x[place] = np.nan
            if not np.any(np.isnan(program(x, *others))):
                found.append((name, place))
    return found


def errors_in_float64(names):
    """Of the losses, against the formula; a gradient that does not compile raises."""
    found = {}
    with jax.enable_x64(True):
        for case in map(BY_NAME.get, names):
            x, *others = case.arguments(np.float64)
            losses, gradient = jax.jit(functools.partial(value_and_gradient, case.fn))(x, *others)
            assert losses.dtype == gradient.dtype == jnp.float64 and np.all(np.isfinite(gradient))
            want = np.asarray(case.reference(x, *others))
            found[case.name] = float(np.max(np.abs(losses - want)) / np.max(np.abs(want)))
    return found


def leaking(names):
    """Whose gradient of the mean leaves a tracer behind, in a function that JAX keeps."""
    found = {}
    for case in map(BY_NAME.get, names):
        args = [jnp.asarray(a) for a in case.arguments()]
        moving = tuple(i for i, a in enumerate(args) if jnp.issubdtype(a.dtype, jnp.floating))
        try:
            with jax.checking_leaks():
                jax.grad(functools.partial(_mean, case.fn), moving)(*args)
        except Exception as error:
            found[case.name] = str(error)[-200:]
    return found


def test_no_tracer_is_kept(pytestconfig):
    names = NAMES if pytestconfig.getoption("--long") else sorted({*BUILT_APART, "multilabel_soft_margin_loss"})
    code = f"import json, test_one_device\nprint(json.dumps(test_one_device.leaking({names})))"
    assert json.loads(one_device.output_of(code)) == {}


def lowered(kind):
    """For eight GPUs of another host, whose axes divide examples and classes."""
    mesh = AbstractMesh((4, 2), ("data", "model"), axis_types=(AxisType[kind],) * 2)
    names = "softmax_cross_entropy_with_integer_labels", "multiclass_hinge_loss", "softmax_cross_entropy", "huber_loss"
    found = {}
    for name in names:

        def shaped(x, spec):
            return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(mesh, spec))

        logits = shaped(np.zeros((512, 1024), np.float32), P("data", "model"))
        hard = name == "multiclass_hinge_loss" or "integer" in name
        target = shaped(np.zeros(512, np.int32), P("data")) if hard else logits
        with jax.sharding.use_abstract_mesh(mesh):
            program = jax.jit(jax.value_and_grad(functools.partial(_mean, getattr(jaxloss, name))))
            text = program.trace(logits, target).lower(lowering_platforms=("cuda",)).as_text()
        found[name] = [op for op in ("gather", "dynamic_slice", "while") if f"stablehlo.{op}" in text]
    return found


@pytest.mark.parametrize("kind", ["Auto", "Explicit"])
def test_a_program_for_another_host_is_not_sliced(kind):
    code = f"import json, test_one_device\nprint(json.dumps(test_one_device.lowered({kind!r})))"
    assert not any(json.loads(one_device.output_of(code)).values())


def test_float64():
    """Sums of several arrays at once must be of one dtype."""
    code = f"import json, test_one_device as t; print(json.dumps(t.errors_in_float64({NAMES})))"
    found = json.loads(one_device.output_of(code))
    assert len(found) == len(NAMES)
    assert {name: error for name, error in found.items() if not error < 1e-12} == {}


def _mean(fn, *args, **options):
    return jnp.mean(fn(*args, **options))


@pytest.mark.parametrize(
    "names, of",
    [(SEEN, "lambda f: f"), pytest.param([n for n in SEEN if n not in LINEAR], "jax.grad", marks=pytest.mark.long)],
    ids=["mean", "gradient"],
)
def test_no_nan_is_hidden(names, of):
    """XLA's library drops NaN from the maxima that it adds up, and from those of long rows."""
    code = f"import jax, test_one_device as t; assert jax.device_count() == 1; print(t.hidden({names!r}, {of}))"
    assert one_device.output_of(code).strip() == "[]"
    assert jax.device_count() > 1
    assert hidden(names, {"lambda f: f": lambda f: f, "jax.grad": jax.grad}[of]) == []


SPECIAL = [-np.inf, -1e30, -1.0, -0.0, 0.0, 1e-30, 1.0, np.inf, np.nan]
ELEMENTWISE = [c.name for c in CASES if c.kind == "elementwise" and c.name not in ALIASES]


def at_special_points(names, size):
    """The losses, their mean by the caller and by the loss, and the gradient, at each of `SPECIAL`, `size` times."""
    found = {}
    for name in names:
        fn, (x, *others) = BY_NAME[name].fn, BY_NAME[name].arguments(np.float32, "default", (size,))
        points = jnp.asarray(np.repeat(np.float32(SPECIAL)[:, None], x.size, 1))

        def all_of(x, fn=fn, others=others):
            def mean(x):
                losses = fn(x, *others)
                return jnp.mean(losses), (losses, fn(x, *others, reduction="mean"))

            (by_caller, (losses, by_loss)), gradient = jax.value_and_grad(mean, has_aux=True)(x)
            return losses, by_caller, by_loss, gradient

        found[name] = [np.asarray(v) for v in jax.jit(lambda xs, f=all_of: jax.lax.map(f, xs))(points)]
    return found


def save_special(file, names, size):
    assert jax.device_count() == 1
    found = at_special_points(names, size)
    np.savez(file, **{f"{name} {i}": v for name, vs in found.items() for i, v in enumerate(vs)})


@pytest.mark.parametrize("size", [256, pytest.param(2**16, marks=pytest.mark.long)])
def test_special_points_are_the_same_as_on_several(tmp_path, size):
    """Infinities stay, and no 0 is negative. (Only large arrays does the library take with their sum.)"""
    file = str(tmp_path / "alone.npz")
    one_device.output_of(f"import test_one_device as t; t.save_special({file!r}, {ELEMENTWISE!r}, {size})")
    alone = np.load(file)
    for name, wanted in at_special_points(ELEMENTWISE, size).items():
        for i, want in enumerate(wanted):
            got = alone[f"{name} {i}"]
            np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-8, err_msg=name)
            if i == 0:
                assert not np.any(np.signbit(got) & (got == 0) & ~np.signbit(want)), name


@pytest.mark.filterwarnings("ignore:.*convex_kl_divergence.*:DeprecationWarning")
@pytest.mark.parametrize(
    "option_set, shape, dtype",
    [
        ("default", SHAPES[0], "float32"),
        pytest.param("default", SHAPES[1], "float32", marks=pytest.mark.long),
        pytest.param("default", SHAPES[0], "bfloat16", marks=pytest.mark.long),
        ("broadcast", SHAPES[0], "float32"),
        pytest.param("", SHAPES[0], "float32", marks=pytest.mark.long),
    ],
    ids=["default", "odd sizes", "bfloat16", "broadcast", "every option"],
)
def test_same_as_on_several(tmp_path, option_set, shape, dtype):
    """Of the option sets whose name begins so."""
    sets = [(n, o) for n in NAMES for o in ("default", *BY_NAME[n].options) if o not in BY_NAME[n].shapes]
    cases = [(n, o) for n, o in sets if o.startswith(option_set)]
    given = str(tmp_path / "alone.npz"), cases, shape, dtype
    one_device.output_of(f"import test_one_device as t; t.save(*{given!r})")
    alone = np.load(given[0])
    eps = float(jnp.finfo(dtype).eps)
    wrong = {}
    for case in cases:
        for i, want in enumerate(computed(*case, shape, dtype)):
            got, size = alone[f"{case} {i}"], np.max(np.abs(want), initial=1e-30)
            if got.shape != want.shape:
                wrong[f"{case} {i}"] = got.shape, want.shape
                continue
            rounding = 2 * eps * np.abs(want) if i else 0  # gradients are rounded to the dtype
            error = np.max(np.abs(got - want) - rounding, initial=0) / size
            if not error <= TOLERANCE:
                wrong[f"{case} {i}"] = error
    assert not wrong


LONG = (192, 32768)  # so many that a sum of each in lanes would be large


def long_rows(seed=0):
    """Scores, distributions, labels, a mask of classes and class weights."""
    rng = np.random.default_rng(seed)
    x, t = rng.normal(size=LONG).astype(np.float32), rng.exponential(size=LONG)
    labels, keep = rng.integers(0, LONG[1], LONG[0]), rng.random(LONG) < 0.9
    keep[np.arange(LONG[0]), labels] = True
    return x, (t / t.sum(-1, keepdims=True)).astype(np.float32), labels, keep, rng.random(LONG[1]).astype(np.float32)


def save_long_rows(file):
    assert jax.device_count() == 1
    x, t, labels, keep, c = map(jnp.asarray, long_rows())
    dense, margin = jaxloss.softmax_cross_entropy, jaxloss.multi_margin_loss
    found = {
        "dense": dense(x, t),
        "smoothed": dense(x, t, label_smoothing=0.5),
        "weighed": dense(x, t, class_weights=c),
        "masked": dense(x, jnp.where(keep, t, 0), where=keep),
        "first axis": dense(x.T, t.T, axis=0),
        "nll": jaxloss.nll_loss(jnp.log(t), labels, label_smoothing=0.5),
        "margins": margin(x, labels),
        "margins, half": margin(x.astype(jnp.bfloat16), labels),
    }
    np.savez(file, **found)


def test_many_long_rows(tmp_path):
    """The digits of a row are those of a few: no sum goes through the classes one by one."""
    file = str(tmp_path / "alone.npz")
    one_device.output_of(f"import test_one_device as t; t.save_long_rows({file!r})")
    found = np.load(file)
    x, t, labels, keep, c = (a.astype(np.float64) if a.dtype.kind == "f" else a for a in long_rows())
    cost = scipy.special.logsumexp(x, -1, keepdims=True) - x
    masked = scipy.special.logsumexp(x, -1, b=keep, keepdims=True) - x
    half = np.asarray(jnp.asarray(x, jnp.float32).astype(jnp.bfloat16).astype(jnp.float32), np.float64)
    of_label = np.arange(len(x)), labels

    def margins(x):
        short = np.maximum(1 + x - x[of_label][:, None], 0)
        short[of_label] = 0
        return np.mean(short, -1)

    want = {
        "dense": np.sum(t * cost, -1),
        "smoothed": np.sum((t / 2 + 0.5 / LONG[1]) * cost, -1),
        "weighed": np.sum(t * c * cost, -1),
        "masked": np.sum(t * keep * masked, -1),
        "first axis": np.sum(t * cost, -1),
        "nll": -np.log(t[of_label]) / 2 - np.mean(np.log(t), -1) / 2,
        "margins": margins(x),
        "margins, half": margins(half),
    }
    assert set(want) == set(found)
    for name, values in want.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-6, err_msg=name)
