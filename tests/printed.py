"""Printed output, compared as a reader would: text exactly, floats to 2e-6, as releases of XLA differ in the ULP."""

import doctest
import math
import re

FLOAT = re.compile(r"[-+]?\d+\.\d*(?:e[-+]?\d+)?|[-+]?\d+e[-+]?\d+")


def same(got: str, want: str) -> bool:
    values, expected = ([float(x) for x in FLOAT.findall(text)] for text in (got, want))
    if FLOAT.sub("#", " ".join(got.split())) != FLOAT.sub("#", " ".join(want.split())):
        return False
    return all(math.isclose(a, b, rel_tol=2e-6) for a, b in zip(values, expected, strict=True))


class Checker(doctest.OutputChecker):
    def check_output(self, want: str, got: str, optionflags: int) -> bool:
        return super().check_output(want, got, optionflags) or same(got, want)
