"""Labels of every dtype, and options of the class losses at their ends."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import checkify

import jaxloss

INF = np.inf
OF_LABELS = ["softmax_cross_entropy_with_integer_labels", "softmax_focal_loss", "nll_loss", "entmax_loss"]
OF_LABELS += ["bi_tempered_logistic_loss", "multiclass_hinge_loss", "multiclass_sparsemax_loss", "multi_margin_loss"]
RULED_OUT = jnp.array([[1.0, 2.0, -INF], [0.5, 0.0, 0.25]])


@pytest.mark.parametrize(
    "name, dtype", [*((n, np.uint8) for n in OF_LABELS), *((OF_LABELS[0], d) for d in (np.int8, np.uint16, np.uint32))]
)
def test_a_narrow_dtype_of_labels_counts_no_classes(name, dtype):
    """300 classes wrap to 44 in 8 bits."""
    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, 300)), jnp.float32)
    run = jax.jit(checkify.checkify(getattr(jaxloss, name), errors=checkify.user_checks))
    error, got = run(x, np.array([5, 100], dtype))
    assert error.get() is None
    np.testing.assert_array_equal(got, run(x, np.array([5, 100], np.int32))[1])


@pytest.mark.parametrize("method", ["dense", "fast", "lean"])
def test_a_narrow_dtype_of_labels_without_logits(method):
    h, w, y = jnp.ones((2, 4)), jnp.ones((4, 300)), np.array([3, 200], np.uint8)
    got = jaxloss.linear_cross_entropy(h, w, y, class_weights=jnp.ones(300), method=method)
    np.testing.assert_allclose(got, np.log(300), rtol=1e-6)


@pytest.mark.parametrize("dtype, index", [(np.uint8, -100), (np.int8, 255), (np.uint32, -1)])
def test_an_ignored_label_that_no_label_can_be(dtype, index):
    x, y = jnp.zeros((2, 4)), np.array([1, 3], dtype)
    fn = jaxloss.softmax_cross_entropy_with_integer_labels
    np.testing.assert_array_equal(fn(x, y, ignore_index=index), fn(x, y))


@pytest.mark.parametrize("index", [1.5, True, "1", np.array([1, 1])])
def test_an_ignored_label_is_an_integer(index):
    with pytest.raises(TypeError, match="softmax_cross_entropy_with_integer_labels: ignore_index must be an int"):
        jaxloss.softmax_cross_entropy_with_integer_labels(jnp.zeros((2, 4)), np.array([1, 3]), ignore_index=index)


def dense(x, y, **options):
    return jaxloss.softmax_cross_entropy(x, jax.nn.one_hot(y, 3), **options)


LABELS = np.array([0, 1])
SLOPES = {
    "labels": lambda **o: jaxloss.softmax_cross_entropy_with_integer_labels(RULED_OUT, LABELS, **o),
    "dense": lambda **o: dense(RULED_OUT, LABELS, **o),
    "z_loss": lambda **o: jaxloss.z_loss(RULED_OUT, **o),
    "entropy": lambda **o: jaxloss.entropy(RULED_OUT, **o),
    # A kernel entry of -inf would make NaN with a hidden 0: the bias rules out.
    "linear": lambda **o: jaxloss.linear_cross_entropy(
        jnp.eye(2), jnp.where(RULED_OUT == -INF, 0, RULED_OUT), LABELS, bias=jnp.array([0, 0, -INF]), method="lean", **o
    ),
}


@pytest.mark.parametrize("option", ["temperature", "logit_softcap"])
@pytest.mark.parametrize("name", SLOPES)
def test_the_slope_of_an_option_where_a_class_is_ruled_out(name, option):

    def total(value):
        return jnp.sum(SLOPES[name](**{option: value}))

    step = 1e-2
    want = (float(total(2 + step)) - float(total(2 - step))) / (2 * step)
    for got in (jax.grad(total)(2.0), jax.jvp(total, (2.0,), (1.0,))[1]):
        np.testing.assert_allclose(got, want, rtol=2e-3)


@pytest.mark.parametrize("target", [np.array([0, 1, 2]), np.full((3, 3), 1 / 3, np.float32)], ids=["labels", "dense"])
def test_the_softcap_of_an_infinite_logit_is_the_cap(target):
    x = np.array([[INF, 1.0, -INF], [-INF, 0.5, INF], [-INF, -INF, 0.0]], np.float32)
    labels = target.ndim == 1
    fn = jaxloss.softmax_cross_entropy_with_integer_labels if labels else jaxloss.softmax_cross_entropy
    z = 2 * np.tanh(x.astype(np.float64) / 2)
    log_p = z - np.log(np.sum(np.exp(z), 1, keepdims=True))
    weights = np.eye(3) if labels else target
    to_z = np.exp(log_p) - weights
    value, pullback = jax.vjp(lambda x: fn(x, target, logit_softcap=2.0), x)
    np.testing.assert_allclose(value, -np.sum(weights * log_p, 1), rtol=1e-6)
    np.testing.assert_allclose(*pullback(jnp.ones(3)), to_z * (1 - (z / 2) ** 2), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("option", ["z_loss", "label_smoothing"])
def test_an_option_is_one_number_or_one_for_each_row(option):
    """Never an (N, N) matrix, nor one for each class."""
    fn, x, y = jaxloss.softmax_cross_entropy_with_integer_labels, jnp.zeros((3, 4)), np.array([0, 1, 2])
    assert fn(x, y, **{option: jnp.full(3, 0.1)}).shape == (3,)
    with pytest.raises(ValueError, match=rf"softmax_cross_entropy_with_integer_labels: {option} of shape \(3, 1\)"):
        fn(x, y, **{option: jnp.full((3, 1), 0.1)})
    with pytest.raises(ValueError, match=f"linear_cross_entropy: {option} must be a single number"):
        jaxloss.linear_cross_entropy(jnp.ones((3, 2)), jnp.ones((2, 4)), y, **{option: jnp.full(3, 0.1)})


@pytest.mark.parametrize("option", ["temperature", "logit_softcap"])
def test_a_temperature_is_one_number(option):
    fn, x, y = jaxloss.softmax_cross_entropy_with_integer_labels, jnp.zeros((3, 4)), np.array([0, 1, 2])
    with pytest.raises(ValueError, match=f"{fn.__name__}: {option} must be a single number"):
        fn(x, y, **{option: jnp.ones(4)})
    with pytest.raises(ValueError, match=f"linear_cross_entropy: {option} must be a single number"):
        jaxloss.linear_cross_entropy(jnp.ones((3, 2)), jnp.ones((2, 4)), y, **{option: jnp.ones(4)})


@pytest.mark.parametrize("option", ["temperature", "z_loss", "label_smoothing"])
def test_none_is_no_number(option):
    fn = jaxloss.softmax_cross_entropy_with_integer_labels
    with pytest.raises(TypeError, match=f"{fn.__name__}: {option} must be a number, got None"):
        fn(jnp.zeros((3, 4)), np.array([0, 1, 2]), **{option: None})


def test_numpy_booleans_are_options():
    x, y = jnp.array([1.0, 2.0]), jnp.array([2.0, 1.0])
    assert jaxloss.js_divergence(x, y, normalized=np.bool_(True)) == jaxloss.js_divergence(x, y, normalized=True)


def test_options_stay_float64():
    with jax.enable_x64(True):
        z, y = jnp.asarray(np.random.default_rng(0).standard_normal((2, 5))), np.array([0, 4])
        fn = jaxloss.softmax_cross_entropy_with_integer_labels
        np.testing.assert_allclose(fn(z, y, temperature=0.7), fn(z / 0.7, y), rtol=1e-14)
        h, w = jnp.eye(2), z
        for method in ("dense", "fast", "lean"):
            got = jaxloss.linear_cross_entropy(h, w, y, temperature=0.7, method=method)
            np.testing.assert_allclose(got, jnp.mean(fn(z / 0.7, y)), rtol=1e-14)


def test_a_share_of_zero_does_not_count():
    """Even of an infinite loss."""
    fn, x = jaxloss.softmax_cross_entropy_with_integer_labels, RULED_OUT[:1]
    np.testing.assert_array_equal(fn(x, np.array([0]), label_smoothing=jnp.float32(0)), fn(x, np.array([0])))
    assert fn(x, np.array([2]), class_weights=jnp.array([1.0, 1.0, 0.0])) == 0
    assert fn(x, np.array([2]), label_smoothing=1.0) == INF
    assert fn(x, np.array([2])) == INF


@pytest.mark.parametrize("dropped", [0.0, np.nan, -1.0])
def test_the_weight_of_a_class_that_is_ruled_out(dropped):
    """Adds nothing to value and gradient unless it is positive, and then it is infinite."""
    x, where = jnp.array([[0.0, 1.0, 2.0]]), jnp.array([[False, True, True]])
    run = jax.value_and_grad(lambda t: jnp.sum(jaxloss.softmax_cross_entropy(x, t, where=where)))
    value, slope = run(jnp.array([[dropped, 0.5, 0.5]]))
    rest = np.log1p(np.exp([1.0, -1.0]))
    np.testing.assert_allclose(value, 0.5 * np.sum(rest), rtol=1e-6)
    np.testing.assert_allclose(slope[0], [0, *rest], rtol=1e-6)
    assert run(jnp.array([[0.2, 0.4, 0.4]]))[0] == INF


def test_smooth_labels():
    t, where = np.array([[1.0, 0, 0, 0], [0, 0.5, 0.5, 0]]), np.array([[True, True, True, False], [True] * 4])
    np.testing.assert_allclose(jaxloss.smooth_labels(t, 0.2), 0.8 * t + 0.2 / 4, rtol=1e-6)
    np.testing.assert_allclose(jaxloss.smooth_labels(t, 0.2, axis=None), 0.8 * t + 0.2 / 8, rtol=1e-6)
    want = where * (0.8 * t + 0.2 / np.array([[3], [4]]))
    np.testing.assert_allclose(jaxloss.smooth_labels(np.where(where, t, np.nan), 0.2, where=where), want, rtol=1e-6)


def test_smooth_labels_checks_alpha():
    with pytest.raises(ValueError, match=r"smooth_labels: alpha must be in \[0, 1\], got 2.0"):
        jaxloss.smooth_labels(jnp.eye(3), 2.0)
    with pytest.raises(ValueError, match="smooth_labels: alpha of shape"):
        jaxloss.smooth_labels(jnp.ones(3), jnp.ones((3, 1)))


def test_a_budget_below_what_fast_holds():
    with pytest.raises(ValueError, match="linear_cross_entropy: memory_budget=8192 does not hold one row of logits"):
        h, w = jnp.ones((4, 2)), jnp.ones((2, 5000))
        jaxloss.linear_cross_entropy(h, w, np.arange(4), method="fast", memory_budget=8192)


def test_the_scale_of_a_loss_lifts_float16():
    """The share of one token in a mean is below what float16 holds, until it is scaled."""
    rng = np.random.default_rng(0)
    h, w = (jnp.asarray(rng.standard_normal(shape), jnp.float16) for shape in ((16, 8), (8, 64)))
    y, few = rng.integers(0, 64, 16), jnp.full(16, 1e-6)

    def scaled(h, w, method):
        loss = jaxloss.linear_cross_entropy(h, w, y, weights=few, reduction="sum", method=method, chunk_size=8)
        return jnp.float32(2.0**15) * loss

    want = jax.grad(scaled, (0, 1))(h.astype(jnp.float32), w.astype(jnp.float32), "dense")
    for got, exact in zip(jax.grad(scaled, (0, 1))(h, w, "fast"), want, strict=True):
        assert got.dtype == jnp.float16
        assert np.linalg.norm(got.astype(np.float32) - exact) < 2e-3 * np.linalg.norm(exact)


def test_infinities_of_divergences():
    zero = jnp.zeros(1)
    assert jaxloss.gaussian_kl(zero, jnp.full(1, INF)) == INF
    assert jaxloss.gaussian_kl(zero, zero, prior_log_variance=jnp.full(1, -INF)) == INF
    assert jaxloss.generalized_kl_divergence(jnp.full(1, INF), jnp.ones(1)) == INF


@pytest.mark.parametrize(
    "loss, options, finite, infinite",
    [
        (jaxloss.softmax_kl_divergence, {"temperature": 10.0}, 4e29, 6e29),
        (jaxloss.renyi_divergence, {"alpha": 0.5}, 2e28, 4e28),
        (jaxloss.renyi_divergence, {"alpha": 2.0}, 4e28, 6e28),
    ],
)
def test_what_divergences_take_for_infinite(loss, options, finite, infinite):
    x = jnp.array([1.0, -1.0])
    assert np.isfinite(loss(finite * x, -finite * x, **options))
    assert loss(infinite * x, -infinite * x, **options) == INF


@pytest.mark.parametrize("loss", [jaxloss.softmax_cross_entropy, jaxloss.sigmoid_binary_cross_entropy])
def test_the_gradient_by_a_label_of_infinite_cost_is_a_number(loss):
    logits, labels = jnp.array([-INF, 0.0, 1.0]), jnp.array([0.0, 0.5, 0.5])
    slopes = jax.grad(lambda t, scale: jnp.sum(scale * loss(logits, t)))
    assert slopes(labels, 1.0)[0] == np.finfo(np.float32).max
    np.testing.assert_array_equal(slopes(labels, 0.0), 0)


NO_CLASS = {
    jaxloss.entmax_loss: np.nan,
    jaxloss.multiclass_sparsemax_loss: np.nan,
    jaxloss.bi_tempered_logistic_loss: np.nan,
    jaxloss.multiclass_hinge_loss: INF,
    jaxloss.multiclass_perceptron_loss: INF,
    jaxloss.multi_margin_loss: INF,
    lambda x, _: jaxloss.entropy(x): np.nan,
    lambda x, _: jaxloss.multilabel_margin_loss(x, jnp.eye(3)[:2]): 0,
}


@pytest.mark.parametrize("loss, want", NO_CLASS.items())
def test_a_row_that_rules_every_class_out(loss, want):
    np.testing.assert_array_equal(loss(jnp.full((2, 3), -INF), LABELS), want)


def test_a_small_loss_of_a_certain_task():
    def total(*losses):
        return jaxloss.uncertainty_weighted_sum(losses, (jnp.float32(-100),) * 2)

    losses = jnp.float32(0), jnp.float32(1e-30)
    for found in (total(*losses), jax.jit(total)(*losses)):  # XLA multiplies constants with each other
        np.testing.assert_allclose(found, 1e-30 * np.exp(100.0) - 100, rtol=1e-5)


def test_groups_have_no_gradient():
    with pytest.raises(TypeError, match="ntxent: labels has no gradient"):
        jax.grad(lambda y: jaxloss.ntxent(jnp.eye(4), y))(jnp.array([0.0, 0.0, 1.0, 1.0]))


@pytest.mark.parametrize("name", ["linear_loss", "linear_distillation_loss"])
def test_sharded_says_what_it_is_for(name):
    mesh = jax.make_mesh((1,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
    with pytest.raises(ValueError, match=f"sharded: {name} goes into jax.shard_map as it is"):
        jaxloss.sharded(getattr(jaxloss, name), mesh, tokens="d")


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
def test_a_weight_of_zero_drops_an_infinite_loss(reduction):
    # A mask of zeros and ones over rows whose label is ruled out, or whose error overflows.
    logits, weights = jnp.array([[0.0, -jnp.inf], [0.0, 1.0]]), jnp.array([0.0, 1.0])
    options = {"weights": weights, "reduction": reduction}
    labels, errors = jnp.array([1, 0]), jnp.array([1e30, 2.0])
    want = np.log1p(np.exp(1.0)) * np.array([0, 1])[slice(None) if reduction == "none" else 1]
    of_labels = jaxloss.softmax_cross_entropy_with_integer_labels
    np.testing.assert_allclose(of_labels(logits, labels, **options), want, rtol=1e-6)
    np.testing.assert_allclose(jaxloss.reduce(of_labels(logits, labels), **options), want, rtol=1e-6)
    slope = jax.grad(lambda x: jnp.sum(of_labels(x, labels, **options)))(logits)
    assert jnp.all(jnp.isfinite(slope)) and not jnp.any(slope[0])
    of_errors, slope = jax.value_and_grad(lambda x: jnp.sum(jaxloss.l2_loss(x, **options)))(errors)
    np.testing.assert_array_equal(of_errors, 2)
    np.testing.assert_array_equal(slope, [0, 2])


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_a_weight_of_zero_drops_an_infinite_loss_without_logits(reduction):
    hidden, kernel, labels = jnp.ones((3, 2)), jnp.ones((2, 4)), jnp.array([1, 0, 3])
    bias = jnp.array([0.0, -jnp.inf, 0.0, 1.0])  # rules out the first label
    options = {"weights": jnp.array([0.0, 1.0, 2.0]), "reduction": reduction}
    losses = np.log(2 + np.e) - np.array([0, 1])
    want = np.dot(losses, [1, 2]) / (3 if reduction == "mean" else 1)

    def of_logits(z, y):
        return jaxloss.softmax_cross_entropy_with_integer_labels(z, y)

    runs = [
        *(partial(jaxloss.linear_cross_entropy, method=m) for m in ("dense", "fast", "lean")),
        *(partial(jaxloss.linear_loss, of_logits, chunk_size=n) for n in (1, 3)),
    ]
    for run in runs:
        value, slope = jax.value_and_grad(lambda h, run=run: run(h, kernel, labels, bias=bias, **options))(hidden)
        np.testing.assert_allclose(value, want, rtol=1e-6)
        assert jnp.all(jnp.isfinite(slope)) and not jnp.any(slope[0])
