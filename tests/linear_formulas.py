"""Losses of hidden states times a kernel, written from the formula in float64, and how results are compared."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxloss._linear import plan


def cross_entropy(hidden, kernel, labels, bias=None, where=None, weights=None, class_weights=None, label_smoothing=0.0,
                  z_loss=0.0, logit_softcap=None, temperature=1.0, reduction="mean"):  # fmt: skip
    """The formula in float64."""
    x = hidden @ kernel
    x = x if bias is None else x + bias[None]
    x = x / temperature
    x = x if logit_softcap is None else logit_softcap * jnp.tanh(x / logit_softcap)
    lse = jax.nn.logsumexp(x, -1, keepdims=True)
    classes = x.shape[-1]
    t = jax.nn.one_hot(labels, classes, dtype=x.dtype) if labels.ndim == 1 else labels
    t = (1 - label_smoothing) * t + label_smoothing / classes
    c = jnp.ones(classes, x.dtype) if class_weights is None else class_weights
    losses = jnp.sum(t * c[None] * (lse - x), -1) + z_loss * lse[:, 0] ** 2
    w = jnp.ones_like(losses) if weights is None else weights
    w = w if where is None else jnp.where(where, w, 0)
    if reduction == "none":
        return losses * w
    return jnp.sum(losses * w) / (jnp.sum(w) if reduction == "mean" else 1)


def wide(tree):
    return jax.tree.map(lambda x: np.asarray(x, np.float64) if np.asarray(x).dtype.kind == "f" else x, tree)


def truth(f, *args):
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        return jax.tree.map(np.asarray, f(*wide(args)))


def assert_close(got, want, rtol=3e-6):
    def one(a, b):
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * np.max(np.abs(b), initial=0))

    jax.tree.map(one, got, want)


def numbers(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def blocks_of(size):
    """A fixture: the vocabulary in blocks of so many classes, the last of which overlaps."""

    @pytest.fixture(scope="module", autouse=True)
    def small_blocks():
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(plan, "_BLOCK", size)
            jax.clear_caches()
            yield
        jax.clear_caches()

    return small_blocks
