"""A gradient defined once, valid in every autodiff mode.

`custom_vjp` has the interface of `jax.custom_vjp`. Reverse mode is the same: `fwd` runs, its residuals are kept, `bwd`
pulls the cotangent back. Forward mode, which `jax.custom_vjp` refuses, is derived: `bwd` is linear in the
cotangent, so its transpose pushes a tangent forward.

How: the call is a `jax.custom_jvp` (in a program, one within one equation) whose rule runs `fwd` and binds one
primitive, `pushforward`, on the residuals and the tangents. Transposing that primitive calls `bwd`; evaluating it
transposes `bwd`. Reverse mode transposes and never evaluates it, so that a `bwd` which is not linear (gradient
clipping) keeps working there.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, Generic, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
from jax.core import Tracer, eval_jaxpr
from jax.custom_derivatives import CustomVJPPrimal, SymbolicZero
from jax.errors import UnexpectedTracerError
from jax.interpreters import ad, batching, mlir
from jax.tree_util import keystr, tree_flatten, tree_flatten_with_path, tree_leaves, tree_structure, tree_unflatten

from jaxloss._core.arguments import name_of, positional, refuse_tracers, static_positions
from jaxloss._core.devices import over_same_devices
from jaxloss._core.primitive import Primitive
from jaxloss._core.remat import as_one, call_forward
from jaxloss._core.vmap import mapped_like, mesh_axis, unmapped_aval

P = ParamSpec("P")
R = TypeVar("R")


class custom_vjp(Generic[P, R]):
    """Attach a reverse-mode rule to a function, and have forward mode too.

    A drop-in replacement for `jax.custom_vjp`, as a decorator or called on a function. `fwd(*args)` returns
    `(output, residuals)`; `bwd(residuals, cotangent)` returns one cotangent for each argument, `None` for zero. In
    reverse mode (`grad`, `vjp`, `jacrev`) these two run and only the residuals are kept. In forward mode (`jvp`,
    `linearize`, `jacfwd`, and Hessians in any composition) the tangent is the transpose of `bwd`, which must then be
    linear in the cotangent; if it is not, forward mode raises a `TypeError` and reverse mode works as before.

    Args:
      fun: the function of arrays or pytrees of arrays.
      nondiff_argnums: positions of arguments that are not arrays (functions, strings, static options). `fwd` gets them
        in place, `bwd` before the residuals.
      nondiff_argnames: the same by name.

    Reference: Radul et al., "You Only Linearize Once" (2023): a linear map and its transpose are all that both modes
    need.

    >>> import jax, jax.numpy as jnp
    >>> @custom_vjp
    ... def half_square(x):
    ...     return 0.5 * x * x
    >>> half_square.defvjp(lambda x: (half_square(x), x), lambda x, g: (g * x,))
    >>> print(jax.grad(half_square)(3.0), jax.jvp(half_square, (3.0,), (2.0,))[1])
    3.0 6.0
    """

    def __init__(
        self, fun: Callable[P, R], nondiff_argnums: Sequence[int] = (), nondiff_argnames: Sequence[str] = ()
    ) -> None:
        functools.update_wrapper(self, fun)
        self.fun = fun
        self.nondiff_argnums = static_positions(fun, nondiff_argnums, nondiff_argnames)
        self.fwd: Callable[..., Any] | None = None
        self.bwd: Callable[..., Any] | None = None
        self.symbolic_zeros = False
        self.optimize_remat = False

    def defvjp(
        self,
        fwd: Callable[..., Any],
        bwd: Callable[..., Any],
        symbolic_zeros: bool = False,
        optimize_remat: bool = False,
    ) -> None:
        """Set the rule.

        Args:
          fwd: `(*args) -> (output, residuals)`.
          bwd: `(*nondiff_args, residuals, cotangent) -> tuple of cotangents`, one for each differentiable argument.
          symbolic_zeros: as in `jax.custom_vjp`: `fwd` gets `CustomVJPPrimal(value, perturbed)` leaves and `bwd` may
            get `SymbolicZero` cotangents.
          optimize_remat: under `jax.checkpoint`, run the plain function instead of `fwd` where no residual is used.
            Useful when `fwd` is opaque, as a kernel is.
        """
        if symbolic_zeros and optimize_remat:
            raise NotImplementedError("optimize_remat of a custom_vjp function does not support symbolic_zeros")
        self.fwd, self.bwd, self.symbolic_zeros = fwd, bwd, symbolic_zeros
        self.optimize_remat = optimize_remat

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        name = name_of(self.fun)
        if self.fwd is None or self.bwd is None:
            raise AttributeError(f"No VJP defined for custom_vjp function {name} using defvjp.")
        placed = positional(self.fun, args, kwargs)
        static = {i: placed[i] for i in self.nondiff_argnums}
        refuse_tracers(static)
        dynamic = tuple(x for i, x in enumerate(placed) if i not in static)
        leaves, in_tree = tree_flatten(dynamic)
        call = _Call(self, static, in_tree)

        def flat(*leaves: Any) -> list[Any]:
            return call.primal(leaves)

        def staged(*leaves: Any) -> list[Any]:
            # JAX takes a function in a loop for its plain implementation when it evaluates the loop in parts, for
            # which see `as_one`. Here that implementation has the rule, too. With values at hand it is `flat`, in which
            # Python may branch on them.
            traced = any(isinstance(x, Tracer) for x in leaves)
            return as_one(_with_rule(flat, call.jvp, name), *leaves) if traced else flat(*leaves)

        out = _with_rule(staged, call.jvp, name)(*leaves)
        return tree_unflatten(call.out_tree, out)


def _with_rule(flat: Callable[..., Any], jvp: Callable[..., Any], name: str) -> Callable[..., Any]:
    flat.__name__ = name  # what jaxprs and errors show
    every_mode = jax.custom_jvp(flat)
    every_mode.defjvp(jvp, symbolic_zeros=True)
    return every_mode


class _Call:
    """One call of a `custom_vjp` function: its static arguments and the tree structures, met while tracing."""

    def __init__(self, owner: custom_vjp, static: dict[int, Any], in_tree: Any) -> None:
        self.owner, self.static, self.in_tree = owner, static, in_tree
        self.out_tree: Any = None
        self.out_avals: list[Any] | None = None

    def arguments(self, leaves: Sequence[Any]) -> list[Any]:
        args = list(tree_unflatten(self.in_tree, leaves))
        for i in sorted(self.static):
            args.insert(i, self.static[i])
        return args

    def primal(self, leaves: Sequence[Any]) -> list[Any]:
        out, self.out_tree = tree_flatten(self.owner.fun(*self.arguments(leaves)))
        self.out_avals = [jax.typeof(x) for x in out]
        return out

    def jvp(self, primals: Sequence[Any], tangents: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        perturbed = [not _is_zero_tangent(t) for t in tangents]
        out, residuals = self.forward(primals, perturbed)
        saved, restore = _flatten_residuals(residuals)
        tangent_avals = [jax.typeof(x).to_tangent_aval() for x in out]
        inexact = [a.dtype != jax.dtypes.float0 for a in tangent_avals]
        rule = _Rule(
            name_of(self.owner.fun),
            _Pullback(self, tuple(jax.typeof(x) for x in primals), tuple(perturbed), restore, tuple(tangent_avals)),
            len(saved),
            tuple(jax.typeof(x).to_tangent_aval() for x, p in zip(primals, perturbed, strict=True) if p),
            tuple(a for a, keep in zip(tangent_avals, inexact, strict=True) if keep),
        )
        if not (rule.out_avals and rule.in_avals):
            return out, [SymbolicZero(a) for a in tangent_avals]
        moving = [t for t, p in zip(tangents, perturbed, strict=True) if p]
        pushed = iter(pushforward_p.bind(*saved, *moving, rule=rule))
        return out, [next(pushed) if keep else SymbolicZero(a) for a, keep in zip(tangent_avals, inexact, strict=True)]

    def run_forward(self, leaves: Sequence[Any]) -> Any:
        owner = self.owner
        assert owner.fwd is not None
        if not owner.optimize_remat:
            return owner.fwd(*self.arguments(leaves))
        fwd = owner.fwd
        return call_forward(lambda *xs: fwd(*self.arguments(xs)), lambda *xs: owner(*self.arguments(xs)), leaves)

    def forward(self, primals: Sequence[Any], perturbed: Sequence[bool]) -> tuple[list[Any], Any]:
        leaves: Sequence[Any] = primals
        if self.owner.symbolic_zeros:
            leaves = [CustomVJPPrimal(x, p) for x, p in zip(primals, perturbed, strict=True)]
        pair = self.run_forward(leaves)
        fwd, name = name_of(self.owner.fwd), name_of(self.owner.fun)
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise TypeError(
                f"Custom VJP fwd rule {fwd} for function {name} {_PAIR.format(name=name)}, but instead of a pair "
                f"the fwd rule {fwd} produced {pair}."
            )
        out, out_tree = tree_flatten(pair[0])
        avals = [jax.typeof(x) for x in out]
        if self.out_avals is None:
            self.out_tree, self.out_avals = out_tree, avals
            return out, pair[1]
        got = str(tree_unflatten(out_tree, [a.str_short() for a in avals])).replace("'", "")
        want = str(tree_unflatten(self.out_tree, [a.str_short() for a in self.out_avals])).replace("'", "")
        for what, same in (
            ("container/pytree structure", out_tree == self.out_tree),
            ("shapes/dtypes of", all(map(_same_type, avals, self.out_avals))),
        ):
            if not same:
                raise TypeError(
                    f"Custom VJP fwd rule {fwd} for function {name} {_PAIR.format(name=name)}, but instead the fwd "
                    f"rule output's first element had {what}:\n    {got}\nwhile the custom_vjp-decorated function "
                    f"{name} had output {what}:\n    {want}."
                )
        return out, pair[1]


_PAIR = (
    "must produce a pair (list or tuple of length two) where the first element represents the primal output (equal to "
    "the output of the custom_vjp-decorated function {name}) and the second element represents residuals (i.e. values "
    "stored from the forward pass for use on the backward pass)"
)


def _flatten_residuals(residuals: Any) -> tuple[list[Any], Callable[[Sequence[Any]], Any]]:
    """Flat arrays, and the way back. Python numbers (a size, an axis) stay what they are in every mode."""
    leaves, tree = tree_flatten(residuals)
    numbers = {i: x for i, x in enumerate(leaves) if isinstance(x, bool | int | float | complex)}
    arrays = [x for i, x in enumerate(leaves) if i not in numbers]

    def restore(arrays: Sequence[Any]) -> Any:
        values = iter(arrays)
        return tree_unflatten(tree, [numbers[i] if i in numbers else next(values) for i in range(tree.num_leaves)])

    return arrays, restore


class _Pullback:
    """`bwd` on flat lists: residual leaves and inexact cotangents in, cotangents of the perturbed inputs out."""

    def __init__(
        self, call: _Call, in_avals: tuple[Any, ...], perturbed: tuple[bool, ...], restore: Any, out: tuple[Any, ...]
    ) -> None:
        self.call, self.in_avals, self.perturbed = call, in_avals, perturbed
        self.restore, self.out_avals = restore, out

    def __call__(self, residuals: Sequence[Any], cotangents: Sequence[Any]) -> list[Any]:
        owner, call = self.call.owner, self.call
        # jax 0.8 hands constants over as arrays of its own that have no operators.
        residuals = [r if isinstance(r, jax.Array | Tracer) else jnp.asarray(r) for r in residuals]
        given = iter(cotangents)
        cts: list[Any] = []
        for aval in self.out_avals:
            ct = ad.Zero(aval) if aval.dtype == jax.dtypes.float0 else next(given)
            if isinstance(ct, ad.Zero):
                ct = SymbolicZero(aval) if owner.symbolic_zeros else ad.instantiate_zeros(ct)
            cts.append(ct)
        static = [call.static[i] for i in sorted(call.static)]
        assert owner.bwd is not None
        result = owner.bwd(*static, self.restore(residuals), tree_unflatten(call.out_tree, cts))
        flat = self.flatten(result)
        return [ct for ct, p in zip(flat, self.perturbed, strict=True) if p]

    def flatten(self, result: Any) -> list[Any]:
        """One leaf for each input leaf, `None` for zero, after checking structure and types."""
        in_tree = self.call.in_tree
        if isinstance(result, list) and len(result) == len(in_tree.children()):
            result = tuple(result)
        args = tree_unflatten(in_tree, range(in_tree.num_leaves))
        try:
            if not isinstance(result, tuple):
                raise ValueError
            flat = _broadcast(result, args)
        except ValueError:
            raise TypeError(
                "Custom VJP bwd rule must produce an output with the same container (pytree) structure as the args "
                "tuple of the primal function, and in particular must produce a tuple of length equal to the number of "
                f"arguments to the primal function, but got bwd output structure {tree_structure(result)} for primal "
                f"input structure {in_tree}."
            ) from None
        paths = [path for path, _ in tree_flatten_with_path(args)[0]]
        return [_checked(ct, aval, path) for ct, aval, path in zip(flat, self.in_avals, paths, strict=True)]


def _broadcast(prefix: Any, tree: Any) -> list[Any]:
    """One value for each leaf of `tree`; a leaf of `prefix`, or `None` in it, stands for a whole subtree."""
    values, shape = tree_flatten(prefix, is_leaf=lambda x: x is None)
    subtrees = shape.flatten_up_to(tree)
    return [x for x, sub in zip(values, subtrees, strict=True) for _ in tree_leaves(sub)]


def _checked(ct: Any, primal: Any, path: Any) -> Any:
    aval = primal.to_tangent_aval()
    if ct is None or aval.dtype == jax.dtypes.float0:
        return None
    got: Any = ct.aval if isinstance(ct, SymbolicZero) else jax.typeof(ct)
    if isinstance(ct, SymbolicZero):
        if _same_type(got, aval):
            return None
    elif getattr(jax.config, "jax_disable_bwd_checks", False):
        return ct
    elif got.shape == aval.shape and _castable(got.dtype, aval.dtype):
        ct = over_same_devices(ct, aval)  # before it is rounded
        return ct if got.dtype == aval.dtype else jnp.asarray(ct, aval.dtype)
    if isinstance(ct, SymbolicZero):
        raise ValueError(
            "Custom VJP bwd rule produced a SymbolicZero with a shape/dtype that does not match the corresponding "
            f"input tangent shape/dtype: at output{keystr(path)} the SymbolicZero had shape/dtype {got.str_short()} "
            f"while the corresponding input had shape/dtype {primal.str_short()}. Consider just returning a None here "
            "instead of a SymbolicZero object."
        )
    raise ValueError(
        "Custom VJP bwd rule must produce an output with the same type as the args tuple of the primal function, but "
        f"at output{keystr(path)} the bwd rule produced an output of type {got.str_short()} corresponding to an input "
        f"of type {primal.str_short()}"
    )


# ---------------------------------------------------------------------------------------------------------------------
# The primitive: evaluated it pushes tangents forward, transposed it is `bwd`.


@dataclasses.dataclass(frozen=True, eq=False, repr=False)  # compared by identity: `pullback` is a Python callable
class _Rule:
    """What `pushforward` needs beside its operands, which are the residuals and the tangents."""

    name: str  # of the custom_vjp function
    pullback: Callable[[Sequence[Any], Sequence[Any]], list[Any]]  # (residuals, cotangents) -> cotangents or None
    num_residuals: int
    in_avals: tuple[Any, ...]  # of the tangents that move
    out_avals: tuple[Any, ...]  # of the tangents that come out

    def __repr__(self) -> str:  # in a jaxpr
        return self.name


def _pushforward(*args: Any, rule: _Rule) -> list[Any]:
    residuals, tangents = args[: rule.num_residuals], args[rule.num_residuals :]

    def pull(*cotangents: Any) -> list[Any]:
        cts = rule.pullback(residuals, cotangents)
        return [_instantiate(ct, aval) for ct, aval in zip(cts, rule.in_avals, strict=True)]

    zeros = [ad.instantiate_zeros(ad.Zero(a)) for a in rule.out_avals]
    program = jax.make_jaxpr(pull)(*zeros)
    if any(isinstance(c, Tracer) and not any(c is r for r in residuals) for c in program.consts):
        raise UnexpectedTracerError(
            f"The bwd rule of the custom_vjp function {rule.name} closes over a traced value. In forward mode all that "
            "it uses must be among the residuals that fwd returns."
        )
    from jaxloss._core.linearity import is_linear  # for forward mode only: jax.extend takes long to import

    if not is_linear(program, zeros, residuals):
        raise TypeError(
            f"can't apply forward-mode autodiff (jvp) to the custom_vjp function {rule.name}: its bwd rule is not "
            "linear in the cotangent (it clips, rounds or normalises it, for example, or adds a term that does not "
            "depend on it). Forward mode is the transpose of bwd, which exists for a linear one only. Reverse mode "
            "(grad, vjp, jacrev) works."
        )
    again = functools.partial(eval_jaxpr, program.jaxpr, program.consts)  # quicker than to trace bwd anew
    return list(jax.vjp(again, *zeros)[1](list(tangents)))


def _instantiate(ct: Any, aval: Any) -> Any:
    return ad.instantiate_zeros(ad.Zero(aval)) if ct is None else jnp.asarray(ct, aval.dtype)


def _transpose(cts: Sequence[Any], *args: Any, rule: _Rule) -> list[Any]:
    residuals, tangents = args[: rule.num_residuals], args[rule.num_residuals :]
    pulled = rule.pullback(residuals, cts)
    return [None] * len(residuals) + [
        (ad.Zero(aval) if ct is None else ct) if ad.is_undefined_primal(t) else None
        for ct, aval, t in zip(pulled, rule.in_avals, tangents, strict=True)
    ]


def _jvp(primals: Sequence[Any], tangents: Sequence[Any], *, rule: _Rule) -> tuple[list[Any], list[Any]]:
    n = rule.num_residuals
    moving = [not isinstance(t, ad.Zero) for t in tangents]
    total: list[Any] = [ad.Zero(a) for a in rule.out_avals]
    if any(moving[n:]):  # linear in the tangents: the same map, on those that vary
        steps = [t for t, m in zip(tangents[n:], moving[n:], strict=True) if m]
        total = pushforward_p.bind(*primals[:n], *steps, rule=_restricted(rule, moving[n:]))
    if not any(moving[:n]):
        return pushforward_p.bind(*primals, rule=rule), total

    def push(varying: list[Any]) -> list[Any]:  # the map varies with the residuals: differentiate what it does
        values = iter(varying)
        residuals = [next(values) if m else r for r, m in zip(primals[:n], moving[:n], strict=True)]
        return _pushforward(*residuals, *primals[n:], rule=rule)

    point = [r for r, m in zip(primals[:n], moving[:n], strict=True) if m]
    step = [t for t, m in zip(tangents[:n], moving[:n], strict=True) if m]
    out, change = jax.jvp(push, (point,), (step,))
    return out, [ad.add_tangents(a, b) for a, b in zip(total, change, strict=True)]


def _restricted(rule: _Rule, keep: Sequence[bool]) -> _Rule:
    if all(keep):
        return rule

    def pullback(residuals: Sequence[Any], cotangents: Sequence[Any]) -> list[Any]:
        return [ct for ct, k in zip(rule.pullback(residuals, cotangents), keep, strict=True) if k]

    in_avals = tuple(a for a, k in zip(rule.in_avals, keep, strict=True) if k)
    return dataclasses.replace(rule, pullback=pullback, in_avals=in_avals)


def _batch(axis_data: Any, args: Sequence[Any], dims: Sequence[Any], *, rule: _Rule) -> tuple[list[Any], Sequence[Any]]:
    if all(d is None for d in dims):
        return pushforward_p.bind(*args, rule=rule), [None] * len(rule.out_avals)
    n, front = rule.num_residuals, functools.partial(batching.bdim_at_front, mesh_axis=mesh_axis(axis_data))
    tangents = [front(t, d, axis_data.size) for t, d in zip(args[n:], dims[n:], strict=True)]

    def pullback(residuals: Sequence[Any], cotangents: Sequence[Any]) -> list[Any]:
        zero = [isinstance(ct, ad.Zero) for ct in cotangents]

        def one(res: list[Any], nonzero: list[Any]) -> list[Any]:
            values = iter(nonzero)
            cts = [ad.Zero(a) if z else next(values) for z, a in zip(zero, rule.out_avals, strict=True)]
            return rule.pullback(res, cts)

        nonzero = [ct for ct, z in zip(cotangents, zero, strict=True) if not z]
        return mapped_like(axis_data)(one, in_axes=(list(dims[:n]), 0))(list(residuals), nonzero)

    batched = dataclasses.replace(
        rule,
        pullback=pullback,
        in_avals=tuple(jax.typeof(t).to_tangent_aval() for t in tangents),
        out_avals=tuple(unmapped_aval(axis_data, a) for a in rule.out_avals),
    )
    return pushforward_p.bind(*args[:n], *tangents, rule=batched), [0] * len(rule.out_avals)


pushforward_p = Primitive("pushforward")
pushforward_p.multiple_results = True
pushforward_p.def_impl(_pushforward)
pushforward_p.def_abstract_eval(lambda *_, rule: list(rule.out_avals))
mlir.register_lowering(pushforward_p, mlir.lower_fun(_pushforward, multiple_results=True))
ad.primitive_jvps[pushforward_p] = _jvp
ad.primitive_transposes[pushforward_p] = _transpose
batching.fancy_primitive_batchers[pushforward_p] = _batch


# ---------------------------------------------------------------------------------------------------------------------
# Small helpers.


def _is_zero_tangent(tangent: Any) -> bool:
    return isinstance(tangent, SymbolicZero) or jax.typeof(tangent).dtype == jax.dtypes.float0


def _castable(dtype: Any, to: Any) -> bool:
    """A gradient has the dtype of its argument. It may come in another one, but never complex for real."""
    if dtype == to:
        return True
    number = jnp.issubdtype(dtype, jnp.number) and jnp.issubdtype(to, jnp.inexact)
    return number and (jnp.issubdtype(to, jnp.complexfloating) or not jnp.issubdtype(dtype, jnp.complexfloating))


def _same_type(a: Any, b: Any) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype
