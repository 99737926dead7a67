"""Losses without the logits: every method against the formula in float64, on one device and several.

What they promise like all losses, in every mode and transformation, is in `test_linear_conformance.py`.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiled import as_users_do, traced_in
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P
from linear_formulas import assert_close, blocks_of, cross_entropy, numbers, truth

import jaxloss
from jaxloss._linear import plan, tiles

N, D, V = 37, 8, 130
METHODS = ("dense", "fast", "lean")
EVERYTHING = {"label_smoothing": 0.1, "z_loss": 0.1, "logit_softcap": 3.0, "temperature": 1.5}


small_blocks = blocks_of(48)  # 130 classes in three blocks


HIDDEN, KERNEL, BIAS = numbers(0, N, D), numbers(1, D, V), numbers(2, V)
CLASS_WEIGHTS = jnp.abs(numbers(3, V)) + 0.5
WEIGHTS = jnp.abs(numbers(4, N)) + 0.5
LABELS = jnp.asarray(np.random.default_rng(5).integers(0, V, N), jnp.int32)
KEEP = jnp.asarray(np.random.default_rng(6).random(N) < 0.5)
exact = functools.partial(cross_entropy, labels=LABELS)


def linear(method, layout="dv", **options):
    chunk = None if method == "dense" else 16

    def loss(hidden, kernel, **given):
        kernel = kernel if layout == "dv" else kernel.T
        options_ = {**options, **given}
        labels = options_.pop("labels", LABELS)
        return jaxloss.linear_cross_entropy(
            hidden, kernel, labels, kernel_layout=layout, method=method, chunk_size=chunk, **options_
        )

    return loss


def every_gradient(loss, ct):
    def total(point):
        given = dict(point)
        return jnp.sum(ct * loss(given.pop("hidden"), given.pop("kernel"), **given))

    return jax.value_and_grad(total)


CASES = [("dense", "mean"), ("fast", "mean"), ("fast", "sum"), ("lean", "mean"), ("lean", "none"), ("dense", "none")]


@pytest.mark.parametrize("options", [{}, EVERYTHING], ids=["plain", "everything masked and tied"])
@pytest.mark.parametrize("method, reduction", CASES)
def test_value_and_every_gradient(method, reduction, options):
    masked = bool(options)
    given = {"reduction": reduction, "where": KEEP if masked else None}
    point = {"hidden": HIDDEN, "kernel": KERNEL, "bias": BIAS, "class_weights": CLASS_WEIGHTS, "weights": WEIGHTS}
    point |= {k: jnp.float32(v) for k, v in options.items()}
    ct = np.linspace(0.5, 1.5, N, dtype=np.float32) if reduction == "none" else np.float32(1)
    loss = linear(method, layout="vd" if masked else "dv", **given)
    got = jax.jit(every_gradient(loss, jnp.asarray(ct)))(point)
    want = truth(lambda p: every_gradient(functools.partial(exact, **given), ct.astype(np.float64))(p), point)
    assert_close(got, want, 1e-5)
    if masked or method == "fast":  # then the plain call is another program
        assert_close(jax.jit(lambda p: jnp.sum(ct * loss(**p)))(point), want[0])


@pytest.mark.parametrize("method", METHODS)
def test_vmap_of_the_kernel(method):
    """Conformance maps all operands or none."""
    kernels = jnp.stack([KERNEL, numbers(9, D, V)])
    got = jax.jit(jax.vmap(jax.value_and_grad(linear(method, where=KEEP), (0, 1)), (None, 0)))(HIDDEN, kernels)
    want = [truth(jax.value_and_grad(functools.partial(exact, where=KEEP), (0, 1)), HIDDEN, w) for w in kernels]
    assert_close(got, jax.tree.map(lambda *x: np.stack(x), *want), 1e-5)


@pytest.fixture(params=[True, False], ids=["products in float32", "in half precision"])
def form(request, monkeypatch):
    """One without instructions for half precision, and one with them."""
    monkeypatch.setattr(tiles, "products_in_float32", lambda: request.param)
    traced_in(("products", request.param))
    yield


@pytest.mark.parametrize("method", METHODS)
def test_half_precision_is_the_float32_answer(method, form):
    h, w = HIDDEN.astype(jnp.bfloat16), KERNEL.astype(jnp.bfloat16)
    value, (to_h, to_w) = jax.jit(jax.value_and_grad(linear(method), (0, 1)))(h, w)
    want, slopes = truth(
        lambda h, w: jax.value_and_grad(exact, (0, 1))(h, w), h.astype(jnp.float32), w.astype(jnp.float32)
    )
    assert value.dtype == jnp.float32 and to_h.dtype == to_w.dtype == jnp.bfloat16
    np.testing.assert_allclose(value, want, rtol=1e-6)
    for got, slope in zip((to_h, to_w), slopes, strict=True):
        error = np.linalg.norm(np.asarray(got, np.float64) - slope) / np.linalg.norm(slope)
        assert error < 3e-3, error


@pytest.mark.parametrize("method", METHODS)
def test_dropped_tokens_add_nothing(method):
    poisoned = jnp.where(KEEP[:, None], HIDDEN, jnp.nan)
    labels = jnp.where(KEEP, LABELS, -100)

    def loss(h, w, labels):
        return linear(method, labels=labels, ignore_index=-100)(h, w)

    both = jax.jit(jax.value_and_grad(loss, (0, 1)))
    value, (to_h, to_w) = both(poisoned, KERNEL, labels)
    assert_close(
        (value, (to_h, to_w)), truth(jax.value_and_grad(functools.partial(exact, where=KEEP), (0, 1)), HIDDEN, KERNEL)
    )
    assert np.all(np.asarray(to_h)[~np.asarray(KEEP)] == 0)
    nothing = both(poisoned, KERNEL, jnp.full(N, -100))
    assert all(np.all(np.asarray(x) == 0) for x in jax.tree.leaves(nothing))


@pytest.mark.parametrize("method", METHODS)
def test_labels_out_of_range(method):
    """-100 is like any other, unless it is to be ignored."""
    labels = LABELS.at[3].set(V).at[5].set(-1).at[7].set(-100)
    value, slope = jax.jit(jax.value_and_grad(linear(method, labels=labels)))(HIDDEN, KERNEL)
    assert np.isnan(value) and np.array_equal(np.flatnonzero(np.any(np.isnan(slope), -1)), [3, 5, 7])
    if method != "fast":
        losses = linear(method, labels=labels, reduction="none")(HIDDEN, KERNEL)
        assert np.array_equal(np.flatnonzero(np.isnan(losses)), [3, 5, 7])


@pytest.mark.parametrize("method", METHODS)
def test_confident_tokens_keep_their_digits(method):
    h, w = 3 * HIDDEN, 3 * KERNEL
    labels = jnp.argmax(h @ w, -1)
    got = as_users_do(linear(method, labels=labels, reduction="sum"))(h, w)
    x = np.asarray(h, np.float64) @ np.asarray(w, np.float64)
    others = np.exp(x - x.max(-1, keepdims=True))
    np.put_along_axis(others, np.asarray(labels)[:, None], 0, -1)
    want = np.log1p(others.sum(-1))
    assert want.min() < 1e-9
    np.testing.assert_allclose(got, want.sum(), rtol=1e-4)  # what float32 matrix products leave of the logits


SIZES = [(1, 130), (16, 48), (17, 49), (33, 96), (0, 130)]  # one block exactly, and with one class more


@pytest.mark.parametrize(
    "method, tokens, classes",
    [*((m, *s) for m in ("fast", "lean") for s in SIZES), ("dense", 1, 130), ("dense", 0, 130)],
)
def test_any_size(method, tokens, classes):
    def both(f):
        return jax.value_and_grad(lambda h, w: f(h, w, labels=LABELS[:tokens] % classes, reduction="sum"), (0, 1))

    got = jax.jit(both(linear(method)))(HIDDEN[:tokens], KERNEL[:, :classes])
    assert_close(got, truth(lambda *a: both(exact)(*a), HIDDEN[:tokens], KERNEL[:, :classes]), 1e-5)


@pytest.mark.parametrize("method", ["fast", "lean"])
def test_large_vocabulary_in_half_precision(method, monkeypatch):
    """What is carried over 64 blocks and 8 chunks in bfloat16 is off by 7% at such a vocabulary, and a loss by 3%."""
    monkeypatch.setattr(plan, "_BLOCK", 2048)
    n, d, v = 64, 16, 131072
    h, w, y = (
        numbers(0, n, d).astype(jnp.bfloat16),
        numbers(1, d, v).astype(jnp.bfloat16),
        LABELS[np.arange(n) % N] * 1000,
    )

    def loss(h, w):
        return jaxloss.linear_cross_entropy(h, w, y, method=method, chunk_size=8)

    value, slopes = jax.jit(jax.value_and_grad(loss, (0, 1)))(h, w)
    h, w = (np.asarray(x, np.float64) for x in (h, w))
    p = np.exp(h @ w)
    z = p.sum(-1, keepdims=True)
    np.testing.assert_allclose(value, np.mean(np.log(z[:, 0]) - np.sum(h * w[:, y].T, -1)), rtol=1e-6)
    p /= n * z
    p[np.arange(n), y] -= 1 / n
    for got, want in zip(slopes, (p @ w.T, h.T @ p), strict=True):
        assert np.linalg.norm(np.asarray(got, np.float64) - want) < 2e-3 * np.linalg.norm(want)


def test_log_probs_and_statistics():
    x = np.asarray(HIDDEN, np.float64) @ np.asarray(KERNEL, np.float64)
    logp = x - np.log(np.exp(x).sum(-1, keepdims=True))
    entropy = -np.sum(np.exp(logp) * logp, -1)
    at_label = np.take_along_axis(logp, np.asarray(LABELS)[:, None], -1)[:, 0]
    assert_close(jaxloss.linear_log_probs(HIDDEN, KERNEL, LABELS, chunk_size=16), at_label)
    found = jaxloss.linear_statistics(HIDDEN, KERNEL, LABELS, chunk_size=16)
    got = found.log_normalizer, found.entropy, found.log_probs, found.accuracy
    assert_close(got, (np.log(np.exp(x).sum(-1)), entropy, at_label, x.argmax(-1) == np.asarray(LABELS)))
    got = jax.grad(lambda h: jnp.sum(jaxloss.linear_statistics(h, KERNEL, chunk_size=16).entropy))(HIDDEN)
    p = np.exp(logp)
    slope = -(p * (logp + entropy[:, None])) @ np.asarray(KERNEL, np.float64).T
    assert_close(got, slope, 1e-5)


@pytest.mark.parametrize("method", ["dense", "lean"])
def test_argmax_and_accuracy(method):
    """Equal classes in one block, in two, and among the padding; tokens that are NaN or dropped have no best class."""
    hidden, kernel = jnp.round(2 * HIDDEN), jnp.round(2 * KERNEL)  # of integers the logits are exact
    kernel = kernel.at[:, [3, 5, 129]].set(kernel[:, [80]])
    hidden = hidden.at[2].set(jnp.nan)
    given = {"method": method, **({} if method == "dense" else {"chunk_size": 16})}
    x = np.asarray(hidden @ kernel)
    keep = np.arange(N) != 4

    @functools.partial(jax.jit, static_argnames="num_classes")
    def found(labels, num_classes=None):
        return jaxloss.linear_statistics(hidden, kernel, labels, where=keep, num_classes=num_classes, **given)

    for classes in (None, 100, 2):
        best = np.where(keep & ~np.isnan(x[:, 0]), x[:, :classes].argmax(-1), -1)
        labels = np.where(np.arange(N) % 3, best, 1).astype(np.int32)  # -1 among them
        got = found(labels, classes)
        assert got.argmax.dtype == jnp.int32 and np.array_equal(got.argmax, best)
        assert np.array_equal(got.accuracy, (best >= 0) & (best == labels))
    assert np.sum(x.argmax(-1) == 3) > 1  # the first of equal ones
    uint8 = found(np.abs(labels).astype(np.uint8))
    assert uint8.accuracy.dtype == jnp.float32 and np.all(np.isfinite(uint8.accuracy))
    slope = jax.jit(jax.grad(lambda h: jnp.sum(jaxloss.linear_statistics(h, kernel, LABELS, **given).accuracy)))(hidden)
    assert np.all(np.asarray(slope) == 0)


def test_a_chunk_is_as_large_as_asked():
    shape = plan.Shape(10000, 8, V, 4)
    for method, reduced in (("fast", True), ("lean", False)):
        assert plan.choose("loss", shape, reduced, method, 2000, None)[1].tokens == 2000


@pytest.mark.parametrize(
    "tokens, width, classes, budget, expected",
    [
        (2048, 512, 32768, None, 512),  # 64 MiB of logits
        (1024, 256, 131072, None, 342),  # as many as three chunks allow, in twice the kernel's float32 bytes
        (4096, 64, 131072, None, 128),  # as many as there is room for
        (4096, 64, 131072, 32 * 2**20, 64),  # as given
        (600, 512, 32768, None, 208),
    ],
)
def test_the_chunks_of_fast(tokens, width, classes, budget, expected):
    for itemsize in (2, 4):
        shape = plan.Shape(tokens, width, classes, itemsize)
        assert plan.choose("loss", shape, True, "fast", None, budget)[1].tokens == expected


@pytest.mark.parametrize("method", ["fast", "lean"])
def test_data_and_vocabulary_parallel(method):
    """Unequal masks on every device, and a vocabulary that 4 devices do not divide."""
    mesh = jax.make_mesh((2, 4), ("data", "vocab"), axis_types=(AxisType.Auto,) * 2)
    n, options = 36, {"z_loss": 0.1, "label_smoothing": 0.1}
    padded = jnp.pad(KERNEL, ((0, 0), (0, 2)))

    @functools.partial(
        jax.shard_map, mesh=mesh, in_specs=(P("data"), P(None, "vocab"), P("data"), P("data")), out_specs=P()
    )
    def sharded(h, w, y, keep):
        total = jaxloss.linear_cross_entropy(
            h, w, y, where=keep, reduction="sum", axis_name="vocab", num_classes=V, method=method, chunk_size=8,
            **options,
        )  # fmt: skip
        kept = jax.lax.psum(jnp.sum(keep, dtype=jnp.int32), "data")
        return jax.lax.psum(total, "data") / kept.astype(total.dtype)

    got = jax.jit(jax.value_and_grad(sharded, (0, 1)))(HIDDEN[:n], padded, LABELS[:n], KEEP[:n])
    want = jax.value_and_grad(
        lambda h, w: exact(h, w[:, :V], labels=LABELS[:n], where=KEEP[:n], **options), (0, 1)
    )(HIDDEN[:n], padded)  # fmt: skip
    assert_close(got, want, 1e-5)


def test_second_derivatives_through_a_loop():
    """JAX takes custom_jvp functions in a loop for their plain implementation unless they are one equation."""

    def total(loss):
        def step(c, h):
            return c + jnp.sum(loss(h[None] @ KERNEL, LABELS[:1])), None

        return lambda w: jax.lax.scan(lambda c, h: step(c, h * w), 0.0, HIDDEN[:4])[0]

    def plain(x, y):
        return jax.nn.logsumexp(x, -1) - jnp.take_along_axis(x, y[:, None], -1)[:, 0]

    w, d = jnp.ones(D), numbers(11, D)
    got, want = (
        jax.jvp(jax.grad(total(f)), (w,), (d,))[1] for f in (jaxloss.softmax_cross_entropy_with_integer_labels, plain)
    )
    assert_close(got, want, 1e-5)


@pytest.mark.parametrize(
    "given, error, message",
    [
        ({"kernel": KERNEL.T}, ValueError, 'is it kernel_layout="vd"'),
        ({"kernel": KERNEL.astype(jnp.bfloat16)}, TypeError, "must have one dtype, got float32 and bfloat16"),
        ({"method": "quick"}, ValueError, "method must be one of 'auto', 'dense', 'fast', 'lean', got 'quick'"),
        ({"method": "fast", "reduction": "none"}, ValueError, 'with reduction="none" use "lean"'),
        ({"chunk_size": 0}, ValueError, "chunk_size must be positive, got 0"),
        ({"memory_budget": 100, "method": "lean"}, ValueError, "memory_budget=100 does not hold one row"),
        ({"labels": numbers(0, N, V - 1)}, ValueError, "labels must be integer, or weights of all classes"),
        ({"labels": LABELS[:-1]}, ValueError, "labels of shape"),
        ({"axis_name": "vocab"}, ValueError, "axis_name='vocab' is no axis here"),
        ({"bias": BIAS[:-1]}, ValueError, "bias must have the shape"),
        ({"num_classes": V + 1}, ValueError, "num_classes must be in"),
        ({"num_classes": 3.5}, TypeError, "linear_cross_entropy: num_classes must be an int .*, got 3.5"),
        ({"num_classes": True}, TypeError, "num_classes must be an int .*, got True"),
        ({"num_classes": "7"}, TypeError, "num_classes must be an int .*, got '7'"),
        ({"num_classes": jnp.array(7)}, TypeError, "num_classes must be an int .*, got an array"),
        ({"where": jnp.ones(N)}, TypeError, "where must be boolean"),
    ],
)
def test_bad_input(given, error, message):
    args = {"hidden": HIDDEN, "kernel": KERNEL, "labels": LABELS} | given
    with pytest.raises(error, match=message):
        jaxloss.linear_cross_entropy(**args)


def test_sizes_are_integers_of_numpy_too():
    sizes = {"num_classes": V - 1, "chunk_size": 16, "memory_budget": 2**16}
    loss = functools.partial(jaxloss.linear_cross_entropy, HIDDEN, KERNEL, LABELS % (V - 1), method="fast")
    np.testing.assert_array_equal(loss(**{k: np.int64(n) for k, n in sizes.items()}), loss(**sizes))
