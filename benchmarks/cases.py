"""Which losses are measured, at which named real shapes, and what each is compared with.

A case has one call for each implementation, of the same arguments and giving the mean: ours, optax's (or plain
jax.numpy where optax has none), and those of other libraries, which get their module of losses first: PyTorch's
`torch.nn.functional`, with its own tensors, and for JAX Keras' `keras.losses` and `rax`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

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
    others: Mapping[str, Call]  # "torch", "keras", "rax"

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


def logs(key: jax.Array, shape: tuple[int, ...]) -> tuple[jax.Array, ...]:
    x, y = pair(key, shape)
    return jax.nn.log_softmax(x), jax.nn.log_softmax(y)


def grouped(key: jax.Array, shape: tuple[int, ...]) -> tuple[jax.Array, ...]:
    """Two views of everything."""
    return jax.random.normal(key, shape), jnp.arange(shape[0]) // 2


def relevance(key: jax.Array, shape: tuple[int, ...]) -> tuple[jax.Array, ...]:
    """Grades from 0 to 4."""
    return jax.random.normal(key, shape), jax.random.randint(key, shape, 0, 5).astype(jnp.float32)


def torch_kl_of_logs(f: Any, x: Any, y: Any) -> Any:
    return f.kl_div(x, y, reduction="batchmean", log_target=True)


def torch_ctc(f: Any, x: Any, frame_padding: Any, labels: Any, label_padding: Any) -> Any:
    """In float32, as it has no other; PyTorch's own mean divides by the number of labels first."""
    lengths = [[n] * len(x) for n in (x.shape[1], labels.shape[1])]
    return f.ctc_loss(f.log_softmax(x.float(), -1).transpose(0, 1), labels, *lengths, reduction="none").mean()


def of_jaxloss(name: str) -> Call:
    return lambda *args: jnp.mean(getattr(jaxloss, name)(*args, reduction="mean"))  # a mean over classes leaves images


def plainly(library: Any, name: str) -> Call:
    """For what has no reduction."""
    return lambda *args: jnp.mean(getattr(library, name)(*args))


def of_softmax(library: Any) -> Call:
    return lambda *args: jnp.mean(library.make_fenchel_young_loss(jax.nn.logsumexp)(*args))


def smoothed(library: Any) -> Call:
    """Labels weighed by the other array, so that there is something to add up."""
    return lambda x, y: jnp.mean(y * library.smooth_labels(x, 0.1))


def forward_probs(library: Any) -> Call:
    return lambda *args: jnp.mean(library.ctc_loss_with_forward_probs(*args)[0])


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
VIEWS = ("views", (512, 512))  # for optax's ntxent, which compares every three of them
LISTS = ("ranking lists", (8192, 200))
MASKS = ("masks", (16, 512, 512))
LATENTS = ("latents", (65536, 128))
SPEECH = ("speech", (32, 400, 96))


class Loss(NamedTuple):
    """A loss of that name here and in optax, unless the calls say otherwise."""

    name: str
    shapes: list[tuple[str, tuple[int, ...]]]
    make: Maker
    ours: Call | None = None
    peer: Call | None = None
    torch: Call | None = None
    keras: Call | None = None
    rax: Call | None = None
    dtypes: tuple[str, ...] = ("float32", "bfloat16")

    def others(self) -> dict[str, Call]:
        given = {"torch": self.torch, "keras": self.keras, "rax": self.rax}
        return {name: call for name, call in given.items() if call is not None}


LOSSES = [
    Loss(
        "softmax_cross_entropy_with_integer_labels",
        [TOKENS, VOCABULARY, IMAGES, SHORT, FEW, PIXELS],
        labelled,
        torch=lambda f, x, y: f.cross_entropy(x.reshape(-1, x.shape[-1]), y.reshape(-1)),
        keras=lambda k, x, y: k.sparse_categorical_crossentropy(y, x, from_logits=True),
    ),
    Loss(
        "softmax_cross_entropy",
        [TOKENS, IMAGES],
        soft,
        torch=lambda f, x, y: f.cross_entropy(x, y),
        keras=lambda k, x, y: k.categorical_crossentropy(y, x, from_logits=True),
    ),
    Loss("safe_softmax_cross_entropy", [IMAGES], soft),
    Loss("poly_loss_cross_entropy", [IMAGES], soft),
    Loss(
        "softmax_focal_loss",
        [TOKENS, IMAGES],
        soft,
        peer=plain.softmax_focal,
        keras=lambda k, x, y: k.categorical_focal_crossentropy(y, x, alpha=1.0, from_logits=True),
    ),
    Loss(
        "softmax_kl_divergence",
        [TOKENS, SHORT],
        pair,
        peer=plain.softmax_kl,
        torch=lambda f, x, y: f.kl_div(f.log_softmax(x, -1), f.softmax(y, -1), reduction="batchmean"),
    ),
    Loss("js_divergence", [TOKENS], pair, peer=plain.jensen_shannon),
    Loss("kl_divergence", [TOKENS], log_and_soft, torch=lambda f, x, y: f.kl_div(x, y, reduction="batchmean")),
    Loss("kl_divergence_with_log_targets", [IMAGES], logs, torch=torch_kl_of_logs),
    Loss("convex_kl_divergence", [IMAGES], log_and_soft),
    Loss("generalized_kl_divergence", [IMAGES], log_and_soft),
    Loss("gaussian_kl", [LATENTS], pair, peer=plain.gaussian_kl),
    Loss("sigmoid_kl_divergence", [TAGS], pair, peer=plain.sigmoid_kl),
    Loss(
        "sigmoid_binary_cross_entropy",
        [TAGS, NUMBERS],
        decisions,
        torch=lambda f, x, y: f.binary_cross_entropy_with_logits(x, y),
        keras=lambda k, x, y: k.binary_crossentropy(y, x, from_logits=True),
    ),
    Loss(
        "sigmoid_focal_loss",
        [TAGS],
        decisions,
        keras=lambda k, x, y: k.binary_focal_crossentropy(y, x, from_logits=True),
    ),
    Loss("hinge_loss", [TAGS], signs, keras=lambda k, x, y: k.hinge(y, x)),
    Loss("perceptron_loss", [TAGS], signs),
    Loss("sparsemax_loss", [TAGS], decisions),
    Loss("l2_loss", [NUMBERS], pair, torch=lambda f, x, y: f.mse_loss(x, y) / 2),
    Loss(
        "squared_error",
        [NUMBERS],
        pair,
        torch=lambda f, x, y: f.mse_loss(x, y),
        keras=lambda k, x, y: k.mean_squared_error(y, x),
    ),
    Loss(
        "huber_loss",
        [NUMBERS],
        pair,
        torch=lambda f, x, y: f.huber_loss(x, y),
        keras=lambda k, x, y: k.huber(y, x),
    ),
    Loss("log_cosh", [NUMBERS], pair, keras=lambda k, x, y: k.log_cosh(y, x)),
    Loss("multiclass_hinge_loss", [IMAGES], labelled),
    Loss("multiclass_perceptron_loss", [IMAGES], labelled),
    Loss("multiclass_sparsemax_loss", [IMAGES], labelled, dtypes=("float32",)),  # optax's has no gradient in bfloat16
    Loss("make_fenchel_young_loss", [IMAGES], regions, of_softmax(jaxloss), of_softmax(optax.losses)),
    Loss("smooth_labels", [IMAGES], pair, smoothed(jaxloss), smoothed(optax.losses)),
    Loss("cosine_similarity", [EMBEDDINGS], pair, torch=lambda f, x, y: f.cosine_similarity(x, y).mean()),
    Loss(
        "cosine_distance",
        [EMBEDDINGS],
        pair,
        torch=lambda f, x, y: 1 - f.cosine_similarity(x, y).mean(),
        keras=lambda k, x, y: 1 + k.cosine_similarity(y, x),
    ),
    Loss("triplet_margin_loss", [EMBEDDINGS], triplets, torch=lambda f, *x: f.triplet_margin_loss(*x)),
    Loss("ntxent", [VIEWS], grouped, plainly(jaxloss, "ntxent")),
    Loss("info_nce_loss", [EMBEDDINGS], pair, peer=plain.info_nce),
    Loss(
        "ranking_softmax_loss",
        [LISTS],
        relevance,
        plainly(jaxloss, "ranking_softmax_loss"),
        rax=lambda r, x, y: r.softmax_loss(x, y),
    ),
    Loss("dice_loss", [PIXELS], regions),
    Loss("multiclass_generalized_dice_loss", [PIXELS], regions, plainly(jaxloss, "multiclass_generalized_dice_loss")),
    Loss("binary_dice_loss", [MASKS], decisions, plainly(jaxloss, "binary_dice_loss")),
    Loss("ctc_loss", [SPEECH], speech, torch=torch_ctc, keras=lambda k, x, _, y, __: k.ctc(y, x)),
    Loss("ctc_loss_with_forward_probs", [SPEECH], speech, forward_probs(jaxloss), forward_probs(optax.losses)),
]


def cases() -> list[Case]:
    found = []
    for loss in LOSSES:
        for use, shape in loss.shapes:
            for dtype in loss.dtypes:
                calls = loss.ours or of_jaxloss(loss.name), loss.peer or plainly(optax.losses, loss.name)
                found.append(Case(loss.name, use, shape, dtype, loss.make, *calls, loss.others()))
    return found
