"""The contrastive and ranking losses, written as in their papers, for the kinds of numbers of `registry_formulas`."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from registry_formulas import Maths


def unit(m: Maths, x: Any) -> Any:
    """x / |x| along the last axis, and 0 for a zero vector. Divided first by the largest entry, for float64's sake."""
    largest = m.xp.max(abs(x), axis=-1, keepdims=True) if x.shape[-1] else 0 * x.sum(-1, keepdims=True)
    x = x / m.where(largest == 0, 0 * largest + 1, largest)
    square = (x * x).sum(-1, keepdims=True)
    return x / m.where(square == 0, 0 * square + 1, square) ** 0.5


def directions(m: Maths, normalize: bool, *embeddings: Any) -> list[Any]:
    return [unit(m, x) if normalize else x for x in embeddings]


def kept_alone(m: Maths, losses: Callable[..., Any], where: Any, weights: Any, *arrays: Any) -> Any:
    """The losses of the batch that has the kept examples only, 0 for the others."""
    if where is None:
        return losses(*arrays) * weights
    few = losses(*(a[where] for a in arrays))
    place = np.maximum(np.cumsum(where) - 1, 0)
    return m.where(where, few[place] * weights, 0 * m.number(1.0))


def cross_entropy_of_diagonal(m: Maths, z: Any) -> Any:
    return m.log_sum_exp(z)[:, 0] - m.xp.diagonal(z)


def info_nce_loss(
    m: Maths,
    q: Any,
    k: Any,
    negatives: Any = None,
    temperature: Any = 0.07,
    normalize: bool = True,
    where: Any = None,
    weights: Any = 1.0,
) -> Any:
    def losses(q: Any, k: Any, *others: Any) -> Any:
        q, k = directions(m, normalize, q, k)
        if negatives is None:
            return cross_entropy_of_diagonal(m, q @ k.T / temperature)
        (n,) = directions(m, normalize, others[0] if others else negatives)
        far = (q[:, None] * (n if n.ndim == 3 else n[None])).sum(-1)
        z = m.xp.concatenate([(q * k).sum(-1)[:, None], far], axis=1) / temperature
        return m.log_sum_exp(z)[:, 0] - z[:, 0]

    each = [negatives] if negatives is not None and negatives.ndim == 3 else []
    return kept_alone(m, losses, where, weights, q, k, *each)


def n_pair_loss(m: Maths, f: Any, p: Any, l2_weight: Any = 0.0, where: Any = None, weights: Any = 1.0) -> Any:
    def losses(f: Any, p: Any) -> Any:
        squares = (f * f).sum(-1) + (p * p).sum(-1)
        return cross_entropy_of_diagonal(m, f @ p.T) + l2_weight * squares / 2

    return kept_alone(m, losses, where, weights, f, p)


def clip_loss(
    m: Maths, x: Any, y: Any, temperature: Any = 0.07, normalize: bool = True, where: Any = None, weights: Any = 1.0
) -> Any:
    def losses(x: Any, y: Any) -> Any:
        x, y = directions(m, normalize, x, y)
        z = x @ y.T / temperature
        return (cross_entropy_of_diagonal(m, z) + cross_entropy_of_diagonal(m, z.T)) / 2

    return kept_alone(m, losses, where, weights, x, y)


def siglip_loss(
    m: Maths,
    x: Any,
    y: Any,
    temperature: Any = 0.1,
    bias: Any = -10.0,
    normalize: bool = True,
    where: Any = None,
    weights: Any = 1.0,
) -> Any:
    def losses(x: Any, y: Any) -> Any:
        x, y = directions(m, normalize, x, y)
        z = x @ y.T / temperature + bias
        return m.softplus(m.where(np.eye(len(x), dtype=bool), -z, z)).sum(-1)

    return kept_alone(m, losses, where, weights, x, y)


def of_rows(m: Maths, losses: Any, where: Any = None, weights: Any = 1.0) -> Any:
    losses = losses * weights
    return losses if where is None else m.where(where, losses, 0 * losses)


def last(m: Maths, x: Any, axis: Any, like: Any) -> Any:
    """In the shape of `like`, with the axes of the features as one at the end."""
    x = m.xp.broadcast_to(x, like.shape)
    axes = axis if isinstance(axis, tuple) else (axis,)
    x = m.xp.moveaxis(x, axes, range(x.ndim - len(axes), x.ndim))
    return x.reshape(*x.shape[: x.ndim - len(axes)], math.prod(x.shape[x.ndim - len(axes) :]))


def positive_part(m: Maths, x: Any) -> Any:
    return m.where(x > 0, x, 0 * x)


def triplet_margin_loss(
    m: Maths,
    a: Any,
    p: Any,
    n: Any,
    axis: Any = -1,
    norm_degree: Any = 2,
    margin: Any = 1.0,
    eps: Any = 1e-6,
    swap: bool = False,
    **given: Any,
) -> Any:
    a, p, n = (last(m, x, axis, a) for x in (a, p, n))

    def distance(x: Any) -> Any:
        if norm_degree == np.inf:
            return m.xp.max(abs(x), axis=-1)
        return ((abs(x) ** norm_degree).sum(-1) + eps) ** (1 / norm_degree)

    far = distance(a - n)
    if swap:
        far = m.where(distance(p - n) < far, distance(p - n), far)
    return of_rows(m, positive_part(m, distance(a - p) - far + margin), **given)


def contrastive_loss(m: Maths, a: Any, b: Any, similar: Any, axis: Any = -1, margin: Any = 1.0, **given: Any) -> Any:
    square = ((last(m, a, axis, a) - last(m, b, axis, a)) ** 2).sum(-1)
    short = positive_part(m, margin - square**0.5)
    similar = m.number(1.0) * similar
    return of_rows(m, similar * square / 2 + (1 - similar) * short**2 / 2, **given)


def cosine_embedding_loss(
    m: Maths, a: Any, b: Any, labels: Any, axis: Any = -1, margin: Any = 0.0, **given: Any
) -> Any:
    cosine = (unit(m, last(m, a, axis, a)) * unit(m, last(m, b, axis, a))).sum(-1)
    return of_rows(m, m.where(labels == 1, 1 - cosine, positive_part(m, cosine - margin)), **given)


def hinge_embedding_loss(m: Maths, d: Any, labels: Any, margin: Any = 1.0, **given: Any) -> Any:
    return of_rows(m, m.where(labels == 1, d, positive_part(m, margin - d)), **given)


def margin_ranking_loss(m: Maths, a: Any, b: Any, labels: Any, margin: Any = 0.0, **given: Any) -> Any:
    return of_rows(m, positive_part(m, margin - m.where(labels == 1, a - b, b - a)), **given)


def groups(m: Maths, labels: Any) -> tuple[Any, Any]:
    """Positives and negatives of each example."""
    labels = m.xp.asarray(labels)
    same = labels[:, None] == labels[None]
    return same & ~np.eye(len(labels), dtype=bool), ~same


def chosen(m: Maths, mask: Any, x: Any) -> Any:
    """The sum of what the mask has of each row."""
    return m.where(mask, x, m.number(0.0)).sum(-1)


def positive_or_one(m: Maths, x: Any) -> Any:
    return m.where(x > 0, x, 0 * x + 1)


def log_sum(m: Maths, mask: Any, z: Any) -> Any:
    """log sum exp of what the mask has of each row, and 0 where that is nothing."""
    top = m.xp.max(m.where(mask, z, m.number(-np.inf)), axis=-1, keepdims=True)
    z = m.where(mask, z - m.where(mask.any(-1, keepdims=True), top, 0 * z), m.number(-np.inf))
    total = m.log(positive_or_one(m, m.exp(z).sum(-1)))
    return m.where(mask.any(-1), total + m.where(mask.any(-1), top[:, 0], 0 * total), 0 * total)


def ntxent(m: Maths, x: Any, labels: Any, temperature: Any = 0.07, where: Any = None) -> Any:
    if where is not None:
        x, labels = x[where], labels[where]
    z = unit(m, x) @ unit(m, x).T / temperature
    positive, negative = groups(m, labels)
    losses = m.where(negative.any(-1)[:, None], m.softplus(log_sum(m, negative, z)[:, None] - z), 0 * z)
    count = positive.sum()
    return chosen(m, positive, losses).sum() / m.where(count > 0, count, 1)


def supervised_contrastive_loss(
    m: Maths,
    x: Any,
    labels: Any,
    temperature: Any = 0.07,
    variant: str = "out",
    where: Any = None,
    weights: Any = 1.0,
) -> Any:
    def losses(x: Any, labels: Any) -> Any:
        z = unit(m, x) @ unit(m, x).T / temperature
        positive, negative = groups(m, labels)
        count = positive_or_one(m, positive.sum(-1) * m.number(1.0))
        total = log_sum(m, positive | negative, z)
        if variant == "out":
            each = chosen(m, positive, total[:, None] - z) / count
        else:
            each = total - log_sum(m, positive, z) + m.log(count)
        return m.where(positive.any(-1), each, 0 * each)

    return kept_alone(m, losses, where, weights, x, labels)


def circle_loss(
    m: Maths,
    x: Any,
    labels: Any,
    margin: Any = 0.4,
    gamma: Any = 8.0,
    where: Any = None,
    weights: Any = 1.0,
) -> Any:
    def losses(x: Any, labels: Any) -> Any:
        s = unit(m, x) @ unit(m, x).T
        positive, negative = groups(m, labels)
        near = -gamma * positive_part(m, 1 + margin - s) * (s - (1 - margin))
        far = gamma * positive_part(m, s + margin) * (s - margin)
        each = m.softplus(log_sum(m, positive, near) + log_sum(m, negative, far))
        return m.where(positive.any(-1) & negative.any(-1), each, 0 * each)

    return kept_alone(m, losses, where, weights, x, labels)


def centred(x: Any) -> Any:
    return x - x.sum(0) / len(x)


def beside_the_diagonal(m: Maths, c: Any) -> Any:
    return m.where(np.eye(len(c), dtype=bool), 0 * c, c**2).sum()


def barlow_twins_loss(m: Maths, x: Any, y: Any, off_diagonal_weight: Any = 5e-3, where: Any = None) -> Any:
    if where is not None:
        x, y = x[where], y[where]
    c = unit(m, centred(x).T) @ unit(m, centred(y).T).T
    return ((1 - m.xp.diagonal(c)) ** 2).sum() + off_diagonal_weight * beside_the_diagonal(m, c)


def vicreg_loss(
    m: Maths,
    x: Any,
    y: Any,
    invariance_weight: Any = 25.0,
    variance_weight: Any = 25.0,
    covariance_weight: Any = 1.0,
    target_deviation: Any = 1.0,
    eps: Any = 1e-4,
    where: Any = None,
) -> Any:
    if where is not None:
        x, y = x[where], y[where]
    n, d = x.shape
    total = invariance_weight * ((x - y) ** 2).sum() / (n * d)
    for z in (centred(x), centred(y)):
        c = z.T @ z / max(n - 1, 1)
        short = positive_part(m, target_deviation - (m.xp.diagonal(c) + eps) ** 0.5)
        total = total + variance_weight * short.sum() / d + covariance_weight * beside_the_diagonal(m, c) / d
    return total


def ranking_softmax_loss(
    m: Maths, x: Any, labels: Any, where: Any = None, weights: Any = 1.0, reduce_fn: Any = jnp.mean
) -> Any:
    keep = np.ones(x.shape, bool) if where is None else np.broadcast_to(where, x.shape)
    target = m.where(keep, m.xp.broadcast_to(labels, x.shape) * weights, m.number(0.0))
    rows = keep.any(-1, keepdims=True)
    x = m.where(keep | ~rows, x, m.number(-np.inf))
    losses = m.times(target, m.log_sum_exp(x) - x).sum(-1)
    if reduce_fn is None:
        return losses
    return m.total(losses) if reduce_fn is jnp.sum else m.total(losses) / max(rows.sum(), 1)
