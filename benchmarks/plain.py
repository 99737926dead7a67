"""Losses that the peers lack, as a user would write them in jax.numpy."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def _float32(*arrays: Any) -> tuple[Any, ...]:
    return tuple(x.astype(jnp.float32) for x in arrays)


def softmax_kl(x: Any, y: Any) -> Any:
    log_p, log_q = map(jax.nn.log_softmax, _float32(x, y))
    return jnp.mean(jnp.sum(jnp.exp(log_q) * (log_q - log_p), -1))


def softmax_focal(x: Any, y: Any) -> Any:
    x, y = _float32(x, y)
    log_p = jax.nn.log_softmax(x)
    return -jnp.mean(jnp.sum(y * jnp.square(1 - jnp.exp(log_p)) * log_p, -1))


def jensen_shannon(x: Any, y: Any) -> Any:
    log_p, log_q = map(jax.nn.log_softmax, _float32(x, y))
    log_m = jnp.logaddexp(log_p, log_q) - np.float32(np.log(2))
    return jnp.mean(jnp.sum(jnp.exp(log_q) * (log_q - log_m) + jnp.exp(log_p) * (log_p - log_m), -1) / 2)


def sigmoid_kl(x: Any, y: Any) -> Any:
    x, y = _float32(x, y)
    q, log = jax.nn.sigmoid(y), jax.nn.log_sigmoid
    return jnp.mean(q * (log(y) - log(x)) + (1 - q) * (log(-y) - log(-x)))


def gaussian_kl(mean: Any, log_variance: Any) -> Any:
    mean, log_variance = _float32(mean, log_variance)
    return jnp.mean(jnp.sum(jnp.square(mean) + jnp.exp(log_variance) - 1 - log_variance, -1) / 2)


def info_nce(queries: Any, keys: Any) -> Any:
    u, v = (x / jnp.linalg.norm(x, axis=-1, keepdims=True) for x in _float32(queries, keys))
    logits = u @ v.T / 0.07
    return jnp.mean(jax.nn.logsumexp(logits, -1) - jnp.diag(logits))
