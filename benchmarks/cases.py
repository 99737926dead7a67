"""Which losses are measured, at which named real shapes, and what each is compared with.

A case has one call for each implementation, of the same arguments and giving the mean: ours, optax's (or plain
jax.numpy where optax has none), and PyTorch's, which gets `torch.nn.functional` and its tensors.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

import jaxloss
from benchmarks import plain

Maker = Callable[[jax.Array, tuple[int, ...]], tuple[jax.Array, ...]]
Call = Callable[..., Any]


@dataclasses.dataclass(frozen=True)
class Case:
    """A loss at a shape, in a dtype."""

    loss: str
    use: str  # what has this shape
    shape: tuple[int, ...]
    dtype: str
    make: Maker
    ours: Call
    peer: Call
    torch: Call | None

    def __str__(self) -> str:
        return f"{self.loss}, {self.use} {list(self.shape)} {self.dtype}"

    def arguments(self) -> tuple[jax.Array, ...]:
        made = self.make(jax.random.key(0), self.shape)
        return tuple(a.astype(self.dtype) if jnp.issubdtype(a.dtype, jnp.floating) else a for a in made)


# Arguments, from a key and the shape of the predictions.


def pair(key: jax.Array, shape: tuple[int, ...]) -> tuple[jax.Array, ...]:
    return tuple(jax.random.normal(k, shape) for k in jax.random.split(key))


def labelled(key: jax.Array, shape: tuple[int, ...]) -> tuple[jax.Array, ...]:
    return jax.random.normal(key, shape), jax.random.randint(key, shape[:-1], 0, shape[-1])


def regions(key: jax.Array, shape: tuple[int, ...]) -> tuple[jax.Array, ...]:
    x, labels = labelled(key, shape)
    return x, jax.nn.one_hot(labels, shape[-1])


def soft(key: jax.Array, shape: tuple[int, ...]) -> tuple[jax.Array, ...]:
    x, y = pair(key, shape)
    return x, jax.nn.softmax(y)


def log_and_soft(key: jax.Array, shape: tuple[int, ...]) -> tuple[jax.Array, ...]:
    x, y = pair(key, shape)
    return jax.nn.log_softmax(x), jax.nn.softmax(y)


def decisions(key: jax.Array, shape: tuple[int, ...]) -> tuple[jax.Array, ...]:
    x, y = pair(key, shape)
    return x, (y > 0).astype(x.dtype)


def signs(key: jax.Array, shape: tuple[int, ...]) -> tuple[jax.Array, ...]:
    x, y = pair(key, shape)
    return x, jnp.sign(y)


def triplets(key: jax.Array, shape: tuple[int, ...]) -> tuple[jax.Array, ...]:
    return tuple(jax.random.normal(k, shape) for k in jax.random.split(key, 3))


def speech(key: jax.Array, shape: tuple[int, ...]) -> tuple[jax.Array, ...]:
    """60 labels in the frames, nothing padded."""
    batch, frames, classes = shape
    labels = jax.random.randint(key, (batch, 60), 1, classes)
    return jax.random.normal(key, shape), jnp.zeros((batch, frames), bool), labels, jnp.zeros((batch, 60), bool)


def torch_ctc(f: Any, x: Any, frame_padding: Any, labels: Any, label_padding: Any) -> Any:
    """In float32, as it has no other; PyTorch's own mean divides by the number of labels first."""
    lengths = [[n] * len(x) for n in (x.shape[1], labels.shape[1])]
    return f.ctc_loss(f.log_softmax(x.float(), -1).transpose(0, 1), labels, *lengths, reduction="none").mean()


def of_jaxloss(name: str) -> Call:
    return lambda *args: jnp.mean(getattr(jaxloss, name)(*args, reduction="mean"))  # a mean over classes leaves images


def of_optax(name: str) -> Call:
    return lambda *args: jnp.mean(getattr(optax.losses, name)(*args))


# Shapes by what has them.
IMAGES = ("image classes", (1024, 1000))
TOKENS = ("tokens", (4096, 8192))
VOCABULARY = ("large vocabulary", (512, 65536))
PIXELS = ("pixels", (8, 512, 512, 21))
FEW = ("short rows", (65536, 10))
SHORT = ("short rows", (65536, 128))
TAGS = ("tags", (4096, 10000))
NUMBERS = ("numbers", (10**7,))
EMBEDDINGS = ("embeddings", (4096, 512))
LATENTS = ("latents", (65536, 128))
SPEECH = ("speech", (32, 400, 96))

# Loss, shapes, arguments, and the peers where they are not optax's function of the same name, or are more.
LOSSES: list[tuple[str, list[Any], Maker, Call | None, Call | None]] = [
    (
        "softmax_cross_entropy_with_integer_labels",
        [TOKENS, VOCABULARY, IMAGES, SHORT, FEW, PIXELS],
        labelled,
        None,
        lambda f, x, y: f.cross_entropy(x.reshape(-1, x.shape[-1]), y.reshape(-1)),
    ),
    ("softmax_cross_entropy", [TOKENS, IMAGES], soft, None, lambda f, x, y: f.cross_entropy(x, y)),
    (
        "softmax_kl_divergence",
        [TOKENS, SHORT],
        pair,
        plain.softmax_kl,
        lambda f, x, y: f.kl_div(f.log_softmax(x, -1), f.softmax(y, -1), reduction="batchmean"),
    ),
    ("js_divergence", [TOKENS], pair, plain.jensen_shannon, None),
    ("kl_divergence", [TOKENS], log_and_soft, None, lambda f, x, y: f.kl_div(x, y, reduction="batchmean")),
    ("gaussian_kl", [LATENTS], pair, plain.gaussian_kl, None),
    ("sigmoid_kl_divergence", [TAGS], pair, plain.sigmoid_kl, None),
    (
        "sigmoid_binary_cross_entropy",
        [TAGS, NUMBERS],
        decisions,
        None,
        lambda f, x, y: f.binary_cross_entropy_with_logits(x, y),
    ),
    ("l2_loss", [NUMBERS], pair, None, lambda f, x, y: f.mse_loss(x, y) / 2),
    ("squared_error", [NUMBERS], pair, None, lambda f, x, y: f.mse_loss(x, y)),
    ("huber_loss", [NUMBERS], pair, None, lambda f, x, y: f.huber_loss(x, y)),
    ("log_cosh", [NUMBERS], pair, None, None),
    ("sigmoid_focal_loss", [TAGS], decisions, None, None),
    ("hinge_loss", [TAGS], signs, None, None),
    ("multiclass_hinge_loss", [IMAGES], labelled, None, None),
    ("cosine_distance", [EMBEDDINGS], pair, None, None),
    ("triplet_margin_loss", [EMBEDDINGS], triplets, None, lambda f, *x: f.triplet_margin_loss(*x)),
    ("dice_loss", [PIXELS], regions, None, None),
    ("ctc_loss", [SPEECH], speech, None, torch_ctc),
]


def cases() -> list[Case]:
    found = []
    for name, shapes, make, peer, torch in LOSSES:
        for use, shape in shapes:
            for dtype in ("float32", "bfloat16"):
                calls = of_jaxloss(name), peer or of_optax(name), torch
                found.append(Case(name, use, shape, dtype, make, *calls))
    return found
