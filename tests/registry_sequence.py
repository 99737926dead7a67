"""The case of CTC. More of it, and `ctc_loss_with_forward_probs`, in test_ctc.py."""

from __future__ import annotations

import numpy as np
import sequence_formulas as formulas
from registry_case import INF, NAN, Case, Edge
from registry_classes import rows_kept

import jaxloss

RNG = np.random.Generator
Shape = tuple[int, ...]


def speech(rng: RNG, shape: Shape) -> list[np.ndarray]:
    """Four frames for each row of `shape`, the second of which is padded, and two labels."""
    *batch, classes = shape
    padded = np.broadcast_to(np.arange(4) == 1, (*batch, 4)).copy()
    labels = rng.integers(1, classes, (*batch, 2)).astype(np.int32)
    return [rng.standard_normal((*batch, 4, classes)), padded, labels, np.zeros((*batch, 2), bool)]


def _edge(name: str, logits: list, labels: list, value: object, gradient: object = "finite", **options: object) -> Edge:
    """One example without padding; a label of -1 is padded."""
    x, y = np.array([logits], float), np.array([labels], np.int32).reshape(1, -1)
    padded = np.zeros(x.shape[:2], bool)
    return Edge(name, (x, padded, y, y == -1), value, gradient, options)  # type: ignore[arg-type]


_LOW = [[0.0, -INF], [0.0, -INF]]
CASES = [
    Case(
        jaxloss.ctc_loss,
        formulas.ctc_loss,
        speech,
        "frames",
        options={"everything": {"zero_infinity": True, "where": rows_kept}},
        edges=(
            _edge("more labels than frames", [[0.0, 0.0]], [1, 1], [INF], ([[[0.0, 0.0]]],)),
            _edge("then zero", [[0.0, 0.0]], [1, 1], [0.0], ([[[0.0, 0.0]]],), zero_infinity=True),
            _edge("no frame between equal labels", [[0.0, 0.0]] * 2, [1, 1], [INF], ([[[0.0, 0.0]] * 2],)),
            _edge("label ruled out", _LOW, [1], [INF], ([[[0.0, 0.0]] * 2],)),
            _edge("only blanks are possible", _LOW, [-1], [0.0], ([[[0.0, 0.0]] * 2],)),
            _edge("no labels", [[0.0, 0.0]] * 2, [-1], [2 * np.log(2.0)], ([[[-0.5, 0.5]] * 2],)),
            _edge("sure", [[0.0, 1e4], [1e4, 0.0]], [1], [0.0], ([[[0.0, 0.0]] * 2],)),
            _edge("sure and wrong", [[1e4, 0.0]], [1], [1e4], ([[[1.0, -1.0]]],)),
            _edge("label out of range", [[0.0, 0.0]], [2], [NAN], ([[[NAN, NAN]]],)),
            _edge("nan", [[NAN, 0.0]], [1], [NAN], "any"),
        ),
        optax="ctc_loss",
        temporaries=(0.5, 2.0),
    ),
]
