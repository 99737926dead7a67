"""README's Python blocks run, in order, in one namespace; a `text` block right after one is what it prints."""

import contextlib
import io
import pathlib
import re

import pytest
from printed import same

import jaxloss

README = pathlib.Path(__file__).parents[1] / "README.md"
BLOCK = re.compile(r"^```python\n(?P<code>.*?)^```\n(?:\s*^```text\n(?P<printed>.*?)^```$)?", re.MULTILINE | re.DOTALL)


def blocks():
    return list(BLOCK.finditer(README.read_text(encoding="utf-8")))


@pytest.mark.core
def test_python_blocks():
    assert blocks(), "README shows no Python"
    namespace: dict = {"__name__": "readme"}
    for block in blocks():
        line = README.read_text(encoding="utf-8")[: block.start("code")].count("\n")
        code = compile("\n" * line + block["code"], str(README), "exec")  # a traceback then names README's own line
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(code, namespace)
        if block["printed"] is not None:
            message = f"README.md:{line} printed:\n{printed.getvalue()}"
            assert same(printed.getvalue(), block["printed"]), message


def test_every_python_fence_is_found():
    fences = re.findall(r"^\s*```python", README.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(blocks()) == len(fences)


def test_figures_and_links_exist():
    targets = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", README.read_text(encoding="utf-8"))
    missing = [t for t in targets if not (README.parent / t).exists()]
    assert not missing


@pytest.mark.core
def test_every_public_name_is_in_a_table_or_shown():
    text = README.read_text(encoding="utf-8")
    table = [line for line in text.splitlines() if line.startswith("| `")]
    named = set(re.findall(r"`(\w+)`", " ".join(line.split(" | ")[0] for line in table)))
    assert set(jaxloss.__all__) - {"custom_vjp"} <= named  # which has a section of its own
