"""Workarounds that apply while torch and Lightning are imported; this module imports neither."""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType


@contextmanager
def skip_scipy_signal() -> Iterator[None]:
    """Import torchmetrics without `scipy.signal`, and other modules without garbage collection.

    torchmetrics imports all of `scipy.signal` to patch `scipy.signal.hamming` for one metric. An empty module takes
    its place for the duration of that import. No module that is being imported is garbage.

    Saves 2.8 of 6.1 CPU-seconds of `import lab.train`: 1.8 by the empty module, 1.0 by the collector
    (torchmetrics 1.9.0, SciPy 1.17.1, Python 3.11).
    """
    gc.disable()
    try:
        empty = ModuleType("scipy.signal")
        vars(empty)["hamming"] = None
        if "torchmetrics" not in sys.modules and sys.modules.setdefault("scipy.signal", empty) is empty:
            import torchmetrics  # noqa: F401

            del sys.modules["scipy.signal"]
        yield
    finally:
        gc.enable()
