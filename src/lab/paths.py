"""The paths in a config. Nothing heavy is imported here."""

from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from lab.folder import expanded, plain

PATHS = ("run", "log_dir", "finetune", "warm_start", "input", "output", "model", "data.root")


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
    """Make the data's root absolute, so that a run finds its data from wherever it is loaded."""
    root = plain(cfg.data).get("root")
    if root and "${" not in root:  # a reference may be a secret
        cfg.data.root = str(expanded(cfg.data.root).absolute())
    elif root and not expanded(cfg.data.root).is_absolute():
        cfg.data.root = f"{Path.cwd()}/{root}"
