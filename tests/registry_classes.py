"""Cases of the losses over a class axis."""

from __future__ import annotations

from typing import Any

import numpy as np
import registry_formulas as formulas
from registry_case import INF, NAN, Case, Edge

import jaxloss

RNG = np.random.Generator
Shape = tuple[int, ...]


def labels_of(shape: Shape, axis: int = -1) -> np.ndarray:
    """Known from the shape alone, so that masks can keep the class of every label."""
    rows = tuple(np.delete(shape, axis))
    return (3 * np.arange(np.prod(rows, dtype=int)).reshape(rows) % shape[axis]).astype(np.int32)


def integer(rng: RNG, shape: Shape) -> list[np.ndarray]:
    return [2 * rng.standard_normal(shape), labels_of(shape)]


def integer_first_axis(rng: RNG, shape: Shape) -> list[np.ndarray]:
    return [2 * rng.standard_normal(shape), labels_of(shape, 0)]


def integer_two_axes(rng: RNG, shape: Shape) -> list[np.ndarray]:
    """Classes along the first and the last of three axes."""
    return [2 * rng.standard_normal(shape), (np.arange(shape[1]) % (shape[0] * shape[2])).astype(np.int32)]


def confident(rng: RNG, shape: Shape, scale: float) -> list[np.ndarray]:
    """Half of the labels at the maximum."""
    logits = scale * rng.standard_normal(shape)
    labels = np.where(np.arange(logits[..., 0].size).reshape(shape[:-1]) % 2, labels_of(shape), logits.argmax(-1))
    return [logits, labels.astype(np.int32)]


def right_labels(rng: RNG, shape: Shape) -> list[np.ndarray]:
    labels = labels_of(shape)
    return [300.0 * (labels[..., None] == np.arange(shape[-1])), labels]


def dense(rng: RNG, shape: Shape) -> list[np.ndarray]:
    """Targets that do not sum to 1, with zeros."""
    return [2 * rng.standard_normal(shape), rng.uniform(0.1, 1.0, shape) * (rng.random(shape) < 0.7)]


def dense_confident(rng: RNG, shape: Shape, scale: float) -> list[np.ndarray]:
    logits, labels = confident(rng, shape, scale)
    return [logits, 1.0 * (labels[..., None] == np.arange(shape[-1]))]


def right_distributions(rng: RNG, shape: Shape) -> list[np.ndarray]:
    logits, _ = right_labels(rng, shape)
    return [logits, logits / 300.0]


def only_logits(rng: RNG, shape: Shape) -> list[np.ndarray]:
    return [rng.standard_normal(shape) + 1.0]


def scaled_logits(rng: RNG, shape: Shape, scale: float) -> list[np.ndarray]:
    return [scale * rng.standard_normal(shape) + 1.0]


def log_probabilities(rng: RNG, shape: Shape) -> list[np.ndarray]:
    logits, labels = integer(rng, shape)
    return [logits - np.log(np.exp(logits).sum(-1, keepdims=True)), labels]


def classes_kept(rng: RNG, shape: Shape) -> np.ndarray:
    """A mask of classes that keeps every label's."""
    return (rng.random(shape) < 0.6) | (labels_of(shape)[..., None] == np.arange(shape[-1]))


def classes_kept_anywhere(rng: RNG, shape: Shape) -> np.ndarray:
    """Nothing is kept of the first row."""
    keep = np.ones(shape, bool)
    keep[0] = False
    return keep


def rows_kept(rng: RNG, shape: Shape) -> np.ndarray:
    keep = rng.random(shape[:-1]) < 0.6
    keep.flat[0] = True
    return keep


def class_weights(rng: RNG, shape: Shape) -> np.ndarray:
    return rng.uniform(0.5, 2.0, shape[-1])


_EVERYTHING: dict[str, Any] = {
    "class_weights": class_weights,
    "label_smoothing": 0.2,
    "z_loss": 0.1,
    "logit_softcap": 3.0,
    "temperature": 1.5,
}
_LABEL_OPTIONS: dict[str, Any] = {
    "smoothed": {"label_smoothing": 0.1},
    "weighted classes": {"class_weights": class_weights},
    "z-loss": {"z_loss": 0.01},
    "softcap": {"logit_softcap": 2.0},
    "temperature": {"temperature": 0.5},
    "classes kept": {"where": classes_kept, "label_smoothing": 0.1},
    "rows kept": {"where": rows_kept, "z_loss": 0.1},
    "first axis": {"axis": 0, "label_smoothing": 0.1},
    "two axes": {"axis": (0, 2)},
    "everything": _EVERYTHING,
}
_SHAPES: dict[str, Shape] = {"first axis": (5, 8), "two axes": (2, 4, 3)}
_INTEGER_MAKERS = {"first axis": integer_first_axis, "two axes": integer_two_axes}

_SHARED_EDGES = (
    ("all equal", [[0.0, 0.0]], [np.log(2.0)], [[-0.5, 0.5]]),
    ("large and equal", [[1e6, 1e6]], [np.log(2.0)], [[-0.5, 0.5]]),
    ("class ruled out", [[0.0, -INF]], [0.0], [[0.0, 0.0]]),
    ("label ruled out", [[-INF, 0.0]], [INF], [[-1.0, 1.0]]),
    ("confident", [[80.0, 0.0]], [1.8048513878454153e-35], [[-1.8048513878454153e-35, 1.8048513878454153e-35]]),
    ("confident and wrong", [[0.0, 1e4]], [1e4], [[-1.0, 1.0]]),
    ("far apart", [[3e38, -3e38]], [0.0], [[0.0, 0.0]]),
    ("one class", [[3.0]], [0.0], [[0.0]]),
    ("nan", [[NAN, 0.0]], [NAN], "any"),
    ("nothing left", [[-INF, -INF]], [NAN], "any"),
)


def _integer_edges() -> tuple[Edge, ...]:
    out_of_range = [Edge(f"label {y}", ([[1.0, 2.0]], [y]), [NAN], ([[NAN, NAN]],)) for y in (-1, 2, -100)]
    ignored = Edge("ignored", ([[NAN, 2.0]], [-100]), [0.0], ([[0.0, 0.0]],), {"ignore_index": -100})
    shared = [
        Edge(name, (x, [0]), value, "any" if gradient == "any" else (gradient,))
        for name, x, value, gradient in _SHARED_EDGES
    ]
    return (*shared, *out_of_range, ignored)


def _dense_edges() -> tuple[Edge, ...]:
    shared = [
        Edge(name, (x, [[1.0] + [0.0] * (len(x[0]) - 1)]), value, "any" if gradient == "any" else (gradient, "any"))
        for name, x, value, gradient in _SHARED_EDGES
    ]
    no_target = Edge("no target", ([[1.0, -INF]], [[0.0, 0.0]]), [0.0], ([[0.0, 0.0]], "any"))
    return (*shared, no_target)


def _dense(fn: Any, name: str, options: dict[str, Any]) -> Case:
    return Case(
        fn,
        formulas.softmax_cross_entropy,
        dense,
        "axis",
        options=options,
        shapes=_SHAPES,
        edges=_dense_edges(),
        optax=name,
        zero=right_distributions,
        accurate=dense_confident,
    )


CASES = [
    Case(
        jaxloss.softmax_cross_entropy_with_integer_labels,
        formulas.integer_cross_entropy,
        integer,
        "axis",
        options={**_LABEL_OPTIONS, "ignored": {"ignore_index": 2, "label_smoothing": 0.1}},
        shapes=_SHAPES,
        makers=_INTEGER_MAKERS,
        edges=_integer_edges(),
        optax="softmax_cross_entropy_with_integer_labels",
        zero=right_labels,
        accurate=confident,
        scales=(1e-3, 1.0, 10.0, 1e3, 1e6),
    ),
    _dense(
        jaxloss.softmax_cross_entropy,
        "softmax_cross_entropy",
        {
            **{k: v for k, v in _LABEL_OPTIONS.items() if k != "classes kept"},
            "row of no class": {"where": classes_kept_anywhere, "label_smoothing": 0.1},
            "all axes": {"axis": None},
        },
    ),
    _dense(
        jaxloss.safe_softmax_cross_entropy,
        "safe_softmax_cross_entropy",
        {n: _LABEL_OPTIONS[n] for n in ("rows kept", "two axes", "everything")},
    ),
    Case(
        jaxloss.nll_loss,
        formulas.nll_loss,
        log_probabilities,
        "axis",
        options={
            "ignored": {"ignore_index": 2},
            "first axis": {"axis": 0, "label_smoothing": 0.1},
            "classes kept": {"where": classes_kept, "label_smoothing": 0.1},
            "everything": {"class_weights": class_weights, "label_smoothing": 0.2},
        },
        shapes=_SHAPES,
        makers=_INTEGER_MAKERS,
        edges=(
            Edge("certain", ([[0.0, -INF]], [0]), [0.0], ([[-1.0, 0.0]],)),
            Edge("impossible", ([[0.0, -INF]], [1]), [INF], ([[0.0, -1.0]],)),
            Edge("label out of range", ([[0.0, -1.0]], [2]), [NAN], ([[NAN, NAN]],)),
        ),
    ),
    Case(
        jaxloss.entropy,
        formulas.entropy,
        only_logits,
        "axis",
        options={
            "classes kept": {"where": classes_kept},
            "two axes": {"axis": (0, 2)},
            "everything": {"logit_softcap": 5.0, "temperature": 2.0},
        },
        shapes=_SHAPES,
        edges=(
            Edge("decided", ([[0.0, -INF]],), [0.0], ([[0.0, 0.0]],)),
            Edge("saturated", ([[1e4, 0.0]],), [0.0], ([[0.0, 0.0]],)),
            Edge("uniform", ([[1e6, 1e6]],), [np.log(2.0)], ([[0.0, 0.0]],)),
        ),
        accurate=scaled_logits,
        scales=(1.0, 30.0, 1e3),
    ),
    Case(
        jaxloss.z_loss,
        formulas.z_loss,
        only_logits,
        "axis",
        options={
            "classes kept": {"where": classes_kept},
            "two axes": {"axis": (0, 2)},
            "everything": {"logit_softcap": 3.0, "temperature": 1.5},
        },
        shapes=_SHAPES,
        edges=(
            Edge("normalised", ([[0.0, -INF]],), [0.0], ([[0.0, 0.0]],)),
            Edge("large", ([[1e6, 1e6]],), [(1e6 + np.log(2.0)) ** 2], ([[1e6 + np.log(2.0)] * 2],)),
            Edge("nothing left", ([[-INF, -INF]],), [INF], "any"),
        ),
        accurate=scaled_logits,
        scales=(1.0, 30.0, 1e3),
    ),
]
