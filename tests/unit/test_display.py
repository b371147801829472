"""Text from outside is shown without effect: on a terminal, in a spreadsheet, in an error's lines."""

import os
import subprocess

import pytest

from lab.engine import cli
from lab.engine.display import command, csv_cell, in_utf8, printable, say
from lab.engine.errors import UserError
from lab.engine.runs import summary


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain (1).png", "plain (1).png"),
        ("图片 josé 😀‍🔥", "图片 josé 😀‍🔥"),
        ("a\x1b[2Jb", "a\\x1b[2Jb"),
        ("two\nlines\r\n", "two\\nlines\\r\\n"),
        ("\x9b2J\x00\x7f", "\\x9b2J\\x00\\x7f"),
        ("gnp.\u202efdp", "gnp.\\u202efdp"),
        (b"caf\xe9".decode(errors="surrogateescape"), "caf\\xe9"),
        ("\ud83d", "\\ud83d"),
        ("a\u2028b", "a\\u2028b"),
    ],
)
def test_a_terminal_is_not_controlled_by_a_name(text, shown):
    assert printable(text) == shown
    assert str(UserError(f"error: {text}!")) == f"error: {shown}!"


def test_what_is_said_takes_a_line_each_and_controls_no_terminal(capsys):
    say("r\x1b[2J", "two\nlines", "\rover", "caf\udce9", 3, "")
    assert capsys.readouterr().out == "r\\x1b[2J\ntwo\\nlines\n\\rover\ncaf\\xe9\n3\n\n"


@pytest.mark.parametrize(
    "word",
    [
        "run=logs/a",
        "run=my run",
        "it's",
        "r\x1b[2J",
        "caf\udce9",
        "a\nb",
        r"back\slash",
        "\x85'\\\u202e é",
        "$(x)`y`\x01",
        "",
    ],
)
def test_a_command_is_to_be_pasted(word):
    line = command("printf", "%s", word)
    assert printable(line) == line
    assert subprocess.run(["bash", "-c", line], capture_output=True, check=True).stdout == os.fsencode(word)


def test_messages_of_a_run_control_no_terminal(capsys, tmp_path):
    folder = tmp_path / "r\x1b[2J"
    results = {"test": {"test/acc": 0.5}, "seconds": {"total": 1.0, "first_step": 0.5}}
    say(*summary.summary(results, folder), *summary.stopped(folder, 130))
    say(*summary.stopped(tmp_path / "a b", 130))
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert f"run          {tmp_path}/r\\x1b[2J\n" in out
    assert f"lab train $'run={tmp_path}/r\\x1b[2J'\n" in out
    assert f"lab train 'run={tmp_path}/a b'\n" in out


def test_a_traceback_controls_no_terminal(capsys):
    def crash():
        raise ValueError("logs/r\x1b[2J\nis odd")

    assert cli.exit_code(crash) == 1
    err = capsys.readouterr().err
    assert "logs/r\\x1b[2J\nis odd" in err
    assert "\x1b" not in err


def test_an_error_has_the_lines_that_it_was_given():
    assert str(UserError("error: a\nb", "  indented")) == "error: a\\nb\n  indented"


def test_an_error_of_a_worker_is_shown_without_its_traceback():
    message = (
        "Caught UserError in DataLoader worker process 0.\nTraceback: …\nlab.engine.errors.UserError: data: x is bad.\n"
    )
    assert str(UserError(message)) == "data: x is bad."


@pytest.mark.parametrize("text", ["=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\t=1", "\r=1"])
def test_a_cell_is_no_formula(text):
    assert csv_cell(text) == f"'{text}"


@pytest.mark.parametrize("text", ["-1.5", "+2", "dog", "a=b", "1e-4", ""])
def test_numbers_and_plain_cells_stay(text):
    assert csv_cell(text) == text


@pytest.mark.parametrize(
    ("name", "expected"), [("caf\udce9", "caf\\xe9"), ("café", "café"), ("a\nb", "a\nb"), ("\ud83d", "\\ud83d")]
)
def test_a_name_that_is_not_utf8_has_escapes(name, expected):
    assert in_utf8(name) == expected
