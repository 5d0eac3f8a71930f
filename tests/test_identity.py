"""What tells one sweep from another: functions by all that they use."""

from __future__ import annotations

import importlib
import subprocess
import sys
from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest
import xarray as xr
from numpy.polynomial.chebyshev import chebval

import isingmoe as im
from isingmoe._identity import digest, identity

HELPERS = """
import numpy as np
SCALE = 2.0

def inner(x):
    return SCALE * x

class Tool:
    factor = 3

    def apply(self, x):
        return self.factor * inner(x)
"""

VERBS = """
import helpers
from helpers import Tool
import numpy as np

N = 20
TABLE = np.arange(3.0)
NAMES = {"b", "a"}

def helper(x):
    return x + N

def direct(chain):
    return helper(chain.J)

def by_module(chain):
    return helpers.inner(chain.J)

def by_class(chain):
    return Tool().apply(chain.J)

def within(chain):
    return [TABLE[i] for i in range(3)], (lambda x: helper(x))(1), NAMES

def made(power):
    def raised(x):
        return x**power
    return lambda chain: raised(chain.J)

captured = made(2)

def again(n):
    return even(n - 1) if n else 1

def even(n):
    return again(n - 1) if n else 0
"""

NAMES = ("direct", "by_module", "by_class", "within", "captured", "again")


@pytest.fixture
def identities(tmp_path, monkeypatch):
    """Identities of the functions of a module whose text, or that of the other, is changed."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def of(old="", new=""):
        for name, text in (("helpers", HELPERS), ("verbs", VERBS)):
            (tmp_path / f"{name}.py").write_text(text.replace(old, new) if old else text)
            sys.modules.pop(name, None)
        importlib.invalidate_caches()
        module = importlib.import_module("verbs")
        return {name: digest(identity(getattr(module, name))) for name in NAMES}

    yield of
    for name in ("helpers", "verbs"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize(
    ("old", "new", "changed"),
    [
        ("N = 20", "N = 21", {"direct", "within"}),
        ("x + N", "x - N", {"direct", "within"}),
        ("arange(3.0)", "arange(3.0) + 1", {"within"}),
        ('"b", "a"', '"b", "c"', {"within"}),
        ("SCALE = 2.0", "SCALE = 2.5", {"by_module", "by_class"}),
        ("SCALE * x", "SCALE + x", {"by_module", "by_class"}),
        ("factor = 3", "factor = 4", {"by_class"}),
        ("self.factor *", "self.factor +", {"by_class"}),
        ("made(2)", "made(3)", {"captured"}),
        ("x**power", "x*power", {"captured"}),
        ("if n else 0", "if n else 2", {"again"}),
        ("N = 20", "\n\nN = 20  # the same", set()),
    ],
)
def test_functions_are_told_apart_by_what_they_use(identities, old, new, changed):
    before, after = identities(), identities(old, new)
    assert {name for name in NAMES if before[name] != after[name]} == changed


def test_identities_are_those_of_other_processes(identities, tmp_path):
    expected = identities()
    script = (
        "import verbs; from isingmoe._identity import digest, identity\n"
        f"print([digest(identity(getattr(verbs, n))) for n in {NAMES}])"
    )
    for seed in "1", "2":
        ran = subprocess.run(
            [sys.executable, "-c", script],
            cwd=tmp_path,
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        )
        assert ran.stdout.strip() == str(list(expected.values()))


def test_installed_packages_are_known_by_name_and_version():
    assert identity(im.solve) == "isingmoe.transfer.solve"
    assert identity(chebval) == f"numpy.polynomial.chebyshev.chebval {np.__version__}"
    assert identity(subprocess.run) == "subprocess.run"


@dataclass
class Scaled:
    factor: float

    def __call__(self, chain):
        return self.factor * chain.J


class Counter:
    def __init__(self, n):
        self.n = n

    def count(self, chain):
        return self.n


def test_values_of_many_kinds():
    def same(first, second):
        return digest(identity(first)) == digest(identity(second))

    assert same(Scaled(1.0), Scaled(1.0))
    assert not same(Scaled(1.0), Scaled(2.0))
    assert same(Counter(1).count, Counter(1).count)
    assert not same(Counter(1).count, Counter(2).count)
    assert not same(partial(Scaled.__call__, 1), partial(Counter.count, 1))
    table = xr.Dataset({"a": ("x", [1.0, 2.0])}, {"x": [3, 4]}, {"name": "t"})
    assert same(table, table.copy(deep=True))
    assert not same(table, table + 1)
    assert not same(table["a"], table["a"].assign_attrs(units="1"))
    assert not same({1, 2}, {1, 3})
    with pytest.raises(TypeError, match="expected something that can be pickled"):
        identity(i for i in range(3))


def test_a_verb_that_uses_another_value_is_another_sweep(tmp_path):
    n = 1

    def verb(chain):
        return xr.Dataset({"x": ((), n * chain.J)})

    chain = im.IsingChain(J=1.0)
    im.sweep(verb, chain, J=[1.0], path=tmp_path / "grid.nc")
    im.sweep(verb, chain, J=[1.0], path=tmp_path / "grid.nc")
    n = 2
    text = r"another sweep: the code of \S*\.verb, or a value that it uses, differs; say"
    with pytest.raises(FileExistsError, match=text):
        im.sweep(verb, chain, J=[1.0], path=tmp_path / "grid.nc")


def test_every_chain_that_a_function_makes_counts(tmp_path):
    asked = []

    def sweep(odd):
        def make(i):
            asked.append(i)
            return im.IsingChain(J=odd if i == 503 else i / 1000, n_sites=8)

        return im.sweep(of_chain, make, i=range(1000), path=tmp_path / "grid.nc", n_workers=1)

    sweep(0.1)
    assert asked == list(range(1000))
    sweep(0.1)
    with pytest.raises(FileExistsError, match="the chains of its points differ"):
        sweep(0.2)


def of_chain(chain):
    return xr.Dataset({"x": ((), chain.J)})
