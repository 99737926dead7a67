"""Losses of a decision with a margin, for each element.

>>> import jax, jax.numpy as jnp
>>> print(jax.grad(lambda x: hinge_loss(x, jnp.array([1, -1]), reduction="sum"))(jnp.array([0.0, -3.0])))
[-1.  0.]
"""

from __future__ import annotations

import jax.numpy as jnp

from jaxloss._core import stable
from jaxloss._core.api import loss
from jaxloss._core.elements import elementwise, with_slopes
from jaxloss._core.typing import Array, ArrayLike, Bool, Float, Num, Reduction


@loss()
def hinge_loss(
    predictor_outputs: Float[ArrayLike, "*shape"],
    targets: Num[ArrayLike, "..."],
    *,
    where: Bool[ArrayLike, "..."] | None = None,
    weights: Num[ArrayLike, "..."] | None = None,
    reduction: Reduction = "none",
) -> Float[Array, "..."]:
    r"""Hinge loss: $\max(0, 1 - y x)$ for each element.

    It is 0 from the margin on, where $yx \ge 1$, as is its derivative.

    Args:
      predictor_outputs: $x$, scores of the positive class, any shape.
      targets: $y$, 1 or -1, any real dtype; broadcast to the shape of the predictor outputs.
      where: elements to keep, broadcast likewise. What is dropped adds 0 to value and gradient, even if NaN.
      weights: multiply the losses, broadcast likewise.
      reduction: `"none"`, `"mean"` or `"sum"`; see `jaxloss.reduce`.

    Returns:
      The shape of the predictor outputs, or a scalar; at least float32.

    Raises:
      TypeError: predictor outputs are not floating-point, or `where` is not boolean.
      ValueError: a shape does not broadcast to that of the predictor outputs, or an unknown reduction.

    Reference: Cortes, Vapnik, "Support-Vector Networks" (1995).

    >>> print(hinge_loss(jnp.array([2.0, 0.5, -1.0]), jnp.array([1, 1, 1])))
    [0.  0.5 2. ]
    """
    return elementwise(
        "hinge_loss",
        _hinge,
        where,
        weights,
        reduction,
        arithmetic=True,
        predictor_outputs=predictor_outputs,
        targets=targets,
    )


@with_slopes
def _hinge(x: Array, y: Array) -> tuple[Array, tuple[Array, Array]]:
    wrong = -x * y
    losses = stable.hinge(1 - x * y)
    return losses, (stable.where_above(wrong, -1, -y), stable.where_above(wrong, -1, -x))


@loss()
def squared_hinge_loss(
    predictor_outputs: Float[ArrayLike, "*shape"],
    targets: Num[ArrayLike, "..."],
    *,
    where: Bool[ArrayLike, "..."] | None = None,
    weights: Num[ArrayLike, "..."] | None = None,
    reduction: Reduction = "none",
) -> Float[Array, "..."]:
    r"""Squared hinge loss: $\max(0, 1 - y x)^2$ for each element.

    Unlike `hinge_loss` it has a derivative everywhere.

    Args:
      predictor_outputs: $x$, scores of the positive class, any shape.
      targets: $y$, 1 or -1, any real dtype; broadcast to the shape of the predictor outputs.
      where: elements to keep, broadcast likewise. What is dropped adds 0 to value and gradient, even if NaN.
      weights: multiply the losses, broadcast likewise.
      reduction: `"none"`, `"mean"` or `"sum"`; see `jaxloss.reduce`.

    Returns:
      The shape of the predictor outputs, or a scalar; at least float32.

    Raises:
      TypeError: predictor outputs are not floating-point, or `where` is not boolean.
      ValueError: a shape does not broadcast to that of the predictor outputs, or an unknown reduction.

    Reference: Lee, Mangasarian, "SSVM: A Smooth Support Vector Machine for Classification" (2001).

    >>> print(squared_hinge_loss(jnp.array([2.0, 0.5, -1.0]), jnp.array([1, 1, 1])))
    [0.   0.25 4.  ]
    """
    return elementwise(
        "squared_hinge_loss",
        _squared_hinge,
        where,
        weights,
        reduction,
        arithmetic=True,
        predictor_outputs=predictor_outputs,
        targets=targets,
    )


@with_slopes
def _squared_hinge(x: Array, y: Array) -> tuple[Array, tuple[Array, Array]]:
    wrong = -x * y
    twice = -2 * wrong - 2  # -2 (1 - x y)
    losses = jnp.square(stable.hinge(1 - x * y))
    return losses, (stable.where_above(wrong, -1, twice * y), stable.where_above(wrong, -1, twice * x))


@loss()
def perceptron_loss(
    predictor_outputs: Float[ArrayLike, "*shape"],
    targets: Num[ArrayLike, "..."],
    *,
    where: Bool[ArrayLike, "..."] | None = None,
    weights: Num[ArrayLike, "..."] | None = None,
    reduction: Reduction = "none",
) -> Float[Array, "..."]:
    r"""Perceptron loss: $\max(0, -y x)$ for each element.

    The derivative at 0 is that of a wrong decision, $-y$, so that learning can start from zeros.

    Args:
      predictor_outputs: $x$, scores of the positive class, any shape.
      targets: $y$, 1 or -1, any real dtype; broadcast to the shape of the predictor outputs.
      where: elements to keep, broadcast likewise. What is dropped adds 0 to value and gradient, even if NaN.
      weights: multiply the losses, broadcast likewise.
      reduction: `"none"`, `"mean"` or `"sum"`; see `jaxloss.reduce`.

    Returns:
      The shape of the predictor outputs, or a scalar; at least float32.

    Raises:
      TypeError: predictor outputs are not floating-point, or `where` is not boolean.
      ValueError: a shape does not broadcast to that of the predictor outputs, or an unknown reduction.

    Reference: Rosenblatt, "The Perceptron" (1958).

    >>> print(perceptron_loss(jnp.array([2.0, 0.5, -1.0]), jnp.array([1, 1, 1])))
    [0. 0. 1.]
    """
    return elementwise(
        "perceptron_loss",
        _perceptron,
        where,
        weights,
        reduction,
        arithmetic=True,
        predictor_outputs=predictor_outputs,
        targets=targets,
    )


@with_slopes
def _perceptron(x: Array, y: Array) -> tuple[Array, tuple[Array, Array]]:
    wrong = -x * y
    right = jnp.where(wrong < 0, 0, wrong)  # 0, or NaN
    return stable.hinge(wrong), (jnp.where(wrong >= 0, -y, right), jnp.where(wrong >= 0, -x, right))


@loss()
def soft_margin_loss(
    predictor_outputs: Float[ArrayLike, "*shape"],
    targets: Num[ArrayLike, "..."],
    *,
    where: Bool[ArrayLike, "..."] | None = None,
    weights: Num[ArrayLike, "..."] | None = None,
    reduction: Reduction = "none",
) -> Float[Array, "..."]:
    r"""Logistic loss of a signed label: $\log(1 + e^{-y x})$ for each element.

    `sigmoid_binary_cross_entropy` with labels 1 and -1 instead of 1 and 0.

    Args:
      predictor_outputs: $x$, scores of the positive class, any shape.
      targets: $y$, 1 or -1, any real dtype; broadcast to the shape of the predictor outputs.
      where: elements to keep, broadcast likewise. What is dropped adds 0 to value and gradient, even if NaN.
      weights: multiply the losses, broadcast likewise.
      reduction: `"none"`, `"mean"` or `"sum"`; see `jaxloss.reduce`.

    Returns:
      The shape of the predictor outputs, or a scalar; at least float32.

    Raises:
      TypeError: predictor outputs are not floating-point, or `where` is not boolean.
      ValueError: a shape does not broadcast to that of the predictor outputs, or an unknown reduction.

    Reference: Hastie, Tibshirani, Friedman, "The Elements of Statistical Learning" (2009), section 10.6.

    >>> print(soft_margin_loss(jnp.array([2.0, 0.5, -1.0]), jnp.array([1, 1, 1])))
    [0.126928   0.47407702 1.3132617 ]
    """
    return elementwise(
        "soft_margin_loss",
        _soft_margin,
        where,
        weights,
        reduction,
        predictor_outputs=predictor_outputs,
        targets=targets,
    )


@with_slopes
def _soft_margin(x: Array, y: Array) -> tuple[Array, tuple[Array, Array]]:
    score = x * y
    wrong = stable.sigmoids(score)[1]
    return stable.fused_softplus(-score), (-y * wrong, jnp.where(wrong == 0, 0, -x * wrong))


@loss()
def sparsemax_loss(
    logits: Float[ArrayLike, "*shape"],
    labels: Num[ArrayLike, "..."],
    *,
    where: Bool[ArrayLike, "..."] | None = None,
    weights: Num[ArrayLike, "..."] | None = None,
    reduction: Reduction = "none",
) -> Float[Array, "..."]:
    r"""Sparsemax loss of a decision: $y\,s(-x) + (1-y)\,s(x)$ for each element.

    Here $s(x)$ is 0 below -1, $x$ above 1 and $(x+1)^2/4$ between: a Huber-like hinge, exactly 0 for a decision by 1 or
    more. `multiclass_sparsemax_loss` of two classes with scores 0 and $x$.

    Args:
      logits: $x$, scores of the positive class, any shape.
      labels: $y$, 1 or 0, or between; broadcast to the shape of the logits.
      where: elements to keep, broadcast likewise. What is dropped adds 0 to value and gradient, even if NaN.
      weights: multiply the losses, broadcast likewise.
      reduction: `"none"`, `"mean"` or `"sum"`; see `jaxloss.reduce`.

    Returns:
      The shape of the logits, or a scalar; at least float32.

    Raises:
      TypeError: logits are not floating-point, or `where` is not boolean.
      ValueError: a shape does not broadcast to that of the logits, or an unknown reduction.

    Reference: Martins, Astudillo, "From Softmax to Sparsemax" (2016).

    >>> print(sparsemax_loss(jnp.array([2.0, 0.5, -1.0]), jnp.array([1, 1, 1])))
    [0.     0.0625 1.    ]
    """
    return elementwise("sparsemax_loss", _sparsemax, where, weights, reduction, logits=logits, labels=labels)


@with_slopes
def _sparsemax(x: Array, y: Array) -> tuple[Array, tuple[Array, Array]]:
    losses = stable.times(y, _sparse_plus(-x)) + stable.times(1 - y, _sparse_plus(x))
    return losses, (jnp.clip((x + 1) / 2, 0, 1) - y, -x)


def _sparse_plus(x: Array) -> Array:
    inner = jnp.square(jnp.clip(x, -1, 1) + 1) / 4
    return inner + stable.positive_part(x - 1)
