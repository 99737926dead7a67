"""Rules in blocks of rows: the plain call, in every transformation, without arrays of the size of the input."""

import functools
import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiled import traced_in

from jaxloss._core import blocks, reduction
from jaxloss._core.precision import upcast


@pytest.fixture
def form(monkeypatch):
    """Blocks of 8 entries, on the first of the suite's devices."""
    traced_in("blocks of 8")
    monkeypatch.setattr(blocks, "one_cpu", lambda: True)
    monkeypatch.setattr(blocks, "may_slice", lambda x: True)
    for name, value in {"_LEAST": 8, "_SMALL": 0, "_FOR_EACH_CORE": 0, "_RUN": 1}.items():
        monkeypatch.setattr(blocks, name, value)
    yield


def normal(shape, dtype=jnp.float32, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), dtype)


def rule(x, y, t, axis=-1):
    z = jnp.tanh(upcast(x) * t) * upcast(y)
    top = jnp.max(x, axis, keepdims=True)
    return jnp.sum(z, axis), {
        "top": jnp.squeeze(top, axis),
        "rest": jnp.sum(jnp.exp(upcast(x) - upcast(top)), axis),
    }


def in_blocks(x, y, t, axis=-1, copies=False):
    return blocks.per_row(functools.partial(rule, axis=axis), (x, y, t), axis, copies=copies)


def assert_same(got, want, **tolerance):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **tolerance), got, want)
    assert [a.dtype for a in jax.tree.leaves(got)] == [a.dtype for a in jax.tree.leaves(want)]


def loops(function, *args):
    return jax.jit(function).lower(*args).as_text().count("stablehlo.while")


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16], ids=lambda d: d.__name__)
def test_second_derivatives_through_a_loop(form, dtype):
    """JAX takes custom_jvp functions in a loop for their plain implementation unless they are one equation."""

    def total(f):
        def step(c, x):
            return c + jnp.sum(f(x, normal((9, 3), dtype, 1), jnp.float32(0.5))[0]), None

        xs = normal((4, 9, 3), jnp.float32)
        return lambda w: jax.lax.scan(lambda c, x: step(c, (x * w).astype(dtype)), jnp.float32(0), xs)[0]

    def along(f):
        return jax.jvp(jax.grad(total(f)), (jnp.ones((9, 3)),), (normal((9, 3), jnp.float32, 3),))[1]

    np.testing.assert_allclose(along(in_blocks), along(rule), rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16], ids=lambda d: d.__name__)
@pytest.mark.parametrize(
    "shape, axis", [((9, 3), -1), ((7, 5), 1), ((3, 17), 0), ((2, 5, 4), 1), ((5, 1, 3, 2), 2), ((40, 1), -1)]
)
def test_per_row(form, shape, axis, dtype):
    x, y, t = normal(shape, dtype), normal(shape, dtype, 1), jnp.float32(0.5)
    assert loops(in_blocks, x, y, t)
    assert_same(jax.jit(in_blocks, static_argnums=3)(x, y, t, axis), rule(x, y, t, axis), rtol=1e-6, atol=1e-6)
    wide = jnp.broadcast_to(y[:1], shape)
    assert_same(in_blocks(x, y[:1], t, axis), rule(x, wide, t, axis), rtol=1e-6, atol=1e-6)


def test_copies_of_short_rows(form, monkeypatch):
    x, y, t = normal((9, 3)), normal((9, 3), seed=1), jnp.float32(0.5)
    copied = jax.jit(functools.partial(in_blocks, copies=True))
    assert "stablehlo.case" in copied.lower(x, y, t).as_text()
    assert "stablehlo.case" not in jax.jit(in_blocks).lower(x, y, t).as_text()
    assert_same(copied(x, y, t), rule(x, y, t), rtol=1e-6, atol=1e-6)
    slope = lambda f: jax.grad(lambda x: jnp.sum(f(x, y, t)[0]))(x)  # noqa: E731
    assert_same(slope(copied), slope(rule), rtol=1e-6, atol=1e-6)
    monkeypatch.setattr(blocks, "_SHORT", 2)
    traced_in("rows that are not short")
    assert "stablehlo.case" not in jax.jit(functools.partial(in_blocks, copies=True)).lower(x, y, t).as_text()


@pytest.mark.parametrize("shape", [(5, 3, 4), (9, 7, 1)], ids=str)
def test_what_else_a_row_has_comes_behind(form, shape):
    def sums(x):
        return jnp.sum(x, 1), jnp.max(x, -1)

    x = normal(shape)
    in_loop = lambda x: blocks.per_row(sums, (x,), (1, 2))  # noqa: E731
    assert loops(in_loop, x)
    for call in (lambda f: f(x), lambda f: jax.vmap(f, 1)(jnp.stack([x, 2 * x], 1)), lambda f: jax.jacrev(f)(x)):
        assert_same(call(jax.jit(in_loop)), call(sums), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("length, line", [(96, 32), (90, 30), (97, None), (64, None), (6, None)])
def test_a_long_axis_is_folded(form, monkeypatch, length, line):
    """Where its length has a divisor that is not much less than a block."""
    monkeypatch.setattr(blocks, "_LEAST", 32)
    x, row, nothing = blocks.folded((normal((2, length, 1)), normal((2, 1, 1)), None), 1)
    wanted = (2, length, 1) if line is None else (2, length // line, line, 1)
    assert x.shape == wanted and row.ndim == x.ndim and row.size == 2 and nothing is None
    np.testing.assert_array_equal(x.ravel(), normal((2, length, 1)).ravel())


@pytest.mark.parametrize("shape", [(29,), (8,), (5, 7), (2, 40), (3, 2, 11), (40, 1)])
def test_total_takes_every_element_once(form, shape):
    x = jnp.arange(1, np.prod(shape) + 1, dtype=jnp.float32).reshape(shape)  # every sum is exact
    row = jnp.arange(shape[-1], dtype=jnp.float32)
    got = jax.jit(
        lambda x, row: blocks.total(lambda x, row: 2 * x + row, (x, row.reshape((1,) * (x.ndim - 1) + (-1,))))
    )
    assert got(x, row) == np.sum(2 * np.asarray(x) + np.asarray(row))
    keep = np.asarray(x) % 3 == 0
    assert blocks.total(lambda keep: keep.astype(jnp.int32), (jnp.asarray(keep),)) == keep.sum()
    assert jnp.isnan(blocks.total(lambda x: x, (x.at[(-1,) * x.ndim].set(jnp.nan),)))


@pytest.mark.parametrize("shape", [(7, 9), (64,)])
def test_total_of_more_than_an_int32_counts(form, monkeypatch, shape):
    """A loop numbers its blocks in int32: of more entries the axes stay, and a single one is summed as it is."""
    monkeypatch.setattr(blocks, "_COUNTED", 20)
    x = normal(shape)
    assert loops(lambda x: blocks.total(jnp.square, (x,)), x) == (0 if len(shape) == 1 else 2)
    np.testing.assert_allclose(blocks.total(jnp.square, (x,)), jnp.sum(jnp.square(x)), rtol=1e-6)


@pytest.mark.parametrize("shape", [(1, 7, 9), (64,), (3, 1)])
def test_a_mask_of_more_than_an_int32_counts(monkeypatch, shape):
    keep = normal(shape) > 0
    count = functools.partial(reduction._kept, keep, (5, *shape), jnp.float32)
    want = 5 * int(keep.sum())
    monkeypatch.setattr(reduction, "_COUNTED", 10)
    assert float(count()) == want
    rows = jnp.ones((2**16, 1), bool)
    assert float(reduction._kept(rows, (2**16, 2**16), jnp.float32)) == 2**32


def test_rows_keep_to_themselves(form):
    x, y, t = normal((9, 3)).at[4, 1].set(jnp.nan), normal((9, 3), seed=1), jnp.float32(0.5)
    assert_same(in_blocks(x, y, t), rule(x, y, t), rtol=1e-6)


def test_derivatives_are_those_of_the_plain_call(form):
    x, y, t = normal((9, 3)), normal((9, 3), seed=1), jnp.float32(0.5)

    def losses(call):
        return lambda *args: jnp.sum(call(*args)[0] ** 2)

    def derivatives(call):
        f, everything = losses(call), (0, 1, 2)
        steps = (normal((9, 3), seed=2), normal((9, 3), seed=3), jnp.float32(1.0))
        curve = lambda e: f(*(a + e * s for a, s in zip((x, y, t), steps, strict=True)))  # noqa: E731
        third = jax.jacfwd(jax.jacrev(jax.jacfwd(curve)))(jnp.float32(0))
        return jax.grad(f, everything)(x, y, t), jax.jvp(f, (x, y, t), steps), jax.grad(f, 1)(x, y, t), third

    assert_same(jax.jit(lambda: derivatives(in_blocks))(), jax.jit(lambda: derivatives(rule))(), rtol=1e-5, atol=1e-6)


def test_like_is_what_is_differentiated(form):
    double = lambda x: 2 * jnp.sum(x, -1)  # noqa: E731
    f = lambda x: jnp.sum(blocks.per_row(lambda x: jnp.sum(x, -1), (x,), -1, double))  # noqa: E731
    x = normal((9, 3))
    np.testing.assert_allclose(f(x), jnp.sum(x), rtol=1e-6)
    np.testing.assert_array_equal(jax.grad(f)(x), 2)


def test_vmap(form):
    x, y, t = normal((6, 4, 3)), normal((6, 4, 3), seed=1), jnp.linspace(0.1, 1.0, 6)
    for axes, args in (
        ((0, 0, None), (x, y, t[0])),
        ((0, None, None), (x, y[0], t[0])),
        ((0, 0, 0), (x, y, t)),
        ((None, 0, None), (x[0], y, t[0])),
        ((1, 1, None), (x, y, t[0])),
    ):
        want = jax.vmap(rule, axes)(*args)
        assert_same(jax.jit(jax.vmap(in_blocks, axes))(*args), want, rtol=1e-5, atol=1e-6)
    nested = lambda call: jax.vmap(jax.vmap(call, (0, 0, None)), (0, 0, None))(x, y, t[0])  # noqa: E731
    assert_same(nested(in_blocks), nested(rule), rtol=1e-5, atol=1e-6)
    gradients = lambda call: jax.vmap(jax.grad(lambda x, y: jnp.sum(call(x, y, t[0])[0])))(x, y)  # noqa: E731
    assert_same(gradients(in_blocks), gradients(rule), rtol=1e-5, atol=1e-6)
    totals = jax.vmap(lambda x: blocks.total(jnp.square, (x,)))(x)
    np.testing.assert_allclose(totals, jnp.sum(jnp.square(x), (1, 2)), rtol=1e-6)
    row = lambda x: blocks.per_row(lambda x: jnp.sum(x, -1), (x,), -1)  # noqa: E731
    assert loops(jax.vmap(row), normal((20, 3)))  # one row is no block, all rows are


def test_scan_and_remat(form):
    x, y, t = normal((6, 4, 3)), normal((6, 4, 3), seed=1), jnp.float32(0.5)
    loss = lambda call: lambda x, y: jnp.sum(call(x, y, t)[0])  # noqa: E731
    step = jax.value_and_grad(jax.checkpoint(loss(in_blocks)), (0, 1))
    got = jax.lax.scan(lambda c, a: (c, step(*a)), None, (x, y))[1]
    assert_same(got, jax.vmap(jax.value_and_grad(loss(rule), (0, 1)))(x, y), rtol=1e-5, atol=1e-6)


def test_in_a_mesh_it_is_the_plain_call(form):
    x = normal((16, 3))
    row = lambda x: blocks.per_row(lambda x: jnp.sum(x, -1), (x,), -1)  # noqa: E731
    mesh = jax.make_mesh((8,), ("rows",), axis_types=(jax.sharding.AxisType.Explicit,))
    spec = jax.sharding.PartitionSpec("rows")
    with jax.set_mesh(mesh):
        sharded = jax.device_put(x, jax.sharding.NamedSharding(mesh, spec))
        assert not loops(row, sharded)
        got = jax.jit(row)(sharded), jax.jit(jax.shard_map(row, in_specs=spec, out_specs=spec))(sharded)
    for result in got:
        np.testing.assert_allclose(jax.device_get(result), jnp.sum(x, -1), rtol=1e-6)


def test_several_devices_have_no_blocks():
    assert jax.device_count() > 1
    assert not loops(lambda x: blocks.total(jnp.square, (x,)), jnp.zeros((2**10, 2**10)))


# What the losses that are evaluated in blocks hold, on one device.

TEMPORARIES = """
import json, jax, jax.numpy as jnp, jaxloss

SHAPE, found = (4096, 4096), {}

def measure(name, dtype, f, args, **given):
    args = [jax.ShapeDtypeStruct(SHAPE if kind == "x" else (), dtype) for kind in args]
    compiled = jax.jit(jax.value_and_grad(f, **given)).lower(*args).compile()
    size = args[0].size * args[0].dtype.itemsize
    found[f"{name} {jnp.dtype(dtype)}"] = compiled.memory_analysis().temp_size_in_bytes / size

for dtype in (jnp.float32, jnp.bfloat16):
    for f in (
        jaxloss.softmax_kl_divergence, jaxloss.js_divergence, jaxloss.sigmoid_kl_divergence, jaxloss.gaussian_kl,
        jaxloss.kl_divergence, jaxloss.kl_divergence_with_log_targets, jaxloss.generalized_kl_divergence,
        jaxloss.sigmoid_binary_cross_entropy,
    ):
        mean = lambda x, y, f=f, **options: f(x, y, reduction="mean", **options)
        measure(f.__name__, dtype, mean, "xx")
        measure(f"{f.__name__}, both sides", dtype, mean, "xx", argnums=(0, 1))
        measure(f"{f.__name__}, mapped", dtype, lambda x, y: jnp.sum(jax.vmap(mean)(x, y)), "xx")
        if f in (jaxloss.softmax_kl_divergence, jaxloss.js_divergence):
            tempered = lambda x, y, t: mean(x, y, temperature=t)
            measure(f"{f.__name__}, temperature", dtype, tempered, "xxt", argnums=(0, 2))
    mixed = lambda x, y, beta: jaxloss.js_divergence(x, y, beta=beta, reduction="mean")
    measure("js_divergence, beta", dtype, mixed, "xxt", argnums=(0, 2))
print(json.dumps(found))
"""


@pytest.mark.long  # the short run measures these losses, but of one argument and unmapped, in test_conformance_limits
@pytest.mark.skipif(jax.__version_info__[:2] != (0, 10), reason="what XLA fuses is measured for one version")
def test_temporaries_on_one_cpu():
    environment = os.environ | {"XLA_FLAGS": "", "JAX_PLATFORMS": "cpu"}
    run = subprocess.run(
        [sys.executable, "-c", TEMPORARIES], env=environment, check=True, capture_output=True, text=True
    )
    found = json.loads(run.stdout)
    assert len(found) == 2 * (3 * 8 + 2 + 1)
    assert {name: size for name, size in found.items() if size > 0.1} == {}
