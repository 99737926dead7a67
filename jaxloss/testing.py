"""The promises of a loss, checked on your own: every loss of this library passes through `check_loss`.

>>> import jax.numpy as jnp, jaxloss
>>> from jaxloss.testing import check_loss
>>> prediction, target = jnp.linspace(-2.0, 2.0, 12).reshape(4, 3), jnp.ones((4, 3))
>>> check_loss(jaxloss.l2_loss, (prediction, target), reference=lambda x, y: 0.5 * (x - y) ** 2)
>>> check_loss(lambda x, y: jnp.sqrt((x - y) ** 2), (prediction, prediction))
Traceback (most recent call last):
    ...
AssertionError: <lambda> breaks 'gradient': the gradient of argument 0 is not finite at (0, 0): nan
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from jaxloss._testing import contract, derivatives, transformations
from jaxloss._testing.subject import Broken, Subject, raised


def check_loss(
    fn: Callable[..., Any],
    args: Sequence[Any],
    *,
    options: Mapping[str, Any] | None = None,
    argnums: Sequence[int] | None = None,
    reference: Callable[..., Any] | None = None,
    rtol: float = 2e-6,
    coupled: bool = False,
    promises: Iterable[str] | None = None,
) -> None:
    """Check that a loss keeps the promises that the losses of this library keep.

    The promises, by the name that `promises` takes and that errors show:

    - `"value"`: finite, at least float32, and equal to `reference`.
    - `"gradient"`: for every floating argument and option the numerical derivative, or an error when it is
      differentiated; never a silent zero.
    - `"modes"`: `jvp`, `vjp`, `linearize`, `jacfwd`, `jacrev` and the four Hessians agree.
    - `"transformations"`: `jit`, `vmap`, `scan`, `remat`, `value_and_grad`, `jvp` and `shard_map` change no value and
      no gradient.
    - `"precision"`: bfloat16 and float16 arguments give the float32 answer, gradients in their own dtype; float64
      stays.
    - `"mask"`: what `where` drops adds exactly 0 to value and gradient, even if it is NaN or infinite; a mean over
      nothing is 0, with zero gradient.
    - `"reduction"`: `weights` multiply, `"sum"` adds up, `"mean"` divides by the sum of the weights that are kept.
    - `"residuals"`: what the backward pass keeps is no larger than the arguments, and 16 numbers for each example
      where an axis is consumed.

    The mask and reduction promises are checked for losses with parameters of those names, on outputs that are arrays.

    Args:
      fn: the loss. `fn(*args, **options)` returns one value for each element or example, or a scalar.
      args: arrays at which to check, prediction first. Integer arguments (labels) are not differentiated. Take shapes
        whose sizes differ, and a leading axis divisible by 2 or 4 where several devices are to take part.
      options: keyword arguments of every call.
      argnums: the positions in `args` to differentiate; every floating one if `None`.
      reference: the formula, called like `fn` with float64 NumPy arrays. Without it the numerical derivatives are those
        of `fn` in float64.
      rtol: allowed relative error of the value; derivatives get five times as much, relative to the largest entry.
      coupled: the examples of a batch are compared with each other, as in contrastive losses: a masked loss must be
        that of the kept examples alone, and `shard_map` is left to you.
      promises: names of the promises to check, all if `None`.

    Raises:
      AssertionError: a promise is broken; the message names the loss, the promise and the place. If the loss raised
        an error there, that is its cause.
      ValueError: an unknown promise.

    Reference: Griewank, Walther, "Evaluating Derivatives" (2008), chapter 3, on what the modes owe each other.

    >>> import jax.numpy as jnp, jaxloss
    >>> x = jnp.linspace(-1.0, 1.0, 6)
    >>> check_loss(jaxloss.squared_error, (x, x[::-1]), promises=["gradient", "modes"])
    """
    names = tuple(_PROMISES) if promises is None else tuple(promises)
    unknown = [n for n in names if n not in _PROMISES]
    if unknown:
        raise ValueError(f"check_loss: promises must be among {', '.join(_PROMISES)}, got {', '.join(unknown)}")
    subject = Subject(fn, args, dict(options or {}), argnums, reference, rtol, coupled)
    for name in names:
        try:
            _PROMISES[name](subject)
        except Broken as e:
            raise AssertionError(f"{subject} breaks {name!r}: {e}") from None
        except Exception as e:
            raise AssertionError(f"{subject} breaks {name!r}: {raised(e)}") from e


_PROMISES: dict[str, Callable[[Subject], None]] = {
    "value": derivatives.value,
    "gradient": derivatives.gradient,
    "modes": derivatives.modes,
    "transformations": transformations.transformations,
    "precision": contract.precision,
    "mask": contract.mask,
    "reduction": contract.reduction,
    "residuals": contract.residuals,
}
