"""Values of environment variables that words or a config refer to, `${oc.env:NAME}`, are shown as the references."""

import os
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

REFERENCE = re.compile(r"\$\{\s*oc\.env:\s*([^,}\s]+)")
SHORTEST = 6  # characters; a shorter one, a number or a truth value would be found everywhere
FOLDERS = ("name", "log_dir", "run", "logger.name", "logger.version", "sweep.name")  # keys that become names of folders
_known: dict[str, str] = {}  # the reference to each value


def learn(words: Iterable[str]) -> None:
    """Remember the values of the variables that these words refer to."""
    for name in REFERENCE.findall("\n".join(words)):
        value = os.environ.get(name, "")
        if len(value) >= SHORTEST and not re.fullmatch(r"[\d.+\-e]+", value):
            _known[value] = f"${{oc.env:{name}}}"


def redacted(text: str) -> str:
    for value in sorted(_known, key=len, reverse=True):
        text = text.replace(value, _known[value])
    return text


class _Stream:
    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.write(redacted(text))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def kept(words: Iterable[str]) -> Iterator[None]:
    """While this lasts, nothing that is printed holds one of the values, nor one that a run's config refers to."""
    learn(words)
    streams = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = _Stream(sys.stdout), _Stream(sys.stderr)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = streams
