"""Bad values of labels, which no shape or dtype shows: NaN in the loss, and an error by name for who asks.

`alarm(x, fine, message)` is x. `checkify` with `user_checks` reports the message unless all of `fine` is true.

`checkify.debug_check` is not free: the effect that it leaves on a program keeps `jax.jit` from its fast dispatch, a
quarter of a millisecond for every training step. Here one equation without an effect stands for x. It has the check in
a `call_jaxpr`, which is where `checkify` looks; everything else sees the identity, and drops `fine`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.experimental import checkify
from jax.interpreters import ad, batching, mlir

from jaxloss._core.primitive import Primitive


def alarm(x: Array, fine: Array, message: str) -> Array:
    def checked(x: Array, fine: Array) -> Array:
        checkify.debug_check(jnp.all(fine), message)
        return x

    return alarm_p.bind(x, fine, message=message, call_jaxpr=jax.make_jaxpr(checked)(x, fine))[0]


class _Alarm(Primitive):
    def bind(self, *args: Any, subfuns: Sequence[Any] = (), **params: Any) -> Any:
        """`checkify` passes a function in place of the `call_jaxpr`, to be called: as `subfuns`, and before jax 0.9 as
        the first argument."""
        if hasattr(args[0], "call_wrapped"):
            subfuns, args = args[:1], args[1:]
        return subfuns[0].call_wrapped(*args) if subfuns else super().bind(*args, **params)


def _batch(args: Sequence[Array], dims: Sequence[Any], *, message: str, **_: Any) -> tuple[list[Array], list[Any]]:
    x, fine = args
    return [alarm(x, fine, message)], [dims[0]]


alarm_p = _Alarm("alarm")
alarm_p.multiple_results = True
alarm_p.def_impl(lambda x, *_, **__: [x])
alarm_p.def_abstract_eval(lambda x, *_, **__: [x])
mlir.register_lowering(alarm_p, lambda ctx, x, *_, **__: [x])
ad.primitive_jvps[alarm_p] = lambda x, t, **params: (alarm_p.bind(*x, **params), t[:1])
batching.primitive_batchers[alarm_p] = _batch
