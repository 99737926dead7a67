"""Connectionist temporal classification: labels in order, without their places among the frames.

>>> import jax, jax.numpy as jnp
>>> logits = jnp.log(jnp.array([[[0.2, 0.5, 0.3], [0.6, 0.3, 0.1], [0.1, 0.1, 0.8]]]))
>>> labels = jnp.array([[1, 2]])
>>> padded_frames, padded_labels = jnp.zeros((1, 3)), jnp.zeros((1, 2))
>>> print(jnp.exp(-ctc_loss(logits, padded_frames, labels, padded_labels)).round(4))  # 1_2, 122, 112, 12_, _12
[0.453]
>>> print(ctc_loss(logits, padded_frames, labels, padded_labels.at[0, 1].set(1)).round(4))  # the first label alone
[2.4769]
>>> one_frame = padded_frames.at[0, 1:].set(1)
>>> print(ctc_loss(logits, one_frame, labels, padded_labels))  # two labels do not fit
[inf]
>>> print(ctc_loss(logits, one_frame, labels, padded_labels, zero_infinity=True))
[0.]
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jaxloss._core import checks, scaled, stable
from jaxloss._core.alarm import alarm
from jaxloss._core.api import loss
from jaxloss._core.autodiff import custom_vjp
from jaxloss._core.class_rows import known_classes
from jaxloss._core.devices import is_whole
from jaxloss._core.precision import cotangent, upcast
from jaxloss._core.reduction import reduce
from jaxloss._core.remat import as_one
from jaxloss._core.typing import ArrayLike, Bool, Float, Integer, Num, Reduction
from jaxloss._sequence.alignments import Frames, log_forward, log_likelihood, log_likelihood_and_posteriors


@loss(arrays=4)
def ctc_loss(
    logits: Float[ArrayLike, "*batch frames classes"],
    logit_paddings: Num[ArrayLike, "*batch frames"],
    labels: Integer[ArrayLike, "*batch labels"],
    label_paddings: Num[ArrayLike, "*batch labels"],
    *,
    blank_id: int = 0,
    log_epsilon: float | Array = -1e5,
    zero_infinity: bool = False,
    where: Bool[ArrayLike, "*batch"] | None = None,
    weights: Num[ArrayLike, "..."] | None = None,
    reduction: Reduction = "none",
) -> Float[Array, "..."]:
    r"""CTC loss: $-\log\sum_{\pi \to y} \prod_t p_t(\pi_t)$ with $p_t = \mathrm{softmax}(x_t)$.

    The sum is over the alignments $\pi$, one class for each frame, that become the labels $y$ when repeated classes are
    merged and blanks are removed then. The gradient is $p_t(k)$ minus the probability, under the alignments, that
    frame $t$ has class $k$. Both are exact however small a probability becomes, and the loss is never negative.

    Args:
      logits: raw scores, `[*batch, frames, classes]`, the blank among the classes. `-inf` rules a class out; a frame of
        only `-inf` gives NaN.
      logit_paddings: frames to leave out, `[*batch, frames]`: 1 or `True` is padding, 0 or `False` a frame. What stands
        in a padded frame, NaN too, changes nothing.
      labels: class indices, `[*batch, labels]`, without blanks between them. Outside of [0, classes), loss and gradient
        of the example are NaN, and `checkify` with `user_checks` reports it. It also reports a label that is the blank,
        which does not give NaN: the loss is then a number without meaning.
      label_paddings: labels to leave out, likewise, at the end of each row; elsewhere the example gives NaN. They may
        have any value. No labels at all are right: then every frame is blank.
      blank_id: the class of the blank.
      log_epsilon: for users of optax, where it stands for the logarithm of 0. It has no effect here.
      zero_infinity: `True` to make an infinite loss 0.
      where: examples to keep, `[*batch]`. What is dropped adds 0 to value and gradient, even if NaN.
      weights: multiply the losses, `[*batch]`. For PyTorch's mean, divide the losses by the number of labels first.
      reduction: `"none"`, `"mean"` or `"sum"` over the examples; see `jaxloss.reduce`.

    Returns:
      One loss for each example, or a scalar; at least float32. `inf`, with zero gradient, where there is no alignment:
      fewer frames than labels and blanks between equal labels, or a class that is ruled out.

    Raises:
      TypeError: logits are not floating-point, labels not integer or `where` not boolean, or paddings are
        differentiated.
      ValueError: a shape does not fit the logits, there are no classes, or `blank_id` is none of them.

    Reference: Graves et al., "Connectionist Temporal Classification: Labelling Unsegmented Sequence Data with Recurrent
    Neural Networks" (2006), section 4.

    >>> logits = jnp.zeros((1, 2, 3))  # 9 alignments, of which _1, 1_ and 11 have the label
    >>> print(ctc_loss(logits, jnp.zeros((1, 2)), jnp.array([[1]]), jnp.zeros((1, 1))))  # log(9 / 3)
    [1.0986123]
    """
    fn = "ctc_loss"
    batch = _Batch(fn, logits, logit_paddings, labels, label_paddings, blank_id, where)
    losses = batch.unflat(_losses(batch.blank, *batch.arrays))
    if zero_infinity:
        losses = jnp.where(losses == jnp.inf, 0, losses)
    return reduce(losses, where=batch.where, weights=weights, reduction=reduction, fn=fn)


@loss(arrays=4)
def ctc_loss_with_forward_probs(
    logits: Float[ArrayLike, "*batch frames classes"],
    logit_paddings: Num[ArrayLike, "*batch frames"],
    labels: Integer[ArrayLike, "*batch labels"],
    label_paddings: Num[ArrayLike, "*batch labels"],
    *,
    blank_id: int = 0,
    log_epsilon: float | Array = -1e5,
) -> tuple[Float[Array, "*batch"], Float[Array, "frames *batch labels+1"], Float[Array, "frames *batch labels"]]:
    r"""`ctc_loss`, and the forward probabilities $\log\alpha$ of Graves et al.

    $\alpha(t, s) = p_t(s)\sum_{s' \to s} \alpha(t-1, s')$ is the probability of all beginnings of alignments that are
    in state $s$ at frame $t$: in a blank after $n$ labels, or in label $n$. In the last frame, the blank after $n$
    labels includes label $n$, as in optax: minus the loss is its entry at the number of labels.

    Args:
      logits: raw scores, `[*batch, frames, classes]`, as in `ctc_loss`.
      logit_paddings: frames to leave out, `[*batch, frames]`; they repeat the values of the frame before.
      labels: class indices, `[*batch, labels]`.
      label_paddings: labels to leave out, `[*batch, labels]`, at the end of each row.
      blank_id: the class of the blank.
      log_epsilon: for users of optax, where it stands for the logarithm of 0. It has no effect here: that is `-inf`.

    Returns:
      The losses `[*batch]`; $\log\alpha$ of blanks, `[frames, *batch, labels + 1]`; $\log\alpha$ of labels, `[frames,
      *batch, labels]`; all differentiable and at least float32. $\log 0$ is `-inf`, with zero gradient.

    Raises:
      TypeError: logits are not floating-point, labels not integer, or paddings are differentiated.
      ValueError: a shape does not fit the logits, there are no classes, or `blank_id` is none of them.

    Reference: Graves et al., "Connectionist Temporal Classification" (2006), section 4.1.

    >>> logits = jnp.zeros((1, 2, 4))
    >>> args = logits, jnp.zeros((1, 2)), jnp.array([[1]]), jnp.zeros((1, 1))
    >>> loss, blank, label = ctc_loss_with_forward_probs(*args)
    >>> print(jnp.exp(label[:, 0, 0]), jnp.exp(blank[0, 0]), jnp.exp(blank[1, 0]) * 16)
    [0.25  0.125] [0.25 0.  ] [1. 3.]
    """
    batch = _Batch("ctc_loss_with_forward_probs", logits, logit_paddings, labels, label_paddings, blank_id, None)
    losses = _losses(batch.blank, *batch.arrays)
    blank, label = _forward(batch.blank, *batch.arrays)
    return batch.unflat(losses), batch.unflat(blank, 1), batch.unflat(label, 1)


class _Arrays(NamedTuple):
    logits: Array  # [examples, frames, classes]
    keep: Array  # [examples, frames]
    labels: Array  # [examples, labels], padded with blanks
    lengths: Array  # [examples]
    valid: Array  # [examples]


class _Batch:
    """Checked arguments, with one axis of examples."""

    def __init__(
        self, fn: str, logits: Any, logit_paddings: Any, labels: Any, label_paddings: Any, blank: Any, where: Any
    ) -> None:
        x = checks.floating(fn, "logits", logits)
        if x.ndim < 2:
            raise ValueError(f"{fn}: logits must have the shape [*batch, frames, classes], got {x.shape}")
        self.shape = x.shape[:-2]
        self.blank = _class_of_blank(fn, blank, x.shape[-1])
        y = checks.wide(checks.labels(fn, "labels", labels))
        if y.shape[:-1] != self.shape or y.ndim == 0:
            raise ValueError(f"{fn}: labels must have the shape {(*self.shape, 'labels')}, got {y.shape}")
        padded_frames = _padding(fn, "logit_paddings", logit_paddings, x.shape[:-1], "logits without the class axis")
        padded = _padding(fn, "label_paddings", label_paddings, y.shape, "labels")
        self.where = None
        if where is not None:
            self.where = checks.broadcast(fn, "where", checks.mask(fn, "where", where), self.shape, "losses")
            padded_frames, padded = (p | ~self.where[..., None] for p in (padded_frames, padded))
        y, valid = _valid_labels(fn, y, padded, x.shape[-1], self.blank)
        lengths = jnp.sum(~padded, -1, dtype=jnp.int32)
        self.arrays = _Arrays(*(self.flat(a) for a in (x, ~padded_frames, y, lengths, valid)))

    def flat(self, x: Array) -> Array:
        n = len(self.shape)
        return x if n == 1 else x.reshape(math.prod(self.shape), *x.shape[n:])

    def unflat(self, x: Array, axis: int = 0) -> Array:
        return x if len(self.shape) == 1 else x.reshape(*x.shape[:axis], *self.shape, *x.shape[axis + 1 :])


def _class_of_blank(fn: str, blank: Any, classes: int) -> int:
    blank = checks.python_int(fn, "blank_id", blank)
    if classes == 0:
        raise ValueError(f"{fn}: logits have no classes")
    if not 0 <= blank < classes:
        raise ValueError(f"{fn}: blank_id must be in [0, {classes}), the classes of the logits, got {blank}")
    return blank


def _padding(fn: str, arg: str, value: Any, shape: tuple[int, ...], of: str) -> Array:
    given = checks.same_shape(fn, arg, checks.number(fn, arg, value), shape, of)
    return given if given.dtype == jnp.bool_ else checks.no_gradient(fn, arg, given) != 0


def _valid_labels(fn: str, y: Array, padded: Array, classes: int, blank: int) -> tuple[Array, Array]:
    """Labels with blanks for what is padded, and which examples have a meaning."""
    y = jnp.where(padded, blank, y.astype(jnp.int32) if y.dtype.itemsize < 4 else y)
    in_order = ~jnp.any(padded[..., :-1] & ~padded[..., 1:], -1)
    y = known_classes(fn, y, classes)
    y = alarm(y, padded | (y != blank), f"{fn}: labels must not be the blank, {blank}")
    y = alarm(y, in_order, f"{fn}: label_paddings must be at the end of each row")
    valid = jnp.all((y >= 0) & (y < classes), -1) & in_order
    return jnp.clip(y, 0, classes - 1).astype(jnp.int32), valid


@functools.partial(custom_vjp, nondiff_argnums=(0,))
def _losses(blank: int, *arrays: Array) -> Array:
    batch = _Arrays(*arrays)
    stats = _statistics(batch)
    return _total(batch, stats, log_likelihood(_frames(blank, batch, stats), batch.lengths))


def _losses_fwd(blank: int, *arrays: Array) -> tuple[Array, Array]:
    # Why a rule: autodiff would keep every step of the recursion, many times the logits (optax: 7 times in this case).
    # Here the gradient itself is kept, in the dtype of the logits, and steps are made again in blocks.
    batch = _Arrays(*arrays)
    stats = _statistics(batch)
    frames = _frames(blank, batch, stats)
    result, posteriors = log_likelihood_and_posteriors(frames, batch.lengths)
    losses = _total(batch, stats, result)
    slopes = _slopes(blank, batch, stats, frames, posteriors)
    some = batch.keep & (result != -jnp.inf)[:, None]
    undefined = jnp.where(jnp.isnan(losses), losses, 0)[:, None, None]
    return losses, jnp.where(some[..., None], slopes + undefined, 0).astype(batch.logits.dtype)


def _losses_bwd(blank: int, slopes: Array, g: Array) -> tuple[Array | None, ...]:
    return cotangent(g[:, None, None] * slopes.astype(g.dtype), slopes), None, None, None, None


_losses.defvjp(_losses_fwd, _losses_bwd)


def _forward(blank: int, *arrays: Array) -> tuple[Array, Array]:
    """log alpha, `[frames, examples, labels + 1]` and `[frames, examples, labels]`."""
    batch = _Arrays(*arrays)
    stats = _statistics(batch)
    found = log_forward(_frames(blank, batch, stats))
    norm = jnp.cumsum(_norm(batch, stats), 1).T[:, :, None]
    undefined = jnp.where(batch.valid, 0, jnp.nan).astype(norm.dtype)[None, :, None]
    blanks, labels = (jnp.swapaxes(x, 1, 2) - norm + undefined for x in found)
    return blanks, labels


def _scores(x: tuple[Array, Array]) -> Array:
    logits, keep = x
    return jnp.where(keep, upcast(logits), 0)


def _statistics(batch: _Arrays) -> stable.RowStats:
    return as_one(_kept_statistics, batch.logits, batch.keep)


@jax.custom_jvp
def _kept_statistics(logits: Array, keep: Array) -> stable.RowStats:
    top, rest = stable.row_stats(logits, 2)
    return stable.RowStats(jnp.where(keep, top, 0), jnp.where(keep, rest, logits.shape[2] - 1))


@_kept_statistics.defjvp
def _kept_statistics_jvp(primals: tuple[Array, Array], tangents: tuple[Array, Any]) -> tuple[Any, Any]:
    # Why a rule: NaN in a padded frame must not reach a derivative, and logits with zeros there would be a copy.
    logits, keep = primals
    return jax.jvp(lambda x: stable.row_stats(_scores((x, keep[..., None])), 2), (logits,), tangents[:1])


def _norm(batch: _Arrays, stats: stable.RowStats) -> Array:
    """How far the log-normaliser of each frame is above the largest logit."""
    return jnp.where(batch.keep, jnp.log1p(stats.rest), 0)


def _total(batch: _Arrays, stats: stable.RowStats, log_likelihood: Array) -> Array:
    losses = jnp.sum(_norm(batch, stats), 1) - log_likelihood
    return jnp.where(batch.valid, jnp.maximum(losses, 0), jnp.nan)


def _frames(blank: int, batch: _Arrays, stats: stable.RowStats) -> Frames:
    """Scores relative to the largest logit: the alignment of a confident example is a product of ones."""
    y = jnp.pad(batch.labels, ((0, 0), (1, 0)), constant_values=blank)
    if is_whole(batch.logits):
        picked = jnp.take_along_axis(batch.logits, y[:, None], 2, mode="promise_in_bounds")
        scores = _below(_scores((picked, batch.keep[..., None])), stats.max).transpose(1, 2, 0)
    else:
        below = _below(_scores((batch.logits, batch.keep[..., None])), stats.max)
        finite = jnp.maximum(below, np.asarray(scaled.NEVER, below.dtype))
        scores = jnp.einsum("btk,bnk->tnb", finite, _one_hot(y, finite), precision=lax.Precision.HIGHEST)
    repeated = batch.labels[:, 1:] == batch.labels[:, :-1]
    repeated = jnp.pad(repeated, ((0, 0), (min(1, batch.labels.shape[1]), 0)), constant_values=True)
    return Frames(scores, ~batch.keep.T, repeated.T)


def _below(z: Array, top: Array) -> Array:
    return jnp.where(z == jnp.inf, 0, z - top[..., None])


def _one_hot(y: Array, z: Array) -> Array:
    """Labels `[examples, labels]` against the classes of z `[examples, frames, classes]`."""
    return stable.is_label(z, y, 2).astype(z.dtype)


def _slopes(
    blank: int, batch: _Arrays, stats: stable.RowStats, frames: Frames, posteriors: tuple[Array, Array]
) -> Array:
    """softmax minus the posteriors of the classes.

    In most frames that of the blank and its probability are near 1: there, the difference is that of all others.
    """
    z = _scores((batch.logits, batch.keep[..., None]))
    of_blank, of_labels = posteriors[0].T, posteriors[1]
    others = stable.one_minus_probability(-frames.scores[:, 0].T, stats.rest)
    p = stable.softmax(z, stats, 2)
    probability = p[..., blank]
    to_blank = jnp.where(probability < 0.5, probability - of_blank, jnp.sum(of_labels, 1).T - others)
    labels = jnp.einsum("tnb,bnk->btk", of_labels, _one_hot(batch.labels, z), precision=lax.Precision.HIGHEST)
    return jnp.where(_one_hot(jnp.full((1, 1), blank), z) == 1, to_blank[..., None], p - labels)
