"""The paths in a config. Nothing heavy is imported here."""

from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from lab.folder import expanded


def keep_root(cfg: DictConfig) -> None:
    """Make the data's root absolute, so that a run finds its data from wherever it is loaded."""
    root = OmegaConf.to_container(cfg.data, resolve=False).get("root")  # type: ignore[union-attr]
    if root and "${" not in root:  # a reference may be a secret
        cfg.data.root = str(expanded(cfg.data.root).absolute())
    elif root and not expanded(cfg.data.root).is_absolute():
        cfg.data.root = f"{Path.cwd()}/{root}"
