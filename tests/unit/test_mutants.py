"""Every bug that `make mutants` puts into the code still applies, and a row that does not says why."""

import sys
from pathlib import Path
from types import ModuleType

import pytest

ONE = """
class Net:
    def step(self, x):
        # why
        y = self.f(x, 1,
            key=2, other=3)
        for value in y:
            x += value
        return f'{x} {y}'

def twice(x):
    return x + x
"""
TWO = """
LIMIT = 3

class Other:
    def step(self):
        return 4

def twice():
    pass
"""


@pytest.fixture
def mutation(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "chaos")
    monkeypatch.delitem(sys.modules, "mutation", raising=False)
    import mutation

    return mutation


@pytest.fixture
def code(mutation: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    (tmp_path / "nets").mkdir()
    (tmp_path / "nets/one.py").write_text(ONE)
    (tmp_path / "two.py").write_text(TWO)
    monkeypatch.setattr(mutation, "CODE", tmp_path)
    return mutation


def test_every_mutant_applies(mutation: ModuleType) -> None:
    assert not list(filter(None, map(mutation.check, mutation.table())))


@pytest.mark.parametrize(
    ("definition", "old", "new", "changed"),
    [
        ("Net.step", "self.f( x, ... )", "self.f(0, ...)", "y = self.f(0, 1, key=2, other=3)"),
        ("Net.step", "self.f(..., other=3)", "self.f(..., other=0)", "y = self.f(x, 1, other=0, key=2)"),
        ("Net.step", "for value in ...: ...", "x = 0\nfor value in ...: ...", "x = 0\n        for value in y:"),
        ("Net.step", 'f"{x} {...}"', "f'{...}'", "return f'{y}'"),
        ("Net.step", "y = ...", "", "pass\n        for value"),
        ("one.Net", "", "def more(self): pass", "def more(self):\n        pass"),
        ("nets.one.twice", "x + x", "x", "return x"),
        ("LIMIT", "3", "4", "LIMIT = 4"),
    ],
)
def test_code_is_found_by_its_tree(code: ModuleType, definition: str, old: str, new: str, changed: str) -> None:
    _, text = code.mutate(code.Mutant("a bug", definition, (), old, new))
    assert changed in text
    assert changed not in code.mutate(code.Mutant("another", "Other.step", (), "4", "5"))[1], (
        "it stays for the next one"
    )
    assert code.mutate(code.Mutant("a bug", definition, (), old, new))[1] == text


@pytest.mark.parametrize(
    ("definition", "old", "error"),
    [
        ("Net.stop", "x", "no such definition; near: lab.nets.one.Net.step"),
        ("Nets.step", "x", "near: lab.nets.one.Net.step, lab.two.Other.step"),
        ("twice", "x", "several: lab.nets.one.twice, lab.two.twice; put the module before it"),
        ("one.twice", "x", "it has this 2 times, not once:\nx"),
        ("Net.step", "self.f(x, 2)", "nearest:\nself.f(x, 1, key=2, other=3)"),
        ("Net.step", "return 4", "but there is one in lab.two.Other.step"),
        ("Net.step", "x +", "invalid syntax"),
    ],
)
def test_a_row_that_does_not_apply_says_what_is_there(code: ModuleType, definition: str, old: str, error: str) -> None:
    message = code.check(code.Mutant("a bug", definition, (), old, "0"))
    assert message.startswith(f"a bug | {definition}: ")
    assert error in message
    assert code.check(code.Mutant("a bug", "LIMIT", ("unit/test_mutants.py::test_gone",), "3", "4")).endswith(
        "test_gone"
    )
