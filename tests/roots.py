"""The data of an experiment in files that a test has written."""

from pathlib import Path

from lab.build import read_data
from lab.data.base import Data
from lab.testing.base import compose


def read_root(experiment: str, root: str | Path, *words: str) -> Data:
    """Read `data.root`. The rest of the config is composed once for all tests, which takes most of the time."""
    cfg = compose(f"experiment={experiment}", *words)
    cfg.data.root = str(root)
    return read_data(cfg)
