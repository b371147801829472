"""Printing text safely: file names, class names and cells of tables may contain control characters."""

import os
import re
import shlex
from typing import TextIO

# Control characters, line separators, bidirectional controls, and unpaired surrogates
UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
FORMULA = re.compile(r"[=+\-@\t\r]")


def printable(value: object) -> str:
    r"""One line for a terminal. Unsafe characters become escapes, such as \x1b; \xe9 stands for a byte not in UTF-8."""
    return UNSAFE.sub(_escape, str(value))


def printable_lines(text: str) -> str:
    """`printable` for each line of a text."""
    return "\n".join(map(printable, text.split("\n")))


def say(*lines: object, end: str = "\n", file: TextIO | None = None) -> None:
    """Print lines, each made `printable`. Every message of lab is printed by this function."""
    print(*map(printable, lines), sep="\n", end=end, file=file, flush=True)


def counted(number: int, noun: str) -> str:
    """A number and its noun, such as 1 run or 2 runs."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def command(*words: str) -> str:
    r"""A command line that can be pasted into a shell. Words with unsafe characters are written as $'\x1b'."""
    return " ".join(map(_quoted, words))


def _quoted(word: str) -> str:
    if not UNSAFE.search(word):
        return shlex.quote(word)
    literal = word.replace("\\", r"\\").replace("'", r"\'")
    return f"$'{UNSAFE.sub(_bytes, literal)}'"


def _bytes(match: re.Match[str]) -> str:
    return "".join(f"\\x{byte:02x}" for byte in os.fsencode(match[0]))


def drawn(text: str) -> str:
    """A text that matplotlib draws literally. It would refuse surrogates, and draw text between two $ as a formula."""
    return printable_lines(text).replace("$", r"\$")


def in_utf8(name: str) -> str:
    """A name that is valid UTF-8: bytes that are not become escapes. TensorBoard, for one, requires this."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return printable(name)
    return name


def csv_cell(text: str) -> str:
    """A cell that no spreadsheet runs as a formula. Text that starts like a formula gets a leading apostrophe."""
    if not FORMULA.match(text):
        return text
    try:
        float(text)
    except ValueError:
        return f"'{text}"
    return text


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    if 0xDC80 <= code <= 0xDCFF:  # Python's surrogate for a byte that is not UTF-8
        return f"\\x{code - 0xDC00:02x}"
    return match[0].encode("unicode_escape").decode()
