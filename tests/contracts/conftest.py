import os
from pathlib import Path

import forked
import pytest
from conftest import LAB

FORK = Path(__file__).parent / "fork"


@pytest.fixture(scope="session")
def lab_in():
    """The `lab` command in a folder, with the packages that are installed there, and the proofs."""

    def lab_in(folder: Path, *words: str, env=None):
        path = os.pathsep.join(map(str, (FORK, folder)))
        return forked.run([str(LAB), *words], folder, {**os.environ, **(env or {}), "PYTHONPATH": path}, timeout=300)

    return lab_in
