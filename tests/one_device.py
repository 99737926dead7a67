"""Code run in a process of its own with one CPU device: the forms differ there, and the suite has several."""

import os
import subprocess
import sys

import jaxloss


def output_of(code, without=()):
    """What `code` prints, compiled with the flags of the suite but those `without`."""
    flags = [f for f in os.environ["XLA_FLAGS"].split() if "device_count" not in f and f not in without]
    paths = [os.path.dirname(__file__), os.path.dirname(os.path.dirname(jaxloss.__file__))]
    environment = os.environ | {"XLA_FLAGS": " ".join(flags), "PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, "-W", "ignore", "-c", code]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
