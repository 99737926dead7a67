"""Losses of Equinox modules, which are pytrees: filtered transformations, an ensemble by vmap, a tied embedding."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxloss

eqx = pytest.importorskip("equinox")

ROWS, FEATURES, CLASSES = 60, 4, 3
RNG = np.random.default_rng(0)
LABELS = jnp.asarray(RNG.integers(0, CLASSES, ROWS))
INPUTS = jnp.asarray(RNG.standard_normal((CLASSES, FEATURES))[LABELS] + 0.5 * RNG.standard_normal((ROWS, FEATURES)))


@pytest.fixture(autouse=True)
def lenient():
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def perceptron(key, dtype=jnp.float32):
    return eqx.nn.MLP(FEATURES, CLASSES, 16, 1, dtype=dtype, key=key)


def mean_loss(model, x, y):
    return jaxloss.softmax_cross_entropy_with_integer_labels(
        jax.vmap(model)(x), y, label_smoothing=0.05, z_loss=1e-4, reduction="mean"
    )


def trained(model, steps, x, y):
    optimizer = optax.adamw(1e-2)
    state = optimizer.init(eqx.filter(model, eqx.is_inexact_array))

    @eqx.filter_jit
    def step(model, state):
        value, gradient = eqx.filter_value_and_grad(mean_loss)(model, x, y)
        updates, state = optimizer.update(gradient, state, eqx.filter(model, eqx.is_inexact_array))
        return eqx.apply_updates(model, updates), state, value

    values = []
    for _ in range(steps):
        model, state, value = step(model, state)
        values.append(float(value))
    return model, values


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16], ids=["float32", "bfloat16"])
def test_training(dtype):
    model, values = trained(perceptron(jax.random.key(0), dtype), 150, INPUTS.astype(dtype), LABELS)
    assert jax.tree.leaves(eqx.filter(model, eqx.is_inexact_array))[0].dtype == dtype
    assert np.all(np.isfinite(values))
    assert np.mean(jnp.argmax(jax.vmap(model)(INPUTS.astype(dtype)), -1) == LABELS) >= 0.9
    assert values[-1] < 0.6 * values[0]


def test_an_ensemble_is_its_members():
    members = eqx.filter_vmap(perceptron)(jax.random.split(jax.random.key(1), 3))
    both = eqx.filter_vmap(eqx.filter_value_and_grad(mean_loss), in_axes=(eqx.if_array(0), None, None))
    values, gradients = both(members, INPUTS, LABELS)
    for k in range(3):
        alone = jax.tree.map(lambda a, k=k: a[k] if eqx.is_array(a) else a, members)
        value, gradient = eqx.filter_value_and_grad(mean_loss)(alone, INPUTS, LABELS)
        np.testing.assert_allclose(values[k], value, rtol=1e-6)
        for a, b in zip(jax.tree.leaves(gradients), jax.tree.leaves(gradient), strict=True):
            np.testing.assert_allclose(a[k], b, rtol=1e-5, atol=1e-7)


class TiedModel(eqx.Module):
    """Tokens to the next tokens; the embedding is the vocabulary kernel too."""

    embedding: eqx.nn.Embedding
    layer: eqx.nn.Linear

    def __init__(self, words, width, key):
        one, two = jax.random.split(key)
        self.embedding, self.layer = eqx.nn.Embedding(words, width, key=one), eqx.nn.Linear(width, width, key=two)

    def hidden(self, tokens):
        return jax.vmap(lambda t: jax.nn.gelu(self.layer(self.embedding(t))))(tokens)


@pytest.mark.parametrize("method", ["fast", "lean", "dense"])
def test_tied_embedding_without_logits(method):
    model, tokens = TiedModel(37, 8, jax.random.key(2)), jnp.asarray(RNG.integers(0, 37, 20))

    def fused(model):
        return jaxloss.linear_cross_entropy(
            model.hidden(tokens[:-1]),
            model.embedding.weight,
            tokens[1:],
            kernel_layout="vd",
            method=method,
            chunk_size=8,
        )

    def plain(model):
        logits = model.hidden(tokens[:-1]) @ model.embedding.weight.T
        return optax.losses.softmax_cross_entropy_with_integer_labels(logits, tokens[1:]).mean()

    got, want = (eqx.filter_jit(eqx.filter_value_and_grad(f))(model) for f in (fused, plain))
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6)
