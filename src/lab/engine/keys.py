"""The keys of a command line's words. Nothing is imported here."""


def key_of(word: str) -> str:
    """The key that a word sets, adds (`+`) or takes away (`~`)."""
    return word.partition("=")[0].lstrip("+~")
