"""CTC from its definition: the sum over all alignments, one by one."""

from __future__ import annotations

import functools
import itertools
from typing import Any

import numpy as np
from registry_formulas import Maths, weighted


@functools.lru_cache
def alignments(frames: int, classes: int) -> np.ndarray:
    return np.array(list(itertools.product(range(classes), repeat=frames)), int).reshape(-1, frames)


@functools.lru_cache
def collapsed(frames: int, classes: int, blank: int) -> list[tuple[int, ...]]:
    """What each alignment says: repeated classes merged, then blanks removed."""
    return [tuple(k for k, _ in itertools.groupby(a) if k != blank) for a in alignments(frames, classes).tolist()]


def ctc_loss(
    m: Maths, x: Any, frame_padding: Any, labels: Any, label_padding: Any, *, blank_id: int = 0,
    zero_infinity: bool = False, **given: Any,
) -> Any:  # fmt: skip
    """Of labels that have an alignment: `zero_infinity` changes nothing."""
    log_p = x - m.log_sum_exp(x)
    batch = x.shape[:-2]
    losses = [
        _of_example(m, log_p[i][np.flatnonzero(~np.asarray(frame_padding)[i])], said, blank_id)
        for i in np.ndindex(batch)
        for said in [tuple(np.asarray(labels)[i][~np.asarray(label_padding)[i]].tolist())]
    ]
    return weighted(m, m.xp.stack([m.xp.asarray(v) for v in losses]).reshape(batch), **given)


def _of_example(m: Maths, log_p: Any, labels: tuple[int, ...], blank: int) -> Any:
    frames, classes = log_p.shape
    mine = [a for a, said in zip(alignments(frames, classes), collapsed(frames, classes, blank), strict=True)
            if said == labels]  # fmt: skip
    scores = m.xp.sum(log_p[np.arange(frames)[None], np.array(mine)], axis=-1)
    return -m.log_sum_exp(scores)[0]
