"""The arguments that losses of segmentations share: predictions and targets with a class axis at the end."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp

from jaxloss._core import checks
from jaxloss._core.class_rows import known_classes
from jaxloss._core.reduction import fill
from jaxloss._core.row_masks import masks
from jaxloss._core.typing import Array
from jaxloss._segmentation.probabilities import Activation


class Images(NamedTuple):
    activation: Activation
    axes: tuple[int, ...]  # that are summed
    predictions: Array
    targets: Array  # weights of classes, in the shape of the predictions, or indices with a class axis of length 1
    keep: Array | None  # pixels, with a class axis of length 1, or classes of pixels
    weights: Array | None  # of pixels, with a class axis of length 1


def images(
    fn: str,
    predictions: Any,
    targets: Any,
    *,
    from_logits: bool = True,
    axis: Any = None,
    where: Any = None,
    weights: Any = None,
    ignore_index: int | None = None,
) -> Images:
    x, t = checks.floating(fn, "predictions", predictions), checks.number(fn, "targets", targets)
    if x.ndim == t.ndim - 1 and t.shape[-1] == 1:
        x = x[..., None]
    if t.ndim == x.ndim - 1 and x.shape[-1] == 1:
        t = t[..., None]
    if x.ndim == 0 or x.shape[-1] == 0:
        raise ValueError(f"{fn}: predictions need a class axis at the end, got shape {x.shape}")
    keep, _ = masks(fn, where, x.shape, (x.ndim - 1,), "predictions")
    if t.ndim == x.ndim:
        checks.same_shape(fn, "targets", t, x.shape, "predictions")
        t, keep = _known(fn, t, keep, ignore_index)
    else:
        t = checks.same_shape(fn, "targets", t, x.shape[:-1], "predictions, or theirs without the class axis")
        t, keep = _indices(fn, t, x.shape[-1], keep, ignore_index)
    if weights is not None:
        w = checks.number(fn, "weights", weights)
        w = w[..., 0] if x.shape[-1] == 1 and w.ndim == x.ndim and w.shape[-1] == 1 else w
        weights = checks.broadcast(fn, "weights", w, x.shape[:-1], "predictions without the class axis")[..., None]
    activation: Activation = ("sigmoid" if x.shape[-1] == 1 else "softmax") if from_logits else None
    return Images(activation, summed_axes(fn, axis, x.ndim), x, t, keep, weights)


def _known(fn: str, t: Array, keep: Array | None, ignore_index: int | None) -> tuple[Array, Array | None]:
    """Weights of classes, and what to keep. Of one class, integers are as good as indices: 1 for it, 0 for the rest."""
    if t.shape[-1] == 1 and not jnp.issubdtype(t.dtype, jnp.floating):
        keep = _without(fn, t, keep, ignore_index)
        t = known_classes(fn, fill(keep, t.astype(jnp.int32)), 2)
    elif ignore_index is not None:
        raise ValueError(
            f"{fn}: ignore_index needs targets that are class indices, or integers of one class, got {t.dtype} "
            f"of shape {t.shape}; use where"
        )
    return t, keep


def _without(fn: str, t: Array, keep: Array | None, ignore_index: int | None) -> Array | None:
    """`keep` without the pixels, `[..., 1]`, that have this index."""
    if ignore_index is None:
        return keep
    known = ~checks.is_index(fn, t, ignore_index)
    return known if keep is None else keep & known


def _indices(fn: str, t: Array, classes: int, keep: Any, ignore_index: int | None) -> tuple[Array, Array | None]:
    if not jnp.issubdtype(t.dtype, jnp.integer):
        raise TypeError(f"{fn}: targets without a class axis must be integer class indices, got {t.dtype}")
    keep, t = _without(fn, t[..., None], keep, ignore_index), checks.wide(t)
    t = t if keep is None else fill(jnp.any(keep, -1), t)
    return known_classes(fn, t, classes)[..., None], keep


def summed_axes(fn: str, axis: Any, ndim: int) -> tuple[int, ...]:
    """`None` is all but the first and the class axis."""
    if axis is None:
        return tuple(range(1, ndim - 1))
    if axis == ():
        return ()
    axes = tuple(sorted(checks.axes(fn, axis, ndim)))
    if ndim - 1 in axes:
        raise ValueError(f"{fn}: axis {axis} names the class axis, which is the last; reduction is over the classes")
    return axes
