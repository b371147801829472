"""The paths that a user names in a config: input, output and the folders of runs."""

from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from lab.engine.files import expanded

JUDGES = ("task.judge", "task.teacher")  # finished runs: see `lab.runs.judges`
STORED = ("data.root", *JUDGES)  # read again when a run is resumed or loaded
PATHS = ("run", "log_dir", "finetune", "warm_start", "input", "output", "model", *STORED)


def expand_home(cfg: DictConfig) -> None:
    """Replace `~` at the start of each path by the user's home folder.

    Raises:
        UserError: the user has no home folder.
    """
    for key in PATHS:
        parent, _, name = key.rpartition(".")
        node = OmegaConf.select(cfg, parent) if parent else cfg
        value = node._get_node(name) if isinstance(node, DictConfig) and name in node else None
        text = value._value() if value is not None else None
        if isinstance(text, str) and text.startswith("~"):
            node[name] = str(expanded(text))


def make_paths_absolute(cfg: DictConfig) -> None:
    """Make the stored paths absolute, so that the run can be loaded from any working directory."""
    for key, path in stored_paths(cfg).items():
        if "${" not in path:  # a reference may be a secret: it stays a reference
            OmegaConf.update(cfg, key, str(expanded(path).absolute()))
        elif not expanded(OmegaConf.select(cfg, key)).is_absolute():
            OmegaConf.update(cfg, key, f"{Path.cwd()}/{path}")


def stored_paths(cfg: DictConfig) -> dict[str, str]:
    """The paths in a config that are read again from its run, by key; references stay references."""
    found = {}
    for key in STORED:
        group, _, name = key.partition(".")
        node = cfg.get(group)
        value = node._get_node(name) if isinstance(node, DictConfig) and name in node else None
        path = value._value() if value is not None else None
        if path and isinstance(path, str):
            found[key] = path
    return found
