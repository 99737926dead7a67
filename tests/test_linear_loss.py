"""`linear_loss` and `linear_distillation_loss` against formulas on whole logits in float64, and what they cost."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P
from linear_formulas import assert_close, blocks_of, numbers, truth

import jaxloss
from jaxloss import linear_distillation_loss, linear_loss
from jaxloss._linear import plan

N, D, E, V = 37, 8, 5, 130
CROSS_ENTROPY = jaxloss.softmax_cross_entropy_with_integer_labels


small_blocks = blocks_of(48)  # 130 classes in three blocks; chunks are of 16 of the 37 tokens


HIDDEN, KERNEL, BIAS = numbers(0, N, D), numbers(1, D, V), numbers(2, V)
TEACHER = numbers(3, N, E), numbers(4, E, V)
WEIGHTS, GOALS, SLOPE = jnp.abs(numbers(5, N)) + 0.5, numbers(6, N, 3), numbers(7, 3)
LABELS = jnp.asarray(np.random.default_rng(8).integers(0, V, N), jnp.int32)
KEEP = jnp.asarray(np.random.default_rng(9).random(N) < 0.5)
CT = np.linspace(0.5, 1.5, N, dtype=np.float32)


def own(x, labels, goals, slope):
    """A loss that uses all: classes, floating targets with an axis of their own, and what it closes over."""
    at_label = jnp.take_along_axis(x, labels[:, None], -1)[:, 0]
    return jax.nn.logsumexp(x, -1) - at_label + jnp.square(jnp.tanh(x[:, 0]) - goals @ slope)


def chunked(p, layout="dv", **given):
    loss = lambda x, labels, goals: own(x, labels, goals, p["slope"])  # noqa: E731
    kernel = p["kernel"] if layout == "dv" else p["kernel"].T
    found = linear_loss(
        loss, p["hidden"], kernel, LABELS, p["goals"], bias=p["bias"], weights=p["weights"], kernel_layout=layout,
        chunk_size=16, **given,
    )  # fmt: skip
    return jnp.sum(found * CT) if given["reduction"] == "none" else found


def whole(p, where=None, reduction="mean"):
    losses = own(p["hidden"] @ p["kernel"] + p["bias"][None], LABELS, p["goals"], p["slope"])
    weights = p["weights"] if where is None else jnp.where(where, p["weights"], 0)
    if reduction == "none":
        return jnp.sum(losses * weights * CT)
    return jnp.sum(losses * weights) / (jnp.sum(weights) if reduction == "mean" else 1)


POINT = {"hidden": HIDDEN, "kernel": KERNEL, "bias": BIAS, "weights": WEIGHTS, "goals": GOALS, "slope": SLOPE}


@pytest.mark.parametrize("masked, layout", [(False, "dv"), (True, "vd")])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_value_and_every_gradient(reduction, masked, layout):
    given = {"reduction": reduction, "where": KEEP if masked else None}
    got = jax.jit(jax.value_and_grad(functools.partial(chunked, layout=layout, **given)))(POINT)
    want = truth(jax.value_and_grad(functools.partial(whole, **given)), POINT)
    assert_close(got, want, 1e-5)
    if reduction == "mean":  # the plain call is another program
        assert_close(jax.jit(functools.partial(chunked, layout=layout, **given))(POINT), want[0])


@pytest.mark.parametrize("tokens, classes, chunk", [(1, 130, 16), (17, 49, 16), (33, 96, 33), (5, 7, 1), (0, 130, 16)])
def test_any_size(tokens, classes, chunk):
    def both(f):
        return jax.jit(jax.value_and_grad(lambda h, w: f(h, w, LABELS[:tokens] % classes), (0, 1)))

    def on_logits(h, w, y):
        return jnp.sum(jax.nn.logsumexp(h @ w, -1) - jnp.take_along_axis(h @ w, y[:, None], -1)[:, 0])

    loss = functools.partial(jaxloss.softmax_cross_entropy_with_integer_labels, reduction="none")
    got = both(lambda h, w, y: linear_loss(loss, h, w, y, reduction="sum", chunk_size=chunk))
    args = HIDDEN[:tokens], KERNEL[:, :classes]
    assert_close(got(*args), truth(both(on_logits), *args), 1e-5)


# What is dropped.


def logarithm(x, t):
    """Infinitely steep at a target of 0, NaN at a label of -100 and at NaN."""
    return jnp.where(t > 0, jax.nn.logsumexp(x, -1) * jnp.log(t), jnp.nan)


@pytest.mark.parametrize("chunk", [16, N])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_dropped_tokens_are_not_seen(reduction, chunk):
    t = jnp.abs(GOALS[:, 0])
    poisoned = jnp.where(KEEP[:, None], HIDDEN, jnp.nan), KERNEL, jnp.where(KEEP, t, -100)

    def loss(h, w, t, keep):
        found = linear_loss(logarithm, h, w, t, where=keep, reduction=reduction, chunk_size=chunk)
        return jnp.sum(found)

    def exact(h, w, t):
        losses = jnp.where(KEEP, logarithm(h @ w, t), 0)
        return jnp.sum(losses) / (jnp.sum(KEEP) if reduction == "mean" else 1)

    both = jax.jit(jax.value_and_grad(loss, (0, 1, 2)))
    value, slopes = both(*poisoned, KEEP)
    assert_close((value, slopes), truth(jax.value_and_grad(exact, (0, 1, 2)), HIDDEN, KERNEL, t), 1e-5)
    assert all(np.all(np.asarray(g)[~np.asarray(KEEP)] == 0) for g in (slopes[0], slopes[2]))
    nothing = both(*poisoned, jnp.zeros(N, bool))
    assert all(np.all(np.asarray(x) == 0) for x in jax.tree.leaves(nothing))


def test_an_infinite_loss_stays_infinite():
    """Of a token that also stands in for dropped ones."""
    infinite = lambda x, t: t * x[:, 0] ** 2  # noqa: E731
    t = jnp.ones(N).at[3].set(jnp.inf)
    keep = jnp.arange(N) % 16 == 3
    got = jax.jit(lambda h: linear_loss(infinite, h, KERNEL, t, where=keep, reduction="sum", chunk_size=16))(HIDDEN)
    assert got == jnp.inf


@pytest.mark.parametrize("where, runs", [(None, 3), (np.arange(N) >= 35, 1), (np.zeros(N, bool), 0)])
def test_chunks_of_dropped_tokens_are_not_computed(where, runs):
    """Kept tokens come first, wherever they are."""
    ran = []

    def counted(x, y):
        jax.debug.callback(lambda _: ran.append(1), x[0, 0])
        return jnp.sum(x, -1)

    loss = jax.jit(lambda h: linear_loss(counted, h, KERNEL, LABELS, where=where, chunk_size=16))
    loss(HIDDEN)
    jax.effects_barrier()
    assert len(ran) == runs


# What it costs.


def products(f, *args):
    return jax.jit(f).lower(*args).as_text().count("stablehlo.dot_general")


def test_matrix_products(monkeypatch):
    """Three for a gradient in the forward pass, none for what is frozen, and one for a plain call."""
    monkeypatch.setattr(plan, "_BLOCK", 256)

    def loss(h, w, reduction="mean"):
        return jnp.sum(linear_loss(CROSS_ENTROPY, h, w, LABELS, reduction=reduction, chunk_size=17))

    args = numbers(10, N, D), numbers(11, D, V)
    assert products(loss, *args) == 1
    assert [products(jax.grad(loss, i), *args) for i in (0, 1, (0, 1))] == [2, 2, 3]
    none = functools.partial(loss, reduction="none")
    assert [products(jax.value_and_grad(none, i), *args) for i in (0, (0, 1))] == [3, 4]

    def distilled(h, w, g, v):
        return linear_distillation_loss(h, w, g, v, chunk_size=17)

    args = *args, *TEACHER
    assert products(distilled, *args) == 2
    assert [products(jax.grad(distilled, i), *args) for i in (0, (0, 1), (0, 1, 2), (0, 1, 2, 3))] == [3, 4, 5, 6]
    assert products(jax.grad(lambda t: linear_distillation_loss(*args, temperature=t)), 2.0) == 2


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_the_logits_are_never_whole(reduction, monkeypatch):
    monkeypatch.setattr(plan, "_BLOCK", 2048)
    n, v, chunk = 1024, 4096, 32
    args = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((n, D), (D, v), (n, E), (E, v))]

    def own_loss(h, w, g, v):
        return jnp.sum(linear_loss(own_squares, h, w, reduction=reduction, chunk_size=chunk))

    def own_squares(x):
        return jnp.sum(jnp.square(x), -1)

    def distilled(h, w, g, v):
        return jnp.sum(linear_distillation_loss(h, w, g, v, reduction=reduction, chunk_size=chunk))

    for loss, arrays in ((own_loss, 4), (distilled, 10)):  # of the size of a chunk of logits
        memory = jax.jit(jax.grad(loss, (0, 1, 2, 3))).lower(*args).compile().memory_analysis()
        kernels = 4 * v * (D + E) * 2
        assert memory.temp_size_in_bytes < arrays * 4 * chunk * v + kernels + 4 * n * 64


# Losses of the caller.


def test_closures_over_traced_arrays():
    """Mapped, scanned and differentiated twice from outside of the loss."""

    def loss(scale, h):
        return linear_loss(lambda x: jnp.square(jax.nn.logsumexp(scale * x, -1)), h, KERNEL, chunk_size=16)

    def exact(scale, h):
        return jnp.mean(jnp.square(jax.nn.logsumexp(scale * (h @ KERNEL), -1)))

    scales, stacked = jnp.array([0.5, 1.5]), jnp.stack([HIDDEN, numbers(12, N, D)])
    ways = {
        "vmap": lambda f: jax.vmap(jax.grad(f), (0, None))(scales, HIDDEN),
        "scan": lambda f: jax.lax.scan(lambda c, a: (c, jax.grad(f)(*a)), 0, (scales, stacked))[1],
        "jvp of grad": lambda f: jax.jvp(lambda s: jax.grad(f)(s, HIDDEN), (scales[0],), (scales[1],)),
        "remat": lambda f: jax.grad(jax.checkpoint(f))(scales[0], HIDDEN),
    }
    for name, way in ways.items():
        assert_close(jax.jit(lambda way=way: way(loss))(), jax.jit(lambda way=way: way(exact))(), 2e-5), name


def test_labels_are_checked_by_request():
    from jax.experimental import checkify

    loss = jax.jit(lambda y: linear_loss(CROSS_ENTROPY, HIDDEN, KERNEL, y, chunk_size=16))
    assert np.isnan(loss(LABELS.at[3].set(V)))  # with no request it is NaN
    error, _ = checkify.checkify(loss, errors=checkify.user_checks)(LABELS)
    assert error.get() is None


@pytest.mark.parametrize(
    "loss, error, message",
    [
        (lambda x: jnp.mean(x), ValueError, r"one loss for each of the 16 tokens.*\(16,\), got \(\)"),
        (lambda x: x, ValueError, r"got \(16, 130\)"),
        (lambda x: (x[:, 0], x[:, 1]), ValueError, r"got \(16,\), \(16,\)"),
        (lambda x: jnp.argmax(x, -1), TypeError, "floating-point losses, got int32"),
        (lambda x: jnp.sum(x, -1) + jnp.ones(16), ValueError, "16 tokens but not 17.*as one of the targets"),
        (functools.partial(jaxloss.entropy, reduction="mean"), ValueError, r'\(reduction="none"\)'),
    ],
)
def test_losses_that_are_not_of_single_tokens(loss, error, message):
    with pytest.raises(error, match=message):
        linear_loss(loss, HIDDEN, KERNEL, chunk_size=16)


@pytest.mark.parametrize("n", [1, N])
def test_a_whole_closure_is_refused(n):
    """One chunk of all tokens, in which an array of all tokens would fit but for their order."""
    per_token = WEIGHTS[:N]
    with pytest.raises((TypeError, ValueError)):
        linear_loss(lambda x: jnp.sum(x, -1) * per_token, HIDDEN, KERNEL, where=KEEP, chunk_size=n)


@pytest.mark.parametrize(
    "given, error, message",
    [
        ({"kernel": KERNEL.T}, ValueError, 'is it kernel_layout="vd"'),
        ({"labels": LABELS[:-1]}, ValueError, r"targets\[0\] must have the shape \(37,\) of the tokens in front"),
        ({"labels": "labels"}, TypeError, r"targets\[0\] must be an array"),
        ({"reduction": "total"}, ValueError, "reduction must be one of"),
        ({"where": WEIGHTS}, TypeError, "where must be boolean"),
        ({"where": KEEP[:3]}, ValueError, "where of shape"),
        ({"weights": WEIGHTS[:3]}, ValueError, "weights of shape"),
        ({"memory_budget": 100}, ValueError, "memory_budget=100 does not hold one row of logits; give at least 1040"),
        ({"chunk_size": 2.0}, TypeError, "chunk_size must be an int"),
    ],
)
def test_bad_input(given, error, message):
    args = {"hidden": HIDDEN, "kernel": KERNEL, "labels": LABELS} | given
    with pytest.raises(error, match="linear_loss: .*" + message):
        linear_loss(CROSS_ENTROPY, args.pop("hidden"), args.pop("kernel"), args.pop("labels"), **args)


@pytest.mark.parametrize("args, got", [(("ce", HIDDEN, KERNEL), "'ce'"), ((HIDDEN, CROSS_ENTROPY, KERNEL), "an array")])
def test_the_loss_comes_first(args, got):
    with pytest.raises(TypeError, match=f"linear_loss: loss_fn must be a function and comes first, got {got}"):
        linear_loss(*args, LABELS)


# Half precision.


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_half_precision(reduction):
    """Bits are lost where slopes are rounded for the products; sums over tokens and the loss are in float32."""
    half = {k: POINT[k].astype(jnp.bfloat16) for k in ("hidden", "kernel", "bias", "goals")}
    point = POINT | half
    value, slopes = jax.jit(jax.value_and_grad(functools.partial(chunked_upcast, reduction=reduction)))(point)
    wide = {k: v.astype(jnp.float32) for k, v in point.items()}
    want, exact = truth(jax.value_and_grad(functools.partial(whole, reduction=reduction)), wide)
    np.testing.assert_allclose(value, want, rtol=1e-6)
    for name, slope in slopes.items():
        assert slope.dtype == point[name].dtype
        error = np.linalg.norm(np.asarray(slope, np.float64) - exact[name]) / np.linalg.norm(exact[name])
        assert error < (3e-3 if name in half else 2e-5), name


def chunked_upcast(p, **given):
    loss = lambda x, labels, goals: own(x, labels, goals.astype(x.dtype), p["slope"])  # noqa: E731
    found = linear_loss(
        loss, p["hidden"], p["kernel"], LABELS, p["goals"], bias=p["bias"], weights=p["weights"], chunk_size=16, **given
    )
    return jnp.sum(found * CT) if given["reduction"] == "none" else found


def test_the_scale_of_a_loss_lifts_float16():
    """The share of one token in a mean is below what float16 holds, until it is scaled."""
    h, w = HIDDEN.astype(jnp.float16), KERNEL.astype(jnp.float16)
    few = jnp.full(N, 1e-6)  # as if the batch were a million tokens

    def scaled(h, w, scale):
        return scale * linear_loss(CROSS_ENTROPY, h, w, LABELS, weights=few, reduction="sum", chunk_size=16)

    slopes = jax.jit(jax.grad(scaled, (0, 1)))(h, w, jnp.float32(2.0**15))
    exact = jax.grad(lambda h, w: jnp.sum(few * plain(h @ w)), (0, 1))
    for got, want in zip(slopes, truth(exact, h.astype(jnp.float32), w.astype(jnp.float32)), strict=True):
        want = want * 2.0**15
        assert np.linalg.norm(np.asarray(got, np.float64) - want) < 2e-3 * np.linalg.norm(want)


def plain(x):
    return jax.nn.logsumexp(x, -1) - jnp.take_along_axis(x, LABELS[:, None], -1)[:, 0]


# Devices.


def mesh_of(kind=AxisType.Auto):
    return jax.make_mesh((2, 4), ("data", "vocab"), axis_types=(kind,) * 2)


def test_inside_shard_map():
    """Tokens and vocabulary split: unequal masks, a replicated closure, and a loss that adds up over devices."""
    n, v = 36, 128
    args = HIDDEN[:n], KERNEL[:, :v], SLOPE[0]

    def loss(x, y, scale, axis_name=None):
        return CROSS_ENTROPY(x, y, axis_name=axis_name) * scale

    @functools.partial(
        jax.shard_map, mesh=mesh_of(), in_specs=(P("data"), P(None, "vocab"), P(), P("data"), P("data")), out_specs=P()
    )
    def parallel(h, w, scale, y, keep):
        of_token = lambda x, y: loss(x, y, scale, "vocab")  # noqa: E731
        total = linear_loss(of_token, h, w, y, where=keep, reduction="sum", chunk_size=8)
        total = total * (1.0 + jax.lax.axis_index("data").astype(total.dtype))  # another cotangent on each device
        return jax.lax.psum(total, "data") / jax.lax.psum(jnp.sum(keep.astype(total.dtype)), "data")

    y, keep = LABELS[:n] % v, KEEP[:n] & (np.arange(n) < 20)

    def exact(h, w, scale):
        x = h @ w
        losses = scale * (jax.nn.logsumexp(x, -1) - jnp.take_along_axis(x, y[:, None], -1)[:, 0])
        return jnp.sum(jnp.where(keep, losses, 0) * np.repeat([1.0, 2.0], n // 2)) / jnp.sum(keep)

    got = jax.jit(jax.value_and_grad(parallel, (0, 1, 2)))(*args, y, keep)
    assert_close(got, truth(jax.value_and_grad(exact, (0, 1, 2)), *args), 1e-5)


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=["auto", "explicit"])
def test_xla_divides_one_chunk_but_no_loop(kind):
    mesh, n = mesh_of(kind), 36
    y = np.asarray(LABELS[:n] % 128)
    with jax.set_mesh(mesh):
        h = jax.device_put(HIDDEN[:n], jax.NamedSharding(mesh, P("data")))
        w = jax.device_put(KERNEL[:, :128], jax.NamedSharding(mesh, P()))

        def loss(h, w, chunk=None):
            y_ = jax.sharding.reshard(jnp.asarray(y), P("data")) if kind == AxisType.Explicit else y
            return linear_loss(CROSS_ENTROPY, h, w, y_, chunk_size=chunk)

        got = jax.jit(jax.value_and_grad(loss, (0, 1)))(h, w)
        with pytest.raises(ValueError, match="linear_loss: chunks under jit over several devices"):
            jax.jit(functools.partial(loss, chunk=16))(h, w)

    def exact(h, w):
        return jnp.mean(jax.nn.logsumexp(h @ w, -1) - jnp.take_along_axis(h @ w, y[:, None], -1)[:, 0])

    assert_close(got, truth(jax.value_and_grad(exact, (0, 1)), HIDDEN[:n], KERNEL[:, :128]), 1e-5)


# Distillation.


def distilled(h, w, g, v, bias, beta, temperature, divergence="forward_kl", keep=None):
    """From the definitions."""
    x, y = (h @ w + bias[None]) / temperature, g @ v / temperature
    log_p, log_q = jax.nn.log_softmax(x), jax.nn.log_softmax(y)
    p, q = jnp.exp(log_p), jnp.exp(log_q)
    if divergence == "js":
        log_m = jnp.log(beta * q + (1 - beta) * p)
        losses = beta * jnp.sum(q * (log_q - log_m), -1) + (1 - beta) * jnp.sum(p * (log_p - log_m), -1)
    else:
        losses = jnp.sum(q * (log_q - log_p), -1) if divergence == "forward_kl" else jnp.sum(p * (log_p - log_q), -1)
    losses = losses * temperature**2
    return jnp.mean(losses) if keep is None else jnp.sum(jnp.where(keep, losses, 0)) / jnp.sum(keep)


@pytest.mark.parametrize("divergence, masked", [("forward_kl", True), ("reverse_kl", False), ("js", True)])
def test_distillation(divergence, masked):
    point = HIDDEN, KERNEL, *TEACHER, BIAS, jnp.float32(0.3), jnp.float32(1.5)
    moving = (0, 1, 2, 3, 4, 6) if divergence != "js" else tuple(range(7))
    keep = KEEP if masked else None

    def ours(h, w, g, v, bias, beta, temperature):
        layout = "vd" if masked else "dv"
        w, v = (w.T, v.T) if masked else (w, v)
        given = {"beta": beta} if divergence == "js" else {}
        return linear_distillation_loss(
            h, w, g, v, bias=bias, kernel_layout=layout, divergence=divergence, temperature=temperature, where=keep,
            scale_by_temperature_squared=True, chunk_size=16, **given,
        )  # fmt: skip

    got = jax.jit(jax.value_and_grad(ours, moving))(*point)
    exact = functools.partial(distilled, divergence=divergence, keep=keep)
    assert_close(got, truth(jax.value_and_grad(exact, moving), *point), 1e-5)


def test_padded_vocabularies():
    """Each kernel as much as it likes; padding has no part in either distribution."""
    w, v = (jnp.pad(k, ((0, 0), (0, n)), constant_values=7.0) for k, n in ((KERNEL, 2), (TEACHER[1], 30)))
    loss = functools.partial(linear_distillation_loss, num_classes=V, chunk_size=16)
    got = jax.jit(jax.value_and_grad(lambda h, w, v: loss(h, w, TEACHER[0], v), (0, 1, 2)))(HIDDEN, w, v)
    exact = lambda h, w, v: distilled(h, w[:, :V], TEACHER[0], v[:, :V], jnp.zeros(V, h.dtype), 0.5, 1.0)  # noqa: E731
    assert_close(got, truth(jax.value_and_grad(exact, (0, 1, 2)), HIDDEN, w, v), 1e-5)
    assert np.all(np.asarray(got[1][1])[:, V:] == 0) and np.all(np.asarray(got[1][2])[:, V:] == 0)


def test_a_teacher_in_half_precision():
    g, v = (x.astype(jnp.bfloat16) for x in TEACHER)
    value, slope = jax.jit(jax.value_and_grad(lambda h: linear_distillation_loss(h, KERNEL, g, v, chunk_size=16)))(
        HIDDEN
    )
    wide = [x.astype(jnp.float32) for x in (g, v)]
    exact = lambda h, w, g, v: distilled(h, w, g, v, jnp.zeros(V, h.dtype), 0.5, 1.0)  # noqa: E731
    assert_close((value, slope), truth(jax.value_and_grad(exact), HIDDEN, KERNEL, *wide), 1e-5)


def test_classes_that_both_rule_out():
    bias = jnp.where(jnp.arange(V) % 7 == 0, -jnp.inf, 0.0)
    for divergence in ("forward_kl", "reverse_kl", "js"):
        loss = functools.partial(
            linear_distillation_loss, bias=bias, teacher_bias=bias, divergence=divergence, chunk_size=16
        )
        got = jax.jit(jax.value_and_grad(loss, (0, 1, 2, 3)))(HIDDEN, KERNEL, *TEACHER)
        assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(got)), divergence
        kept = bias == 0
        exact = lambda h, w, g, v: distilled(  # noqa: E731
            h, w[:, kept], g, v[:, kept], jnp.zeros(int(kept.sum()), h.dtype), 0.5, 1.0, divergence  # noqa: B023
        )  # fmt: skip
        assert_close(got[0], truth(exact, HIDDEN, KERNEL, *TEACHER))


@pytest.mark.parametrize(
    "given, error, message",
    [
        ({"teacher_hidden": TEACHER[0][:-1]}, ValueError, r"teacher_hidden must have the tokens \(37,\) of hidden"),
        ({"teacher_kernel": TEACHER[1].T}, ValueError, "is it teacher_kernel_layout|teacher_kernel \\[D, V\\]"),
        ({"teacher_kernel": TEACHER[1][:, 1:]}, ValueError, "the same classes, got 130 and 129; .* give num_classes"),
        ({"teacher_kernel": TEACHER[1].astype(jnp.bfloat16)}, TypeError, "teacher_hidden and teacher_kernel must have"),
        ({"teacher_bias": BIAS[1:]}, ValueError, "teacher_bias must have the shape"),
        ({"num_classes": V + 1}, ValueError, "num_classes must be in"),
        ({"divergence": "kl"}, ValueError, "divergence must be one of 'forward_kl', 'reverse_kl', 'js', got 'kl'"),
        ({"beta": 0.3}, ValueError, 'beta and normalized are for divergence="js"'),
        ({"normalized": True}, ValueError, 'beta and normalized are for divergence="js"'),
        ({"divergence": "js", "beta": 1.5}, ValueError, "beta must be in"),
        ({"temperature": 0.0}, ValueError, "temperature must be in"),
        ({"temperature": WEIGHTS}, ValueError, "temperature must be a single number"),
    ],
)
def test_bad_input_of_distillation(given, error, message):
    args = {"hidden": HIDDEN, "kernel": KERNEL, "teacher_hidden": TEACHER[0], "teacher_kernel": TEACHER[1]} | given
    with pytest.raises(error, match="linear_distillation_loss: .*(" + message + ")"):
        linear_distillation_loss(**args)
