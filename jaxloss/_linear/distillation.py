"""Distillation from `hidden @ kernel` of a student and of a teacher, neither of whose logits are whole in memory.

>>> import jax, jax.numpy as jnp
>>> hidden, kernel = jnp.array([[1.0, 2.0], [0.0, 1.0]]), jnp.array([[1.0, 0.0, 2.0], [0.0, 1.0, 1.0]])
>>> teacher_hidden, teacher_kernel = jnp.array([[2.0], [1.0]]), jnp.array([[0.0, 1.0, 2.0]])
>>> print(linear_distillation_loss(hidden, kernel, teacher_hidden, teacher_kernel))
0.06533398
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import jax.numpy as jnp

from jaxloss._core import checks
from jaxloss._core.api import loss
from jaxloss._core.jensen_shannon import jensen_shannon
from jaxloss._core.precision import compute_dtype
from jaxloss._core.softmax_kl import softmax_kl
from jaxloss._core.typing import Array, ArrayLike, Bool, Float, Num, Reduction
from jaxloss._linear.arguments import Head, head
from jaxloss._linear.per_token import Layout, reduced

Divergence: TypeAlias = Literal["forward_kl", "reverse_kl", "js"]


@loss(arrays=4)
def linear_distillation_loss(
    hidden: Float[ArrayLike, "*tokens D"],
    kernel: Float[ArrayLike, "..."],
    teacher_hidden: Float[ArrayLike, "*tokens E"],
    teacher_kernel: Float[ArrayLike, "..."],
    *,
    bias: Float[ArrayLike, "V"] | None = None,
    teacher_bias: Float[ArrayLike, "V"] | None = None,
    kernel_layout: Layout = "dv",
    divergence: Divergence = "forward_kl",
    beta: float | Array = 0.5,
    normalized: bool = False,
    temperature: float | Array = 1.0,
    scale_by_temperature_squared: bool = False,
    where: Bool[ArrayLike, "..."] | None = None,
    weights: Num[ArrayLike, "..."] | None = None,
    num_classes: int | None = None,
    reduction: Reduction = "mean",
    chunk_size: int | None = None,
    memory_budget: int | None = None,
) -> Float[Array, "..."]:
    r"""Divergence of a student's softmax from a teacher's, from hidden states: $D(q, p)$, without the logits in memory.

    $p = \mathrm{softmax}((hW + b) / T)$ is the student, $q$ the same of the teacher. The forward divergence
    $\mathrm{KL}(q \| p)$ covers all that the teacher does, the reverse one $\mathrm{KL}(p \| q)$ keeps to what it does
    most, and $\beta\,\mathrm{KL}(q \| m) + (1-\beta)\,\mathrm{KL}(p \| m)$ with $m = \beta q + (1-\beta) p$ is between
    them. Values and gradients are those of `softmax_kl_divergence` and `js_divergence` on logits in float32, with a
    chunk of both logits in memory at a time. The gradient is made in the forward pass, except for `"none"`; it goes to
    both sides, but for a teacher that is not differentiated none is computed.

    Args:
      hidden: states of the student, `[*tokens, D]`, float32 or half precision.
      kernel: `[D, V]`, or `[V, D]` with `kernel_layout="vd"` (a tied embedding); the dtype of `hidden`.
      teacher_hidden: states of the teacher, `[*tokens, E]`, of any width.
      teacher_kernel: `[E, V]`, or `[V, E]`; the dtype of `teacher_hidden`.
      bias: `[V]`.
      teacher_bias: `[V]`.
      kernel_layout: `"dv"` or `"vd"`, of both kernels.
      divergence: `"forward_kl"`, `"reverse_kl"` or `"js"`.
      beta: weight of the teacher in the mixture of `"js"`, in [0, 1], a scalar.
      normalized: divide `"js"` by $\beta(1-\beta)$: then it is the forward divergence at 0, the reverse one at 1.
      temperature: $T > 0$, a scalar; of both sides.
      scale_by_temperature_squared: multiply by $T^2$, so that the size of the gradient does not depend on $T$.
      where: tokens to keep, broadcast to `[*tokens]`. What is dropped adds 0 to value and gradient, even if NaN, and
        chunks of which nothing is kept are not computed.
      weights: multiply the divergences of the tokens, broadcast likewise.
      num_classes: V, if kernels have padding beyond it, as much as each of them likes.
      reduction: `"mean"`, `"sum"` or `"none"` over the tokens; see `jaxloss.reduce`. In micro-batches, whose gradients
        are added up: `"sum"`, over the number of tokens that are kept in all of them.
      chunk_size: tokens in a chunk, instead of what the budget gives.
      memory_budget: bytes for the logits at hand and their gradients; by default those of both kernels, at least 64
        MiB. Where XLA divides the program between devices there is one chunk, all of it divided.

    Returns:
      A scalar, or one divergence for each token; at least float32. Gradients have the dtype of their argument and are
      added up in float32.

    Raises:
      TypeError: an operand is not floating-point, or differs in dtype from its kernel; `where` is not boolean;
        `num_classes`, `chunk_size` or `memory_budget` is not an int.
      ValueError: a shape does not fit, the numbers of classes differ, an option is out of its range or not one of this
        divergence, an unknown divergence, layout or reduction, a budget below one row, chunks under `jit` over several
        devices.

    Reference: Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network" (2015); Agarwal et al., "On-Policy
    Distillation of Language Models" (2024), for the other two.

    >>> student, teacher = (jnp.ones((4, 8)), jnp.ones((8, 100))), (jnp.ones((4, 2)), jnp.zeros((2, 100)))
    >>> print(linear_distillation_loss(*student, *teacher, divergence="js"))  # both are uniform
    0.0
    """
    fn = "linear_distillation_loss"
    checks.choice(fn, "divergence", divergence, ("forward_kl", "reverse_kl", "js"))
    checks.in_range(fn, "temperature", temperature, 0, jnp.inf, open_low=True)
    checks.in_range(fn, "beta", beta, 0, 1)
    if divergence != "js" and (normalized or not (checks.static_number(beta) and beta == 0.5)):
        raise ValueError(f'{fn}: beta and normalized are for divergence="js", got {divergence!r}')
    student = head(fn, hidden, kernel, bias, kernel_layout, num_classes=num_classes)
    teacher = head(
        fn, teacher_hidden, teacher_kernel, teacher_bias, kernel_layout, num_classes=num_classes, whose="teacher_"
    )
    _require_same_tokens(fn, student, teacher)
    for option in (("beta", beta), ("temperature", temperature)):
        checks.scalar(fn, *option)

    def losses(x: Array, y: Array) -> Array:
        x, y = x[:, : student.total], y[:, : teacher.total]
        t = jnp.asarray(temperature, compute_dtype(x, y))
        if divergence == "js":
            found = jensen_shannon(1, x, y, t, beta, None, normalized)
        else:
            found = softmax_kl(1, *((x, y) if divergence == "forward_kl" else (y, x)), t, None)
        return found * jnp.square(t) if scale_by_temperature_squared else found

    return reduced(fn, losses, [student, teacher], (), where, weights, reduction, chunk_size, memory_budget)


def _require_same_tokens(fn: str, student: Head, teacher: Head) -> None:
    if student.batch != teacher.batch:
        raise ValueError(
            f"{fn}: teacher_hidden must have the tokens {student.batch} of hidden, got {teacher.batch} of them"
        )
    if student.total != teacher.total:
        raise ValueError(
            f"{fn}: kernel and teacher_kernel must have the same classes, got {student.total} and {teacher.total}; "
            "if they are padded give num_classes"
        )
