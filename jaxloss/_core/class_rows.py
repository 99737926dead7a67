"""Checked logits with one class axis, and the cross-entropy of their rows with every option."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxloss._core import checks, stable
from jaxloss._core.alarm import alarm
from jaxloss._core.devices import divided_as_rows, require_tracked_axis
from jaxloss._core.precision import compute_dtype
from jaxloss._core.reduction import fill, reduce
from jaxloss._core.softmax import Scores, Wanted, lookup, row_statistics


class Rows:
    """Checked logits with one class axis, the masks of classes and of rows, and what all losses on rows share."""

    def __init__(self, fn: str, arg: str, logits: Any, axis: Any, where: Any, over: Any = None) -> None:
        self.fn, self.arg, self.over = fn, arg, over
        x = checks.floating(fn, arg, logits)
        self.axes = checks.axes(fn, tuple(range(x.ndim)) if axis is None else axis, x.ndim)
        self.class_shape = tuple(x.shape[a] for a in self.axes)
        self.shape, self.classes = x.shape, math.prod(self.class_shape)
        if self.classes == 0:
            raise ValueError(f"{fn}: {arg} of shape {x.shape} have no classes along axis {axis}")
        self.total_classes = self.classes
        if over is not None:
            require_tracked_axis(fn, over)
            if len(self.axes) > 1:
                raise ValueError(f"{fn}: axis_name={over!r} splits one class axis between devices, got axis {axis}")
            self.total_classes *= jax.lax.axis_size(over)
        self.batch = tuple(n for i, n in enumerate(x.shape) if i not in self.axes)
        self.logits = self.one_axis(x)
        self.axis = self.axes[0] if len(self.axes) == 1 else len(self.batch)
        self.mask: Array | None = None
        self.keep: Array | None = None
        if where is not None:
            self._set_masks(checks.mask(fn, "where", where))

    def one_axis(self, x: Array) -> Array:
        """Several class axes as one, at the end; a single one stays where it is."""
        if len(self.axes) == 1:
            return x
        ends = tuple(range(-len(self.axes), 0))
        return jnp.moveaxis(x, self.axes, ends).reshape(*self.batch, self.classes)

    def _set_masks(self, where: Array) -> None:
        if where.ndim < len(self.shape):
            self.keep = checks.broadcast(self.fn, "where", where, self.batch, f"rows of the {self.arg}")
            return
        self.mask = self.one_axis(checks.broadcast(self.fn, "where", where, self.shape, self.arg))
        self.keep = self.over_devices(stable.row_count(self.mask, self.axis)) > 0

    def over_devices(self, count: Array) -> Array:
        return count if self.over is None else jax.lax.psum(count, self.over)

    def labels(self, labels: Any, ignore_index: int | None) -> Array:
        y = checks.wide(checks.labels(self.fn, "labels", labels))
        y = checks.broadcast(self.fn, "labels", y, self.batch, f"{self.arg} without the class axis")
        if ignore_index is not None:
            kept = ~checks.is_index(self.fn, y, ignore_index)
            self.keep = kept if self.keep is None else self.keep & kept
        y = divided_as_rows(fill(self.keep, y, 0), self.logits, self.axis)
        return known_classes(self.fn, y, self.total_classes)

    def target(self, labels: Any, ignore_index: int | None) -> Array:
        """Class indices, or floating-point weights of the classes."""
        given = checks.number(self.fn, "labels", labels)
        if jnp.issubdtype(given.dtype, jnp.integer):
            return self.labels(given, ignore_index)
        if given.ndim < len(self.shape):  # labels of a wrong type may well broadcast
            form = f"{given.dtype} of shape {given.shape}"
            raise TypeError(f"{self.fn}: labels must be integer, or weights of all classes {self.shape}, got {form}")
        if ignore_index is not None:
            raise ValueError(f"{self.fn}: ignore_index needs labels that are class indices; use where")
        return self.distribution(given)

    def distribution(self, labels: Any) -> Array:
        t = checks.number(self.fn, "labels", labels)
        if jnp.issubdtype(t.dtype, jnp.integer) and not self._has_classes(t):
            raise ValueError(
                f"{self.fn}: labels must be weights of all classes {self.shape}, got {t.dtype} of shape {t.shape}; for "
                "class indices use jax.nn.one_hot, or softmax_cross_entropy_with_integer_labels"
            )
        t = self.one_axis(checks.broadcast(self.fn, "labels", t, self.shape, "logits"))
        t = t if jnp.issubdtype(t.dtype, jnp.floating) else t.astype(jnp.float32)
        return t if self.keep is None else fill(jnp.expand_dims(self.keep, self.axis), t)

    def _has_classes(self, t: Array) -> bool:
        """Integers of other dimensions, or one for all classes, are indices, even if their shape would broadcast."""
        fits = t.ndim == len(self.shape) and checks.broadcastable(t.shape, self.shape)
        return fits and tuple(t.shape[a] for a in self.axes) == self.class_shape

    def small_targets(self, labels: Any) -> Array:
        """Weights of classes as they came, not broadcast unless several class axes are to become one."""
        t = checks.number(self.fn, "labels", labels)
        if len(self.axes) == 1:
            return checks.align(self.fn, "labels", t, self.shape, self.arg)
        return self.one_axis(checks.broadcast(self.fn, "labels", t, self.shape, self.arg))

    def last(self) -> tuple[Array, Array | None]:
        """The logits and the mask of classes, with the classes last. A row that is dropped is finite, and whole."""
        x, mask = jnp.moveaxis(self.logits, self.axis, -1), self.mask
        if self.keep is not None:
            x = fill(self.keep[..., None], x)
        if mask is None or self.keep is None:
            return x, None
        return x, jnp.moveaxis(mask, self.axis, -1) | ~self.keep[..., None]

    def keep_of_entries(self) -> Array | None:
        """The mask of classes, or that of rows with a class axis of length 1."""
        return self.mask if self.mask is not None or self.keep is None else jnp.expand_dims(self.keep, self.axis)

    def scores(self, logit_softcap: Any = None, temperature: Any = 1.0) -> Scores:
        def option(name: str, value: Any, off: Any) -> Array | None:
            checks.in_range(self.fn, name, value, 0, math.inf, open_low=True)
            given = checks.scalar(self.fn, name, value)
            return None if checks.static_number(value) and value == off else given.astype(compute_dtype(self.logits))

        cap = None if logit_softcap is None else option("logit_softcap", logit_softcap, math.inf)
        return Scores(self.logits, self.mask, self.keep, option("temperature", temperature, 1.0), cap)

    def class_weights(self, weights: Any, arg: str = "class_weights") -> Array | None:
        if weights is None:
            return None
        c = checks.number(self.fn, arg, weights)
        return checks.same_shape(self.fn, arg, c, self.class_shape, "class axis").reshape(self.classes)

    def cross_entropy(
        self,
        target: Array,
        class_weights: Any = None,
        label_smoothing: Any = 0.0,
        z_loss: Any = 0.0,
        logit_softcap: Any = None,
        temperature: Any = 1.0,
        *,
        weights: Any,
        reduction: str,
    ) -> Array:
        alpha = self.per_row("label_smoothing", label_smoothing, 1)
        z = self.per_row("z_loss", z_loss, math.inf)
        c = self.class_weights(class_weights)
        wanted = Wanted(self.axis, spread=not checks.is_zero(alpha), lse=not checks.is_zero(z), over=self.over)
        cross, spread, lse = row_statistics(wanted, self.scores(logit_softcap, temperature), target, c)[:3]
        assert cross is not None
        losses = self.smooth(self.of_label(c, cross, target), spread, alpha)
        if lse is not None:
            losses = losses + jnp.asarray(z).astype(losses.dtype) * jnp.square(lse)
        return self.total(losses, weights, reduction)

    def per_row(self, name: str, value: Any, most: float) -> Any:
        """An option in [0, most], one for all rows or an array of them."""
        checks.in_range(self.fn, name, value, 0, most)
        if not checks.static_number(value):
            checks.broadcast(self.fn, name, checks.number(self.fn, name, value), self.batch, "losses")
        return value

    def of_label(self, class_weights: Array | None, losses: Array, target: Array) -> Array:
        """Times the class weight of the label; a distribution has met its class weights in the sum."""
        if class_weights is None or not jnp.issubdtype(target.dtype, jnp.integer):
            return losses
        return stable.times(lookup(class_weights.astype(losses.dtype), target, self.over), losses)

    def smooth(self, losses: Array, spread: Array | None, alpha: Any) -> Array:
        if spread is None:
            return losses
        alpha = jnp.asarray(alpha).astype(losses.dtype)
        return stable.times(1 - alpha, losses) + stable.times(alpha, spread / self.kept_classes(losses.dtype))

    def kept_classes(self, dtype: Any) -> Array:
        if self.mask is None:
            return jnp.asarray(self.total_classes, dtype)
        kept = self.over_devices(stable.row_count(self.mask, self.axis))
        return jnp.maximum(kept, 1).astype(dtype)

    def total(self, losses: Array, weights: Any, reduction: str) -> Array:
        return reduce(losses, where=self.keep, weights=weights, reduction=reduction, fn=self.fn)


def one_hot(labels: Array, like: Array) -> Array:
    """In the shape and dtype of `like`, whose classes are the last axis; NaN where there is no such class."""
    labels = checks.wide(labels)
    valid = jnp.expand_dims((labels >= 0) & (labels < like.shape[-1]), -1)
    return jnp.where(valid, stable.is_label(like, labels, -1).astype(like.dtype), jnp.nan)


def known_classes(fn: str, labels: Array, classes: int) -> Array:
    """The labels, with an alarm for those out of range."""
    wide = checks.wide(labels)
    return alarm(labels, (wide >= 0) & (wide < classes), f"{fn}: labels must be in [0, {classes})")
