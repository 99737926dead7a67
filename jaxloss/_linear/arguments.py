"""Hidden states, a kernel and targets, checked and laid out for the rules."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxloss._core import checks
from jaxloss._core.autodiff import custom_vjp
from jaxloss._core.class_rows import known_classes
from jaxloss._core.devices import is_known, require_tracked_axis
from jaxloss._core.partitioning import divided, undivided
from jaxloss._core.precision import compute_dtype
from jaxloss._core.reduction import fill
from jaxloss._core.softmax import Scores, Statistics, Wanted, lookup, row_statistics, targets
from jaxloss._linear.plan import Plan, Shape, Sizes, choose
from jaxloss._linear.rules import Operands, Tokens, token_statistics
from jaxloss._linear.tiles import project, rounded, to_hidden, to_kernel


class Head(NamedTuple):
    """Checked hidden states as `[N, D]`, and the kernel that makes logits of them."""

    hidden: Array
    kernel: Array
    bias: Array | None
    layout: str
    batch: tuple[int, ...]
    classes: int  # on this device
    total: int  # in all
    over: Any


def head(
    fn: str,
    hidden: Any,
    kernel: Any,
    bias: Any,
    layout: str,
    over: Any = None,
    num_classes: int | None = None,
    whose: str = "",
) -> Head:
    """`whose` comes before the names in errors, as in "teacher_hidden"."""
    of_hidden, of_kernel, of_bias = (whose + name for name in ("hidden", "kernel", "bias"))
    h, w = checks.floating(fn, of_hidden, hidden), checks.floating(fn, of_kernel, kernel)
    checks.choice(fn, f"{of_kernel}_layout", layout, ("dv", "vd"))
    shape = "[D, V]" if layout == "dv" else "[V, D]"
    if h.ndim == 0 or w.ndim != 2:
        raise ValueError(
            f"{fn}: {of_hidden} must be [*, D] and {of_kernel} {shape}, got shapes {h.shape} and {w.shape}"
        )
    width, classes = w.shape if layout == "dv" else w.shape[::-1]
    if h.shape[-1] != width:
        other = "vd" if layout == "dv" else "dv"
        hint = f'; is it kernel_layout="{other}"?' if h.shape[-1] == classes else ""
        if hint and whose:
            hint = f"; kernel_layout={layout!r} is that of both kernels, pass {of_kernel}.T"
        raise ValueError(
            f"{fn}: {of_hidden} of shape {h.shape} does not fit a {of_kernel} {shape} of shape {w.shape}{hint}"
        )
    if classes == 0:
        raise ValueError(f"{fn}: {of_kernel} of shape {w.shape} has no classes")
    if h.dtype != w.dtype:
        raise TypeError(
            f"{fn}: {of_hidden} and {of_kernel} must have one dtype, got {h.dtype} and {w.dtype}; convert one of them "
            f"(a kernel kept in float32 by {of_kernel}.astype({of_hidden}.dtype): its gradient arrives in float32)"
        )
    total = classes
    if over is not None:
        require_tracked_axis(fn, over)
        total *= lax.axis_size(over)
    if num_classes is not None:
        num_classes = checks.python_int(fn, "num_classes", num_classes)
        if not 0 < num_classes <= total:
            raise ValueError(
                f"{fn}: num_classes must be in [1, {total}], the classes of the {of_kernel}, got {num_classes}"
            )
        total = num_classes
    if bias is not None:
        b = checks.floating(fn, of_bias, bias)
        bias = checks.same_shape(fn, of_bias, b, (classes,), f"classes of the {of_kernel}")
    batch = h.shape[:-1]
    return Head(h.reshape(math.prod(batch), width), w, bias, layout, batch, classes, total, over)


class Problem:
    """A head and its targets: what the statistics of every token need, by any method."""

    def __init__(
        self, fn: str, head: Head, labels: Any, where: Any, ignore_index: int | None, class_weights: Any,
        logit_softcap: Any, temperature: Any,
    ) -> None:  # fmt: skip
        self.fn, self.head = fn, head
        self.keep: Array | None = None
        self.n = head.hidden.shape[0]
        self.dtype = compute_dtype(head.hidden)
        if where is not None:
            where = checks.mask(fn, "where", where)
            self.keep = checks.broadcast(fn, "where", where, head.batch, "tokens").reshape(self.n)
        self.labels: Array | None = None
        self.weights: Array | None = None
        if labels is not None:
            self._set_targets(labels, ignore_index)
        self.temperature = self._option("temperature", temperature, 1.0)
        self.softcap = None if logit_softcap is None else self._option("logit_softcap", logit_softcap, math.inf)
        self.class_weights: Array | None = None
        if class_weights is not None:
            c = checks.number(fn, "class_weights", class_weights)
            self.class_weights = checks.same_shape(fn, "class_weights", c, (head.classes,), "classes of the kernel")

    def _set_targets(self, labels: Any, ignore_index: int | None) -> None:
        fn, head = self.fn, self.head
        y = checks.number(fn, "labels", labels)
        if jnp.issubdtype(y.dtype, jnp.floating):
            if ignore_index is not None:
                raise ValueError(f"{fn}: ignore_index={ignore_index} needs integer labels; drop dense ones by `where`")
            if y.shape != (*head.batch, head.classes):
                raise ValueError(
                    f"{fn}: labels must be integer, or weights of all classes {(*head.batch, head.classes)}, got "
                    f"{y.dtype} of shape {y.shape}"
                )
            y = y.reshape(self.n, head.classes)
            self.weights = y if self.keep is None else fill(self.keep[:, None], y)
            return
        y = checks.broadcast(fn, "labels", checks.labels(fn, "labels", y), head.batch, "tokens").reshape(self.n)
        y = checks.wide(y)
        if ignore_index is not None:
            kept = ~checks.is_index(fn, y, ignore_index)
            self.keep = kept if self.keep is None else self.keep & kept
        self.labels = known_classes(fn, fill(self.keep, y, 0), head.total)

    def _option(self, name: str, value: Any, off: float) -> Array | None:
        checks.in_range(self.fn, name, value, 0, math.inf, open_low=True)
        given = checks.scalar(self.fn, name, value)
        return None if checks.static_number(value) and value == off else given.astype(self.dtype)

    def class_weight_of_labels(self) -> Array | None:
        """A distribution meets its class weights in the sum over classes."""
        if self.class_weights is None or self.labels is None:
            return None
        return lookup(self.class_weights.astype(self.dtype), self.labels, self.head.over)

    def choose(self, reduced: bool, method: str, chunk_size: Any, memory_budget: Any) -> tuple[str, Sizes]:
        h = self.head
        shape = Shape(self.n, h.hidden.shape[1], h.classes, h.kernel.dtype.itemsize)
        given = [x for x in (h.hidden, h.kernel, self.labels, self.weights, self.keep) if x is not None]
        asked = "dense" if method == "auto" and divided(*given) else method
        if asked != "dense" and not is_known(h.hidden):
            raise ValueError(
                f"{self.fn}: method={asked!r} needs the number of tokens, which is {self.n} in this export; use "
                'method="dense", or export for a number'
            )
        method, sizes = choose(self.fn, shape, reduced, asked, chunk_size, memory_budget)
        method = "dense" if self.n == 0 else method
        if method != "dense":
            chosen = f'method="{method}"' + (' (what "auto" chose)' if asked == "auto" else "")
            # One operand is in all that the rules do.
            self.head = h._replace(hidden=undivided(_remedy(self.fn, chosen), *given))
        return method, sizes

    def plan(self, wanted: Wanted, sizes: Sizes) -> Plan:
        return Plan(wanted, self.head.layout, sizes, self.head.classes, self.head.total)

    def in_order(self) -> tuple[Operands, Tokens, Array | None, Array | None]:
        """For the rules: the tokens that are kept in front, their order, and the way back."""
        h, label, valid, kept, order, back = self.head.hidden, None, None, None, None, None
        if self.labels is not None:
            t = targets(self.labels, self.head.classes, self.head.over)
            assert t.valid is not None
            label, valid = t.label, t.valid & (self.labels < self.head.total)
        if self.keep is not None:
            h = fill(self.keep[:, None], h)
        if self.keep is not None and self.weights is None:
            order = jnp.argsort(~self.keep, stable=True)
            back = jnp.argsort(order)
            h, kept = permuted(h, order, back), jnp.sum(self.keep, dtype=jnp.int32)
            label, valid = (None if t is None else t[order] for t in (label, valid))
        weights = self.weights
        x = Operands(h, self.head.kernel, self.head.bias, self.temperature, self.softcap, self.class_weights, weights)
        return x, Tokens(label, valid, kept), order, back

    def statistics(self, wanted: Wanted, method: str, sizes: Sizes) -> Statistics:
        """Of every token, for any cotangent."""
        if method == "dense":
            return self._dense_statistics(wanted)
        x, tokens, order, back = self.in_order()
        found = token_statistics(self.plan(wanted, sizes), x, tokens)
        if order is None or back is None:
            return found
        return jax.tree.map(lambda v: permuted(v, back, order), found)

    def _dense_statistics(self, wanted: Wanted) -> Statistics:
        h = self.head
        hidden = h.hidden if self.keep is None else fill(self.keep[:, None], h.hidden)
        logits = _dense_logits(h.layout, hidden, h.kernel, h.bias)
        devices = 1 if h.over is None else lax.axis_size(h.over)
        mask = None
        if h.total < h.classes * devices:
            first = 0 if h.over is None else h.classes * lax.axis_index(h.over)
            mask = (first + jnp.arange(h.classes) < h.total)[None]
        target, weights = self.labels, self.weights
        if target is not None:  # one that names padding names nothing
            target = jnp.where(target < h.total, target, -1) if mask is not None else target
        elif weights is not None and mask is not None:
            weights = jnp.where(mask, weights, 0)
        s = Scores(logits, mask, self.keep, self.temperature, self.softcap)
        return row_statistics(wanted, s, weights if target is None else target, self.class_weights)


def _remedy(fn: str, chosen: str) -> str:
    return (
        f"{fn}: {chosen} under jit over several devices, where each of them would go through all chunks. Use "
        f"jaxloss.sharded({fn}, mesh, tokens=..., vocab=...), which splits tokens and vocabulary between the devices "
        '(or leaves them whole if neither is given), axis_name= inside your own jax.shard_map, or method="dense", '
        "which XLA divides by itself"
    )


@custom_vjp
def permuted(x: Array, order: Array, back: Array) -> Array:
    return x[order]


def _permuted_bwd(back: Array, g: Array) -> tuple[Array, None, None]:
    # Why a rule: autodiff of a gather is a scatter, and the way back is known.
    return g[back], None, None


permuted.defvjp(lambda x, order, back: (permuted(x, order, back), back), _permuted_bwd)


def _project(layout: str, hidden: Array, kernel: Array, bias: Array | None) -> Array:
    z = project(hidden, kernel, layout)
    return z if bias is None else z + bias.astype(z.dtype)[None]


_dense_logits = custom_vjp(_project, nondiff_argnums=(0,))


def _dense_logits_fwd(layout: str, hidden: Array, kernel: Array, bias: Array | None) -> Any:
    return _dense_logits(layout, hidden, kernel, bias), (hidden, kernel, bias)


def _dense_logits_bwd(layout: str, residuals: Any, g: Array) -> Any:
    # Why a rule: autodiff multiplies the float32 cotangent with the operands in float32, which half precision is not.
    hidden, kernel, bias = residuals
    small = rounded(g, kernel.dtype)
    to_bias = None if bias is None else jnp.sum(g, 0)
    return to_hidden(small, kernel, layout), to_kernel(small, hidden, layout), to_bias


_dense_logits.defvjp(_dense_logits_fwd, _dense_logits_bwd)
