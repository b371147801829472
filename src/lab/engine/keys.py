"""The keys of overrides on the command line. Nothing is imported here."""


def key_of(word: str) -> str:
    """The key that an override sets, adds (`+`) or removes (`~`)."""
    return word.partition("=")[0].lstrip("+~")
