"""`config.yaml` of a run: read safely, written, and as plain values. Nothing heavy is imported here."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lab.engine import secrets
from lab.engine.errors import UserError
from lab.engine.files import check_keys, read_text, write_text
from lab.engine.folder import CONFIG

GROUPS = ("trainer", "data", "net", "task", "optimizer", "scheduler", "logger")  # that every config has
MAX_DEPTH = 50  # of nested mappings and lists
MAX_EVENTS, MAX_REFERENCES = 10_000, 100  # OmegaConf takes 0.1 ms for each
SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")  # the YAML escape of a byte of a path that is not UTF-8


def read_unchecked_config(folder: Path) -> Any:
    """The config of a run, which may still name any class: `lab.engine.config.allow.read_config` checks this.

    Raises:
        UserError: the file is missing or damaged, or would take very long to read.
    """
    import yaml
    from omegaconf import DictConfig, OmegaConf
    from omegaconf.errors import GrammarParseError, OmegaConfBaseException
    from omegaconf.grammar_parser import parse

    path = folder / CONFIG
    text = read_text(path)
    secrets.install()
    unreadable = (ValueError, TypeError, RecursionError, yaml.YAMLError, GrammarParseError, OmegaConfBaseException)
    fast = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml refuses surrogates
    try:
        _check_size(yaml.parse(text, Loader=yaml.SafeLoader if SURROGATE.search(text) else fast))
        if text.count("${") > MAX_REFERENCES:
            raise ValueError("it has too many references")
        cfg = OmegaConf.create(text)
        for line in text.splitlines():
            if "${" in line:
                parse(line)  # a truncated reference is still valid YAML
    except unreadable as error:
        raise UserError(f"error: {path} is damaged: {' '.join(str(error).split())}.") from error
    if not isinstance(cfg, DictConfig):
        raise UserError(f"error: {path} is damaged: it is not a mapping.")
    for group in GROUPS:
        if group in cfg and not isinstance(cfg._get_node(group), DictConfig):
            raise UserError(f"error: {path} is damaged: {group} is not a mapping.")
    check_keys(path, cfg, GROUPS)
    return cfg


def _check_size(events: Iterator[Any]) -> None:
    """Refuse YAML that would take gigabytes or minutes to build. The events are counted before anything is built.

    Raises:
        ValueError: it has aliases or too many entries, or is nested too deeply.
    """
    import yaml

    depth = 0
    for number, event in enumerate(events):
        if number > MAX_EVENTS:
            raise ValueError("it has too many entries")
        if number == 2 and not isinstance(event, yaml.MappingStartEvent):  # after the stream's and the document's start
            raise ValueError("it is not a mapping")
        if isinstance(event, yaml.AliasEvent):
            raise ValueError("it has aliases, which lab never writes")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise ValueError("it is nested too deeply")


def write_config(folder: Path, cfg: Any) -> None:
    from omegaconf import OmegaConf

    write_text(folder / CONFIG, OmegaConf.to_yaml(cfg))


def plain(cfg: Any) -> dict[str, Any]:
    """A config as a dictionary. References are not resolved."""
    from omegaconf import OmegaConf

    content = OmegaConf.to_container(cfg, resolve=False)
    assert isinstance(content, dict)
    return {str(key): value for key, value in content.items()}


def by_dotted_key(cfg: Any) -> dict[str, Any]:
    """The values of a config by dotted key. References are not resolved."""
    from omegaconf import OmegaConf

    def walk(key: str, value: Any) -> Iterator[tuple[str, Any]]:
        if isinstance(value, dict) and value:
            for name, child in value.items():
                yield from walk(f"{key}.{name}" if key else str(name), child)
        else:
            yield key, value

    return dict(walk("", OmegaConf.to_container(cfg, resolve=False)))
