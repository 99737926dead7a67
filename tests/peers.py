"""Other libraries, imported where they are installed: a test that needs one is skipped without it.

With JAXLOSS_PEERS=required in the environment, as .ci/run sets it, a missing one is an error.
"""

import importlib
import os
import pathlib
import tempfile
import warnings
from types import ModuleType

import pytest

os.environ.setdefault("KERAS_BACKEND", "torch")
os.environ.setdefault("KERAS_HOME", str(pathlib.Path(tempfile.gettempdir(), "jaxloss-keras")))  # it writes one


def load(name: str) -> ModuleType:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if os.environ.get("JAXLOSS_PEERS") == "required":
            return importlib.import_module(name)
        return pytest.importorskip(name)
