"""Examples in groups, given by labels: those of one group belong together. NT-Xent, supervised contrastive, circle.

>>> import jax, jax.numpy as jnp
>>> x, labels = jnp.array([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0], [0.0, 3.0]]), jnp.array([0, 0, 1, 1])
>>> print(ntxent(x, labels, temperature=1.0).round(4), supervised_contrastive_loss(x, labels, temperature=1.0).round(4))
0.5514 [0.5514 0.5514 0.5514 0.5514]
>>> print(ntxent(x, jnp.arange(4)))  # nothing belongs together
0.0
"""

from __future__ import annotations

from typing import Literal

import jax.numpy as jnp
from jax import lax

from jaxloss._contrastive.arguments import Batch, SumExp, log1p_exp, positive_number
from jaxloss._core import checks, stable
from jaxloss._core.api import loss
from jaxloss._core.directions import dots, unit
from jaxloss._core.precision import upcast
from jaxloss._core.softmax import Scores, Wanted, row_statistics
from jaxloss._core.typing import Array, ArrayLike, Bool, Float, Num, Reduction


@loss()
def ntxent(
    embeddings: Float[ArrayLike, "examples features"],
    labels: Num[ArrayLike, "examples"],
    temperature: float | Array = 0.07,
    *,
    where: Bool[ArrayLike, "examples"] | None = None,
    axis_name: str | tuple[str, ...] | None = None,
) -> Float[Array, ""]:
    r"""NT-Xent, a mean over pairs of one group: $-\log\bigl(e^{s_{ij}/T} / (e^{s_{ij}/T} + \sum_k e^{s_{ik}/T})\bigr)$.

    $s$ is the cosine, and $k$ runs over the other groups. With two views of each example this is SimCLR's loss. With
    larger groups the other positives of $i$ are not in the denominator, as in optax and PyTorch Metric Learning;
    `supervised_contrastive_loss` has them there.

    Args:
      embeddings: `[examples, features]`, of any length: their direction counts. A zero vector has cosine 0.
      labels: of the groups, `[examples]`; only equality counts.
      temperature: $T > 0$, a number or a scalar array, which may be learned.
      where: examples to keep, `[examples]`. What is dropped is compared with nothing, and adds 0 to value and gradient,
        even if NaN.
      axis_name: inside `jax.shard_map`, the mesh axes that split the examples: the result is that of the whole batch,
        as are gradients.

    Returns:
      A scalar; at least float32. 0, with zero gradient, where no two examples belong together.

    Raises:
      TypeError: embeddings are not floating-point, or `where` is not boolean.
      ValueError: shapes do not fit, the temperature is not positive, `axis_name` is no axis here, or belongs to
        `shard_map(check_vma=False)`, where gradients would be multiplied.

    Reference: Chen et al., "A Simple Framework for Contrastive Learning of Visual Representations" (2020), eq. 1.

    >>> x = jnp.array([[1.0, 0.0], [5.0, 0.0], [0.0, 1.0]])
    >>> print(ntxent(x, jnp.array([0, 0, 1]), temperature=1.0))  # log(1 + exp(-1))
    0.31326166
    """
    fn = "ntxent"
    batch = Batch(fn, where, axis_name, embeddings=embeddings)
    pairs = batch.groups(labels)

    def rule(x: Array, everyone: Array | None, temperature: Array) -> Array:
        positive, negative = pairs()
        z = _cosines(x, everyone) / temperature.astype(_dtype(x))
        others = SumExp.of(z, negative)
        losses = log1p_exp(others.top[:, None] - z, others.factor[:, None])
        losses = jnp.where(others.some[:, None], losses, 0 * z)
        return jnp.sum(jnp.where(positive, losses, 0), 1) / _at_least_one(positive).astype(z.dtype)

    losses = batch.losses(rule, *_here_and_everyone(batch), positive_number(fn, "temperature", temperature))
    count = stable.row_count(pairs()[0], 1)
    return batch.reduce(losses, count, "mean", count > 0)


@loss()
def supervised_contrastive_loss(
    embeddings: Float[ArrayLike, "examples features"],
    labels: Num[ArrayLike, "examples"],
    *,
    temperature: float | Array = 0.07,
    variant: Literal["out", "in"] = "out",
    where: Bool[ArrayLike, "examples"] | None = None,
    weights: Num[ArrayLike, "..."] | None = None,
    axis_name: str | tuple[str, ...] | None = None,
    reduction: Reduction = "none",
) -> Float[Array, "..."]:
    r"""Supervised contrastive loss, for each anchor: $-\frac1{|P|}\sum_{p \in P} \log(e^{s_p/T} / \sum_k e^{s_k/T})$.

    $s$ is the cosine, $P$ the other examples of the anchor's group, and $k$ runs over all examples but the anchor.
    This is the paper's $L_{out}$; `variant="in"` is $L_{in}$, with the mean over the positives inside of the logarithm.
    The authors' code multiplies by $T$ / 0.07, which the paper does not have.

    Args:
      embeddings: `[examples, features]`, of any length: their direction counts. A zero vector has cosine 0.
      labels: of the groups, `[examples]`; only equality counts. Two views of an example have one label.
      temperature: $T > 0$, a number or a scalar array, which may be learned.
      variant: `"out"` or `"in"`.
      where: examples to keep, `[examples]`. What is dropped is compared with nothing, and adds 0 to value and gradient,
        even if NaN.
      weights: multiply the losses, `[examples]`.
      axis_name: inside `jax.shard_map`, the mesh axes that split the examples: those of all devices are compared, and a
        mean or sum is that of all. Gradients are those of the whole batch.
      reduction: `"none"`, `"mean"` or `"sum"` over the anchors; see `jaxloss.reduce`. An anchor that is alone in its
        group has loss 0 and does not count in a mean.

    Returns:
      One loss for each anchor, or a scalar; at least float32.

    Raises:
      TypeError: embeddings are not floating-point, or `where` is not boolean.
      ValueError: shapes do not fit, the temperature is not positive, an unknown variant, `axis_name` is no axis here,
        or belongs to `shard_map(check_vma=False)`, where gradients would be multiplied.

    Reference: Khosla et al., "Supervised Contrastive Learning" (2020), eq. 2 and 3.

    >>> x = jnp.array([[1.0, 0.0], [5.0, 0.0], [0.0, 1.0]])
    >>> print(supervised_contrastive_loss(x, jnp.array([0, 0, 1]), temperature=1.0))  # log(1 + exp(-1)), and alone
    [0.31326166 0.31326166 0.        ]
    """
    fn = "supervised_contrastive_loss"
    checks.choice(fn, "variant", variant, ("out", "in"))
    batch = Batch(fn, where, axis_name, embeddings=embeddings)
    pairs = batch.groups(labels)

    def rule(x: Array, everyone: Array | None, temperature: Array) -> Array:
        positive, negative = pairs()
        z = _cosines(x, everyone) / temperature.astype(_dtype(x))
        number = _at_least_one(positive).astype(z.dtype)
        if variant == "out":
            target = positive.astype(z.dtype) / number[:, None]
            losses = row_statistics(Wanted(1), Scores(z, positive | negative, jnp.any(positive, 1)), target, None).cross
            assert losses is not None
            return losses
        # The sum over all, divided by that over the positives, is 1 plus that over the negatives divided by it.
        near, far = SumExp.of(z, positive), SumExp.of(z, negative)
        losses = log1p_exp(far.top - near.top, far.factor / near.factor)
        return jnp.where(near.some, jnp.where(far.some, losses, 0 * near.top) + jnp.log(number), 0)

    losses = batch.losses(rule, *_here_and_everyone(batch), positive_number(fn, "temperature", temperature))
    return batch.reduce(losses, weights, reduction, jnp.any(pairs()[0], 1))


@loss()
def circle_loss(
    embeddings: Float[ArrayLike, "examples features"],
    labels: Num[ArrayLike, "examples"],
    *,
    margin: float | Array = 0.4,
    gamma: float | Array = 80.0,
    constant_weights: bool = True,
    where: Bool[ArrayLike, "examples"] | None = None,
    weights: Num[ArrayLike, "..."] | None = None,
    axis_name: str | tuple[str, ...] | None = None,
    reduction: Reduction = "none",
) -> Float[Array, "..."]:
    r"""Circle loss, for each anchor: $\log\bigl(1 + \sum_n e^{z_n} \sum_p e^{z_p}\bigr)$.

    Here $z_n = \gamma\alpha_n(s_n - m)$ and $z_p = \gamma\alpha_p(1 - m - s_p)$. $s_p$ and $s_n$ are the cosines with
    the other examples of the anchor's group and with those of other groups. The weights are
    $\alpha_p = \max(0, 1 + m - s_p)$ and $\alpha_n = \max(0, s_n + m)$. In the paper's gradient they are constants, as
    in PyTorch Metric Learning; Keras differentiates them too, as does `constant_weights=False`.

    Args:
      embeddings: `[examples, features]`, of any length: their direction counts. A zero vector has cosine 0.
      labels: of the groups, `[examples]`; only equality counts.
      margin: $m$, a number or a scalar array; the paper takes 0.25 for faces and 0.4 for fine-grained retrieval.
      gamma: $\gamma > 0$, likewise; 256 and 80.
      constant_weights: whether the weights $\alpha$ have no gradient.
      where: examples to keep, `[examples]`. What is dropped is compared with nothing, and adds 0 to value and gradient,
        even if NaN.
      weights: multiply the losses, `[examples]`.
      axis_name: inside `jax.shard_map`, the mesh axes that split the examples: those of all devices are compared, and a
        mean or sum is that of all. Gradients are those of the whole batch.
      reduction: `"none"`, `"mean"` or `"sum"` over the anchors; see `jaxloss.reduce`. An anchor without a positive or
        without a negative has loss 0 and does not count in a mean.

    Returns:
      One loss for each anchor, or a scalar; at least float32.

    Raises:
      TypeError: embeddings are not floating-point, or `where` is not boolean.
      ValueError: shapes do not fit, `gamma` is not positive, `axis_name` is no axis here, or belongs to
        `shard_map(check_vma=False)`, where gradients would be multiplied.

    Reference: Sun et al., "Circle Loss: A Unified Perspective of Pair Similarity Optimization" (2020), eq. 6, 8 and 10.

    >>> x = jnp.array([[1.0, 0.0], [5.0, 0.0], [0.0, 1.0]])
    >>> print(circle_loss(x, jnp.array([0, 0, 1]), gamma=1.0))  # log(1 + exp(-0.32)), twice
    [0.54589295 0.54589295 0.        ]
    """
    fn = "circle_loss"
    batch = Batch(fn, where, axis_name, embeddings=embeddings)
    pairs = batch.groups(labels)
    options = checks.scalar(fn, "margin", margin), positive_number(fn, "gamma", gamma)

    def rule(x: Array, everyone: Array | None, margin: Array, gamma: Array) -> Array:
        positive, negative = pairs()
        s = _cosines(x, everyone)
        margin, gamma = margin.astype(s.dtype), gamma.astype(s.dtype)
        weight = (lambda a: lax.stop_gradient(jnp.maximum(a, 0))) if constant_weights else (lambda a: jnp.maximum(a, 0))
        near = SumExp.of(gamma * weight(1 + margin - s) * (1 - margin - s), positive)
        far = SumExp.of(gamma * weight(s + margin) * (s - margin), negative)
        return jnp.where(near.some & far.some, log1p_exp(near.top + far.top, near.factor * far.factor), 0)

    losses = batch.losses(rule, *_here_and_everyone(batch), *options)
    positive, negative = pairs()
    return batch.reduce(losses, weights, reduction, jnp.any(positive, 1) & jnp.any(negative, 1))


def _here_and_everyone(batch: Batch) -> tuple[Array, Array | None]:
    """The embeddings of this device, and those of all devices where there are others.

    In float32 then: the two cotangents are added up before they are rounded.
    """
    (x,) = batch.embeddings
    if batch.over is None:
        return x, None
    x = upcast(x)
    return x, batch.everyone(x)


def _at_least_one(positive: Array) -> Array:
    return jnp.maximum(stable.row_count(positive, 1), 1)


def _dtype(x: Array) -> jnp.dtype:
    return upcast(x).dtype


def _cosines(x: Array, everyone: Array | None) -> Array:
    u = unit(upcast(x))
    return dots(u, u if everyone is None else unit(everyone))
