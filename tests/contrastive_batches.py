"""Batches and losses that the tests of the contrastive losses have in common."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

import jaxloss

N, FEATURES = 16, 5
LABELS = jnp.asarray(np.arange(N) % 5, jnp.int32)


def numbers(seed, *shape, scale=1.0, dtype=jnp.float32):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape) * scale, dtype)


def pair(dtype=jnp.float32):
    x = numbers(0, N, FEATURES)
    return x.astype(dtype), (0.5 * x + numbers(1, N, FEATURES)).astype(dtype)


def close(got, want, rtol=2e-6):
    def one(a, b):
        a, b = (np.asarray(v, np.float64) for v in (a, b))
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * np.max(np.abs(b), initial=1e-30))

    jax.tree.map(one, got, want)


PAIRS = {
    "info_nce": functools.partial(jaxloss.info_nce_loss, temperature=0.3),
    "clip": functools.partial(jaxloss.clip_loss, temperature=0.3),
    "n_pair": functools.partial(jaxloss.n_pair_loss, l2_weight=0.1),
    "siglip": jaxloss.siglip_loss,
    "barlow": jaxloss.barlow_twins_loss,
    "vicreg": jaxloss.vicreg_loss,
}
GROUPS = {
    "ntxent": functools.partial(jaxloss.ntxent, temperature=0.3),
    "out": functools.partial(jaxloss.supervised_contrastive_loss, temperature=0.3),
    "in": functools.partial(jaxloss.supervised_contrastive_loss, temperature=0.3, variant="in"),
    "circle": functools.partial(jaxloss.circle_loss, gamma=8.0),
    "circle with moving weights": functools.partial(jaxloss.circle_loss, gamma=8.0, constant_weights=False),
}
SCALARS = ("barlow", "vicreg", "ntxent")


def arguments(name, dtype=jnp.float32):
    return pair(dtype) if name in PAIRS else (pair(dtype)[0], LABELS)
