"""The paths in a config. Nothing heavy is imported here."""

from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from lab.engine.config_file import plain
from lab.engine.files import expanded

JUDGES = ("task.judge", "task.teacher")  # finished runs: see `lab.runs.judge`
KEPT = ("data.root", *JUDGES)  # read again when a run is resumed or loaded
PATHS = ("run", "log_dir", "finetune", "warm_start", "input", "output", "model", *KEPT)


def expand(cfg: DictConfig) -> None:
    """Have `~` at the start of each path of a config stand for the user's home; nothing else in it means anything.

    Raises:
        UserError: the user has no home.
    """
    for key in PATHS:
        parent, _, name = key.rpartition(".")
        node = OmegaConf.select(cfg, parent) if parent else cfg
        value = node._get_node(name) if isinstance(node, DictConfig) and name in node else None
        text = value._value() if value is not None else None
        if isinstance(text, str) and text.startswith("~"):
            node[name] = str(expanded(text))


def keep_root(cfg: DictConfig) -> None:
    """Make the data's root and the judges' folders absolute, so that a run finds them from wherever it is loaded."""
    for key, path in kept_paths(cfg).items():
        if "${" not in path:  # a reference may be a secret
            OmegaConf.update(cfg, key, str(expanded(path).absolute()))
        elif not expanded(OmegaConf.select(cfg, key)).is_absolute():
            OmegaConf.update(cfg, key, f"{Path.cwd()}/{path}")


def kept_paths(cfg: DictConfig) -> dict[str, str]:
    """The paths in a config that a run reads again, by key; references as they stand."""
    found = {}
    for key in KEPT:
        group, _, name = key.partition(".")
        node = cfg.get(group)
        path = plain(node).get(name) if isinstance(node, DictConfig) else None
        if path and isinstance(path, str):
            found[key] = path
    return found
