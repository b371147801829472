"""Messages of errors: one line that says what is wrong, what was expected and what to do."""


def one_line(error: object) -> bool:
    """Return whether an error is one line that begins with `error: `."""
    return str(error).startswith("error: ") and len(str(error).splitlines()) == 1
