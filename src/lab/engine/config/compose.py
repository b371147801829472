"""Compose a config from conf/ and overrides. Imports nothing heavy."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from yaml import MarkedYAMLError

from lab.engine import secrets
from lab.engine.config import objects, output_paths, packages, search_path
from lab.engine.config.user_paths import expand_home
from lab.engine.config.words import literals
from lab.engine.config_file import plain
from lab.engine.errors import UserError, fail

objects.install()
secrets.install()

_PACKAGE = Path(__file__).parents[2]
CONF = _PACKAGE / "conf" if (_PACKAGE / "conf").is_dir() else _PACKAGE.parents[1] / "conf"  # wheel, or checkout


@contextmanager
def composing() -> Iterator[None]:
    """Let Hydra find the YAMLs of the project, of installed packages and of lab.

    Raises:
        UserError: a file is not YAML.
    """
    search_path.install()
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            yield
    except MarkedYAMLError as error:
        mark = error.problem_mark
        place = f"{mark.name}, line {mark.line + 1}, column {mark.column + 1}" if mark else "a config"
        raise UserError(f"error: {place}: invalid YAML: {error.problem}.") from error


def conf_folders() -> list[Path]:
    """The folders of YAMLs: the project's, those of installed packages, lab's."""
    return [*packages.added_conf_folders(), CONF]


def compose_config(config: str, overrides: Sequence[str]) -> DictConfig:
    """The config of conf/CONFIG.yaml, such as `train`, with these overrides."""
    with composing():
        cfg = hydra_compose(config, literals(overrides), return_hydra_config=True)
        HydraConfig.instance().set_config(cfg)
    freeze(cfg)
    OmegaConf.set_struct(cfg, False)
    del cfg["hydra"]
    OmegaConf.set_struct(cfg, True)
    return cfg


def compose_inside_job(config: str, overrides: Sequence[str]) -> DictConfig:
    """`compose_config` for another config than the job's; `overrides` and Hydra's state stay those of the job."""
    before = HydraConfig.instance().cfg, GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        return compose_config(config, overrides)
    finally:
        HydraConfig.instance().cfg, GlobalHydra.instance().hydra = before


def freeze(cfg: DictConfig) -> None:
    """Resolve the name, which refers to Hydra, and `~` in the paths of a config; it then needs Hydra no longer.

    Raises:
        UserError: the name of a folder would show the value of an environment variable.
    """
    if problems := list(output_paths.from_environment(cfg)):
        fail(problems)
    if "name" in cfg:
        cfg.name = str(cfg.name)
    expand_home(cfg)


def choices() -> dict[str, Any]:
    """The option of each config group that this job has chosen, by default or by an override."""
    if not HydraConfig.initialized():
        return {}
    return {group: option for group, option in plain(HydraConfig.get().runtime.choices).items() if group[:5] != "hydra"}


def overrides() -> list[str]:
    """The overrides of this job's command line; references to secrets stay references."""
    if not HydraConfig.initialized():
        return []
    return list(map(str, plain(HydraConfig.get().overrides)["task"]))
