"""Text from outside the program, made safe to show. A file name, a class name or a cell may hold anything."""

import os
import re
import shlex
from typing import TextIO

# Control characters, line separators, controls of the writing direction, and halves of surrogate pairs
UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
FORMULA = re.compile(r"[=+\-@\t\r]")


def printable(value: object) -> str:
    r"""One line for a terminal: unsafe characters become escapes, such as \x1b, \n, or \xe9 for a byte not in UTF-8."""
    return UNSAFE.sub(_escape, str(value))


def printable_lines(text: str) -> str:
    """The same of a text of several lines, which stay."""
    return "\n".join(map(printable, text.split("\n")))


def say(*lines: object, end: str = "\n", file: TextIO | None = None) -> None:
    """Print these lines, each as `printable` makes it. All messages are printed by this function."""
    print(*map(printable, lines), sep="\n", end=end, file=file, flush=True)


def command(*words: str) -> str:
    r"""A command line for a shell; a word with unsafe characters in the notation $'\x1b', which a terminal shows."""
    return " ".join(map(_quoted, words))


def _quoted(word: str) -> str:
    if not UNSAFE.search(word):
        return shlex.quote(word)
    literal = word.replace("\\", r"\\").replace("'", r"\'")
    return f"$'{UNSAFE.sub(_bytes, literal)}'"


def _bytes(match: re.Match[str]) -> str:
    return "".join(f"\\x{byte:02x}" for byte in os.fsencode(match[0]))


def drawn(text: str) -> str:
    """A text as matplotlib shows it literally: it refuses surrogates, and takes what is between two $ for a formula."""
    return printable_lines(text).replace("$", r"\$")


def in_utf8(name: str) -> str:
    """The name; one that is not UTF-8, with escapes: TensorBoard, for one, takes no other."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return printable(name)
    return name


def csv_cell(text: str) -> str:
    """A cell that no spreadsheet runs as a formula: a text that begins like one gets a leading apostrophe."""
    if not FORMULA.match(text):
        return text
    try:
        float(text)
    except ValueError:
        return f"'{text}"
    return text


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    if 0xDC80 <= code <= 0xDCFF:  # how Python keeps a byte that is not UTF-8
        return f"\\x{code - 0xDC00:02x}"
    return match[0].encode("unicode_escape").decode()
