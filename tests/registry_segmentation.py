"""Cases of the losses of segmentations and boxes. Masks and weights of pixels: test_segmentation.py."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import segmentation_formulas as formulas
from registry_case import INF, NAN, Case, Edge
from registry_classes import rows_kept

import jaxloss

RNG = np.random.Generator
Shape = tuple[int, ...]
CLASSES = 3


def of_pixels(fn: Callable[..., Any]) -> Callable[..., Any]:
    """`fn` without the masks and weights of pixels, which are not those of its results."""

    def call(predictions: Any, targets: Any, **options: Any) -> Any:
        return fn(predictions, targets, **options)

    call.__name__ = fn.__name__
    return call


def labels_of(rng: RNG, shape: Shape) -> np.ndarray:
    """Class indices, every class in every image."""
    count = int(np.prod(shape[1:]))
    labels = np.broadcast_to(np.arange(count) % CLASSES, (shape[0], count))
    return rng.permuted(labels, axis=1).reshape(shape).astype(np.int32)


def soft(rng: RNG, shape: Shape) -> list[np.ndarray]:
    """Logits of images of the pixels `shape[1:]`, and soft targets."""
    x, y = rng.standard_normal((2, *shape, CLASSES))
    return [x, np.exp(y) / np.exp(y).sum(-1, keepdims=True)]


def indices(rng: RNG, shape: Shape) -> list[np.ndarray]:
    return [rng.standard_normal((*shape, CLASSES)), labels_of(rng, shape)]


def apart(rng: RNG, shape: Shape) -> list[np.ndarray]:
    """No two errors of a class are nearly equal: numerical derivatives must not change their order."""
    while True:
        p, y = as_probabilities(rng, shape)[0], labels_of(rng, shape)
        errors = np.abs((y[..., None] == np.arange(CLASSES)) - p).reshape(-1, CLASSES)
        if np.min(np.diff(np.sort(errors, 0), axis=0)) > 0.01:
            return [p, y]


def apart_logits(rng: RNG, shape: Shape) -> list[np.ndarray]:
    p, y = apart(rng, shape)
    return [np.log(p), y]


def as_probabilities(rng: RNG, shape: Shape) -> list[np.ndarray]:
    x, y = soft(rng, shape)
    return [np.exp(x) / np.exp(x).sum(-1, keepdims=True), y]


def one_class(rng: RNG, shape: Shape) -> list[np.ndarray]:
    return [rng.standard_normal((*shape, 1)), rng.random((*shape, 1))]


def binary(rng: RNG, shape: Shape) -> list[np.ndarray]:
    return [rng.standard_normal(shape), rng.random(shape)]


def foreground(rng: RNG, shape: Shape) -> list[np.ndarray]:
    return [rng.standard_normal(shape), (rng.random(shape) < 0.4).astype(np.int32)]


def foreground_at(rng: RNG, shape: Shape, scale: float) -> list[np.ndarray]:
    x, y = foreground(rng, shape)
    return [scale * x, y]


def certain(rng: RNG, shape: Shape) -> list[np.ndarray]:
    y = labels_of(rng, shape)
    return [300.0 * (y[..., None] == np.arange(CLASSES)), y]


def indices_at(rng: RNG, shape: Shape, scale: float) -> list[np.ndarray]:
    """Right for the most part, so that large scales are confident."""
    x, y = indices(rng, shape)
    return [scale * (x + 3 * (y[..., None] == np.arange(CLASSES))), y]


def weights_of_classes(rng: RNG, shape: Shape) -> np.ndarray:
    return rng.uniform(0.5, 2.0, CLASSES)


def boxes(rng: RNG, shape: Shape) -> list[np.ndarray]:
    """Pairs that overlap, that are apart, and of which one is inside the other."""
    corners = rng.uniform(-1, 1, (2, *shape[:-1], 2))
    sizes = rng.uniform(0.2, 2.0, (2, *shape[:-1], 2))
    return list(np.concatenate([corners, corners + sizes], -1))


def nearly_equal(rng: RNG, shape: Shape, scale: float) -> list[np.ndarray]:
    a, b = boxes(rng, shape)
    return [a, a + scale * (b - a)]


def equal_boxes(rng: RNG, shape: Shape) -> list[np.ndarray]:
    return [boxes(rng, shape)[0]] * 2


def one_target(rng: RNG, shape: Shape) -> list[np.ndarray]:
    a, b = boxes(rng, shape)
    return [a, b[0]]


iou_loss = functools.wraps(jaxloss.iou_loss)(functools.partial(jaxloss.iou_loss, constant_tradeoff=False))

OPTIONS: dict[str, Any] = {
    "indices": {},
    "first axis": {"axis": 0},
    "batch": {"axis": (0, 1)},
    "none": {"reduction": "none"},
    "sum": {"reduction": "sum"},
    "background": {"ignore_background": True},
    "class weights": {"class_weights": weights_of_classes},
    "sharp": {"smooth": 0.0},
}
MAKERS = {"indices": indices, "one class": one_class, "probabilities": as_probabilities}
ONE = [[[50.0], [50.0], [-50.0]]]
FLAT = [[[0.0, 0.0], [0.0, 0.0]]]
EDGES = (
    Edge("index out of range", (FLAT, [[0, 2]]), [NAN], ([[[NAN, NAN]] * 2],)),
    Edge("nan", ([[[NAN, 0.0]]], [[1]]), [NAN], "any"),
    Edge("one class, no index", (ONE, [[1, 0, 2]]), [NAN], ([[[NAN]] * 3],)),
    Edge("one class, ignored", (ONE, [[1, 0, 255]]), "finite", "finite", {"ignore_index": 255}),
    Edge("one right, one too many", (ONE, [[1, 0, 0]]), "finite", "finite"),
    Edge("nothing there", ([[[-200.0], [-200.0]]], [[0, 0]]), [0.0], ([[[0.0], [0.0]]],), {"smooth": 0.0}),
    Edge("class ruled out", ([[[0.0, -INF], [0.0, 0.0]]], [[0, 1]]), "finite", "finite"),
    Edge("right by far", ([[[1e4, 0.0], [0.0, 1e4]]], [[0, 1]]), [0.0], ([[[0.0, 0.0]] * 2],), {"smooth": 0.0}),
    Edge("wrong by far", ([[[1e4, 0.0], [0.0, 1e4]]], [[1, 0]]), [1.0], ([[[0.0, 0.0]] * 2],), {"smooth": 0.0}),
)


def _index(
    fn: Any,
    formula: Any,
    options: dict[str, Any],
    flag: str = "from_logits",
    edges: tuple[Edge, ...] = EDGES,
    **given: Any,
) -> Case:
    options = {**OPTIONS, "one class": {}, "probabilities": {flag: False}, **options}
    return Case(
        of_pixels(fn),
        formula,
        soft,
        "total",
        options=options,
        makers={**MAKERS, "everything": indices},
        zero=None,
        accurate=indices_at,
        edges=edges,
        scales=(1e-3, 1.0, 5.0),
        **given,
    )


A, B = [0.0, 0.0, 2.0, 2.0], [1.0, 0.0, 3.0, 2.0]
POINT, FAR = [1.0, 1.0, 1.0, 1.0], [3.0, 0.0, 5.0, 2.0]
NONE = [0.0] * 4
VARIANTS = ("plain", "generalized", "distance", "complete")
HUGE, TINY, LARGEST = 2.0**60, 2.0**-60, 2.0**127
ALL, QUARTER = [-LARGEST, -LARGEST, LARGEST, LARGEST], [0.0, 0.0, LARGEST, LARGEST]
CASES = [
    _index(
        jaxloss.dice_loss,
        formulas.index_loss,
        {"everything": {"alpha": 0.3, "beta": 0.9, "smooth": 0.1, "class_weights": weights_of_classes}},
        "apply_softmax",
        optax="dice_loss",
    ),
    _index(
        jaxloss.tversky_loss,
        formulas.index_loss,
        {"everything": {"alpha": 0.3, "beta": 0.9, "smooth": 0.1, "axis": (0, 1)}},
    ),
    _index(
        jaxloss.focal_tversky_loss,
        formulas.focal_tversky_loss,
        {"everything": {"alpha": 0.5, "gamma": 2.0, "smooth": 0.1, "ignore_background": True}},
    ),
    _index(jaxloss.jaccard_loss, formulas.jaccard_loss, {"everything": {"smooth": 0.1, "reduction": "none"}}),
    Case(
        of_pixels(jaxloss.binary_dice_loss),
        formulas.binary_dice_loss,
        binary,
        "total",
        options={"sharp": {"smooth": 0.0}, "everything": {"apply_sigmoid": False, "smooth": 0.3}},
        makers={"everything": lambda rng, shape: [rng.random(shape), rng.random(shape)]},
        optax="binary_dice_loss",
        edges=(
            Edge("nothing there", ([[-200.0] * 2], [[0, 0]]), [0.0], ([[0.0, 0.0]],), {"smooth": 0.0}),
            Edge("right by far", ([[1e4, -1e4]], [[1, 0]]), [0.0], ([[0.0, 0.0]],), {"smooth": 0.0}),
            Edge("infinite", ([[INF, -INF]], [[1, 1]]), [1 / 3], ([[0.0, 0.0]],), {"smooth": 0.0}),
            Edge("nan", ([[NAN, 1.0]], [[1, 1]]), [NAN], "any"),
            Edge("neither 0 nor 1", ([[0.0, 1.0]], [[1, 255]]), [NAN], ([[NAN, NAN]],)),
        ),
        accurate=foreground_at,
        scales=(1e-3, 1.0, 10.0),
    ),
    Case(
        of_pixels(jaxloss.multiclass_generalized_dice_loss),
        formulas.multiclass_generalized_dice_loss,
        soft,
        "total",
        options={
            "indices": {},
            "probabilities": {"apply_softmax": False},
            "background": {"ignore_background": True},
            "everything": {"smooth": 0.1, "ignore_background": True},
        },
        makers={**MAKERS, "everything": indices},
        optax="multiclass_generalized_dice_loss",
        edges=(
            Edge("index out of range", (FLAT, [[0, 2]]), NAN, ([[[NAN, NAN]] * 2],)),
            Edge("absent class", ([[[1e4, 0.0]]], [[0]]), 0.0, ([[[0.0, 0.0]]],), {"smooth": 0.0}),
            Edge("nothing there", ([[[0.0, 0.0]]], [[[0.0, 0.0]]]), 1.0, "finite", {"smooth": 0.0}),
            Edge("nan", ([[[NAN, 0.0]]], [[1]]), NAN, "any"),
        ),
    ),
    Case(
        of_pixels(jaxloss.lovasz_softmax_loss),
        formulas.lovasz_softmax_loss,
        indices,
        "total",
        options={
            "all": {"classes": "all"},
            "batch": {"axis": (0, 1)},
            "none": {"reduction": "none"},
            "sum": {"reduction": "sum"},
            "background": {"ignore_background": True},
            "class weights": {"class_weights": weights_of_classes},
            "probabilities": {"from_logits": False},
            "everything": {"classes": "all", "class_weights": weights_of_classes, "ignore_background": True},
        },
        makers={"probabilities": apart, "batch": apart_logits},
        shapes={"probabilities": (2, 5), "batch": (2, 5)},
        zero=certain,
        accurate=indices_at,
        scales=(1e-3, 1.0, 5.0),
        edges=(
            Edge("index out of range", (FLAT, [[0, 2]]), [NAN], ([[[NAN, NAN]] * 2],)),
            Edge("no index in range", (FLAT, [[2, -1]]), [NAN], ([[[NAN, NAN]] * 2],)),
            Edge("right by far", ([[[1e4, 0.0], [0.0, 1e4]]], [[0, 1]]), [0.0], ([[[0.0, 0.0]] * 2],)),
            Edge("wrong by far", ([[[1e4, 0.0], [0.0, 1e4]]], [[1, 0]]), [1.0], ([[[0.0, 0.0]] * 2],)),
            Edge("absent class", ([[[0.0, 0.0]]], [[0]]), [0.5], ([[[-0.25, 0.25]]],)),
            Edge("absent class counted", ([[[0.0, 0.0]]], [[0]]), [0.5], ([[[-0.25, 0.25]]],), {"classes": "all"}),
            Edge("nan", ([[[NAN, 0.0], [1.0, 0.0]]], [[1, 0]]), [NAN], ([[[NAN, NAN]] * 2],)),
        ),
    ),
    Case(
        jaxloss.lovasz_hinge_loss,
        formulas.lovasz_hinge_loss,
        foreground,
        "frames",
        options={
            "first axis": {"axis": 0},
            "two axes": {"axis": (0, 2)},
            "ignored": {"ignore_index": 0},
            "pixels kept": {"where": lambda rng, shape: rng.random(shape) < 0.7},
            "everything": {"where": rows_kept, "ignore_index": 7},
        },
        shapes={"two axes": (2, 4, 3)},
        accurate=foreground_at,
        scales=(1e-3, 1.0, 30.0, 1e3),
        conditioned=0.0,
        temporaries=(11.0, 23.0),  # of sorting
        edges=(
            Edge("right", ([[2.0, -2.0]], [[1, 0]]), [0.0], ([[0.0, 0.0]],)),
            Edge("at the margin", ([[1.0, -1.0]], [[1, 0]]), [0.0], ([[0.0, 0.0]],)),
            Edge("wrong by far", ([[-1e4, 0.0]], [[1, 0]]), [1e4 + 1], ([[-1.0, 0.0]],)),
            Edge("nothing there", ([[0.5, -4.0]], [[0, 0]]), [1.5], ([[1.0, 0.0]],)),
            Edge("infinitely right", ([[INF, -INF]], [[1, 0]]), [0.0], ([[0.0, 0.0]],)),
            Edge("infinitely wrong", ([[-INF, 0.0]], [[1, 0]]), [INF], "any"),
            Edge("ignored", ([[NAN, 3.0]], [[255, 1]]), [0.0], ([[0.0, 0.0]],), {"ignore_index": 255}),
            Edge("nan", ([[NAN, 0.0, -2.0]], [[1, 0, 0]]), [NAN], ([[NAN] * 3],)),
        ),
    ),
    Case(
        iou_loss,
        formulas.iou_loss,
        boxes,
        "frames",
        options={
            "generalized": {"variant": "generalized"},
            "distance": {"variant": "distance"},
            "complete": {"variant": "complete"},
            "broadcast": {"variant": "generalized"},
            "everything": {"variant": "complete", "where": rows_kept},
        },
        makers={"broadcast": one_target},
        zero=equal_boxes,
        accurate=nearly_equal,
        scales=(1e-6, 1e-3, 1.0),
        conditioned=0.0,
        temporaries=(4.4, 8.8),  # of numbers for each box, which has four itself
        edges=(
            Edge("identical", ([A], [A]), [0.0], ([NONE], [NONE])),
            *(Edge(f"identical, {v}", ([A], [A]), [0.0], "finite", {"variant": v}) for v in VARIANTS[1:]),
            *(Edge(f"points, {v}", ([POINT], [POINT]), [0.0], ([NONE], [NONE]), {"variant": v}) for v in VARIANTS),
            Edge("two points", ([POINT], [NONE]), [1.0], ([NONE], [NONE])),
            Edge("two points, distance", ([POINT], [NONE]), [2.0], "finite", {"variant": "distance"}),
            Edge("two points, complete", ([POINT], [NONE]), [2.0], "finite", {"variant": "complete"}),
            Edge("two points, generalized", ([POINT], [NONE]), [2.0], "finite", {"variant": "generalized"}),
            Edge("point in a box", ([POINT], [A]), [1.0], "finite"),
            Edge("point in a box, complete", ([POINT], [A]), "finite", "finite", {"variant": "complete"}),
            Edge("apart", ([A], [FAR]), [1.0], ([NONE], [NONE])),
            Edge("apart, generalized", ([A], [FAR]), [1.2], "finite", {"variant": "generalized"}),
            Edge("touching", ([A], [[2.0, 0.0, 4.0, 2.0]]), [1.0], "finite"),
            Edge("a third", ([A], [B]), [2 / 3], "finite"),
            Edge("huge", ([[HUGE * c for c in A]], [[HUGE * c for c in B]]), [2 / 3], "finite", {"variant": "plain"}),
            Edge("tiny", ([[TINY * c for c in A]], [[TINY * c for c in B]]), [2 / 3], "finite", {"variant": "plain"}),
            Edge("wide", ([[0.0, 0.0, HUGE, TINY]], [[0.0, 0.0, HUGE, 2 * TINY]]), [0.5], "finite"),
            *(
                Edge(f"nan, {v}", ([[NAN, 0.0, 1.0, 1.0], A], [A, A]), [NAN, 0.0], "any", {"variant": v})
                for v in VARIANTS
            ),
            Edge("nan beside identical", ([[NAN, 0.0, 1.0, 1.0], A], [A, A]), [NAN, 0.0], ([[NAN] * 4, NONE],) * 2),
            *(
                Edge(f"largest numbers, {v}", ([ALL], [QUARTER]), [value], "finite", {"variant": v})
                for v, value in zip(VARIANTS, (0.75, 0.75, 0.8125, 0.8125), strict=True)
            ),
        ),
    ),
]
