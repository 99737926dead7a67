"""Settings of the whole suite. The flags must be set before jax is imported, so nothing above them may import it."""

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

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

# A compilation may take seconds, which says nothing about the property; and a run must be repeatable.
hypothesis.settings.register_profile("jaxloss", deadline=None, derandomize=True, max_examples=25)
hypothesis.settings.load_profile("jaxloss")
