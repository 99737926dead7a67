"""`defvjp(optimize_remat=True)`: a forward rule that gives way to the plain function when its residuals go unused.

Under `jax.checkpoint` the first run of `fwd` is only for its output. Dead-code elimination drops what the residuals
needed, unless `fwd` is opaque (one kernel that computes both). Here `fwd` is one equation, which elimination replaces
by the plain function.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.core import eval_jaxpr
from jax.custom_derivatives import SymbolicZero
from jax.interpreters import ad, batching, mlir
from jax.interpreters import partial_eval as pe
from jax.tree_util import tree_flatten, tree_structure, tree_unflatten

from jaxloss._core.primitive import Primitive
from jaxloss._core.vmap import mapped_like, unmapped_aval


def call_forward(fwd: Callable[..., Any], fun: Callable[..., Any], leaves: Sequence[Any]) -> Any:
    """`fwd(*leaves)`, replaceable by `fun(*leaves)`. What is not a proper pair is returned as it is, to be refused."""
    full, shape = jax.make_jaxpr(fwd, return_shape=True)(*leaves)
    if not isinstance(shape, tuple | list) or len(shape) != 2:
        return fwd(*leaves)
    plain, plain_shape = jax.make_jaxpr(fun, return_shape=True)(*leaves)
    if tree_structure(plain_shape) != tree_structure(shape[0]) or full.effects or plain.effects:
        return fwd(*leaves)
    n_plain, n_full = len(plain.consts), len(full.consts)
    out = forward_p.bind(
        *plain.consts,
        *full.consts,
        *leaves,
        full=lambda args: _evaluate(full, args[n_plain : n_plain + n_full], args[n_plain + n_full :]),
        plain=lambda args: _evaluate(plain, args[:n_plain], args[n_plain + n_full :]),
        avals=tuple(full.out_avals),
        num_plain=len(plain.out_avals),
    )
    return tree_unflatten(tree_structure(shape), out)


def as_one(fun: Callable[..., Any], *args: Any) -> Any:
    """`fun(*args)` as one equation: for whatever uses `jax.custom_jvp`.

    Where JAX evaluates a loop in parts (forward over reverse, through a scan), it takes the `jax.custom_jvp` functions
    in it for their plain implementation, whose derivative the rule is there to replace: second derivatives would
    be wrong without a word. One equation is taken as a whole.
    """
    leaves, tree = tree_flatten(args)
    closed, shape = jax.make_jaxpr(lambda *xs: fun(*tree_unflatten(tree, xs)), return_shape=True)(*leaves)
    if closed.effects:  # an error to raise or a line to print, which one equation would hide
        return fun(*args)
    n = len(closed.consts)

    def run(args: Sequence[Any]) -> list[Any]:
        return _evaluate(closed, args[:n], args[n:])

    avals = tuple(closed.out_avals)
    out = forward_p.bind(*closed.consts, *leaves, full=run, plain=run, avals=avals, num_plain=len(avals))
    return tree_unflatten(tree_structure(shape), out)


def as_one_like(fun: Callable[..., Any], like: Callable[..., Any], *args: Any) -> Any:
    """`fun(*args)` as one equation with the derivative of `like`, for which only the arguments are kept.

    Both are the same function; `fun` is written in a way that has no derivative, or a worse one.
    """
    return as_one(functools.partial(_like, fun, like), args)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _like(fun: Callable[..., Any], like: Callable[..., Any], args: Any) -> Any:
    return fun(*args)


@functools.partial(_like.defjvp, symbolic_zeros=True)
def _like_jvp(fun: Any, like: Any, primals: tuple[Any], tangents: tuple[Any]) -> tuple[Any, Any]:
    leaves, tree = tree_flatten(primals[0])
    steps = tree_flatten(tangents[0], is_leaf=lambda t: isinstance(t, SymbolicZero))[0]
    moving = [i for i, t in enumerate(steps) if not isinstance(t, SymbolicZero) and t.dtype != jax.dtypes.float0]

    def at(*points: Any) -> Any:
        values = dict(zip(moving, points, strict=True))
        return like(*tree_unflatten(tree, [values.get(i, x) for i, x in enumerate(leaves)]))

    point, step = [leaves[i] for i in moving], [steps[i] for i in moving]
    _, moved = jax.jvp(jax.checkpoint(at, prevent_cse=False), point, step)
    return as_one_like(fun, like, *primals[0]), moved


def _evaluate(closed: Any, consts: Sequence[Any], leaves: Sequence[Any]) -> list[Any]:
    return eval_jaxpr(closed.jaxpr, consts, *leaves)


def _dce(used: Sequence[bool], *rest: Any) -> tuple[list[bool], Any]:
    eqn = rest[-1]  # jax 0.12 passes the liveness of the inputs before it
    n = eqn.params["num_plain"]
    if not any(used):
        return [False] * len(eqn.invars), None
    inputs = [True] * len(eqn.invars)
    if any(used[n:]) or len(used) == n:
        return inputs, eqn
    params = dict(eqn.params, full=eqn.params["plain"], avals=eqn.params["avals"][:n])
    return inputs, eqn.replace(outvars=eqn.outvars[:n], params=params)


def _jvp(primals: Sequence[Any], tangents: Sequence[Any], *, full: Any, **_: Any) -> Any:
    moving = [not isinstance(t, ad.Zero) for t in tangents]

    def run(varying: list[Any]) -> list[Any]:
        values = iter(varying)
        return full([next(values) if m else p for p, m in zip(primals, moving, strict=True)])

    point = [p for p, m in zip(primals, moving, strict=True) if m]
    step = [t for t, m in zip(tangents, moving, strict=True) if m]
    return jax.jvp(run, (point,), (step,))


def _batch(axis_data: Any, args: Sequence[Any], dims: Sequence[Any], **params: Any) -> tuple[list[Any], Sequence[Any]]:
    if all(d is None for d in dims):
        return forward_p.bind(*args, **params), [None] * len(params["avals"])

    def batched(f: Callable[[Sequence[Any]], list[Any]]) -> Callable[[Sequence[Any]], list[Any]]:
        return lambda xs: mapped_like(axis_data)(f, in_axes=(list(dims),))(list(xs))

    params["avals"] = tuple(unmapped_aval(axis_data, a) for a in params["avals"])
    params["full"], params["plain"] = batched(params["full"]), batched(params["plain"])
    return forward_p.bind(*args, **params), [0] * len(params["avals"])


def _run(*args: Any, full: Callable[[Sequence[Any]], list[Any]], **_: Any) -> list[Any]:
    return full(args)


forward_p = Primitive("custom_vjp_fwd")
forward_p.multiple_results = True
forward_p.def_impl(_run)
forward_p.def_abstract_eval(lambda *_, avals, **__: list(avals))
mlir.register_lowering(forward_p, mlir.lower_fun(_run, multiple_results=True))
ad.primitive_jvps[forward_p] = _jvp
batching.fancy_primitive_batchers[forward_p] = _batch
pe.dce_rules[forward_p] = _dce
