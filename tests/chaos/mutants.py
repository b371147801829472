"""`make mutants`: bugs that train without complaint are put into the code; the ordinary tests have to notice each.

    python tests/chaos/mutants.py [NAME ...]
    python tests/chaos/mutants.py --check     which mutants do not apply any more; runs no test

A mutant, of the table in mutants.txt, is a copy of the code with one replacement (see mutation.py). The test that
should notice it runs in a process forked from one that has imported everything but `lab`. `none`, the code as it is,
has to pass all those tests. The exit code is 0 only if it does, and every mutant is noticed.
"""

import gc
import importlib
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from mutation import ROOT, Mutant, check, mutate, table

IMPORTED = (  # what lab and its tests import, so that no fork has to
    "hydra", "lightning.pytorch.loggers", "pydantic", "sklearn.metrics", "torchmetrics.classification",
    "torchvision.transforms.v2", "tensorboard.backend.event_processing.event_accumulator",
)  # fmt: skip
NONE = "none"
AT_ONCE = 2
PATIENCE = 100  # seconds that the test of a mutant may take


def put_in(mutant: Mutant, folder: Path) -> None:
    """Copy the code to a folder, and put the mutant into it."""
    for name in ("src", "conf", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    if mutant.name != NONE:
        file, text = mutate(mutant)
        (folder / "src/lab" / file).write_text(text)


class FirstFailure:
    """A pytest plugin that writes down which test fails first, and on what."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def pytest_exception_interact(self, call: pytest.CallInfo[Any], report: pytest.TestReport) -> None:
        assert call.excinfo is not None
        self.path.write_text(f"{call.excinfo.typename} {report.nodeid.removeprefix('tests/')}")


def test(mutant: Mutant, folder: Path) -> None:
    """Run the mutant's tests; never returns."""
    code = 70
    try:
        signal.alarm(PATIENCE if mutant.name != NONE else 0)
        log = os.open(folder / "log", os.O_WRONLY | os.O_CREAT)
        os.dup2(log, 1), os.dup2(log, 2)
        os.chdir(folder)
        sys.path.insert(0, str(folder / "src"))
        os.environ["PYTHONPATH"] = sys.path[0]  # of processes that a test starts
        assert not [name for name in sys.modules if name.partition(".")[0] == "lab"], "lab is imported: the real one"
        import lab

        assert Path(lab.__file__).is_relative_to(folder), "another lab is imported"
        options = ["-x", "-p", "no:xdist", "-p", "no:cacheprovider", f"--basetemp={folder}/tmp"]
        options += ["-W", "ignore:Module already imported:pytest.PytestAssertRewriteWarning"]
        tests = [f"{folder}/tests/{name}" for name in mutant.tests]
        code = pytest.main([*options, *tests], [FirstFailure(folder / "first_failure")])
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush(), sys.stderr.flush()
        os._exit(code)


def verdict(mutant: Mutant, folder: Path, code: int) -> tuple[bool, str]:
    """Whether all is as it should be, and what to say of it."""
    path = folder / "first_failure"
    error, _, where = path.read_text().partition(" ") if path.exists() else ("", "", "")
    if mutant.name != NONE and error == "AssertionError":
        return True, f"noticed by {where}"
    if code == 0:
        return mutant.name == NONE, "passes" if mutant.name == NONE else "SURVIVES"
    # a mutant that breaks a test otherwise is not the quiet kind, or the test is broken
    return False, f"FAILS, exit code {code}, {error} {where}\n{(folder / 'log').read_text()[-2000:]}"


def run(mutants: Sequence[Mutant], folder: Path) -> Iterator[tuple[Mutant, bool, str]]:
    """Two mutants at a time; each with its verdict, as they end."""
    todo, running = list(enumerate(mutants)), dict[int, tuple[Mutant, Path]]()
    while todo or running:
        while todo and len(running) < AT_ONCE:
            number, mutant = todo.pop(0)
            put_in(mutant, own := folder / str(number))
            sys.stdout.flush()
            if (pid := os.fork()) == 0:
                test(mutant, own)
            running[pid] = mutant, own
        pid, status = os.wait()
        mutant, own = running.pop(pid)
        yield mutant, *verdict(mutant, own, os.waitstatus_to_exitcode(status))
        shutil.rmtree(own)


def main() -> None:
    start = time.monotonic()
    every = {mutant.name: mutant for mutant in table()}
    names = [name for name in sys.argv[1:] if name != "--check"] or list(every)
    mutants = [every[name] for name in names]
    if errors := list(filter(None, map(check, mutants))):
        sys.exit("\n\n".join([*errors, f"{len(errors)} of {len(mutants)} mutants do not apply: mend mutants.txt"]))
    if "--check" in sys.argv:
        sys.exit(0)
    os.environ["OMP_NUM_THREADS"] = "1"
    for name in IMPORTED:
        importlib.import_module(name)
    gc.freeze()  # pytest collects garbage a dozen times: not what every fork has from here
    width = max(map(len, every))
    clean = Mutant(NONE, "", tuple(dict.fromkeys(test for mutant in mutants for test in mutant.tests)))
    good = {}
    with tempfile.TemporaryDirectory(prefix="lab-mutants-") as folder:
        for mutant, sound, what in run([clean, *mutants], Path(folder).resolve()):
            good[mutant.name] = sound
            print(f"{mutant.name:<{width}}  {what}", flush=True)
    gc.unfreeze()  # else what was never collected is called a leak at exit
    passes = good.pop(NONE)
    print(f"{time.monotonic() - start:.0f} s")
    print(f"mutants: {sum(good.values())} of {len(good)} noticed{'' if passes else ', but the code as it is fails'}")
    sys.exit(not (passes and all(good.values())))


if __name__ == "__main__":
    main()
