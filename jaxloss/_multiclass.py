"""The softmax cross-entropy core and what is built on it.

>>> import jax, jax.numpy as jnp
>>> logits, labels = jnp.array([[4.0, 0.0, 0.0], [0.0, 0.0, -jnp.inf]]), jnp.array([0, 1])
>>> print(softmax_cross_entropy_with_integer_labels(logits, labels).round(4))
[0.036  0.6931]
>>> skip = jnp.array([0, -100])
>>> print(softmax_cross_entropy_with_integer_labels(logits, skip, ignore_index=-100, reduction="mean").round(4))
0.036
>>> smooth = lambda x: softmax_cross_entropy(x, jax.nn.one_hot(labels, 3), label_smoothing=0.3, reduction="sum")
>>> print(jax.grad(smooth)(jnp.zeros((2, 3))).round(4))
[[-0.4667  0.2333  0.2333]
 [ 0.2333 -0.4667  0.2333]]
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp

from jaxloss._core import checks, stable
from jaxloss._core.api import loss
from jaxloss._core.class_rows import Rows
from jaxloss._core.precision import upcast
from jaxloss._core.reduction import fill
from jaxloss._core.softmax import Scores, Wanted, along, pick, row_statistics, scores, spread_weights
from jaxloss._core.typing import Array, ArrayLike, Axis, Bool, Float, Integer, Num, Reduction


@loss()
def softmax_cross_entropy_with_integer_labels(
    logits: Float[ArrayLike, "*batch classes"],
    labels: Integer[ArrayLike, "*batch"],
    axis: Axis = -1,
    where: Bool[ArrayLike, "..."] | None = None,
    *,
    weights: Num[ArrayLike, "..."] | None = None,
    class_weights: Num[ArrayLike, "classes"] | None = None,
    label_smoothing: float | Array = 0.0,
    ignore_index: int | None = None,
    z_loss: float | Array = 0.0,
    logit_softcap: float | Array | None = None,
    temperature: float | Array = 1.0,
    axis_name: str | tuple[str, ...] | None = None,
    reduction: Reduction = "none",
) -> Float[Array, "..."]:
    r"""Cross-entropy of integer labels: $c_y\,(\mathrm{lse}(x) - x_y)$ with $\mathrm{lse}(x) = \log\sum_k e^{x_k}$.

    The value never forms $\mathrm{lse} - x_y$, and the gradient of the label is $\mathrm{expm1}(-\mathrm{loss})$: a
    confident row keeps all its digits. With options, for each row:
    $(1-\alpha)\,c_y(\mathrm{lse} - x_y) + \frac{\alpha}{K}\sum_k c_k(\mathrm{lse} - x_k) + z\,\mathrm{lse}^2$.

    Args:
      logits: raw scores. `-inf` rules a class out; a row of only `-inf` gives NaN.
      labels: class indices, the shape of the logits without `axis`, in [0, classes); outside of it loss and gradient of
        the example are NaN, and `checkify` with `user_checks` reports it.
      axis: the class axis; several form one class axis in their order, which the labels index flattened.
      where: classes (as many dimensions as the logits) or rows (fewer) to keep. What is dropped adds 0 to value and
        gradient, even if NaN; a row that keeps no class is dropped; a label whose class is dropped costs `inf`.
      weights: multiply the losses of the rows.
      class_weights: $c$, one for each class. As in every mean here, only `weights` divide.
      label_smoothing: $\alpha$ in [0, 1], spread over the $K$ classes that are kept, the label's own included.
      ignore_index: rows with this label are dropped.
      z_loss: $z$, the weight of the squared log-normaliser.
      logit_softcap: $s$, to use $s\tanh(x/s)$ for $x$. With it a logit of `-inf` becomes $-s$, and rules no class out:
        `where` does.
      temperature: $T$, to use $x/T$ for $x$ (before the softcap).
      axis_name: inside `jax.shard_map`, the mesh axes that split the classes. The logits are those of this device's
        classes, the labels count all of them; the result is that of all. Nothing of the size of the logits is sent.
      reduction: `"none"`, `"mean"` or `"sum"` over the rows; see `jaxloss.reduce`.

    Returns:
      One loss for each row (the shape of the labels), or a scalar; at least float32.

    Raises:
      TypeError: logits are not floating-point, labels not integer or `where` not boolean.
      ValueError: a shape does not fit the logits, there are no classes, an option is out of its range, `axis_name` is
        no axis here, or belongs to `shard_map(check_vma=False)`, where gradients would be multiplied.

    Reference: Goodfellow, Bengio, Courville, "Deep Learning" (2016), section 6.2.2.3; Szegedy et al. (2016) for
    smoothing, Chowdhery et al. (2022), section 5, for the z-loss.

    >>> print(softmax_cross_entropy_with_integer_labels(jnp.zeros((2, 4)), jnp.array([0, 3])))
    [1.3862944 1.3862944]
    """
    fn = "softmax_cross_entropy_with_integer_labels"
    rows = Rows(fn, "logits", logits, axis, where, axis_name)
    options = (class_weights, label_smoothing, z_loss, logit_softcap, temperature)
    return rows.cross_entropy(rows.labels(labels, ignore_index), *options, weights=weights, reduction=reduction)


@loss()
def softmax_cross_entropy(
    logits: Float[ArrayLike, "*batch classes"],
    labels: Num[ArrayLike, "..."],
    axis: Axis | None = -1,
    where: Bool[ArrayLike, "..."] | None = None,
    *,
    weights: Num[ArrayLike, "..."] | None = None,
    class_weights: Num[ArrayLike, "classes"] | None = None,
    label_smoothing: float | Array = 0.0,
    z_loss: float | Array = 0.0,
    logit_softcap: float | Array | None = None,
    temperature: float | Array = 1.0,
    axis_name: str | tuple[str, ...] | None = None,
    reduction: Reduction = "none",
) -> Float[Array, "..."]:
    r"""Cross-entropy of label distributions: $\sum_k t_k c_k\,(\mathrm{lse}(x) - x_k)$.

    Here $\mathrm{lse}(x) = \log\sum_k e^{x_k}$. The weights $t$ need not sum to 1, and the gradient
    $(\sum_j t_j c_j)\,\mathrm{softmax}(x)_k - t_k c_k$ knows it. A class of weight 0 adds 0, even at a logit of `-inf`.
    With options, for each row:
    $\sum_k ((1-\alpha)\,t_k + \frac{\alpha}{K})\,c_k(\mathrm{lse} - x_k) + z\,\mathrm{lse}^2$.

    Args:
      logits: raw scores. `-inf` rules a class out; a row of only `-inf` gives NaN.
      labels: weights $t$ of the classes, any real dtype; broadcast to the shape of the logits. At a logit of `-inf` the
        gradient is the largest finite number, not `inf`, so that a cotangent of 0 stays 0.
      axis: the class axis; several, or `None` for all, form one class axis.
      where: classes (as many dimensions as the logits) or rows (fewer) to keep. What is dropped adds 0 to value and
        gradient, even if NaN; a row that keeps no class is dropped; a positive weight on a dropped class costs `inf`.
      weights: multiply the losses of the rows.
      class_weights: $c$, one for each class. As in every mean here, only `weights` divide.
      label_smoothing: $\alpha$ in [0, 1], spread over the $K$ classes that are kept.
      z_loss: $z$, the weight of the squared log-normaliser.
      logit_softcap: $s$, to use $s\tanh(x/s)$ for $x$. With it a logit of `-inf` becomes $-s$, and rules no class out:
        `where` does.
      temperature: $T$, to use $x/T$ for $x$ (before the softcap).
      axis_name: inside `jax.shard_map`, the mesh axes that split the classes. The logits, labels, `class_weights` and
        a mask of classes are those of this device's classes; the result is that of all. Nothing of their size is sent.
      reduction: `"none"`, `"mean"` or `"sum"` over the rows; see `jaxloss.reduce`.

    Returns:
      One loss for each row, or a scalar; at least float32.

    Raises:
      TypeError: logits are not floating-point or `where` not boolean.
      ValueError: a shape does not fit the logits, there are no classes, an option is out of its range, `axis_name` is
        no axis here, or belongs to `shard_map(check_vma=False)`, where gradients would be multiplied.

    Reference: Goodfellow, Bengio, Courville, "Deep Learning" (2016), section 6.2.2.3; Szegedy et al. (2016) for
    smoothing, Chowdhery et al. (2022), section 5, for the z-loss.

    >>> print(softmax_cross_entropy(jnp.array([[0.0, 0.0]]), jnp.array([[0.25, 0.75]])))
    [0.6931472]
    """
    rows = Rows("softmax_cross_entropy", "logits", logits, axis, where, axis_name)
    options = (class_weights, label_smoothing, z_loss, logit_softcap, temperature)
    return _of_distribution(rows, labels, options, weights, reduction)


@loss()
def safe_softmax_cross_entropy(
    logits: Float[ArrayLike, "*batch classes"],
    labels: Num[ArrayLike, "..."],
    *,
    axis: Axis | None = -1,
    where: Bool[ArrayLike, "..."] | None = None,
    weights: Num[ArrayLike, "..."] | None = None,
    class_weights: Num[ArrayLike, "classes"] | None = None,
    label_smoothing: float | Array = 0.0,
    z_loss: float | Array = 0.0,
    logit_softcap: float | Array | None = None,
    temperature: float | Array = 1.0,
    axis_name: str | tuple[str, ...] | None = None,
    reduction: Reduction = "none",
) -> Float[Array, "..."]:
    r"""Cross-entropy of label distributions with $0\cdot\infty = 0$: the name that optax gives to its safe variant.

    `softmax_cross_entropy` is safe already; this is the same function.

    Args:
      logits: raw scores. `-inf` rules a class out; a row of only `-inf` gives NaN.
      labels: weights of the classes, any real dtype; broadcast to the shape of the logits.
      axis: the class axis; several, or `None` for all, form one class axis.
      where: classes (as many dimensions as the logits) or rows (fewer) to keep.
      weights: multiply the losses of the rows.
      class_weights: multiply the terms of the classes.
      label_smoothing: $\alpha$ in [0, 1], spread over the $K$ classes that are kept.
      z_loss: $z$, the weight of the squared log-normaliser.
      logit_softcap: $s$, to use $s \tanh(x/s)$ for $x$.
      temperature: $T$, to use $x/T$ for $x$ (before the softcap).
      axis_name: inside `jax.shard_map`, the mesh axes that split the classes.
      reduction: `"none"`, `"mean"` or `"sum"` over the rows; see `jaxloss.reduce`.

    Returns:
      One loss for each row, or a scalar; at least float32.

    Raises:
      TypeError: logits are not floating-point or `where` not boolean.
      ValueError: a shape does not fit the logits, there are no classes, or an option is out of its range.

    Reference: Goodfellow, Bengio, Courville, "Deep Learning" (2016), section 6.2.2.3.

    >>> print(safe_softmax_cross_entropy(jnp.array([[0.0, 0.0, -jnp.inf]]), jnp.array([[0.5, 0.5, 0.0]])))
    [0.6931472]
    """
    rows = Rows("safe_softmax_cross_entropy", "logits", logits, axis, where, axis_name)
    options = (class_weights, label_smoothing, z_loss, logit_softcap, temperature)
    return _of_distribution(rows, labels, options, weights, reduction)


def _of_distribution(rows: Rows, labels: Any, options: tuple[Any, ...], weights: Any, reduction: str) -> Array:
    return rows.cross_entropy(rows.distribution(labels), *options, weights=weights, reduction=reduction)


@loss()
def nll_loss(
    log_probs: Float[ArrayLike, "*batch classes"],
    labels: Integer[ArrayLike, "*batch"],
    axis: Axis = -1,
    where: Bool[ArrayLike, "..."] | None = None,
    *,
    weights: Num[ArrayLike, "..."] | None = None,
    class_weights: Num[ArrayLike, "classes"] | None = None,
    label_smoothing: float | Array = 0.0,
    ignore_index: int | None = None,
    reduction: Reduction = "none",
) -> Float[Array, "..."]:
    r"""Negative log-likelihood of integer labels under given log-probabilities: $-c_y\,\ell_y$.

    With smoothing, for each row: $-(1-\alpha)\,c_y\,\ell_y - \frac{\alpha}{K}\sum_k c_k\,\ell_k$. From logits,
    `softmax_cross_entropy_with_integer_labels` is faster and keeps more digits.

    Args:
      log_probs: $\ell$, log-probabilities; they are not normalised here.
      labels: class indices, the shape of `log_probs` without `axis`, in [0, classes); outside of it loss and gradient
        of the example are NaN, and `checkify` with `user_checks` reports it.
      axis: the class axis; several form one class axis in their order, which the labels index flattened.
      where: classes (as many dimensions as `log_probs`) or rows (fewer) to keep. What is dropped adds 0 to value and
        gradient, even if NaN; a label whose class is dropped costs `inf`.
      weights: multiply the losses of the rows.
      class_weights: $c$, one for each class. As in every mean here, only `weights` divide.
      label_smoothing: $\alpha$ in [0, 1], spread over the $K$ classes that are kept.
      ignore_index: rows with this label are dropped.
      reduction: `"none"`, `"mean"` or `"sum"` over the rows; see `jaxloss.reduce`.

    Returns:
      One loss for each row (the shape of the labels), or a scalar; at least float32.

    Raises:
      TypeError: `log_probs` are not floating-point, labels not integer or `where` not boolean.
      ValueError: a shape does not fit `log_probs`, there are no classes, or an option is out of its range.

    Reference: Goodfellow, Bengio, Courville, "Deep Learning" (2016), section 5.5.

    >>> print(nll_loss(jnp.log(jnp.array([[0.5, 0.25, 0.25]])), jnp.array([1])))
    [1.3862944]
    """
    rows = Rows("nll_loss", "log_probs", log_probs, axis, where)
    y = rows.labels(labels, ignore_index)
    alpha = rows.per_row("label_smoothing", label_smoothing, 1)
    c = rows.class_weights(class_weights)

    def evenly(of: tuple[Scores, Array | None]) -> Array:
        given, c = of
        z = scores(given, rows.axis)
        return stable.times(spread_weights(c, given.mask, z), -z)

    def terms(given: Scores, y: Array, c: Array | None) -> tuple[Array, Array | None]:
        z = scores(given, rows.axis)
        cross = rows.of_label(c, -pick(rows.axis, rows.classes, z, y), y)
        if checks.is_zero(alpha):
            return cross, None
        return cross, stable.row_sum((given, along(c, z, rows.axis)), rows.axis, evenly, in_lanes=True)

    # What is kept for the backward pass are the arguments as they came, not filled and in float32.
    cross, spread = jax.checkpoint(terms, prevent_cse=False)(rows.scores(), y, c)
    return rows.total(rows.smooth(cross, spread, alpha), weights, reduction)


@loss(arrays=1)
def z_loss(
    logits: Float[ArrayLike, "*batch classes"],
    axis: Axis | None = -1,
    where: Bool[ArrayLike, "..."] | None = None,
    *,
    weights: Num[ArrayLike, "..."] | None = None,
    logit_softcap: float | Array | None = None,
    temperature: float | Array = 1.0,
    axis_name: str | tuple[str, ...] | None = None,
    reduction: Reduction = "none",
) -> Float[Array, "..."]:
    r"""Squared log-normaliser: $\bigl(\log\sum_k e^{x_k}\bigr)^2$, which keeps logits from drifting.

    The cross-entropies add it by `z_loss=`, at no further pass over the logits.

    Args:
      logits: raw scores. `-inf` rules a class out; a row of only `-inf` gives `inf`.
      axis: the class axis; several, or `None` for all, form one class axis.
      where: classes (as many dimensions as the logits) or rows (fewer) to keep. What is dropped adds 0 to value and
        gradient, even if NaN.
      weights: multiply the losses of the rows.
      logit_softcap: $s$, to use $s\tanh(x/s)$ for $x$. With it a logit of `-inf` becomes $-s$, and rules no class out:
        `where` does.
      temperature: $T$, to use $x/T$ for $x$ (before the softcap).
      axis_name: inside `jax.shard_map`, the mesh axes that split the classes. The logits are those of this device's
        classes, as is a mask of classes; the result is that of all. Nothing of the size of the logits is sent.
      reduction: `"none"`, `"mean"` or `"sum"` over the rows; see `jaxloss.reduce`.

    Returns:
      One loss for each row, or a scalar; at least float32. Multiply it by a small weight, such as 1e-4.

    Raises:
      TypeError: logits are not floating-point or `where` not boolean.
      ValueError: a shape does not fit the logits, there are no classes, an option is out of its range, `axis_name` is
        no axis here, or belongs to `shard_map(check_vma=False)`, where gradients would be multiplied.

    Reference: Chowdhery et al., "PaLM: Scaling Language Modeling with Pathways" (2022), section 5.

    >>> print(z_loss(jnp.array([[2.0, -jnp.inf]])))
    [4.]
    """
    rows = Rows("z_loss", "logits", logits, axis, where, axis_name)
    wanted = Wanted(rows.axis, lse=True, over=axis_name)
    lse = row_statistics(wanted, rows.scores(logit_softcap, temperature), None, None).lse
    assert lse is not None
    return rows.total(jnp.square(lse), weights, reduction)


@loss(arrays=1)
def entropy(
    logits: Float[ArrayLike, "*shape"],
    axis: Axis | None = -1,
    where: Bool[ArrayLike, "..."] | None = None,
    *,
    weights: Num[ArrayLike, "..."] | None = None,
    logit_softcap: float | Array | None = None,
    temperature: float | Array = 1.0,
    reduction: Reduction = "none",
    axis_name: str | tuple[str, ...] | None = None,
) -> Float[Array, "..."]:
    r"""Entropy of a softmax distribution: $-\sum_k p_k \log p_k$ for $p = \mathrm{softmax}(x)$.

    A bonus for exploration, or minimised for confident predictions. Small entropies keep their digits. Logits may be
    log-probabilities.

    Args:
      logits: $x$, any shape; `-inf` rules a class out; a row of only `-inf` gives NaN.
      axis: the axes of the classes, an int, a tuple of ints, or `None` for all.
      where: classes (as many dimensions as the logits) or rows (fewer) to keep. What is dropped adds 0 to value and
        gradient, even if NaN.
      weights: multiply the entropies, broadcast to their shape.
      logit_softcap: $s$, to use $s\tanh(x/s)$ for $x$. With it a logit of `-inf` becomes $-s$, and rules no class out:
        `where` does.
      temperature: $T$, to use $x/T$ for $x$ (before the softcap).
      reduction: `"none"`, `"mean"` or `"sum"`; see `jaxloss.reduce`.
      axis_name: inside `jax.shard_map`, the mesh axes that split the classes.

    Returns:
      The shape of the logits without `axis`, or a scalar; at least float32.

    Raises:
      TypeError: logits are not floating-point, or `where` is not boolean.
      ValueError: a shape does not broadcast to that of the logits, or an option is out of its range.

    Reference: Shannon, "A Mathematical Theory of Communication" (1948).

    >>> print(entropy(jnp.array([0.0, 0.0])))
    0.6931472
    >>> print(entropy(jnp.array([0.0, -30.0])))
    2.900863e-12
    """
    rows = Rows("entropy", "logits", logits, axis, where, axis_name)
    wanted = Wanted(rows.axis, entropy=True, over=axis_name)
    found = row_statistics(wanted, rows.scores(logit_softcap, temperature), None, None).entropy
    assert found is not None
    return rows.total(found, weights, reduction)


@loss(arrays=1)
def smooth_labels(
    labels: Num[ArrayLike, "*shape"],
    alpha: float | Array,
    *,
    axis: Axis | None = -1,
    where: Bool[ArrayLike, "..."] | None = None,
) -> Float[Array, "*shape"]:
    r"""Label distributions mixed with the uniform one: $(1-\alpha)\,t_k + \alpha/K$.

    The cross-entropies do this by `label_smoothing=` without an array of labels.

    Args:
      labels: one-hot or other weights of the classes, any real dtype.
      alpha: $\alpha$ in [0, 1].
      axis: the class axis; several, or `None` for all, count together.
      where: classes that are kept, broadcast to the shape of the labels; $K$ counts these, and the others get 0.

    Returns:
      The shape of the labels; at least float32.

    Raises:
      TypeError: labels are not real or `where` is not boolean.
      ValueError: a shape does not broadcast to that of the labels, or `alpha` is out of its range.

    Reference: Szegedy et al., "Rethinking the Inception Architecture for Computer Vision" (2016), section 7.

    >>> print(smooth_labels(jnp.array([0.0, 1.0]), 0.25))
    [0.125 0.875]
    """
    fn = "smooth_labels"
    t = upcast(checks.number(fn, "labels", labels))
    axes = checks.axes(fn, tuple(range(t.ndim)) if axis is None else axis, t.ndim)
    given = checks.number(fn, "alpha", checks.in_range(fn, "alpha", alpha, 0, 1))
    alpha = checks.align(fn, "alpha", given, t.shape, "labels").astype(t.dtype)
    if where is None:
        return (1 - alpha) * t + alpha / math.prod(t.shape[a] for a in axes)
    kept = checks.broadcast(fn, "where", checks.mask(fn, "where", where), t.shape, "labels")
    count = jnp.maximum(jnp.sum(kept, axes, keepdims=True, dtype=jnp.int32), 1).astype(t.dtype)
    return jnp.where(kept, (1 - alpha) * fill(kept, t) + alpha / count, 0)
