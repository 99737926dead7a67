"""Cases of the cross-entropies that weigh examples by how right they are."""

from __future__ import annotations

from typing import Any

import focal_formulas as formulas
import numpy as np
from registry_case import INF, NAN, Case, Edge
from registry_classes import (
    class_weights,
    classes_kept,
    classes_kept_anywhere,
    confident,
    dense,
    dense_confident,
    integer,
    integer_first_axis,
    integer_two_axes,
    right_distributions,
    right_labels,
    rows_kept,
)
from registry_regression import (
    binary,
    broadcast_decisions,
    component_weights,
    decided,
    kept,
    right_decisions,
)

import jaxloss


def each_component(low: float, high: float) -> Any:
    return lambda rng, shape: rng.uniform(low, high, shape[-1:])


def opposed(gamma: float) -> Edge:
    return Edge(f"wrong by far, {gamma}", ([1e4, -1e4], [0.0, 1.0]), [1e4] * 2, ([1.0, -1.0], "any"), {"gamma": gamma})


def saturated(gamma: float) -> Edge:
    """The chance to be wrong is exp(-40); of exp(-200) nothing is left."""
    value = np.exp(-40.0 * (gamma + 1))
    slope = value * (gamma + 1)
    edge = ([40.0, -40.0, 200.0], [1.0, 0.0, 1.0]), [value, value, 0.0], ([-slope, slope, 0.0], "finite")
    return Edge(f"saturated, {gamma}", *edge, {"gamma": gamma})


OF_DISTRIBUTIONS = (
    Edge("class ruled out", ([[0.0, -INF]], [[1.0, 0.0]]), [0.0], ([[0.0, 0.0]], "any")),
    Edge("label ruled out", ([[-INF, 0.0]], [[1.0, 0.0]]), [INF], ([[-1.0, 1.0]], "any")),
    Edge("far apart", ([[3e38, -3e38]], [[1.0, 0.0]]), [0.0], ([[0.0, 0.0]], "any")),
    Edge("one class", ([[3.0]], [[0.5]]), [0.0], ([[0.0]], "any")),
    Edge("no target", ([[1.0, -INF]], [[0.0, 0.0]]), [0.0], ([[0.0, 0.0]], "any")),
    Edge("nan", ([[NAN, 0.0]], [[0.0, 1.0]]), [NAN], "any"),
)
GAMMAS = (0.0, 0.5, 1.0, 2.0)
TINY = 1.8048513878454153e-35  # exp(-80)


def _of_label(fn: Any, options: dict[str, Any], edges: tuple[Edge, ...], everything: dict[str, Any]) -> Case:
    """The loss is a function of the cross-entropy, with slope 1 in it where it vanishes."""
    common = {
        "distributions": {},
        "everything of distributions": {"where": classes_kept_anywhere, "class_weights": class_weights, **everything},
        "first axis": {"axis": 0},
        "two axes": {"axis": (0, 2)},
        "classes kept": {"where": classes_kept},
        "ignored": {"ignore_index": 2},
        "everything": {"where": rows_kept, "class_weights": class_weights, **everything},
    }
    shared = (
        Edge("class ruled out", ([[0.0, -INF]], [0]), [0.0], ([[0.0, 0.0]],)),
        Edge("far apart", ([[3e38, -3e38]], [0]), [0.0], ([[0.0, 0.0]],)),
        Edge("one class", ([[3.0]], [0]), [0.0], ([[0.0]],)),
        Edge("label out of range", ([[1.0, 2.0]], [2]), [NAN], ([[NAN, NAN]],)),
        Edge("ignored", ([[NAN, 2.0]], [-100]), [0.0], ([[0.0, 0.0]],), {"ignore_index": -100}),
        Edge("nan", ([[NAN, 0.0]], [1]), [NAN], "any"),
    )
    return Case(
        fn,
        getattr(formulas, fn.__name__),
        integer,
        "axis",
        options={**common, **options},
        shapes={"first axis": (5, 8), "two axes": (2, 4, 3)},
        makers={
            "first axis": integer_first_axis,
            "two axes": integer_two_axes,
            "distributions": dense,
            "everything of distributions": dense,
        },
        edges=(*shared, *edges),
        zero=right_labels,
        accurate=confident,
        scales=(1e-3, 1.0, 10.0, 1e3),
        conditioned=10.0,
    )


CASES = [
    Case(
        jaxloss.sigmoid_focal_loss,
        formulas.sigmoid_focal_loss,
        binary,
        "elementwise",
        options={
            **{f"gamma {g}": {"gamma": g} for g in (0.0, 0.5, 1.0, 3.5)},
            "alpha": {"alpha": 0.25},
            "everything": {
                "gamma": each_component(0.5, 3.0),
                "alpha": each_component(0.2, 0.8),
                "label_smoothing": 0.1,
                "where": kept,
                "weights": component_weights,
            },
            "broadcast decisions": {"gamma": 1.5, "alpha": 0.3},
        },
        makers={"broadcast decisions": broadcast_decisions},
        edges=(
            *map(opposed, GAMMAS),
            *map(saturated, GAMMAS),
            Edge("agreeing infinity", ([INF, -INF], [1.0, 0.0]), [0.0, 0.0], ([0.0, 0.0], "any")),
            Edge("opposed infinity", ([INF, -INF], [0.0, 1.0]), [INF, INF], ([1.0, -1.0], "any")),
            Edge("infinity, no gamma", ([INF, -INF], [1.0, 1.0]), [0.0, INF], ([0.0, -1.0], "any"), {"gamma": 0.0}),
            Edge("soft at infinity", ([INF], [0.5]), [INF], ([0.25], "any"), {"gamma": 1.0}),
            Edge(
                "side that has no weight", ([INF, 3.0], [0.0, 0.0]), [0.0, 0.0], ([0.0, 0.0], "finite"), {"alpha": 1.0}
            ),
            Edge(
                "barely smoothed",
                ([60.0], [1.0]),
                [3e-5],
                ([5e-7], "any"),
                {"gamma": 0.0, "label_smoothing": 1e-6},
            ),
            Edge("undecided", ([0.0], [1.0]), [np.log(2) / 4], ([-np.log(2) / 4 - 0.125], "any")),
            Edge("nan", ([NAN], [1.0]), [NAN], ([NAN], "any")),
        ),
        optax="sigmoid_focal_loss",
        zero=right_decisions,
        accurate=decided,
    ),
    Case(
        jaxloss.asymmetric_loss,
        formulas.asymmetric_loss,
        binary,
        "elementwise",
        options={
            "cross-entropy": {"gamma_neg": 0.0, "margin": 0.0},
            "focal": {"gamma_pos": 1.0, "gamma_neg": 2.0, "margin": 0.0},
            "steep": {"gamma_pos": 0.5, "gamma_neg": 1.0, "margin": 0.2},
            "everything": {
                "gamma_pos": each_component(0.5, 2.0),
                "gamma_neg": each_component(1.5, 5.0),
                "margin": each_component(0.01, 0.2),
                "label_smoothing": 0.1,
                "where": kept,
                "weights": component_weights,
            },
            "broadcast decisions": {"gamma_pos": 1.0},
        },
        makers={"broadcast decisions": broadcast_decisions},
        edges=(
            Edge("easy", ([-3.0, -1e4, -INF], [0.0] * 3), [0.0] * 3, ([0.0] * 3, "any")),
            Edge(
                "mislabelled",
                ([40.0, 1e4, INF], [0.0] * 3),
                [0.95**4 * -np.log(0.05)] * 3,
                ([float(np.exp(-40) * (4 * 0.95**3 * -np.log(0.05) + 0.95**4 / 0.05)), 0.0, 0.0], "any"),
            ),
            Edge("missed by far", ([-1e4, -INF], [1.0, 1.0]), [1e4, INF], ([-1.0, -1.0], "any")),
            Edge("found", ([80.0, INF], [1.0, 1.0]), [np.exp(-80), 0.0], ([-np.exp(-80), 0.0], "any")),
            Edge("no margin", ([1e4, INF], [0.0, 0.0]), [1e4, INF], ([1.0, 1.0], "any"), {"margin": 0.0}),
            Edge("no margin, right", ([-200.0], [0.0]), [0.0], ([0.0], "any"), {"margin": 0.0, "gamma_neg": 0.5}),
            Edge("nan", ([NAN, NAN], [1.0, 0.0]), [NAN, NAN], ([NAN, NAN], "any")),
        ),
        zero=right_decisions,
        accurate=decided,
        conditioned=0.0,
    ),
    _of_label(
        jaxloss.softmax_focal_loss,
        {
            **{f"gamma {g}": {"gamma": g} for g in (0.0, 0.5, 1.0, 3.5)},
            "smoothed": {"label_smoothing": 0.1, "where": classes_kept},
        },
        (
            *(Edge(f"wrong by far, {g}", ([[0.0, 1e4]], [0]), [1e4], ([[-1.0, 1.0]],), {"gamma": g}) for g in GAMMAS),
            Edge("no gamma", ([[80.0, 0.0]], [0]), [TINY], ([[-TINY, TINY]],), {"gamma": 0.0}),
            Edge("root", ([[80.0, 0.0]], [0]), [0.0], ([[0.0, 0.0]],), {"gamma": 0.5}),
            Edge(
                "all equal", ([[0.0, 0.0]], [0]), [np.log(2) / 4], ([[-np.log(2) / 4 - 0.125, np.log(2) / 4 + 0.125]],)
            ),
            Edge("label ruled out", ([[-INF, 0.0]], [0]), [INF], ([[-1.0, 1.0]],)),
        ),
        {"gamma": 1.5, "label_smoothing": 0.2},
    ),
    Case(  # sums over classes, where a label has one number for each row
        jaxloss.softmax_focal_loss,
        formulas.softmax_focal_loss,
        dense,
        "axis",
        "softmax_focal_loss of distributions",
        options={
            "gamma 0.5": {"gamma": 0.5},
            "first axis": {"axis": 0},
            "two axes": {"axis": (0, 2)},
            "everything": {
                "where": rows_kept,
                "class_weights": class_weights,
                "gamma": 1.5,
                "label_smoothing": 0.2,
            },
        },
        shapes={"first axis": (5, 8), "two axes": (2, 4, 3)},
        edges=OF_DISTRIBUTIONS,
        zero=right_distributions,
        accurate=dense_confident,
        scales=(1e-3, 1.0, 10.0, 1e3),
        conditioned=10.0,
    ),
    _of_label(
        jaxloss.generalized_cross_entropy,
        {"misses": {"q": 1.0}, "nearly cross-entropy": {"q": 1e-4}, "half": {"q": 0.5}},
        (
            Edge("confident", ([[80.0, 0.0]], [0]), [TINY], ([[-TINY, TINY]],)),
            Edge("wrong by far", ([[0.0, 1e4]], [0]), [1 / 0.7], ([[0.0, 0.0]],)),
            Edge("label ruled out", ([[-INF, 0.0]], [0]), [2.0], ([[0.0, 0.0]],), {"q": 0.5}),
            Edge("cross-entropy", ([[0.0, 1e4]], [0]), [1e4], ([[-1.0, 1.0]],), {"q": 0.0}),
            Edge("cross-entropy, ruled out", ([[-INF, 0.0]], [0]), [INF], ([[-1.0, 1.0]],), {"q": 0.0}),
        ),
        {"q": 0.3},
    ),
    Case(
        jaxloss.poly_loss_cross_entropy,
        formulas.poly_loss_cross_entropy,
        dense,
        "axis",
        options={
            "detection": {"epsilon": -1.0},
            "cross-entropy": {"epsilon": 0.0},
            "first axis": {"axis": 0},
            "two axes": {"axis": (0, 2)},
            "all axes": {"axis": None},
            "row of no class": {"where": classes_kept_anywhere},
            "everything": {"epsilon": 0.7, "where": rows_kept, "class_weights": class_weights},
        },
        shapes={"first axis": (5, 8), "two axes": (2, 4, 3)},
        edges=(
            Edge("all equal", ([[0.0, 0.0]], [[1.0, 0.0]]), [np.log(2) + 1], ([[-1.0, 1.0]], "any")),
            Edge("confident", ([[80.0, 0.0]], [[1.0, 0.0]]), [3 * TINY], ([[-3 * TINY, 3 * TINY]], "any")),
            Edge("confident and wrong", ([[0.0, 1e4]], [[1.0, 0.0]]), [1e4 + 2], ([[-1.0, 1.0]], "any")),
            Edge("class ruled out", ([[0.0, -INF]], [[1.0, 0.0]]), [0.0], ([[0.0, 0.0]], "any")),
            Edge("label ruled out", ([[-INF, 0.0]], [[1.0, 0.0]]), [INF], ([[-1.0, 1.0]], "any")),
            Edge("far apart", ([[3e38, -3e38]], [[1.0, 0.0]]), [0.0], ([[0.0, 0.0]], "any")),
            Edge("no target", ([[1.0, -INF]], [[0.0, 0.0]]), [0.0], ([[0.0, 0.0]], "any")),
            Edge("nan", ([[NAN, 0.0]], [[1.0, 0.0]]), [NAN], "any"),
        ),
        optax="poly_loss_cross_entropy",
        zero=right_distributions,
        accurate=dense_confident,
    ),
]
