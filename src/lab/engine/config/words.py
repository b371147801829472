"""The words of a command line, `key=value`. Hydra parses values; paths and names are taken as they are typed."""

import re
from collections.abc import Sequence
from functools import cache
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString
from hydra.errors import HydraException

from lab.engine.config.user_paths import JUDGES
from lab.engine.keys import key_of

# Keys whose value is a path or a name, never a list or a dictionary
TEXTS = (
    "run", "model", "input", "output", "log_dir", "name", "finetune", "warm_start", "sweep.name", "logger.name",
    "data.root", "data.group", "data.text", "data.label", "data.split", "data.tokenizer", "data.source", "data.target",
    *JUDGES,
)  # fmt: skip
# The name or the number of a column
NUMBERS_TOO = ("data.source", "data.target", "data.text", "data.label", "data.split", "data.group")
ELEMENT = re.compile(r"""(?:'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*"|[^,])+""", re.DOTALL)  # up to an unquoted comma


def quoted(text: str) -> str:
    """The text, quoted so that Hydra parses it as exactly this text."""
    return QuotedString(text, Quote.single).with_quotes()


def literal(word: str, multirun: bool = False) -> str:
    """Quote the value of a word if its key takes a text that Hydra would parse as something else.

    Quoted values, `null` and references stay as they are. In a sweep, a comma separates values.
    """
    key, equals, text = word.partition("=")
    if not equals or key_of(word) not in TEXTS or (key_of(word) in NUMBERS_TOO and text.isdecimal()):
        return word
    if not multirun:
        return f"{key}={_literal(text)}"
    override = _parsed(text)
    if override is not None and override.is_sweep_override() and not getattr(override.value(), "simple_form", False):
        return word  # choice(...), glob(...)
    return f"{key}={','.join(_literal(element, True) for element in ELEMENT.findall(text)) if text else ''}"


def literals(words: Sequence[str], multirun: bool = False) -> list[str]:
    return [literal(word, multirun) for word in words]


def value_of(word: str) -> Any:
    """The value of a word, as Hydra parses it."""
    override = _parsed(literal(word).partition("=")[2])
    return override.value() if override is not None else word.partition("=")[2]


def override_word(key: str, value: Any) -> str:
    """The word that sets a key to a value."""
    return f"{key}={Override._get_value_element_as_str(_element(value))}"


def _element(value: Any) -> Any:
    if isinstance(value, str):
        override = _parsed(value)
        plain = override is not None and override._value == value and value != ""
        return _Plain(value) if plain else QuotedString(value, Quote.single)
    if isinstance(value, dict):
        return {key: _element(child) for key, child in value.items()}
    return [_element(child) for child in value] if isinstance(value, list) else value


class _Plain(QuotedString):
    """A text that is written without quotes."""

    def __init__(self, text: str) -> None:
        super().__init__(text, Quote.single)

    def with_quotes(self) -> str:
        return self.text


def _literal(text: str, multirun: bool = False) -> str:
    override = _parsed(text)
    if override is not None:
        value: Any = override._value
        same = isinstance(value, str) and value == text
        plain = same and text == Override._get_value_element_as_str(value)  # a sweep escapes others
        plain |= same and not multirun and "${" in text
        if value is None or isinstance(value, QuotedString) or plain:
            return text
    return quoted(text)


@cache
def _parsed(text: str) -> Override | None:
    """The override `x=TEXT`, or None if Hydra cannot parse it."""
    try:
        return OverridesParser.create().parse_override(f"x={text}")
    except HydraException:
        return None
