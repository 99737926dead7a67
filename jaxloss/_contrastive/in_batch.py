"""Each query against its own key among many: InfoNCE, N-pair and CLIP.

>>> import jax, jax.numpy as jnp
>>> images, texts = jnp.array([[1.0, 0.0], [0.0, 2.0]]), jnp.array([[3.0, 0.0], [1.0, 1.0]])
>>> print(clip_loss(images, texts, temperature=0.5).round(4))
[0.2847 0.4554]
>>> log_scale = jnp.log(2.0)  # a learned temperature
>>> print(jax.grad(lambda s: clip_loss(images, texts, temperature=jnp.exp(-s), reduction="mean"))(log_scale).round(4))
-0.1811
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from jaxloss._contrastive.arguments import Batch, positive_number, similarities
from jaxloss._core import checks
from jaxloss._core.api import loss
from jaxloss._core.directions import dots, unit
from jaxloss._core.precision import promote
from jaxloss._core.softmax import Scores, Wanted, row_statistics
from jaxloss._core.typing import Array, ArrayLike, Bool, Float, Num, Reduction


@loss(arrays=3)
def info_nce_loss(
    queries: Float[ArrayLike, "examples features"],
    keys: Float[ArrayLike, "examples features"],
    negatives: Float[ArrayLike, "... negatives features"] | None = None,
    *,
    temperature: float | Array = 0.07,
    normalize: bool = True,
    where: Bool[ArrayLike, "examples"] | None = None,
    weights: Num[ArrayLike, "..."] | None = None,
    axis_name: str | tuple[str, ...] | None = None,
    reduction: Reduction = "none",
) -> Float[Array, "..."]:
    r"""InfoNCE, for each query: $-\log\bigl(e^{s(q_i, k_i)/T} / \sum_j e^{s(q_i, k_j)/T}\bigr)$.

    $s$ is the cosine, and the keys of the other queries are the negatives. With `negatives`, the sum has $k_i$ and
    these instead, as in MoCo.

    Args:
      queries: $q$, `[examples, features]`, of any length: their direction counts. A zero vector has cosine 0.
      keys: $k$, likewise; row $i$ belongs to query $i$.
      negatives: `[negatives, features]` for all queries, or `[examples, negatives, features]` for each.
      temperature: $T > 0$, a number or a scalar array, which may be learned.
      normalize: `False` for dot products instead of cosines.
      where: examples to keep, `[examples]`. What is dropped is no query and no key, and adds 0 to value and gradient,
        even if NaN.
      weights: multiply the losses, `[examples]`.
      axis_name: inside `jax.shard_map`, the mesh axes that split the examples: the keys of all devices count, and a
        mean or sum is that of all. Gradients are those of the whole batch. `negatives` are used as they are given.
      reduction: `"none"`, `"mean"` or `"sum"` over the queries; see `jaxloss.reduce`.

    Returns:
      One loss for each query, or a scalar; at least float32.

    Raises:
      TypeError: embeddings are not floating-point, or `where` is not boolean.
      ValueError: shapes do not fit, the temperature is not positive, `axis_name` is no axis here, or belongs to
        `shard_map(check_vma=False)`, where gradients would be multiplied.

    Reference: van den Oord, Li, Vinyals, "Representation Learning with Contrastive Predictive Coding" (2018), eq. 4; He
    et al., "Momentum Contrast for Unsupervised Visual Representation Learning" (2020), eq. 1.

    >>> x = jnp.array([[1.0, 0.0], [0.0, 1.0]])
    >>> print(info_nce_loss(x, 5 * x, temperature=1.0))  # log(1 + exp(-1))
    [0.31326166 0.31326166]
    """
    fn = "info_nce_loss"
    batch = Batch(fn, where, axis_name, queries=queries, keys=keys)
    temperature = positive_number(fn, "temperature", temperature)
    if negatives is None:
        losses = _in_batch(batch, temperature, normalize)
    else:
        losses = _against(batch, _negatives(fn, negatives, batch), temperature, normalize)
    return batch.reduce(losses, weights, reduction)


@loss()
def n_pair_loss(
    anchors: Float[ArrayLike, "examples features"],
    positives: Float[ArrayLike, "examples features"],
    *,
    l2_weight: float | Array = 0.0,
    where: Bool[ArrayLike, "examples"] | None = None,
    weights: Num[ArrayLike, "..."] | None = None,
    axis_name: str | tuple[str, ...] | None = None,
    reduction: Reduction = "none",
) -> Float[Array, "..."]:
    r"""Multi-class N-pair loss, for each anchor: $\log(1 + \sum_{j \ne i} e^{f_i \cdot f_j^+ - f_i \cdot f_i^+})$.

    Embeddings are not normalised. Instead the paper keeps them small by `l2_weight`, which adds
    $\frac\lambda2(|f_i|^2 + |f_i^+|^2)$; TensorFlow's `reg_lambda` is twice this $\lambda$.

    Args:
      anchors: $f$, `[examples, features]`, one for each class.
      positives: $f^+$, likewise; row $i$ belongs to anchor $i$.
      l2_weight: $\lambda \ge 0$, a number or a scalar array.
      where: pairs to keep, `[examples]`. What is dropped is no anchor and no positive, and adds 0 to value and
        gradient, even if NaN.
      weights: multiply the losses, `[examples]`.
      axis_name: inside `jax.shard_map`, the mesh axes that split the examples: the positives of all devices count, and
        a mean or sum is that of all. Gradients are those of the whole batch.
      reduction: `"none"`, `"mean"` or `"sum"` over the anchors; see `jaxloss.reduce`.

    Returns:
      One loss for each anchor, or a scalar; at least float32.

    Raises:
      TypeError: embeddings are not floating-point, or `where` is not boolean.
      ValueError: shapes do not fit, `l2_weight` is negative, `axis_name` is no axis here, or belongs to
        `shard_map(check_vma=False)`, where gradients would be multiplied.

    Reference: Sohn, "Improved Deep Metric Learning with Multi-class N-pair Loss Objective" (2016), eq. 5 and 7.

    >>> x = jnp.array([[1.0, 0.0], [0.0, 1.0]])
    >>> print(n_pair_loss(x, x))  # log(1 + exp(-1))
    [0.31326166 0.31326166]
    """
    fn = "n_pair_loss"
    batch = Batch(fn, where, axis_name, anchors=anchors, positives=positives)
    given = checks.scalar(fn, "l2_weight", checks.in_range(fn, "l2_weight", l2_weight, 0, jnp.inf))
    losses = _in_batch(batch, jnp.ones(()), False, l2_weight=None if checks.is_zero(l2_weight) else given)
    return batch.reduce(losses, weights, reduction)


@loss()
def clip_loss(
    image_embeddings: Float[ArrayLike, "examples features"],
    text_embeddings: Float[ArrayLike, "examples features"],
    *,
    temperature: float | Array = 0.07,
    normalize: bool = True,
    where: Bool[ArrayLike, "examples"] | None = None,
    weights: Num[ArrayLike, "..."] | None = None,
    axis_name: str | tuple[str, ...] | None = None,
    reduction: Reduction = "none",
) -> Float[Array, "..."]:
    r"""CLIP, for each pair: the mean of InfoNCE from image to text and from text to image.

    $-\frac12\log(e^{s_{ii}/T} / \sum_j e^{s_{ij}/T}) - \frac12\log(e^{s_{ii}/T} / \sum_j e^{s_{ji}/T})$
    with $s_{ij}$ the cosine of image $i$ and text $j$. CLIP learns $\log(1/T)$ from $\log(1/0.07)$ on, at most
    $\log 100$: pass `temperature=jnp.exp(-jnp.minimum(log_scale, jnp.log(100.0)))`.

    Args:
      image_embeddings: `[examples, features]`, of any length: their direction counts. A zero vector has cosine 0.
      text_embeddings: likewise; row $i$ belongs to image $i$.
      temperature: $T > 0$, a number or a scalar array, which may be learned.
      normalize: `False` for dot products instead of cosines.
      where: pairs to keep, `[examples]`. What is dropped is compared with nothing, and adds 0 to value and gradient,
        even if NaN.
      weights: multiply the losses, `[examples]`.
      axis_name: inside `jax.shard_map`, the mesh axes that split the examples: the pairs of all devices count, and a
        mean or sum is that of all. Gradients are those of the whole batch.
      reduction: `"none"`, `"mean"` or `"sum"` over the pairs; see `jaxloss.reduce`.

    Returns:
      One loss for each pair, or a scalar; at least float32.

    Raises:
      TypeError: embeddings are not floating-point, or `where` is not boolean.
      ValueError: shapes do not fit, the temperature is not positive, `axis_name` is no axis here, or belongs to
        `shard_map(check_vma=False)`, where gradients would be multiplied.

    Reference: Radford et al., "Learning Transferable Visual Models From Natural Language Supervision" (2021), figure 3.

    >>> x = jnp.array([[1.0, 0.0], [0.0, 1.0]])
    >>> print(clip_loss(x, 5 * x, temperature=1.0))  # log(1 + exp(-1))
    [0.31326166 0.31326166]
    """
    fn = "clip_loss"
    batch = Batch(fn, where, axis_name, image_embeddings=image_embeddings, text_embeddings=text_embeddings)
    temperature = positive_number(fn, "temperature", temperature)
    losses = _in_batch(batch, temperature, normalize, both_ways=True)
    return batch.reduce(losses, weights, reduction)


def _in_batch(
    batch: Batch, temperature: Array, normalize: bool, both_ways: bool = False, l2_weight: Array | None = None
) -> Array:
    """Cross-entropies of the similarity matrix, whose labels are on its diagonal."""
    x, y = batch.embeddings
    kept = batch.everyone_kept()

    def rule(x: Array, y: Array, temperature: Array, l2_weight: Array | None) -> Array:
        z = similarities(x, y, temperature, normalize)
        mask = None if kept is None else jnp.broadcast_to(kept[None], z.shape)
        losses = _cross_entropy(Scores(z, mask, batch.keep), batch.places(), Wanted(1))
        if both_ways:  # the other way round the classes are the examples here, and a row is one of all
            mask = None if batch.keep is None else jnp.broadcast_to(batch.keep[:, None], z.shape)
            everyone = _cross_entropy(Scores(z, mask, kept), jnp.arange(z.shape[1]), Wanted(0, over=batch.over))
            losses = 0.5 * losses + 0.5 * batch.own(everyone)
        if l2_weight is not None:
            x_square, y_square = (jnp.sum(jnp.square(v), -1) for v in promote(x, y))
            losses += 0.5 * l2_weight.astype(z.dtype) * (x_square + batch.own(y_square))
        return losses

    return batch.losses(rule, x, batch.everyone(y), temperature, l2_weight)


def _cross_entropy(scores: Scores, labels: Array, wanted: Wanted) -> Array:
    losses = row_statistics(wanted, scores, labels, None).cross
    assert losses is not None
    return losses


def _against(batch: Batch, negatives: Array, temperature: Array, normalize: bool) -> Array:
    """Cross-entropies of rows that have the positive in front."""

    def rule(q: Array, k: Array, negatives: Array, temperature: Array) -> Array:
        q, k, negatives = (unit(x) if normalize else x for x in promote(q, k, negatives))
        others = dots(q, negatives) if negatives.ndim == 2 else jnp.sum(jnp.expand_dims(q, 1) * negatives, -1)
        z = jnp.concatenate([jnp.sum(q * k, -1, keepdims=True), others], 1) / temperature.astype(q.dtype)
        return _cross_entropy(Scores(z, None, batch.keep), jnp.zeros(batch.size, jnp.int32), Wanted(1))

    return batch.losses(rule, *batch.embeddings, negatives, temperature)


def _negatives(fn: str, negatives: Any, batch: Batch) -> Array:
    x = checks.floating(fn, "negatives", negatives)
    size, features = batch.embeddings[0].shape
    if x.ndim not in (2, 3) or x.shape[-1] != features or (x.ndim == 3 and x.shape[0] != size):
        wanted = f"[negatives, {features}] or [{size}, negatives, {features}]"
        raise ValueError(f"{fn}: negatives must have the shape {wanted}, got {x.shape}")
    return batch.kept(x) if x.ndim == 3 else x
