"""Is a traced function linear in its arguments? A question about the program, asked while tracing.

It is if its derivative is the same everywhere and it equals its derivative. The first half finds clipping and
normalising. The second finds what has no derivative (sign, round, comparisons) and terms that do not depend on the
argument.
"""

from __future__ import annotations

import enum
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal, jaxpr_as_fun


def is_linear(program: ClosedJaxpr, point: Sequence[Any], given: Sequence[Any]) -> bool:
    """Whether a program traced at `point` is linear in all its arguments together.

    The values of those constants that are `given` are not looked at: whether they are known or traced makes no
    difference.
    """
    return _has_one_derivative(program, point) and _equals_its_derivative(program, given)


def _has_one_derivative(program: ClosedJaxpr, point: Sequence[Any]) -> bool:
    fun = jaxpr_as_fun(program)
    derivative = jax.make_jaxpr(lambda x, step: jax.jvp(fun, x, step)[1])(tuple(point), tuple(point))
    return _Kind.OTHER not in _call(derivative, [_Kind.OTHER] * len(point) + [_Kind.CONSTANT] * len(point))


def _equals_its_derivative(program: ClosedJaxpr, given: Sequence[Any]) -> bool:
    ids = {id(x) for x in given}
    consts = [_Kind.CONSTANT if id(c) in ids else _of_value(c) for c in program.consts]
    outs = _walk(program.jaxpr, consts, [_Kind.LINEAR] * len(program.in_avals))
    return all(kind in (_Kind.ZERO, _Kind.LINEAR) for kind in outs)


class _Kind(enum.Enum):
    """What is known of a value in the program."""

    ZERO = "zero"
    CONSTANT = "does not depend on the argument"
    LINEAR = "depends on it, and is zero with it"
    OTHER = "anything else"


_PRODUCTS = frozenset({"mul", "div", "dot_general", "conv_general_dilated"})
_SUMS = frozenset(
    ["add", "add_any", "sub", "select_n", "concatenate", "pad", "stack", "complex", "dynamic_update_slice"]
    + ["scatter", "scatter-add", "scatter-sub"]
)
_FLAT = frozenset({"sign", "floor", "ceil", "round", "nextafter", "stop_gradient"})  # floats without a derivative


def _walk(jaxpr: Jaxpr, consts: Sequence[_Kind], args: Sequence[_Kind]) -> list[_Kind]:
    kinds = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *args], strict=True))

    def read(atom: Any) -> _Kind:
        return _of_value(atom.val) if isinstance(atom, Literal) else kinds[atom]

    for eqn in jaxpr.eqns:
        kinds.update(zip(eqn.outvars, _apply(eqn, [read(a) for a in eqn.invars]), strict=True))
    return [read(a) for a in jaxpr.outvars]


def _call(jaxpr: Any, args: Sequence[_Kind]) -> list[_Kind]:
    consts = [_of_value(c) for c in jaxpr.consts] if isinstance(jaxpr, ClosedJaxpr) else []
    return _walk(_open(jaxpr), consts, args)


def _of_value(value: Any) -> _Kind:
    if isinstance(value, Tracer) or jnp.issubdtype(jax.typeof(value).dtype, jax.dtypes.extended):
        return _Kind.CONSTANT
    return _Kind.CONSTANT if np.any(np.asarray(value)) else _Kind.ZERO


def _apply(eqn: Any, ins: list[_Kind]) -> list[_Kind]:
    params = eqn.params
    if eqn.primitive.name == "cond":
        return _cond(params["branches"], ins)
    if eqn.primitive.name == "scan":
        return _scan(eqn, ins)
    if eqn.primitive.name == "while":
        return _while(params, ins)
    for inner in params.values():  # a call: jit, remat, custom_jvp, shard_map
        if isinstance(inner, Jaxpr | ClosedJaxpr) and _same_signature(_open(inner), eqn):
            return _call(inner, ins)
    kind = _primitive(eqn.primitive.name, ins, [_inexact(a) for a in eqn.invars])
    return [_Kind.OTHER if kind is _Kind.LINEAR and not _inexact(v) else kind for v in eqn.outvars]


def _primitive(name: str, ins: list[_Kind], inexact: list[bool]) -> _Kind:
    values = [kind for kind, keep in zip(ins, inexact, strict=True) if keep] or ins  # not indices and conditions
    if name == "mul" and _Kind.ZERO in ins:  # whatever the other: what a rule is given for an argument that stays
        return _Kind.ZERO
    if _Kind.OTHER in ins:
        return _Kind.OTHER
    if _Kind.LINEAR in ins:
        not_linear = name in _FLAT or (name in _SUMS and _Kind.CONSTANT in values)
        return _Kind.OTHER if not_linear else _Kind.LINEAR
    zero = _Kind.ZERO in values if name in _PRODUCTS else set(values) == {_Kind.ZERO}
    return _Kind.ZERO if zero else _Kind.CONSTANT


def _cond(branches: Sequence[Any], ins: list[_Kind]) -> list[_Kind]:
    each = zip(*(_call(branch, ins[1:]) for branch in branches), strict=True)
    return [_Kind.OTHER if ins[0] is _Kind.OTHER else functools.reduce(_either, kinds) for kinds in each]


def _scan(eqn: Any, ins: list[_Kind]) -> list[_Kind]:
    """Constants, carry and slices are told apart by rank: how a jaxpr counts them changes from one jax to the next."""
    body = eqn.params["jaxpr"]
    carry = sum(map(_same_rank, eqn.outvars, _open(body).outvars))
    whole = sum(map(_same_rank, eqn.invars, _open(body).invars))
    return _loop(body, whole - carry, carry, ins)


def _loop(body: Any, num_consts: int, num_carry: int, ins: list[_Kind]) -> list[_Kind]:
    consts, carry, rest = ins[:num_consts], ins[num_consts : num_consts + num_carry], ins[num_consts + num_carry :]
    while True:  # ends: a kind only ever moves towards OTHER
        outs = _call(body, [*consts, *carry, *rest])
        joined = [_either(a, b) for a, b in zip(carry, outs[:num_carry], strict=True)]
        if joined == carry:
            return [*carry, *outs[num_carry:]]
        carry = joined


def _while(params: dict[str, Any], ins: list[_Kind]) -> list[_Kind]:
    n, m = params["cond_nconsts"], params["body_nconsts"]
    outs = _loop(params["body_jaxpr"], m, len(ins) - n - m, ins[n:])
    (again,) = _call(params["cond_jaxpr"], [*ins[:n], *outs])
    return [_Kind.OTHER] * len(outs) if again is _Kind.OTHER else outs


def _either(a: _Kind, b: _Kind) -> _Kind:
    both = {a, b}
    if _Kind.OTHER in both or both == {_Kind.CONSTANT, _Kind.LINEAR}:
        return _Kind.OTHER
    return a if b is _Kind.ZERO else b


def _open(jaxpr: Any) -> Jaxpr:
    return jaxpr.jaxpr if isinstance(jaxpr, ClosedJaxpr) else jaxpr


def _same_rank(a: Any, b: Any) -> bool:
    return len(a.aval.shape) == len(b.aval.shape)


def _same_signature(jaxpr: Jaxpr, eqn: Any) -> bool:
    return len(jaxpr.invars) == len(eqn.invars) and len(jaxpr.outvars) == len(eqn.outvars)


def _inexact(atom: Any) -> bool:
    dtype = getattr(atom.aval, "dtype", None)
    return dtype is not None and jnp.issubdtype(dtype, jnp.inexact)
