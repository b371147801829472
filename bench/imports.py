"""The CPU-seconds that a program spends in imports.

`imports.py torch` imports a module; `imports.py lab train experiment=digits` runs a command of lab.
"""

import importlib._bootstrap as bootstrap
import sys
import time
from importlib import import_module


class Stopwatch:
    """Measures the imports of modules that are not imported yet; those inside others count once."""

    def __init__(self) -> None:
        self.seconds, self.depth, self.find_and_load = 0.0, 0, bootstrap._find_and_load
        bootstrap._find_and_load = self

    def __call__(self, *arguments):
        self.depth += 1
        start = time.process_time()
        try:
            return self.find_and_load(*arguments)
        finally:
            self.depth -= 1
            if not self.depth:
                self.seconds += time.process_time() - start


def main() -> None:
    stopwatch = Stopwatch()
    if sys.argv[1] == "lab":
        del sys.argv[0]
        import_module("lab.engine.cli").main()
    else:
        import_module(sys.argv[1])
    print(f"{stopwatch.seconds:.2f}")


if __name__ == "__main__":
    main()
