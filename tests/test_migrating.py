"""Each row of each table of MIGRATING.md: what stands before gives the same as what stands after, with real libraries.

Calls see the example variables of the document's code blocks, and the formulas of libraries that are not installed.
Values are compared, and the gradient of their mean: with respect to every array that both sides name for optax and
these formulas, and to the predictions for PyTorch and Keras, which see the example variables as tensors in float64.
"""

import ast
import contextlib
import functools
import inspect
import pathlib
import re
import typing
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import peers
import pytest
from printed import same

import jaxloss

GUIDE = pathlib.Path(__file__).parents[1] / "MIGRATING.md"
TEXT = GUIDE.read_text(encoding="utf-8")
HARD_LABELS = {"truth"}  # where optax loses part of the derivative: rows of its own say so
DIFFERENCES = "Where jaxloss differs from optax on purpose"
OTHERS = "From the losses of other libraries"


class Row(typing.NamedTuple):
    section: str
    header: tuple[str, ...]
    line: int
    cells: tuple[str, ...]

    def code(self, column: str) -> list[str]:
        return re.findall(r"`([^`]+)`", self.cells[self.header.index(column)])


def rows() -> list[Row]:
    """Rows of the tables, with the section (`## ...`) that each is in."""
    found, section, header = [], "", None
    for number, line in enumerate(TEXT.splitlines(), 1):
        cells = tuple(c.strip() for c in line.strip("| ").split(" | "))
        if line.startswith("## "):
            section = line[3:]
        if not line.startswith("|"):
            header = None
        elif header is None:
            header = cells
        elif not set(line) <= set("|- "):
            found.append(Row(section, header, number, cells))
    return found


ROWS = rows()


def marks(*sections: str):
    chosen = [r for r in ROWS if r.section in sections]
    return pytest.mark.parametrize("row", chosen, ids=lambda r: f"{r.line}: {r.cells[0]}")


@functools.cache
def examples() -> dict:
    blocks = re.findall(r"^```python\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
    namespace: dict = {}
    exec(compile("\n".join(blocks), str(GUIDE), "exec"), namespace)
    return namespace


def names(code: str) -> list[str]:
    return [n.id for n in ast.walk(ast.parse(code)) if isinstance(n, ast.Name)]


def is_float(value) -> bool:
    return isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jnp.floating)


def shared_arrays(before: str, after: str) -> list[str]:
    """The floating-point arrays that both sides name, in the order of `after`."""
    both = [n for n in dict.fromkeys(names(after)) if n in names(before) and n not in HARD_LABELS]
    return [n for n in both if is_float(examples().get(n))]


def derivatives(code: str, arrays: list[str], **more):
    """Value of the code, and the gradient of its mean."""

    def mean(*values):
        result = eval(code, {**examples(), **more, **dict(zip(arrays, values, strict=True))})
        return jnp.mean(jnp.concatenate([jnp.ravel(r) for r in jax.tree.leaves(result)])), result

    gradients, result = jax.grad(mean, range(len(arrays)), has_aux=True)(*(examples()[n] for n in arrays))
    return result, gradients


def torch_derivatives(code: str, arrays: list[str], **more):
    torch = peers.load("torch")
    types = {"f": torch.float64, "i": torch.int64, "b": torch.bool}

    def tensor(name, value):
        value = np.asarray(value)
        return torch.tensor(value.tolist(), dtype=types[value.dtype.kind], requires_grad=name in arrays)

    namespace = {n: tensor(n, v) if isinstance(v, jax.Array) else v for n, v in examples().items()}
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        result = eval(code, {**namespace, "torch": torch, "F": torch.nn.functional, "nn": torch.nn, **more})
        gradients = torch.autograd.grad(result.mean(), [namespace[n] for n in arrays])
    finally:
        torch.set_default_dtype(default)
    return result.detach().numpy(), tuple(g.numpy() for g in gradients)


@contextlib.contextmanager
def leniently():
    """As other libraries expect it: jax promotes dtypes and ranks, and warnings are only warnings."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def compare(row: Row, run: typing.Callable, arrays: typing.Callable):
    (after,) = row.code("after")
    assert row.code("before")
    for before in row.code("before"):
        wanted = arrays(before, after)
        assert wanted, "no gradient is compared"
        got = derivatives(after, wanted)
        with leniently():
            want = run(before, wanted)
        assert jax.tree.map(jnp.shape, got[0]) == jax.tree.map(np.shape, want[0])
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), got, want)


@marks("From optax")
def test_optax(row):
    compare(row, functools.partial(derivatives, optax=optax), shared_arrays)


@pytest.mark.peers
@marks("From PyTorch")
def test_torch(row):
    compare(row, torch_derivatives, lambda *codes: shared_arrays(*codes)[:1])


@pytest.mark.peers
@marks("From Keras")
def test_keras(row):
    keras = peers.load("keras")
    keras.config.set_floatx("float64")
    compare(row, functools.partial(torch_derivatives, keras=keras), lambda *codes: shared_arrays(*codes)[:1])


@marks(OTHERS)
def test_other_libraries(row):
    compare(row, derivatives, shared_arrays)


def outcome(code: str, losses) -> str:
    try:
        return str(eval(code, {**examples(), "losses": losses}))
    except Exception as error:
        return type(error).__name__


@marks(DIFFERENCES)
def test_differs_from_optax(row):
    (call,), (theirs,), (ours,) = (row.code(column) for column in ("call", "optax", "jaxloss"))
    got = outcome(call, jaxloss)
    assert same(got, ours), f"jaxloss: {got}"
    with leniently():
        got = outcome(call, optax.losses)
    assert same(got, theirs), f"optax {optax.__version__}: {got}"
    assert not same(theirs, ours)


def test_every_row_runs():
    sections = {r.section for r in ROWS}
    assert sections == {"From optax", DIFFERENCES, "From PyTorch", "From Keras", OTHERS}
    assert len(ROWS) == len([x for x in TEXT.splitlines() if x.startswith("| `")])


def section(title: str) -> str:
    return re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", TEXT, re.MULTILINE | re.DOTALL)[1]


def mentioned(title: str) -> set[str]:
    return set(re.findall(r"\w+", section(title)))


def test_every_loss_of_optax_is_mentioned():
    public = {n for n, f in vars(optax.losses).items() if inspect.isfunction(f)}
    assert public & set(jaxloss.__all__) <= mentioned("From optax")


@pytest.mark.peers
def test_every_loss_of_torch_is_mentioned():
    torch = peers.load("torch")
    assert set(torch.nn.modules.loss.__all__) - {"NLLLoss2d"} <= mentioned("From PyTorch")  # an old name of NLLLoss


@pytest.mark.peers
def test_every_loss_of_keras_is_mentioned():
    losses = peers.load("keras").losses
    classes = {n for n, v in vars(losses).items() if inspect.isclass(v) and issubclass(v, losses.Loss)}
    assert classes - {"Loss"} <= mentioned("From Keras")


def test_every_name_of_jaxloss_exists():
    assert {n for n in re.findall(r"jaxloss\.(\w+)", TEXT) if not hasattr(jaxloss, n)} == set()
