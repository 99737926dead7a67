"""Cases of the losses of tempered distributions."""

from __future__ import annotations

from typing import Any

import tempered_formulas as formulas
from registry_case import INF, NAN, Case, Edge
from registry_classes import (
    classes_kept,
    confident,
    integer,
    integer_first_axis,
    integer_two_axes,
    right_labels,
    rows_kept,
)
from registry_margin import scores_at

import jaxloss

OPTIONS: dict[str, Any] = {
    "classes kept": {"where": classes_kept},
    "rows kept": {"where": rows_kept},
    "first axis": {"axis": 0},
    "two axes": {"axis": (0, 2)},
}
SHAPES = {"first axis": (5, 8), "two axes": (2, 4, 3)}
MAKERS = {"first axis": integer_first_axis, "two axes": integer_two_axes}


EDGES = (
    Edge("out of range", ([[1.0, 2.0]], [2]), [NAN], ([[NAN, NAN]],)),
    Edge("ignored", ([[NAN, 2.0]], [-100]), [0.0], ([[0.0, 0.0]],), {"ignore_index": -100}),
    Edge("one class", ([[3.0]], [0]), [0.0], ([[0.0]],)),
    Edge("far ahead", ([[INF, 0.0]], [0]), [0.0], "finite"),
    Edge("class ruled out", ([[0.0, -INF]], [0]), [0.0], ([[0.0, 0.0]],)),
    Edge("nothing left", ([[-INF, -INF]], [0]), [NAN], "any"),
    Edge("nan", ([[NAN, 0.0]], [1]), [NAN], "any"),
)
CASES = [
    Case(
        jaxloss.entmax_loss,
        formulas.entmax_loss,
        integer,
        "axis",
        options={
            **OPTIONS,
            "softmax": {"alpha": 1.0},
            "nearly softmax": {"alpha": 1.01},
            "in between": {"alpha": 1.25},
            "sparsemax": {"alpha": 2.0},
            "beyond": {"alpha": 3.0},
            "everything": {"alpha": 1.7, "ignore_index": 1, "where": rows_kept},
        },
        shapes=SHAPES,
        makers=MAKERS,
        edges=(
            *EDGES,
            Edge("label ruled out", ([[0.0, -INF]], [1]), [INF], "any"),
            Edge("ahead by 2", ([[2.0, 0.0]], [0]), [0.0], ([[0.0, 0.0]],)),
            Edge("behind", ([[0.0, 1e4]], [0]), [1e4], ([[-1.0, 1.0]],)),
            Edge("all equal", ([[7.0] * 4], [0]), [2 / 3], ([[-0.75, 0.25, 0.25, 0.25]],)),
            Edge("large and equal", ([[1e7, 1e7, 0.0]], [0]), [0.125], ([[-0.5, 0.5, 0.0]],), {"alpha": 3.0}),
            Edge(
                "equal, 50",
                ([[7.0] * 4], [0]),
                [(1 - 4.0**-49) / 2450],
                ([[-0.75, 0.25, 0.25, 0.25]],),
                {"alpha": 50.0},
            ),
            Edge("all equal, 5/4", ([[7.0] * 16], [0]), [1.6], "finite", {"alpha": 1.25}),
        ),
        zero=right_labels,
        accurate=scores_at,
        scales=(1e-3, 1.0, 30.0),
        conditioned=0.0,
        temporaries=(4.5, 10.5),
    ),
    Case(
        jaxloss.bi_tempered_logistic_loss,
        formulas.bi_tempered_logistic_loss,
        integer,
        "axis",
        options={
            **OPTIONS,
            "logistic": {"t1": 1.0, "t2": 1.0},
            "heavy": {"t1": 0.2, "t2": 4.0},
            "sparse": {"t1": 0.5, "t2": 0.5},
            "bounded": {"t1": 0.0, "t2": 1.0},
            "smoothed": {"label_smoothing": 0.2},
            "everything": {"t1": 0.3, "t2": 2.0, "label_smoothing": 0.1, "ignore_index": 1, "where": rows_kept},
        },
        shapes=SHAPES,
        makers=MAKERS,
        edges=(
            *EDGES,
            Edge("label ruled out", ([[0.0, -INF]], [1]), [5.0], "any"),
            Edge("wrong by far", ([[0.0, 1e30]], [0]), "finite", "finite"),
        ),
        accurate=confident,
        scales=(1e-3, 1.0, 30.0),
        conditioned=0.0,
        temporaries=(4.0, 10.0),
    ),
]
