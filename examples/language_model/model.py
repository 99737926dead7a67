"""A Transformer decoder whose embedding is also its output kernel. bfloat16 inside, parameters in float32."""

import jax
import jax.numpy as jnp
from flax import nnx

from examples.language_model.config import Config

DTYPE = jnp.bfloat16


def rotate(x: jax.Array) -> jax.Array:
    """Rotary positions for `[batch, length, heads, size]` (Su et al., 2021)."""
    half = x.shape[-1] // 2
    rates = 10000.0 ** (-jnp.arange(half) / half)
    angles = jnp.arange(x.shape[1])[:, None, None] * rates
    sin, cos = jnp.sin(angles), jnp.cos(angles)
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    rotated = (first * cos - second * sin, second * cos + first * sin)
    return jnp.concatenate(rotated, axis=-1).astype(x.dtype)


def linear(inputs: int, outputs: int, rngs: nnx.Rngs) -> nnx.Linear:
    return nnx.Linear(inputs, outputs, use_bias=False, dtype=DTYPE, rngs=rngs)


class Block(nnx.Module):
    """Causal attention and a perceptron, each with a norm before it and a residual around it."""

    def __init__(self, width: int, heads: int, rngs: nnx.Rngs):
        self.heads = heads
        self.norm1 = nnx.RMSNorm(width, dtype=DTYPE, rngs=rngs)
        self.qkv = linear(width, 3 * width, rngs)
        self.mixed = linear(width, width, rngs)
        self.norm2 = nnx.RMSNorm(width, dtype=DTYPE, rngs=rngs)
        self.up = linear(width, 4 * width, rngs)
        self.down = linear(4 * width, width, rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        qkv = self.qkv(self.norm1(x)).reshape(*x.shape[:2], 3 * self.heads, -1)
        q, k, v = jnp.split(qkv, 3, axis=2)
        attended = jax.nn.dot_product_attention(rotate(q), rotate(k), v, is_causal=True)
        x = x + self.mixed(attended.reshape(x.shape))
        return x + self.down(nnx.gelu(self.up(self.norm2(x))))


class Transformer(nnx.Module):
    """Tokens `[batch, length]` -> hidden states `[batch, length, width]`. The logits are left to the loss."""

    def __init__(self, config: Config, rngs: nnx.Rngs):
        init = nnx.initializers.normal(config.width**-0.5)
        self.embedding = nnx.Param(init(rngs.params(), (config.vocabulary, config.width)))
        self.blocks = nnx.List([Block(config.width, config.heads, rngs) for _ in range(config.layers)])
        self.norm = nnx.RMSNorm(config.width, dtype=DTYPE, rngs=rngs)

    def kernel(self) -> jax.Array:
        return self.embedding[...].astype(DTYPE)

    def __call__(self, tokens: jax.Array) -> jax.Array:
        x = self.embedding[...][tokens]
        x = (x * x.shape[-1] ** 0.5).astype(DTYPE)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)
