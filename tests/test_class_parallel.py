"""Dense cross-entropies with the classes split between devices, inside `shard_map`."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiled import as_users_do
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import jaxloss

ROWS, CLASSES = 8, 40
INTEGER = jaxloss.softmax_cross_entropy_with_integer_labels
DENSE = jaxloss.softmax_cross_entropy
Z_LOSS = jaxloss.z_loss
OPTIONS = {
    "plain": {},
    "smoothed": {"label_smoothing": 0.1},
    "everything": {"label_smoothing": 0.2, "z_loss": 0.1, "logit_softcap": 3.0, "temperature": 1.5},
}


@pytest.fixture(scope="module")
def mesh():
    return jax.make_mesh((2, 4), ("data", "model"), axis_types=(AxisType.Auto,) * 2)


def numbers(seed, *shape, scale=1.0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape) * scale, jnp.float32)


LABELS = jnp.asarray([0, 39, 9, 10, 25, 3, 17, 30], jnp.int32)


def split(mesh, loss, dense=False, **options):
    """The loss of each row; rows over `data`, classes over `model`."""
    target = P("data", "model") if dense else P("data")

    @functools.partial(jax.shard_map, mesh=mesh, in_specs=(P("data", "model"), target, P("model")), out_specs=P("data"))
    def sharded(x, y, c):
        weights = {} if c is None else {"class_weights": c}
        return loss(x, y, axis_name="model", **options, **weights)

    return sharded


def whole(loss, **options):
    return lambda x, y, c: loss(x, y, **options, **({} if c is None else {"class_weights": c}))


def assert_close(got, want, rtol=2e-6):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * np.max(np.abs(b))), got, want)


def targets(loss):
    return LABELS if loss is INTEGER else jnp.abs(numbers(1, ROWS, CLASSES))


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("loss", [INTEGER, DENSE], ids=["integer", "dense"])
@pytest.mark.parametrize("weighted", [pytest.param(False, marks=pytest.mark.core), True])
def test_value_and_gradients_are_those_of_one_device(mesh, loss, name, weighted):
    x, y = numbers(0, ROWS, CLASSES, scale=3.0), targets(loss)
    c = jnp.abs(numbers(2, CLASSES)) + 0.5 if weighted else None
    options = OPTIONS[name]

    def both(f):
        moving = (0, 2) if weighted else (0,)
        total = lambda x, y, c: jnp.sum(f(x, y, c) * jnp.arange(1.0, ROWS + 1))  # noqa: E731
        return f(x, y, c), jax.grad(total, moving)(x, y, c)

    got = jax.jit(lambda: both(split(mesh, loss, loss is DENSE, **options)))()
    assert_close(got, both(whole(loss, **options)))


@pytest.mark.parametrize("loss", [INTEGER, DENSE], ids=["integer", "dense"])
def test_options_have_their_gradient(mesh, loss):
    x, y = numbers(0, ROWS, CLASSES), targets(loss)
    names = ("label_smoothing", "z_loss", "logit_softcap", "temperature")
    point = dict(zip(names, (0.2, 0.1, 3.0, 1.5), strict=True))

    def by_options(axis_name, x, y, values):
        return jnp.mean(loss(x, y, axis_name=axis_name, **values))

    @functools.partial(
        jax.shard_map,
        mesh=mesh,
        in_specs=(P(None, "model"), P(None, "model") if y.ndim > 1 else P(), P()),
        out_specs=P(),
    )
    def sharded(x, y, values):
        return by_options("model", x, y, values)

    want = jax.grad(lambda v: by_options(None, x, y, v))(point)
    assert_close(jax.jit(jax.grad(lambda v: sharded(x, y, v)))(point), want, 1e-5)


def test_confident_rows_keep_their_digits(mesh):
    x = numbers(0, ROWS, CLASSES, scale=30.0)
    y = jnp.argmax(x, -1)
    got, slope = as_users_do(jax.value_and_grad(lambda x: jnp.sum(split(mesh, INTEGER)(x, y, None))))(x)
    rows = np.asarray(x, np.float64)
    others = np.exp(rows - rows.max(-1, keepdims=True))
    np.put_along_axis(others, np.asarray(y)[:, None], 0, -1)
    rest = others.sum(-1)
    np.testing.assert_allclose(got, np.sum(np.log1p(rest)), rtol=1e-6)
    at_label = np.take_along_axis(np.asarray(slope), np.asarray(y)[:, None], -1)[:, 0]
    np.testing.assert_allclose(at_label, -rest / (1 + rest), rtol=1e-6)


def test_ties_and_infinities_across_devices(mesh):
    x = jnp.full((ROWS, CLASSES), -jnp.inf).at[:, 5].set(1.0).at[:4, 35].set(1.0)
    y = jnp.full(ROWS, 35, jnp.int32)
    got = jax.jit(lambda x: split(mesh, INTEGER)(x, y, None))(x)
    np.testing.assert_allclose(got, [np.log(2)] * 4 + [np.inf] * 4, rtol=1e-6)
    nothing = jax.jit(lambda x: split(mesh, INTEGER)(x, y, None))(jnp.full((ROWS, CLASSES), -jnp.inf))
    assert np.all(np.isnan(nothing))
    out_of_range = jnp.full(ROWS, CLASSES, jnp.int32)
    value, slope = jax.jit(jax.value_and_grad(lambda x: jnp.sum(split(mesh, INTEGER)(x, out_of_range, None))))(x)
    assert np.isnan(value) and np.all(np.isnan(slope))


@pytest.mark.parametrize("outer", [jax.jacfwd, jax.jacrev])
@pytest.mark.parametrize("inner", [jax.jacfwd, jax.jacrev])
def test_hessians(mesh, outer, inner):
    x, u, v = (numbers(i, ROWS, CLASSES) for i in range(3))

    def along(f):
        return lambda e: jnp.sum(f(x + e[0] * u + e[1] * v, LABELS, None) ** 2)

    want = jax.hessian(along(whole(INTEGER, z_loss=0.1)))(jnp.zeros(2))
    got = jax.jit(outer(inner(along(split(mesh, INTEGER, z_loss=0.1)))))(jnp.zeros(2))
    np.testing.assert_allclose(got, want, rtol=1e-4)


def test_masked_classes_make_any_number_of_them(mesh):
    """37 classes on 4 devices: what pads them is dropped by `where`."""
    x, y = numbers(0, ROWS, CLASSES), LABELS % 37

    @functools.partial(jax.shard_map, mesh=mesh, in_specs=(P("data", "model"), P("data")), out_specs=P("data"))
    def sharded(x, y):
        first = jax.lax.axis_index("model") * x.shape[-1]
        keep = jnp.broadcast_to(first + jnp.arange(x.shape[-1]) < 37, x.shape)
        return INTEGER(x, y, where=keep, label_smoothing=0.1, axis_name="model")

    padded = x.at[:, 37:].set(jnp.nan)
    want = jax.value_and_grad(lambda x: jnp.sum(INTEGER(x[:, :37], y, label_smoothing=0.1)))(x)
    assert_close(jax.jit(jax.value_and_grad(lambda x: jnp.sum(sharded(x, y))))(padded), want)


def test_z_loss(mesh):
    x = numbers(0, ROWS, CLASSES)
    f = jax.shard_map(
        lambda x: jaxloss.z_loss(x, axis_name="model"), mesh=mesh, in_specs=P("data", "model"), out_specs=P("data")
    )
    assert_close(jax.jit(f)(x), jaxloss.z_loss(x))


COLLECTIVE = re.compile(r"= (?:\()?(\w+)\[([\d,]*)\][^=]* (all-reduce|all-gather|all-to-all|collective-permute)\(")


def collectives(program):
    return [(kind, dims) for _, dims, kind in COLLECTIVE.findall(program.as_text())]


@pytest.mark.parametrize("name", ["plain", "everything"])
@pytest.mark.parametrize("how", ["shard_map", "jit", "explicit"])
@pytest.mark.parametrize("loss", [INTEGER, DENSE, Z_LOSS], ids=["integer", "dense", "z_loss"])
def test_nothing_of_the_size_of_the_logits_is_sent(mesh, how, loss, name):
    if how == "explicit":
        mesh = jax.make_mesh((2, 4), ("data", "model"), axis_types=(AxisType.Explicit,) * 2)
    f = total(mesh, loss, how, OPTIONS[name])
    place = functools.partial(NamedSharding, mesh)
    x = jax.device_put(numbers(0, ROWS, CLASSES), place(P("data", "model")))
    y = jax.device_put(targets(loss), place(P("data", "model") if loss is DENSE else P("data")))
    c = jax.device_put(jnp.abs(numbers(2, CLASSES)) + 0.5, place(P("model"))) if name == "everything" else None
    program = jax.jit(jax.value_and_grad(f)).lower(x, y, c).compile()
    found = collectives(program)
    assert found
    for kind, dims in found:
        size = np.prod([int(d) for d in dims.split(",") if d])
        assert kind == "all-reduce" and size <= 4 * ROWS, (kind, dims)
    got = program(x, y, c)
    x, y, c = (None if a is None else np.asarray(a) for a in (x, y, c))
    assert_close(got, jax.value_and_grad(total(mesh, loss, "jit", OPTIONS[name]))(x, y, c))


def total(mesh, loss, how, options):
    """The sum of the losses, inside `shard_map` or divided by XLA."""
    if loss is Z_LOSS:
        options = {k: v for k, v in options.items() if k in ("logit_softcap", "temperature")}
        loss = lambda x, y, **given: Z_LOSS(x, **{k: v for k, v in given.items() if k != "class_weights"})  # noqa: E731
    f = split(mesh, loss, loss is DENSE, **options) if how == "shard_map" else whole(loss, **options)
    return lambda x, y, c: jnp.sum(f(x, y, c))


def test_explicit_axes():
    """Where the type says that the classes are sharded; a gather of the label would raise here."""
    mesh = jax.make_mesh((2, 4), ("data", "model"), axis_types=(AxisType.Explicit,) * 2)
    with jax.set_mesh(mesh):
        x = jax.device_put(numbers(0, ROWS, CLASSES), NamedSharding(mesh, P("data", "model")))
        y = jax.device_put(LABELS, NamedSharding(mesh, P("data")))
        got = jax.jit(jax.value_and_grad(lambda x: jnp.sum(INTEGER(x, y))))(x)
    assert_close(got, jax.value_and_grad(lambda x: jnp.sum(INTEGER(x, LABELS)))(numbers(0, ROWS, CLASSES)))


def test_vmapped_axis():
    x = numbers(0, ROWS, CLASSES)
    parts = jnp.moveaxis(x.reshape(ROWS, 4, 10), 1, 0)
    f = jax.vmap(lambda x: INTEGER(x, LABELS, axis_name="model"), axis_name="model")
    assert_close(jax.jit(f)(parts)[0], INTEGER(x, LABELS))


def test_bad_input(mesh):
    x = numbers(0, ROWS, CLASSES)
    with pytest.raises(ValueError, match="axis_name='model' is no axis here; call it inside jax.shard_map"):
        INTEGER(x, LABELS, axis_name="model")
    unchecked = jax.shard_map(
        lambda x: jnp.sum(INTEGER(x, LABELS, axis_name="model")),
        mesh=mesh, in_specs=P(None, "model"), out_specs=P(), check_vma=False,
    )  # fmt: skip
    with pytest.raises(ValueError, match="check_vma=False.* would multiply gradients"):
        unchecked(x)
    two_axes = jax.shard_map(
        lambda x: jnp.sum(DENSE(x, x, axis=(0, 1), axis_name="model")),
        mesh=mesh,
        in_specs=P(None, "model"),
        out_specs=P(),
    )
    with pytest.raises(ValueError, match="splits one class axis"):
        two_axes(x)
