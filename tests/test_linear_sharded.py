"""Losses without logits over a mesh: `sharded`, and what is refused under plain `jit`."""

import collections
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from linear_formulas import assert_close, blocks_of, cross_entropy, numbers, truth

import jaxloss
from jaxloss import linear_cross_entropy, linear_log_probs, linear_statistics, sharded

N, D, V = 37, 8, 130  # neither tokens nor classes are multiples of the devices
METHODS = ("dense", "fast", "lean")
ONE_OF_THEM = [pytest.param(m, marks=[pytest.mark.long] * (m != "lean")) for m in METHODS]
EVERYTHING = {"label_smoothing": 0.1, "z_loss": 0.1, "logit_softcap": 3.0, "temperature": 1.5}
small_blocks = blocks_of(16)  # the 33 classes of a device in three, the last of which overlaps


def mesh_of(kind=AxisType.Auto):
    return jax.make_mesh((2, 4), ("data", "model"), axis_types=(kind,) * 2)


@pytest.fixture(scope="module")
def mesh():
    return mesh_of()


HIDDEN, KERNEL, BIAS = numbers(0, N, D), numbers(1, D, V), numbers(2, V)
CLASS_WEIGHTS = jnp.abs(numbers(3, V)) + 0.5
WEIGHTS = jnp.abs(numbers(4, N)) + 0.5
LABELS = jnp.asarray(np.random.default_rng(5).integers(0, V, N), jnp.int32)
# Of the first half of the tokens most are kept, of the second few.
KEEP = jnp.asarray(np.random.default_rng(6).random(N) < np.linspace(1.0, 0.1, N))


def chunked(method):
    return {"method": method} if method == "dense" else {"method": method, "chunk_size": 8}


def every_gradient(loss, ct=None):
    def total(point):
        given = dict(point)
        out = loss(given.pop("hidden"), given.pop("kernel"), **given)
        return out if ct is None else jnp.sum(jnp.asarray(ct, out.dtype) * out)

    return jax.value_and_grad(total)


LAYOUTS = {
    "both": {"tokens": "data", "vocab": "model"},
    "turned": {"tokens": "model", "vocab": "data"},
    "tokens": {"tokens": ("data", "model")},
    "vocabulary": {"vocab": ("data", "model")},
    "neither": {},
}
CASES = [("dense", "mean"), ("fast", "mean"), ("fast", "sum"), ("lean", "mean"), ("lean", "none"), ("dense", "none")]


@pytest.mark.parametrize("masked", [pytest.param(False, marks=pytest.mark.long), True])
@pytest.mark.parametrize("method, reduction", CASES)
def test_value_and_every_gradient(mesh, method, reduction, masked):
    given = {"reduction": reduction, "where": KEEP if masked else None, "labels": LABELS}
    point = {"hidden": HIDDEN, "kernel": KERNEL, "bias": BIAS, "class_weights": CLASS_WEIGHTS, "weights": WEIGHTS}
    point |= {k: jnp.float32(v) for k, v in EVERYTHING.items()}
    ct = np.linspace(0.5, 1.5, N) if reduction == "none" else None
    loss = sharded(linear_cross_entropy, mesh, tokens="data", vocab="model")
    value, slopes = jax.jit(every_gradient(functools.partial(loss, **given, **chunked(method)), ct))(point)
    assert_close((value, slopes), truth(every_gradient(functools.partial(cross_entropy, **given), ct), point), 1e-5)
    assert {k: x.shape for k, x in slopes.items()} == {k: x.shape for k, x in point.items()}


@pytest.mark.parametrize(
    "layout, method",
    [
        *(("both", m) for m in METHODS),
        *(
            pytest.param(n, "lean", marks=[pytest.mark.long] * (n != "explicit"))
            for n in [*LAYOUTS, "explicit"]
            if n != "both"
        ),
    ],
)
def test_every_layout(layout, method):
    mesh = mesh_of(AxisType.Explicit if layout == "explicit" else AxisType.Auto)
    given = {"labels": LABELS, "where": KEEP}
    loss = functools.partial(
        sharded(linear_cross_entropy, mesh, **LAYOUTS.get(layout, LAYOUTS["both"])), **given, **chunked(method)
    )
    point = {"hidden": HIDDEN, "kernel": KERNEL, "bias": BIAS}
    with jax.set_mesh(mesh):
        got = jax.jit(every_gradient(loss))(point)
    assert_close(got, truth(every_gradient(functools.partial(cross_entropy, **given)), point), 1e-5)


def placed(mesh, x, *spec):
    return jax.device_put(x, NamedSharding(mesh, P(*spec)))


def fitting(mesh, dtype=jnp.float32, tokens=32, classes=128):
    """Hidden states, kernel, labels and mask that the mesh divides and that lie on it."""
    h, w = HIDDEN[:tokens].astype(dtype), KERNEL[:, :classes].astype(dtype)
    y, keep = LABELS[:tokens] % classes, KEEP[:tokens]
    placed_ = functools.partial(placed, mesh)
    return placed_(h, "data"), placed_(w, None, "model"), placed_(y, "data"), placed_(keep, "data")


@pytest.mark.core
@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=["auto", "explicit"])
@pytest.mark.parametrize("method", ONE_OF_THEM)
def test_gradients_lie_where_the_operands_do(kind, method):
    mesh = mesh_of(kind)
    h, w, y, keep = fitting(mesh)
    loss = sharded(linear_cross_entropy, mesh, tokens="data", vocab="model")
    f = jax.jit(jax.value_and_grad(lambda h, w: loss(h, w, y, where=keep, **chunked(method)), (0, 1)))
    value, (to_h, to_w) = f(h, w)
    assert to_h.sharding.is_equivalent_to(h.sharding, 2) and to_w.sharding.is_equivalent_to(w.sharding, 2)
    # The same where the operands lie otherwise: the kernel split by rows, hidden states on every device.
    elsewhere = f(placed(mesh, h), placed(mesh, w, "data", "model"))
    here = np.asarray(h), np.asarray(w), np.asarray(y), np.asarray(keep)
    want = truth(
        lambda h, w, y, k: jax.value_and_grad(lambda h, w: cross_entropy(h, w, y, where=k), (0, 1))(h, w), *here
    )
    assert_close((value, (to_h, to_w)), want, 1e-5)
    assert_close(elsewhere, want, 1e-5)


def test_mean_of_unequal_devices(mesh):
    """One device has a single token: it counts as one."""
    keep = jnp.arange(36) < 19
    loss = sharded(linear_cross_entropy, mesh, tokens="data")
    labels = jnp.where(keep, LABELS[:36], -100)
    want = truth(lambda h, w: cross_entropy(h, w, LABELS[:36], where=keep), HIDDEN[:36], KERNEL)
    assert_close(loss(HIDDEN[:36], KERNEL, labels, ignore_index=-100), want)
    assert_close(loss(HIDDEN[:36], KERNEL, LABELS[:36], weights=keep.astype(jnp.float32)), want)
    nothing = jax.value_and_grad(lambda h: loss(h, KERNEL, labels, where=~keep, ignore_index=-100))(HIDDEN[:36])
    assert all(np.all(np.asarray(x) == 0) for x in jax.tree.leaves(nothing))


@pytest.mark.parametrize("method", METHODS)
def test_padding_names_no_class(mesh, method):
    """130 classes are 4 x 33 with padding; labels 130 and 131 are as wrong as any other."""
    labels = LABELS.at[3].set(V).at[5].set(V + 1).at[7].set(-1)
    loss = functools.partial(sharded(linear_cross_entropy, mesh, tokens="data", vocab="model"), labels=labels)
    if method != "fast":
        losses = loss(HIDDEN, KERNEL, reduction="none", **chunked(method))
        assert np.array_equal(np.flatnonzero(np.isnan(losses)), [3, 5, 7])
    value, slope = jax.jit(jax.value_and_grad(lambda h: loss(h, KERNEL, **chunked(method))))(HIDDEN)
    assert np.isnan(value) and np.array_equal(np.flatnonzero(np.isnan(slope).any(-1)), [3, 5, 7])


@pytest.mark.parametrize("method", ONE_OF_THEM)
def test_padding_of_the_caller(mesh, method):
    padded = jnp.pad(KERNEL, ((0, 0), (0, 3)), constant_values=jnp.nan)

    def both(f):
        return jax.value_and_grad(f, (0, 1))

    loss = sharded(linear_cross_entropy, mesh, tokens="data", vocab="model")
    got = jax.jit(both(lambda h, w: loss(h, w, LABELS, num_classes=V, **chunked(method))))(HIDDEN, KERNEL)
    want = truth(both(lambda h, w: cross_entropy(h, w, LABELS)), HIDDEN, KERNEL)
    assert_close(got, want, 1e-5)
    finite = jnp.where(jnp.isnan(padded), 7.0, padded)
    value, (to_h, to_w) = jax.jit(both(lambda h, w: loss(h, w, LABELS, num_classes=V, **chunked(method))))(
        HIDDEN, finite
    )
    assert_close((value, (to_h, to_w[:, :V])), want, 1e-5)
    assert np.all(np.asarray(to_w[:, V:]) == 0)


@pytest.mark.parametrize("method", METHODS)
def test_dense_labels_and_a_tied_kernel(mesh, method):
    labels = jnp.abs(numbers(7, N, V))
    loss = sharded(linear_cross_entropy, mesh, tokens="data", vocab="model")
    options = {"label_smoothing": 0.1, "where": KEEP}

    def ours(h, w, t):
        return loss(h, w, t, kernel_layout="vd", **options, **chunked(method))

    got = jax.jit(jax.value_and_grad(ours, (0, 1, 2)))(HIDDEN, KERNEL.T, labels)
    exact = jax.value_and_grad(lambda h, w, t: cross_entropy(h, w.T, t, **options), (0, 1, 2))
    assert_close(got, truth(exact, HIDDEN, KERNEL.T, labels), 1e-5)


@pytest.mark.parametrize(
    "tokens",
    [
        P("data", "model"),
        None,
        *(pytest.param(p, marks=pytest.mark.long) for p in (P("data"), P(None, ("data", "model")), P(), ("data",))),
    ],
)
def test_several_dimensions_of_tokens(mesh, tokens):
    h, y = HIDDEN[:36].reshape(9, 4, D), LABELS[:36].reshape(9, 4)
    x = np.asarray(HIDDEN[:36], np.float64) @ np.asarray(KERNEL, np.float64) + np.asarray(BIAS, np.float64)
    log_z = np.log(np.exp(x).sum(-1))
    logp = x - log_z[:, None]
    at_label = np.take_along_axis(logp, np.asarray(LABELS[:36])[:, None], -1)[:, 0]
    entropy = -np.sum(np.exp(logp) * logp, -1)
    log_z, at_label, entropy = (v.reshape(9, 4) for v in (log_z, at_label, entropy))
    assert_close(sharded(linear_log_probs, mesh, tokens=tokens)(h, KERNEL, y, bias=BIAS), at_label)
    keep = KEEP[:4]
    found = sharded(linear_statistics, mesh, tokens=tokens)(h, KERNEL, y, bias=BIAS, where=keep)
    values = (found.log_normalizer, found.entropy, found.log_probs, found.accuracy)
    best = x.argmax(-1).reshape(9, 4)
    assert_close(values, tuple(np.where(keep, v, 0) for v in (log_z, entropy, at_label, best == np.asarray(y))))
    assert np.array_equal(found.argmax, np.where(keep, best, -1))
    assert sharded(linear_statistics, mesh, tokens=tokens)(h, KERNEL).log_probs is None


@pytest.mark.parametrize("method", ONE_OF_THEM)
def test_transformations(mesh, method):
    loss = sharded(linear_cross_entropy, mesh, tokens="data", vocab="model")

    def ours(h, w):
        return loss(h, w, LABELS, where=KEEP, z_loss=0.1, **chunked(method))

    def plain(h, w):
        logits = h @ w
        return jaxloss.softmax_cross_entropy_with_integer_labels(
            logits, LABELS, where=KEEP, z_loss=0.1, reduction="mean"
        )

    u, v = numbers(8, N, D), numbers(9, D, V)
    stacked = jnp.stack([HIDDEN, u])
    ways = {
        "jvp": lambda f: jax.jvp(f, (HIDDEN, KERNEL), (u, v))[1],
        "vmap": lambda f: jax.vmap(jax.grad(f, (0, 1)), (0, None))(stacked, KERNEL),
        "remat": lambda f: jax.grad(jax.checkpoint(f), (0, 1))(HIDDEN, KERNEL),
        "scan": lambda f: jax.lax.scan(lambda c, h: (c, jax.grad(f, (0, 1))(h, KERNEL)), 0, stacked)[1],
        "hvp": lambda f: jax.jvp(jax.grad(f, (0, 1)), (HIDDEN, KERNEL), (u, v))[1],
        "vhp": lambda f: jax.grad(lambda h: jnp.vdot(jax.grad(f)(h, KERNEL), u))(HIDDEN),
    }
    for name, way in ways.items():
        got, want = jax.jit(lambda way=way: way(ours))(), jax.jit(lambda way=way: way(plain))()
        assert_close(got, want, 1e-5), name


COLLECTIVE = re.compile(
    r"= \(?([^()=]*?)\)? (all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter)(?:-start)?\("
)


def collectives(program):
    """How often each shape travels, by kind; XLA may send several in one message."""
    found = collections.Counter()
    for shapes, kind in COLLECTIVE.findall(program.as_text()):
        found.update((kind, shape) for shape in re.findall(r"\w+\[[\d,]*\]", shapes))
    return found


@pytest.mark.parametrize("method", METHODS)
def test_what_travels(mesh, method):
    h, w, y, keep = fitting(mesh)
    loss = sharded(linear_cross_entropy, mesh, tokens="data", vocab="model")
    f = jax.value_and_grad(lambda h, w, y, keep: loss(h, w, y, where=keep, **chunked(method)), (0, 1))
    found = collectives(jax.jit(f).lower(h, w, y, keep).compile())
    chunk = "f32[16]" if method == "dense" else "f32[8]"
    assert found == {
        ("all-reduce", "s32[]"): 1,  # the tokens that are kept
        ("all-reduce", chunk): 4,  # maximum, rest, who has the maximum, score of the label: over `model`
        ("all-reduce", "f32[]"): 1,  # the total, over `data`
        ("all-reduce", f"f32[16,{D}]"): 1,  # gradient of the hidden states, over `model`
        ("all-reduce", f"f32[{D},32]"): 1,  # gradient of the kernel, over `data`
    }


@pytest.mark.parametrize("method", ["fast", "lean"])
def test_no_device_does_the_work_of_another(mesh, method):
    h, w, y, keep = fitting(mesh)
    loss = sharded(linear_cross_entropy, mesh, tokens="data", vocab="model")
    f = jax.value_and_grad(lambda h, w, y, keep: loss(h, w, y, where=keep, **chunked(method)), (0, 1))
    program = jax.jit(f).lower(h, w, y, keep).compile().as_text()
    products = set(re.findall(r"= f32\[([\d,]+)\][^=]* dot\(", program))
    assert products == {"8,16", f"8,{D}", f"{D},16"}  # 8 of a device's 16 tokens, 16 of its 32 classes


@pytest.mark.parametrize("method", ONE_OF_THEM)
def test_half_precision_is_added_up_in_float32(mesh, method):
    h, w, y, keep = fitting(mesh, jnp.bfloat16)
    loss = sharded(linear_cross_entropy, mesh, tokens="data", vocab="model")
    f = jax.jit(jax.value_and_grad(lambda h, w: loss(h, w, y, where=keep, **chunked(method)), (0, 1)))
    sums = re.findall(r'"stablehlo.all_reduce".*?\}\) : \(([^)]*)\)', f.lower(h, w).as_text(), re.DOTALL)
    assert sums and not any("bf16" in types for types in sums)
    value, slopes = f(h, w)
    here = (np.asarray(x.astype(jnp.float32)) for x in (h, w))
    exact = jax.value_and_grad(lambda h, w: cross_entropy(h, w, np.asarray(y), where=np.asarray(keep)), (0, 1))
    want, to_operands = truth(exact, *here)
    np.testing.assert_allclose(value, want, rtol=1e-6)
    for got, slope in zip(slopes, to_operands, strict=True):
        assert got.dtype == jnp.bfloat16
        error = np.linalg.norm(np.asarray(got, np.float64) - slope) / np.linalg.norm(slope)
        assert error < 3e-3, error


def test_compiled_once(mesh):
    ways = ({"tokens": "data"}, {"tokens": P("data")}, {"tokens": ["data"]})
    assert len({sharded(linear_cross_entropy, mesh, **way) for way in ways}) == 1


# Under plain `jit` over several devices.

REFUSED = 'linear_cross_entropy: method="{}" under jit over several devices.* jaxloss.sharded'


def refused(method):
    return pytest.raises(ValueError, match=REFUSED.format(method))


@pytest.mark.core
@pytest.mark.parametrize("method", ["fast", "lean"])
def test_chunks_are_refused_where_xla_divides(mesh, method):
    h, w, y, keep = fitting(mesh)
    h1, w1, y1 = (jnp.asarray(np.asarray(x)) for x in (h, w, y))
    loss = functools.partial(linear_cross_entropy, **chunked(method))

    def in_a_loop(w):
        def step(c, h):
            return c + jnp.sum(jax.vmap(lambda h: loss(h, w, y1))(h[None])), None

        return jax.lax.scan(step, 0.0, h1[None])[0]

    with refused(method):
        loss(h, w, y)
    with refused(method):
        jax.jit(loss)(h, w, y)
    with refused(method):
        jax.jit(jax.grad(loss, (0, 1)))(h, w, y)
    with refused(method):
        jax.jit(lambda h: jax.jvp(jax.grad(lambda h: loss(h, w, y)), (h,), (h,)))(h)
    with refused(method):
        jax.jit(jax.grad(jax.checkpoint(in_a_loop)))(w)
    with refused(method):  # only the labels say so
        jax.jit(loss)(h1, w1, y)
    with refused(method):  # the operands do not say so
        jax.jit(
            loss, in_shardings=(NamedSharding(mesh, P("data")), NamedSharding(mesh, P()), NamedSharding(mesh, P()))
        )(np.asarray(h), np.asarray(w), np.asarray(y))
    with refused(method), jax.set_mesh(mesh):
        jax.jit(loss)(h1, w1, y1)
    over_model = jax.shard_map(
        functools.partial(loss, axis_name="model"),
        mesh=mesh, in_specs=(P(), P(None, "model"), P()), out_specs=P(), axis_names={"model"},
    )  # fmt: skip
    with refused(method):  # `data` is left to XLA
        jax.jit(over_model)(h, w, y)
    one = jax.jit(jax.grad(jax.checkpoint(in_a_loop)))(w1)
    assert_close(one, jax.grad(lambda w: loss(h1, w, y1))(w1), 1e-5)


@pytest.mark.core
@pytest.mark.parametrize("method", ["fast", "lean"])
def test_chunks_are_refused_on_explicit_axes(method):
    mesh = mesh_of(AxisType.Explicit)
    h, w, y, keep = fitting(mesh)
    for operands in ((h, w, y), tuple(placed(mesh, x) for x in (h, w, y))):
        with refused(method):
            jax.eval_shape(functools.partial(linear_cross_entropy, **chunked(method)), *operands)


def test_a_mesh_of_one_device_is_one_device():
    mesh = jax.make_mesh((1, 1), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
    h, w, y, keep = fitting(mesh)
    got = jax.jit(functools.partial(linear_cross_entropy, **chunked("lean")))(h, w, y)
    assert_close(got, truth(cross_entropy, *(np.asarray(x) for x in (h, w, y))))


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=["auto", "explicit"])
def test_auto_lets_xla_divide_the_logits(kind):
    """No budget cuts them there; each device has its part, and no kernel or logits travel."""
    mesh = mesh_of(kind)
    h, w, y, keep = fitting(mesh)
    loss = functools.partial(linear_cross_entropy, memory_budget=200, label_smoothing=0.1, z_loss=0.1)
    f = jax.jit(jax.value_and_grad(lambda h, w, y, keep: loss(h, w, y, where=keep), (0, 1)))
    value, slopes = f(h, w, y, keep)
    here = tuple(np.asarray(x) for x in (h, w, y, keep))
    exact = functools.partial(cross_entropy, label_smoothing=0.1, z_loss=0.1)
    want = truth(
        lambda h, w, y, k: jax.value_and_grad(lambda h, w: exact(h, w, labels=y, where=k), (0, 1))(h, w), *here
    )
    assert_close((value, slopes), want, 1e-5)
    for (kind_, shape), _ in collectives(f.lower(h, w, y, keep).compile()).items():
        size = np.prod([int(n) for n in re.findall(r"\d+", shape.partition("[")[2])])
        assert kind_ == "all-reduce" and size <= max(16 * D, D * 32), (kind_, shape)


@pytest.mark.parametrize(
    "given, error, message",
    [
        (
            {"tokens": "date"},
            ValueError,
            r"tokens names the axis 'date', but those of the mesh are \('data', 'model'\)",
        ),
        ({"vocab": "data", "tokens": "data"}, ValueError, "the axis 'data' is named twice"),
        ({"tokens": P("data", None, None)}, ValueError, r"splits more dimensions than the tokens \(37,\) have"),
        ({"mesh": None}, ValueError, r"there is no mesh; give one, or call it under jax.set_mesh\(mesh\)"),
        ({"mesh": "data"}, TypeError, "mesh must be a jax.sharding.Mesh, got str"),
        ({"axis_name": "model"}, ValueError, "the axis_name= of linear_cross_entropy is given by vocab="),
        ({"kernel": KERNEL.T}, ValueError, r'linear_cross_entropy: hidden of shape \(37, 8\) .* kernel_layout="vd"'),
        ({"labels": LABELS[:-1]}, ValueError, r"labels of shape \(36,\)"),
        ({"bias": BIAS[:-1]}, ValueError, r"bias must have the shape \(130,\)"),
        ({"where": jnp.ones(N)}, TypeError, "where must be boolean"),
        ({"method": "quick"}, ValueError, "method must be one of"),
        ({"reduction": "median"}, ValueError, "reduction must be one of"),
        ({"loss": jaxloss.z_loss}, ValueError, "z_loss takes no hidden states and kernel.*under jit XLA divides them"),
    ],
)
def test_bad_input(mesh, given, error, message):
    names = ("loss", "mesh", "tokens", "vocab")
    how = {"loss": linear_cross_entropy, "mesh": mesh} | {k: x for k, x in given.items() if k in names}
    args = {"hidden": HIDDEN, "kernel": KERNEL, "labels": LABELS}
    with pytest.raises(error, match=message):
        sharded(**how)(**args | {k: x for k, x in given.items() if k not in names})


def test_bad_input_inside_shard_map(mesh):
    def inside(h, **options):
        loss = jax.shard_map(
            lambda h: sharded(linear_cross_entropy, mesh, tokens="data")(h, KERNEL, LABELS[:18]),
            mesh=mesh, in_specs=P("data"), out_specs=P(), **options,
        )  # fmt: skip
        return loss(h)

    with pytest.raises(
        ValueError, match="called inside jax.shard_map over .*; there call the loss itself, with axis_name="
    ):
        inside(HIDDEN[:36])
    unchecked = jax.shard_map(
        lambda h, w: linear_cross_entropy(h, w, LABELS, axis_name="model"),
        mesh=mesh, in_specs=(P(), P(None, "model")), out_specs=P(), check_vma=False,
    )  # fmt: skip
    with pytest.raises(ValueError, match="check_vma=False.* would multiply gradients"):
        unchecked(HIDDEN, KERNEL[:, :128])
    for loss in (linear_cross_entropy, linear_log_probs, linear_statistics):
        with pytest.raises(ValueError, match="axis_name='model' is no axis here; call it inside jax.shard_map"):
            loss(HIDDEN, KERNEL, LABELS, axis_name="model")
