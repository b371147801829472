"""Secrets: the value of an environment variable that a config refers to is printed as its reference, `${oc.env:NAME}`.

A value is remembered when OmegaConf resolves the reference, however the reference is spelled. It is recognised in the
forms that it takes in paths, messages and files. Values of 4 or 5 characters, and numbers of 6 digits or more, are
recognised as whole words. Shorter values are not secrets: a seed or a truth value would be found everywhere.
"""

import html
import json
import os
import re
import shlex
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

from lab.engine.display import printable

SHORTEST, WORD = 6, 4  # characters of a value that is also found inside words, or only as a whole word
NUMBER = re.compile(r"[\d.+\-eE_]+")
_known: dict[str, str] = {}  # value, in each of its forms -> reference
_resolved: list[str] = []  # the names of the variables, in the order in which they were resolved


def install() -> None:
    """Make OmegaConf's resolver `oc.env` remember each value that it resolves."""
    from omegaconf import OmegaConf
    from omegaconf.resolvers import oc

    def env(key: str, *default: Any) -> str | None:
        value = oc.env(key, *default)
        if key in os.environ:
            _resolved.append(key)
            remember(os.environ[key], f"${{oc.env:{key}}}")
        return value

    OmegaConf.register_new_resolver("oc.env", env, replace=True)  # noqa: TID251 the known one, watched


def learn(values: Iterable[Any]) -> None:
    """Remember the values of the variables to which these settings refer."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    for value in values:
        with suppress(OmegaConfBaseException):
            OmegaConf.to_container(OmegaConf.create({"value": value}), resolve=True)


def remember(value: str, reference: str) -> None:
    """Recognise a value from now on, in all its forms, and print the reference instead."""
    if _known.get(value) == reference or len(value) < WORD or (NUMBER.fullmatch(value) and len(value) < SHORTEST):
        return
    paths = {value}
    if "/" in value:
        home = os.path.expanduser(value)
        paths |= {str(Path(value)), os.path.normpath(value), home, os.path.normpath(home), os.path.abspath(home)}
    lines = {line for line in value.splitlines() if not NUMBER.fullmatch(line)}
    forms = {form for text in paths | lines | {" ".join(value.split())} for form in _forms(text)}
    _known.update((form, reference) for form in forms if len(form) >= SHORTEST)
    _known[value] = reference


def _forms(text: str) -> Iterator[str]:
    """Yield a text as it is, and as messages, shells and files quote it."""
    yield from (text, printable(text), repr(text)[1:-1], json.dumps(text)[1:-1], html.escape(text), quote(text))
    yield from (json.dumps(text, ensure_ascii=False)[1:-1], shlex.quote(text), text.replace('"', '""'))
    yield from (text.replace("'", "''"), text.replace("\\", "\\\\").replace("'", "\\'"))


def redacted(text: str) -> str:
    """Replace every known value in a text by its reference."""
    return _pattern(tuple(_known)).sub(lambda match: _known[match[0]], text) if _known else text


@cache
def _pattern(forms: tuple[str, ...]) -> re.Pattern[str]:
    def one(form: str) -> str:
        whole = len(form) < SHORTEST or NUMBER.fullmatch(form)
        return rf"(?<![\w.]){re.escape(form)}(?!\w)" if whole else re.escape(form)

    return re.compile("|".join(map(one, sorted(forms, key=len, reverse=True))))


class _Stream:
    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.write(redacted(text))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def redact_output() -> Iterator[None]:
    """Redact everything that is printed inside this context."""
    streams = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = _Stream(sys.stdout), _Stream(sys.stderr)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = streams


@contextmanager
def watched() -> Iterator[list[str]]:
    """Yield a list. At the end of the context it holds the names of the variables that were resolved meanwhile."""
    names: list[str] = []
    before = len(_resolved)
    try:
        yield names
    finally:
        names += _resolved[before:]
        del _resolved[before:]
