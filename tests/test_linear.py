"""Losses without the logits: every method against the formula in float64, in every mode, on one device and several."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P
from linear_formulas import assert_close, cross_entropy, truth

import jaxloss
from jaxloss._linear import plan

N, D, V = 37, 8, 130
METHODS = ("dense", "fast", "lean")
EVERYTHING = {"label_smoothing": 0.1, "z_loss": 0.1, "logit_softcap": 3.0, "temperature": 1.5}


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """130 classes in blocks of 48: three, the last of which overlaps."""
    monkeypatch.setattr(plan, "_BLOCK", 48)
    jax.clear_caches()
    yield
    jax.clear_caches()


def numbers(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


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


@pytest.mark.parametrize("options", [{}, EVERYTHING], ids=["plain", "everything"])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("method, reduction", CASES)
def test_value_and_every_gradient(method, reduction, masked, options):
    given = {"reduction": reduction, "where": KEEP if masked else None}
    point = {"hidden": HIDDEN, "kernel": KERNEL, "bias": BIAS, "class_weights": CLASS_WEIGHTS, "weights": WEIGHTS}
    point |= {k: jnp.float32(v) for k, v in options.items()}
    ct = np.linspace(0.5, 1.5, N, dtype=np.float32) if reduction == "none" else np.float32(1)
    loss = linear(method, layout="vd" if masked else "dv", **given)
    got = jax.jit(every_gradient(loss, jnp.asarray(ct)))(point)
    want = truth(lambda p: every_gradient(functools.partial(exact, **given), ct.astype(np.float64))(p), point)
    assert_close(got, want, 1e-5)

    def value(p):
        return jnp.sum(ct * loss(**p))

    plain = jax.jit(value)(point)
    assert_close(plain, want[0])


@pytest.mark.parametrize("method", METHODS)
def test_dense_labels(method):
    labels = jnp.abs(numbers(7, N, V))

    def both(f):
        return jax.value_and_grad(lambda h, w, t: f(h, w, labels=t, label_smoothing=0.1, where=KEEP), (0, 1, 2))

    got = jax.jit(both(linear(method)))(HIDDEN, KERNEL, labels)
    assert_close(got, truth(lambda *a: both(exact)(*a), HIDDEN, KERNEL, labels), 1e-5)


def along(f):
    u, v = numbers(8, N, D), numbers(9, D, V)
    return lambda e: jnp.sum(f(HIDDEN + e[0] * u, KERNEL + e[1] * v))


def on_logits(h, w):
    return jaxloss.softmax_cross_entropy_with_integer_labels(h @ w, LABELS, where=KEEP, reduction="mean", z_loss=0.1)


@pytest.mark.parametrize("outer", [jax.jacfwd, jax.jacrev])
@pytest.mark.parametrize("inner", [jax.jacfwd, jax.jacrev])
@pytest.mark.parametrize("method", METHODS)
def test_hessians(method, inner, outer):
    got = jax.jit(outer(inner(along(linear(method, where=KEEP, z_loss=0.1)))))(jnp.zeros(2))
    assert_close(got, jax.hessian(along(on_logits))(jnp.zeros(2)), 1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_second_derivatives_beside_padding(method):
    """The last block has no class of the vocabulary."""
    classes, labels = 96, LABELS % 96
    padded = KERNEL.at[:, classes:].set(7.0)
    tangents = numbers(8, N, D), numbers(9, D, V)
    loss = linear(method, labels=labels, num_classes=classes)
    got = jax.jit(lambda: jax.jvp(jax.grad(loss, (0, 1)), (HIDDEN, padded), tangents)[1])()
    inner = jax.grad(lambda h, w: cross_entropy(h, w[:, :classes], labels), (0, 1))
    want = truth(lambda h, w, *t: jax.jvp(inner, (h, w), t)[1], HIDDEN, padded, *tangents)
    assert_close(got, want, 1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_transformations(method):
    loss, tangents = linear(method, where=KEEP, z_loss=0.1), (numbers(8, N, D), numbers(9, D, V))
    stacked = jnp.stack([HIDDEN, tangents[0]])
    ways = {
        "jvp": lambda f: jax.jvp(f, (HIDDEN, KERNEL), tangents)[1],
        "vmap": lambda f: jax.vmap(jax.grad(f, (0, 1)), (0, None))(stacked, KERNEL),
        "vmap of the kernel": lambda f: jax.vmap(jax.grad(f, 1), (None, 0))(HIDDEN, jnp.stack([KERNEL, tangents[1]])),
        "remat": lambda f: jax.grad(jax.checkpoint(f), (0, 1))(HIDDEN, KERNEL),
        "scan": lambda f: jax.lax.scan(lambda c, h: (c, jax.grad(f, (0, 1))(h, KERNEL)), 0, stacked)[1],
    }
    for way in ways.values():
        got, want = jax.jit(lambda way=way: way(loss))(), jax.jit(lambda way=way: way(on_logits))()
        assert_close(got, want, 1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_half_precision_is_the_float32_answer(method):
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
    loss = linear(method, labels=labels, ignore_index=-100)
    value, (to_h, to_w) = jax.jit(jax.value_and_grad(loss, (0, 1)))(poisoned, KERNEL)
    want = jax.value_and_grad(on_logits_plain, (0, 1))(HIDDEN, KERNEL)
    assert_close((value, (to_h, to_w)), want)
    assert np.all(np.asarray(to_h)[~np.asarray(KEEP)] == 0)
    nothing = jax.value_and_grad(linear(method, where=jnp.zeros(N, bool)), (0, 1))(poisoned, KERNEL)
    assert all(np.all(np.asarray(x) == 0) for x in jax.tree.leaves(nothing))


def on_logits_plain(h, w):
    return jaxloss.softmax_cross_entropy_with_integer_labels(h @ w, LABELS, where=KEEP, reduction="mean")


@pytest.mark.parametrize("method", METHODS)
def test_labels_out_of_range(method):
    labels = LABELS.at[3].set(V).at[5].set(-1)
    losses = linear("lean" if method == "fast" else method, labels=labels, reduction="none")(HIDDEN, KERNEL)
    assert np.array_equal(np.flatnonzero(np.isnan(losses)), [3, 5])
    value, slope = jax.value_and_grad(linear(method, labels=labels))(HIDDEN, KERNEL)
    assert np.isnan(value) and np.all(np.isnan(np.asarray(slope)[[3, 5]]))


@pytest.mark.parametrize("method", METHODS)
def test_confident_tokens_keep_their_digits(method):
    h, w = 3 * HIDDEN, 3 * KERNEL
    labels = jnp.argmax(h @ w, -1)
    got = linear(method, labels=labels, reduction="sum")(h, w)
    x = np.asarray(h, np.float64) @ np.asarray(w, np.float64)
    others = np.exp(x - x.max(-1, keepdims=True))
    np.put_along_axis(others, np.asarray(labels)[:, None], 0, -1)
    want = np.log1p(others.sum(-1))
    assert want.min() < 1e-9
    np.testing.assert_allclose(got, want.sum(), rtol=1e-4)  # what float32 matrix products leave of the logits


@pytest.mark.parametrize("tokens, classes", [(1, 130), (16, 48), (17, 49), (33, 96), (0, 130)])
@pytest.mark.parametrize("method", METHODS)
def test_any_size(method, tokens, classes):
    def both(f):
        return jax.value_and_grad(lambda h, w: f(h, w, labels=LABELS[:tokens] % classes, reduction="sum"), (0, 1))

    got = both(linear(method))(HIDDEN[:tokens], KERNEL[:, :classes])
    assert_close(got, truth(lambda *a: both(exact)(*a), HIDDEN[:tokens], KERNEL[:, :classes]), 1e-5)


def test_log_probs_and_statistics():
    x = np.asarray(HIDDEN, np.float64) @ np.asarray(KERNEL, np.float64)
    logp = x - np.log(np.exp(x).sum(-1, keepdims=True))
    entropy = -np.sum(np.exp(logp) * logp, -1)
    at_label = np.take_along_axis(logp, np.asarray(LABELS)[:, None], -1)[:, 0]
    assert_close(jaxloss.linear_log_probs(HIDDEN, KERNEL, LABELS, chunk_size=16), at_label)
    found = jaxloss.linear_statistics(HIDDEN, KERNEL, LABELS, chunk_size=16)
    assert_close(tuple(found), (np.log(np.exp(x).sum(-1)), entropy, at_label))
    got = jax.grad(lambda h: jnp.sum(jaxloss.linear_statistics(h, KERNEL, chunk_size=16).entropy))(HIDDEN)
    p = np.exp(logp)
    slope = -(p * (logp + entropy[:, None])) @ np.asarray(KERNEL, np.float64).T
    assert_close(got, slope, 1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_data_and_vocabulary_parallel(method):
    """Unequal masks on every device, and a vocabulary that 4 devices do not divide."""
    mesh = jax.make_mesh((2, 4), ("data", "vocab"), axis_types=(AxisType.Auto,) * 2)
    n, options = 36, {"z_loss": 0.1, "label_smoothing": 0.1}
    padded = jnp.pad(KERNEL, ((0, 0), (0, 2)))
    chunk = None if method == "dense" else 8

    @functools.partial(
        jax.shard_map, mesh=mesh, in_specs=(P("data"), P(None, "vocab"), P("data"), P("data")), out_specs=P()
    )
    def sharded(h, w, y, keep):
        total = jaxloss.linear_cross_entropy(
            h, w, y, where=keep, reduction="sum", axis_name="vocab", num_classes=V, method=method, chunk_size=chunk,
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
        ({"labels": numbers(0, N, V - 1)}, ValueError, "labels must have the shape"),
        ({"labels": LABELS[:-1]}, ValueError, "labels of shape"),
        ({"axis_name": "vocab"}, ValueError, "axis_name='vocab' is no axis here"),
        ({"bias": BIAS[:-1]}, ValueError, "bias must have the shape"),
        ({"num_classes": V + 1}, ValueError, "num_classes must be in"),
        ({"where": jnp.ones(N)}, TypeError, "where must be boolean"),
    ],
)
def test_bad_input(given, error, message):
    args = {"hidden": HIDDEN, "kernel": KERNEL, "labels": LABELS} | given
    with pytest.raises(error, match=message):
        jaxloss.linear_cross_entropy(**args)
