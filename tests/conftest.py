"""Settings of the whole suite. The flags must be set before jax is imported, so nothing above them may import it."""

import gc
import os

# Sharded tests run on 8 virtual devices. An xdist worker keeps to one thread: the workers share the cores already.
_FLAGS = ["--xla_force_host_platform_device_count=8"]
if "PYTEST_XDIST_WORKER" in os.environ:
    _FLAGS.append("--xla_cpu_multi_thread_eigen=false")
    for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(_variable, "1")
os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *_FLAGS]).strip()
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import hypothesis  # noqa: E402
import jax  # noqa: E402
import pytest  # noqa: E402
from compiled import QUICK_FLAGS, traced_in  # noqa: E402

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
# Where in Python an operation of XLA came from, which nothing here reads: a twentieth of the time of a program.
jax.config.update("jax_traceback_in_locations_limit", 0)

# A compilation may take seconds, which says nothing about the property; and a run must be repeatable.
hypothesis.settings.register_profile("short", deadline=None, derandomize=True, max_examples=15)
hypothesis.settings.register_profile("long", deadline=None, derandomize=True, max_examples=1500)

# Tracing makes many objects that live long: looking through them often takes time.
gc.set_threshold(100_000, 20, 20)


def pytest_addoption(parser):
    parser.addoption("--long", action="store_true", help="every promise for every loss, and 1500 examples where 15 are")


def pytest_configure(config):
    long = config.getoption("--long")
    hypothesis.settings.load_profile("long" if long else "short")
    if not long:  # XLA reads them when jax is first used, which is later
        os.environ["XLA_FLAGS"] = " ".join([os.environ["XLA_FLAGS"], *QUICK_FLAGS])


@pytest.fixture(scope="session", autouse=True)
def _first_property():
    """Before its first one hypothesis looks through all objects, of which there are more with every test."""
    hypothesis.given(hypothesis.strategies.none())(lambda _: None)()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    if "form" not in item.fixturenames:  # the name of every fixture that patches code which JAX traces
        traced_in(None)


def pytest_collection_modifyitems(config, items):
    if not config.getoption("--long"):
        long = [item for item in items if item.get_closest_marker("long")]
        config.hook.pytest_deselected(items=long)
        items[:] = [item for item in items if item not in set(long)]
