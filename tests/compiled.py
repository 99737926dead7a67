"""How the suite compiles: quickly, as a program runs once; and as users do, where digits are counted."""

import functools
import importlib.metadata

import jax

_JAXLIB = tuple(int(n) for n in importlib.metadata.version("jaxlib").split(".")[:2])
# Several times as fast as by default: without optimisation, and without taking a small program apart, to be compiled by
# many threads. From jaxlib 0.11 on there is no older way to compile a fusion.
_EMITTERS = "xla_cpu_use_fusion_emitters"
_PARTS = "xla_cpu_parallel_codegen_split_count"
_QUICK = {"xla_backend_optimization_level": 0, _PARTS: 1} | ({_EMITTERS: False} if _JAXLIB < (0, 11) else {})
_DEFAULT = {"xla_backend_optimization_level": 3, _PARTS: 32} | ({_EMITTERS: True} if _JAXLIB < (0, 11) else {})

QUICK_FLAGS = [f"--{name}={str(value).lower()}" for name, value in _QUICK.items()]
CHANGES_FUSIONS = [flag for flag in QUICK_FLAGS if _EMITTERS in flag]  # the others come after memory is laid out
as_users_do = functools.partial(jax.jit, compiler_options=_DEFAULT)


_traced_in = None  # the form of the code in which JAX has traced what it keeps; `None` is as it stands


def traced_in(form):
    """Makes JAX forget what it traced in another form of the code, one that tests choose by patching it."""
    global _traced_in
    if form != _traced_in:
        jax.clear_caches()
        _traced_in = form
