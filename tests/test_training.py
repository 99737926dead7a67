"""Losses under optimizers: optax in plain JAX, Flax in a jitted step, ensembles, scan, gradient accumulation."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxloss

flax = pytest.importorskip("flax")
from flax import linen, nnx  # noqa: E402

# Flax and optax promote numbers inside; strictness here is about our own code.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

ROWS, FEATURES, CLASSES = 60, 4, 3
CENTRES = np.random.default_rng(0).standard_normal((CLASSES, FEATURES))


@pytest.fixture(autouse=True)
def lenient():
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def data(seed=1):
    """Three clouds that a linear model can tell apart, nearly."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, ROWS)
    return jnp.asarray(CENTRES[labels] + 0.7 * rng.standard_normal((ROWS, FEATURES)), jnp.float32), jnp.asarray(labels)


def start(key=0):
    return {"w": 0.1 * jax.random.normal(jax.random.key(key), (FEATURES, CLASSES)), "b": jnp.zeros(CLASSES)}


def scores(params, x):
    return x @ params["w"] + params["b"]


def one_hot(y):
    return jax.nn.one_hot(y, CLASSES)


TEACHER = jnp.asarray(3 * np.random.default_rng(2).standard_normal((ROWS, CLASSES)), jnp.float32)

# Each as a convex function of the scores and the labels, so that every optimizer must get to one and the same minimum.
LOSSES = {
    "l2": lambda s, y: jaxloss.l2_loss(s, one_hot(y), reduction="mean"),
    "squared error": lambda s, y: jaxloss.squared_error(
        s, one_hot(y), weights=jnp.array([1.0, 2.0, 3.0]), reduction="mean"
    ),
    "integer": lambda s, y: jaxloss.softmax_cross_entropy_with_integer_labels(s, y, z_loss=1e-3, reduction="mean"),
    "dense": lambda s, y: jaxloss.softmax_cross_entropy(s, one_hot(y), label_smoothing=0.1, reduction="mean"),
    "binary": lambda s, y: jaxloss.sigmoid_binary_cross_entropy(s, one_hot(y), label_smoothing=0.1, reduction="mean"),
    "distillation": lambda s, y: jaxloss.softmax_kl_divergence(s, TEACHER[: len(y)], temperature=2.0, reduction="mean"),
    "sigmoid distillation": lambda s, y: jaxloss.sigmoid_kl_divergence(s, TEACHER[: len(y)], reduction="mean"),
}


def objective(name, x, y):
    """With a small penalty, so that the minimum is one point."""

    def of(params):
        return LOSSES[name](scores(params, x), y) + 1e-2 * optax.tree.norm(params, squared=True)

    return of


@functools.cache
def minimum(name):
    """By Newton's method in float64, on the Hessian of the loss."""
    with jax.enable_x64(True):
        x, y = (jnp.asarray(np.asarray(a)) for a in data())
        of = objective(name, x.astype(jnp.float64), y)
        flat, unravel = jax.flatten_util.ravel_pytree(jax.tree.map(lambda a: a.astype(jnp.float64), start()))

        @jax.jit
        def newton(flat):
            def along(flat):
                return of(unravel(flat))

            return flat - jnp.linalg.solve(jax.hessian(along)(flat), jax.grad(along)(flat)), along(flat)

        values = []
        for _ in range(12):
            flat, value = newton(flat)
            values.append(float(value))
        assert abs(values[-1] - values[-2]) < 1e-14, "second-order steps converge quadratically"
        return values[-1]


def descend(of, optimizer, params, steps):
    """Optimizers with and without a line search, in one scan."""
    line_search = optax.value_and_grad_from_state(of)

    def step(carry, _):
        params, state = carry
        if isinstance(optimizer, optax.GradientTransformationExtraArgs):
            value, gradient = line_search(params, state=state) if searching(state) else jax.value_and_grad(of)(params)
            updates, state = optimizer.update(gradient, state, params, value=value, grad=gradient, value_fn=of)
        else:
            value, gradient = jax.value_and_grad(of)(params)
            updates, state = optimizer.update(gradient, state, params)
        return (optax.apply_updates(params, updates), state), value

    def searching(state):
        return optax.tree.get(state, "value", None) is not None

    run = jax.jit(lambda params: jax.lax.scan(step, (params, optimizer.init(params)), length=steps))
    (params, _), values = run(params)
    return params, values


OPTIMIZERS = {
    "sgd": (optax.sgd(0.3, momentum=0.9), 300, 1e-4),
    "adamw": (optax.adamw(optax.cosine_decay_schedule(0.1, 300), weight_decay=0.0), 300, 1e-3),
    "lbfgs": (optax.lbfgs(), 40, 1e-5),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("name", LOSSES)
def test_reaches_the_minimum(name, optimizer):
    rule, steps, tolerance = OPTIMIZERS[optimizer]
    of = objective(name, *data())
    params, values = descend(of, rule, start(), steps)
    assert np.all(np.isfinite(values))
    gap = float(of(params)) - minimum(name)
    assert -1e-6 <= gap <= tolerance * max(1, minimum(name)), f"{gap} above the minimum {minimum(name)}"


@pytest.mark.parametrize("name", LOSSES)
def test_newton_by_conjugate_gradients(name):
    """Second-order information as it is used at scale: Hessian-vector products, forward over reverse."""
    of = objective(name, *data())

    @jax.jit
    def step(params):
        gradient = jax.grad(of)(params)

        def times_hessian(v):
            return jax.jvp(jax.grad(of), (params,), (v,))[1]

        direction, _ = jax.scipy.sparse.linalg.cg(times_hessian, gradient, tol=1e-6)
        return jax.tree.map(jnp.subtract, params, direction)

    params = start()
    for _ in range(8):
        params = step(params)
    assert abs(float(of(params)) - minimum(name)) <= 2e-6 * max(1, minimum(name))


def test_gauss_newton_preconditioning_by_optax():
    """The diagonal of the Hessian as curvature, by an optax transformation of the user's own."""
    of = objective("integer", *data())

    def curvature():
        def update(gradient, state, params):
            flat, unravel = jax.flatten_util.ravel_pytree(params)
            diagonal = jnp.diag(jax.hessian(lambda p: of(unravel(p)))(flat))
            return jax.tree.map(jnp.divide, gradient, unravel(diagonal)), state

        return optax.GradientTransformation(lambda params: optax.EmptyState(), update)

    params, values = descend(of, optax.chain(curvature(), optax.scale(-0.5)), start(), 60)
    assert float(of(params)) - minimum("integer") <= 1e-5


class Perceptron(nnx.Module):
    def __init__(self, rngs, dtype):
        self.hidden = nnx.Linear(FEATURES, 16, rngs=rngs, dtype=dtype)
        self.out = nnx.Linear(16, CLASSES, rngs=rngs, dtype=dtype)

    def __call__(self, x):
        return self.out(nnx.relu(self.hidden(x)))


DTYPES = pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16], ids=["float32", "bfloat16"])


@DTYPES
def test_flax_nnx(dtype):
    model = Perceptron(nnx.Rngs(0), dtype)
    optimizer = nnx.Optimizer(model, optax.adamw(1e-2), wrt=nnx.Param)
    x, y = data()

    @nnx.jit
    def step(model, optimizer):
        def loss(model):
            logits = model(x)
            assert logits.dtype == dtype
            return jaxloss.softmax_cross_entropy_with_integer_labels(logits, y, label_smoothing=0.05, reduction="mean")

        value, gradient = nnx.value_and_grad(loss)(model)
        optimizer.update(model, gradient)
        return value

    values = [float(step(model, optimizer)) for _ in range(150)]
    assert np.all(np.isfinite(values))
    assert np.mean(jnp.argmax(model(x), -1) == y) >= 0.9
    assert values[-1] < 0.5 * values[0]


@DTYPES
def test_flax_linen(dtype):
    class Network(linen.Module):
        @linen.compact
        def __call__(self, x):
            return linen.Dense(CLASSES, dtype=dtype)(linen.relu(linen.Dense(16, dtype=dtype)(x)))

    x, y = data()
    network, optimizer = Network(), optax.adamw(1e-2)
    params = network.init(jax.random.key(0), x)
    state = optimizer.init(params)

    @jax.jit
    def step(params, state):
        def loss(params):
            return jaxloss.softmax_cross_entropy_with_integer_labels(network.apply(params, x), y, reduction="mean")

        value, gradient = jax.value_and_grad(loss)(params)
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, value

    values = []
    for _ in range(150):
        params, state, value = step(params, state)
        values.append(float(value))
    assert np.all(np.isfinite(values))
    assert np.mean(jnp.argmax(network.apply(params, x), -1) == y) >= 0.9
    assert values[-1] < 0.5 * values[0]


def test_ensemble_by_vmap():
    """Members trained at once are the members trained alone."""
    x, y = data()
    of = objective("integer", x, y)

    def train(key):
        params = start(key)
        return descend(of, optax.sgd(0.3), params, 30)

    members = jax.vmap(train)(jnp.arange(4))
    for k in range(4):
        alone = train(k)
        for a, b in zip(jax.tree.leaves(alone), jax.tree.leaves(members), strict=True):
            np.testing.assert_allclose(a, b[k], rtol=2e-5, atol=2e-6)


def test_scan_over_batches_is_the_loop():
    x, y = data()
    batches = (x.reshape(6, 10, FEATURES), y.reshape(6, 10))

    def step(params, batch):
        value, gradient = jax.value_and_grad(objective("dense", *batch))(params)
        return jax.tree.map(lambda p, g: p - 0.1 * g, params, gradient), value

    scanned, values = jax.jit(lambda params: jax.lax.scan(step, params, batches))(start())
    params = start()
    for k in range(6):
        params, value = jax.jit(step)(params, jax.tree.map(lambda a, k=k: a[k], batches))
        np.testing.assert_allclose(values[k], value, rtol=1e-6)
    for a, b in zip(jax.tree.leaves(scanned), jax.tree.leaves(params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


def test_accumulation_is_the_full_batch():
    """Micro-batches with unequal masks: a mean of means is wrong, a common denominator is right."""
    x, y = data()
    keep = jnp.asarray(np.random.default_rng(3).random(ROWS) < np.linspace(0.1, 1.0, ROWS))
    params, micro = start(), 5

    def losses(params, x, y):
        return jaxloss.softmax_cross_entropy_with_integer_labels(scores(params, x), y)

    full = jax.grad(lambda p: jaxloss.reduce(losses(p, x, y), where=keep))(params)
    want = jax.tree.map(lambda p, g: p - 0.5 * g, params, full)

    def accumulated(denominator):
        # MultiSteps takes the mean of its gradients, so every part stands for `micro` times itself.
        optimizer = optax.MultiSteps(optax.sgd(0.5), every_k_schedule=micro)

        def step(carry, batch):
            params, state = carry
            xs, ys, ks = batch

            def of(p):
                return jaxloss.reduce(losses(p, xs, ys), where=ks, denominator=denominator)

            updates, state = optimizer.update(jax.grad(of)(params), state, params)
            return (optax.apply_updates(params, updates), state), None

        parts = jax.tree.map(lambda a: a.reshape(micro, -1, *a.shape[1:]), (x, y, keep))
        return jax.jit(lambda p: jax.lax.scan(step, (p, optimizer.init(p)), parts)[0][0])(params)

    def distance(got):
        return max(
            float(jnp.max(jnp.abs(a - b))) for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True)
        )

    assert distance(accumulated(jnp.sum(keep) / micro)) <= 1e-6
    assert distance(accumulated(None)) > 1e-3, "the test could not tell a mean of means from the mean"


def test_tasks_with_learned_uncertainty():
    """At the optimum the variance of each task is twice its loss, whatever its unit."""
    x, _ = data()
    rng = np.random.default_rng(4)
    targets = {
        "metres": x @ rng.standard_normal((FEATURES, 1)),
        "millimetres": 1e3 * x @ rng.standard_normal((FEATURES, 1)),
    }
    targets = {k: v + 0.1 * np.std(v) * rng.standard_normal(v.shape) for k, v in targets.items()}
    targets = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), targets)
    params = {"w": {k: jnp.zeros((FEATURES, 1)) for k in targets}, "s": {k: jnp.zeros(()) for k in targets}}

    def tasks(w):
        return {k: jaxloss.l2_loss(x @ w[k], t, reduction="mean") for k, t in targets.items()}

    def of(params):
        return jaxloss.uncertainty_weighted_sum(tasks(params["w"]), params["s"])

    params, values = descend(of, optax.lbfgs(), params, 600)
    assert np.all(np.isfinite(values))
    for k, loss in tasks(params["w"]).items():
        np.testing.assert_allclose(jnp.exp(params["s"][k]), 2 * loss, rtol=1e-3)
        best = np.linalg.lstsq(np.asarray(x), np.asarray(targets[k]))[0]
        np.testing.assert_allclose(params["w"][k], best, rtol=1e-2, atol=1e-3 * np.max(np.abs(best)))
