"""Cases of the losses that compare all classes of a row."""

from __future__ import annotations

from typing import Any

import margin_formulas as formulas
import numpy as np
from registry_case import INF, NAN, Case, Edge
from registry_classes import (
    class_weights,
    classes_kept,
    classes_kept_anywhere,
    integer,
    integer_first_axis,
    integer_two_axes,
    labels_of,
    right_labels,
    rows_kept,
)
from registry_margin import scores_at
from registry_regression import binary, decided, right_decisions

import jaxloss

RNG = np.random.Generator
Shape = tuple[int, ...]
SHAPES = {"first axis": (5, 8), "two axes": (2, 4, 3), "all axes": (4, 3)}


def labelled(options: dict[str, Any]) -> dict[str, Any]:
    """For losses of one label in each row."""
    common = {
        "first axis": {"axis": 0},
        "two axes": {"axis": (0, 2)},
        "classes kept": {"where": classes_kept},
        "ignored": {"ignore_index": 2},
    }
    return {
        "kind": "axis",
        "options": {**common, **options},
        "shapes": SHAPES,
        "makers": {"first axis": integer_first_axis, "two axes": integer_two_axes},
        "zero": right_labels,
        "accurate": scores_at,
    }


LABEL_EDGES = (
    Edge("out of range", ([[1.0, 2.0]], [2]), [NAN], ([[NAN, NAN]],)),
    Edge("ignored", ([[NAN, 2.0]], [-100]), [0.0], ([[0.0, 0.0]],), {"ignore_index": -100}),
    Edge("one class", ([[3.0]], [0]), [0.0], ([[0.0]],)),
    Edge("nan", ([[NAN, 0.0]], [1]), [NAN], "any"),
)


def shared_labels(rng: RNG, shape: Shape) -> list[np.ndarray]:
    return [binary(rng, shape)[0], (rng.random(shape[1:]) < 0.5).astype(np.int8)]


def several(options: dict[str, Any]) -> dict[str, Any]:
    """For losses of any number of labels in each row."""
    common = {
        "first axis": {"axis": 0},
        "two axes": {"axis": (0, 2)},
        "all axes": {"axis": None},
        "row of no class": {"where": classes_kept_anywhere},
        "broadcast labels": {},
    }
    makers = {"broadcast labels": shared_labels}
    return {"kind": "axis", "options": {**common, **options}, "shapes": SHAPES, "makers": makers}


def right_several(rng: RNG, shape: Shape) -> list[np.ndarray]:
    """Half of the classes are labels, all of them far ahead."""
    y = 1.0 * (rng.random(shape) < 0.5)
    return [300.0 * y, y]


def cosines(rng: RNG, shape: Shape) -> list[np.ndarray]:
    scores, labels = integer(rng, shape)
    return [np.tanh(scores) * 0.9, labels]


LEVELS = np.array([-0.7, -0.4, 0.0, 0.5, 0.7])


def cosines_apart(rng: RNG, shape: Shape) -> list[np.ndarray]:
    """No two classes compete: at a scale of 64 numerical derivatives of less have no digits."""
    if shape[-1] > len(LEVELS):
        return cosines(rng, shape)
    levels = np.broadcast_to(LEVELS[-shape[-1] :], shape) + rng.uniform(-0.02, 0.02, shape)
    return [rng.permuted(levels, axis=-1), labels_of(shape)]


def cosines_first_axis(rng: RNG, shape: Shape) -> list[np.ndarray]:
    scores, labels = integer_first_axis(rng, shape)
    return [np.tanh(scores) * 0.9, labels]


def cosines_two_axes(rng: RNG, shape: Shape) -> list[np.ndarray]:
    scores, labels = integer_two_axes(rng, shape)
    return [np.tanh(scores) * 0.9, labels]


def cosines_at(rng: RNG, shape: Shape, scale: float) -> list[np.ndarray]:
    scores, labels = scores_at(rng, shape, scale)
    return [np.tanh(scores), labels]


def opposite(rng: RNG, shape: Shape) -> list[np.ndarray]:
    """The label at 1, the other classes at -1."""
    labels = labels_of(shape)
    return [2.0 * (labels[..., None] == np.arange(shape[-1])) - 1, labels]


SIN, COS = np.sin(0.5), np.cos(0.5)
FLAT = 1 / np.sqrt(np.float64(np.finfo(np.float32).eps))  # of the cotangent of the least angle

CASES = [
    Case(
        jaxloss.multi_margin_loss,
        formulas.multi_margin_loss,
        integer,
        **labelled(
            {
                "square": {"p": 2},
                "margin": {"margin": 0.3},
                "everything": {"p": 2, "margin": 1.7, "where": rows_kept, "class_weights": class_weights},
            }
        ),
        edges=(
            *LABEL_EDGES,
            Edge("at the margin", ([[2.0, 1.0, 0.5]], [0]), [0.0], ([[0.0, 0.0, 0.0]],)),
            Edge("behind", ([[0.0, 1e4, -5.0]], [0]), [(1e4 + 1) / 3], ([[-1 / 3, 1 / 3, 0.0]],)),
            Edge("square", ([[0.0, 3.0]], [0]), [8.0], ([[-4.0, 4.0]],), {"p": 2}),
            Edge("class ruled out", ([[0.0, -INF, 1.0]], [0]), [2 / 3], ([[-1 / 3, 0.0, 1 / 3]],)),
            Edge("label ruled out", ([[0.0, -INF]], [1]), [INF], "any"),
            Edge("far ahead", ([[INF, 0.0]], [0]), [0.0], ([[0.0, 0.0]],)),
        ),
        scales=(1e-3, 1.0, 30.0, 1e3),
        conditioned=0.0,
    ),
    Case(
        jaxloss.multilabel_margin_loss,
        formulas.multilabel_margin_loss,
        binary,
        temporaries=(3.0, 10.0),
        **several({"everything": {"margin": 0.6, "where": rows_kept}}),
        edges=(
            Edge("no label", ([[1.0, 2.0]], [[0.0, 0.0]]), [0.0], ([[0.0, 0.0]], "finite")),
            Edge("all labels", ([[1.0, 2.0]], [[1.0, 1.0]]), [0.0], ([[0.0, 0.0]], "finite")),
            Edge("at the margin", ([[1.0, 0.0]], [[1.0, 0.0]]), [0.0], ([[0.0, 0.0]], "finite")),
            Edge("behind", ([[0.0, 1e4]], [[1.0, 0.0]]), [(1e4 + 1) / 2], ([[-0.5, 0.5]], "finite")),
            Edge("wrong class ruled out", ([[0.0, -INF]], [[1.0, 0.0]]), [0.0], ([[0.0, 0.0]], "any")),
            Edge("label ruled out", ([[-INF, 0.0]], [[1.0, 0.0]]), [INF], ([[-0.5, 0.5]], "any")),
            Edge("nan", ([[NAN, 0.0]], [[1.0, 0.0]]), [NAN], "any"),
        ),
        zero=right_several,
        accurate=decided,
        scales=(1e-3, 1.0, 30.0, 1e3),
        conditioned=0.0,
    ),
    Case(
        jaxloss.multilabel_soft_margin_loss,
        formulas.multilabel_soft_margin_loss,
        binary,
        **several(
            {
                "everything": {
                    "where": rows_kept,
                    "class_weights": class_weights,
                    "pos_weight": class_weights,
                    "label_smoothing": 0.1,
                }
            }
        ),
        edges=(
            Edge("agreeing infinity", ([[INF, -INF]], [[1.0, 0.0]]), [0.0], ([[0.0, 0.0]], "any")),
            Edge("opposed infinity", ([[INF, 0.0]], [[0.0, 1.0]]), [INF], ([[0.5, -0.25]], "any")),
            Edge("wrong by far", ([[1e4, -1e4]], [[0.0, 1.0]]), [1e4], ([[0.5, -0.5]], "any")),
            Edge("nan", ([[NAN, 0.0]], [[1.0, 0.0]]), [NAN], "any"),
        ),
        zero=right_decisions,
        accurate=decided,
    ),
    Case(
        jaxloss.margin_softmax_cross_entropy,
        formulas.margin_softmax_cross_entropy,
        cosines_apart,
        **{
            **labelled(
                {
                    "cosine": {"angular_margin": 0.0, "cosine_margin": 0.35, "scale": 30.0},
                    "neither": {"angular_margin": 0.0, "scale": 5.0},
                    "classes kept": {"where": classes_kept, "scale": 5.0},
                    "everything": {
                        "angular_margin": 0.3,
                        "cosine_margin": 0.2,
                        "scale": 10.0,
                        "where": rows_kept,
                        "class_weights": class_weights,
                    },
                }
            ),
            "makers": {
                "first axis": cosines_first_axis,
                "two axes": cosines_two_axes,
                **dict.fromkeys(("cosine", "neither", "everything"), cosines),
            },
            "zero": opposite,
            "accurate": cosines_at,
        },
        edges=(
            *LABEL_EDGES[:2],
            Edge("one class", ([[0.5]], [0]), [0.0], ([[0.0]],)),
            Edge("nan", ([[NAN, 0.0]], [1]), [NAN], "any"),
            Edge("no angle", ([[1.0, COS]], [0]), [np.log(2)], ([[-0.5 * (COS + SIN * FLAT), 0.5]],), {"scale": 1.0}),
            Edge("above 1", ([[1.0000002, COS]], [0]), [np.log(2)], "finite", {"scale": 1.0}),
            Edge("beyond pi", ([[-1.0, -1.0 - 0.5 * SIN]], [0]), [np.log(2)], ([[-0.5, 0.5]],), {"scale": 1.0}),
            Edge("below -1", ([[-1.0000001, 0.0]], [0]), "finite", "finite"),
            Edge("right", ([[1.0, -1.0]], [0]), [0.0], ([[0.0, 0.0]],), {"scale": 1e3}),
            Edge("wrong", ([[-1.0, 1.0]], [0]), [128 + 32 * SIN], ([[-64.0, 64.0]],)),
        ),
        scales=(1e-3, 0.3, 1.0),
        conditioned=0.0,
    ),
]
