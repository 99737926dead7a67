"""Transformations change no value and no gradient."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh, PartitionSpec

from jaxloss._testing.subject import EPS, Subject, jit_once, wide


def transformations(s: Subject) -> None:
    copies = [s.args, tuple(np.roll(a, 1) for a in s.args), tuple(np.roll(a, 2) for a in s.args)]
    copies = [tuple(jnp.asarray(a) for a in c) for c in copies]
    stacked = tuple(jnp.stack(a) for a in zip(*copies, strict=True))

    def call(*args: Any) -> Any:
        return s.fn(*args, **s.options)

    def transformed() -> dict[str, Any]:
        zeros = [jnp.zeros_like(a) for a in s.moving]
        value_and_grad = jax.value_and_grad(lambda m: jnp.sum(s.at(m)))
        return {
            "vmap": jax.vmap(lambda *a: s.both(a))(*stacked),
            "scan": jax.lax.scan(lambda c, a: (c, s.both(a)), None, stacked)[1],
            "remat": jax.lax.map(lambda a: s.both(a, jax.checkpoint(call)), stacked),
            "jvp": jax.jvp(lambda *m: s.at(m), s.moving, tuple(zeros))[0],
            "value_and_grad": value_and_grad(s.moving),
        }

    out = jit_once(transformed)()
    rtol = max(8 * EPS, *[float(jnp.finfo(a.dtype).eps) for a in s.moving])
    # The losses of the plain call, not differentiated: a rule could change them.
    one = jit_once(lambda *args: (call(*args), s.both(args)[1]))
    plain = [one(*copy) for copy in copies]
    for name in ("vmap", "scan", "remat"):
        for k, (losses, gradients) in enumerate(plain):
            _same_both(s, name, jax.tree.map(lambda x, k=k: x[k], out[name]), losses, gradients, rtol)
    s.equal("the value under jvp", out["jvp"], plain[0][0], 8 * EPS, scaled=True)
    total, gradients_too = out["value_and_grad"]
    losses, gradients = plain[0]
    s.equal("the value under value_and_grad", total, np.sum(wide(losses)), 0.0, 8 * EPS * np.sum(np.abs(wide(losses))))
    _same_both(s, "value_and_grad", (losses, gradients_too), losses, gradients, rtol)
    _same_both(s, "no jit", s.both(s.args), losses, gradients, rtol)
    if not s.coupled:
        _sharded(s, losses, gradients, rtol)


def _same_both(s: Subject, name: str, got: tuple[Any, Any], losses: Any, gradients: Any, rtol: float) -> None:
    s.equal(f"the value under {name}", got[0], losses, 8 * EPS, scaled=True)
    for i, a, b in zip(s.argnums, got[1], gradients, strict=True):
        s.equal(f"the gradient of argument {i} under {name}", a, b, rtol, scaled=True)


def _sharded(s: Subject, losses: Any, gradients: Any, rtol: float) -> None:
    """Split the examples over as many devices as divide them, at most 4."""
    rows = losses.shape[0] if losses.ndim else 0
    count = next((n for n in (4, 2) if n <= jax.device_count() and rows and rows % n == 0), None)
    if count is None or s.args[0].shape[:1] != (rows,):
        return
    mesh = Mesh(np.array(jax.devices()[:count]), ("examples",))
    arrays = {k: jnp.asarray(v) for k, v in s.options.items() if np.ndim(v) and k != "axis"}
    fixed = {k: v for k, v in s.options.items() if k not in arrays}

    def spec(x: Array, by_example: bool = True) -> PartitionSpec:
        return PartitionSpec("examples") if by_example and x.shape[:1] == (rows,) else PartitionSpec()

    parallel = jax.shard_map(
        lambda args, options: s.fn(*args, **options, **fixed),
        mesh=mesh,
        in_specs=(tuple(map(spec, s.args)), {k: spec(v, k in ("where", "weights")) for k, v in arrays.items()}),
        out_specs=PartitionSpec("examples"),
    )
    got = jit_once(lambda *args: s.both(args, lambda *a: parallel(a, arrays)))(*s.args)
    _same_both(s, f"shard_map over {count} devices", got, losses, gradients, rtol)
