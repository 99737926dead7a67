"""The package as a whole: what it imports, how fast, how large its files are, what it ships."""

import ast
import importlib.metadata
import importlib.util
import os
import pathlib
import re
import subprocess
import sys

import pytest

import jaxloss

PACKAGE = pathlib.Path(jaxloss.__file__).parent
ROOT = pathlib.Path(__file__).parents[1]
RUNTIME = {"jax", "jaxlib", "jaxtyping", "jaxloss"}  # what pyproject.toml lists; numpy comes with jax and is not ours

# Seconds of this process: the wall clock also counts what the other tests of a parallel run take from the processor.
# They slow down its core, too, by up to two times: so the least of several runs is what the import takes.
TIME_IMPORT = "import jax, time; t = time.process_time(); import jaxloss; print(time.process_time() - t)"


def sources():
    return sorted(PACKAGE.rglob("*.py"))


def module_name(path: pathlib.Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported_modules(source: str, package: str) -> set[str]:
    """Absolute names of everything that `source`, a module of `package`, imports; `from a import b` counts as a.b."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            relative = "." * node.level + (node.module or "")
            base = importlib.util.resolve_name(relative, package) if node.level else node.module
            found |= {f"{base}.{alias.name}" for alias in node.names}
    return found


def imports_of(path: pathlib.Path) -> set[str]:
    name = module_name(path)
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    return imported_modules(path.read_text(encoding="utf-8"), package)


def family(name: str) -> str:
    return ".".join(name.split(".")[:2])


@pytest.mark.parametrize("path", sources(), ids=module_name)
def test_families_import_only_core(path):
    own = family(module_name(path))
    ours = {family(m) for m in imports_of(path) if m.split(".")[0] == "jaxloss"}
    if not own.startswith("jaxloss._"):  # the front door and jaxloss.testing put the families together
        return
    assert ours <= {own, "jaxloss._core"}, f"{own} imports {sorted(ours - {own, 'jaxloss._core'})}"


@pytest.mark.parametrize("path", sources(), ids=module_name)
def test_only_declared_dependencies_are_imported(path):
    roots = {m.split(".")[0] for m in imports_of(path)} - set(sys.stdlib_module_names)
    assert roots <= RUNTIME | {"numpy"}


def test_the_walk_sees_every_form_of_import():
    source = "import jaxloss._binary\nfrom . import _margin\ndef f():\n from ._core import checks\n from ..x import y\n"
    found = imported_modules(source, "jaxloss._linear")
    assert found == {"jaxloss._binary", "jaxloss._linear._core.checks", "jaxloss._linear._margin", "jaxloss.x.y"}


def test_import_is_fast(tmp_path):
    # Compiled files go to a folder of their own, warmed by the first run, as an installed package has them.
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    environment |= {"PYTHONPYCACHEPREFIX": str(tmp_path), "PYTHONPATH": str(PACKAGE.parent)}
    command = [sys.executable, "-c", TIME_IMPORT]
    runs = [subprocess.run(command, env=environment, capture_output=True, text=True, check=True) for _ in range(6)]
    seconds = [float(r.stdout) for r in runs[1:]]
    assert min(seconds) <= 0.15, f"import jaxloss after jax took {seconds} s"


def test_import_leaves_out_what_takes_long():
    program = "import jax, sys; before = set(sys.modules); import jaxloss; print(*set(sys.modules) - before)"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    new = run.stdout.split()
    assert "jaxloss._core.autodiff" in new
    assert not [name for name in new if name == "jax.extend" or "pallas" in name]  # as long as all of ours


def test_files_stay_small():
    files = [p for d in ("jaxloss", "tests", "examples", "benchmarks") for p in (ROOT / d).rglob("*.py")]
    lines = {str(p.relative_to(ROOT)): len(p.read_text(encoding="utf-8").splitlines()) for p in files}
    assert lines
    assert not {name: n for name, n in lines.items() if n > 500}


def test_ships_its_types():
    assert (PACKAGE / "py.typed").is_file()


def test_version():
    assert re.fullmatch(r"\d+\.\d+\.\d+((a|b|rc|\.dev)\d+)?", jaxloss.__version__)
    try:
        installed = importlib.metadata.version("jaxloss")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("run from the source tree, not installed")
    assert installed == jaxloss.__version__


def test_all_is_what_exists():
    assert len(set(jaxloss.__all__)) == len(jaxloss.__all__)
    assert all(hasattr(jaxloss, name) for name in jaxloss.__all__)
    public = {n for n, v in vars(jaxloss).items() if not n.startswith("_") and not isinstance(v, type(ast))}
    assert public <= set(jaxloss.__all__)


@pytest.mark.parametrize("path", sorted((ROOT / "tests").glob("test_*.py")), ids=lambda p: p.stem)
def test_compared_libraries_come_from_peers(path):
    """So that .ci/run, which selects the mark, runs every test that needs one, and skips none."""
    source = path.read_text(encoding="utf-8")
    assert not re.search(r"importorskip\(.(torch|keras)\b|^\s*import (torch|keras)\b", source, re.MULTILINE)
    assert "peers.load" not in source or "mark.peers" in source
