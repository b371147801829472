"""From the command line to a config. Nothing heavy is imported here."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from yaml import MarkedYAMLError

from lab.engine import secrets
from lab.engine.config import objects, packages, places, search_path
from lab.engine.config.paths import expand
from lab.engine.config.words import literals
from lab.engine.errors import UserError, fail
from lab.engine.folder import plain

objects.install()
secrets.install()

_PACKAGE = Path(__file__).parents[2]
CONF = _PACKAGE / "conf" if (_PACKAGE / "conf").is_dir() else _PACKAGE.parents[1] / "conf"  # a wheel's, or a checkout's


@contextmanager
def composing() -> Iterator[None]:
    """Have Hydra find lab's YAMLs, and those of installed packages.

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
        raise UserError(f"error: {place}: it is not YAML: {error.problem}.") from error


def conf_folders() -> list[Path]:
    """Where YAMLs are: lab's folder, then those of installed packages."""
    return [CONF, *packages.conf_folders()]


def compose_config(verb: str, overrides: Sequence[str]) -> DictConfig:
    """The config that `lab VERB OVERRIDES…` runs with."""
    with composing():
        cfg = hydra_compose(verb, literals(overrides), return_hydra_config=True)
        HydraConfig.instance().set_config(cfg)
    freeze(cfg)
    OmegaConf.set_struct(cfg, False)
    del cfg["hydra"]
    OmegaConf.set_struct(cfg, True)
    return cfg


def freeze(cfg: DictConfig) -> None:
    """Resolve the one key that only Hydra can, so that the config stands without it; and `~` in its paths.

    Raises:
        UserError: the name of a folder would show a variable's value.
    """
    if problems := list(places.from_environment(cfg)):
        fail(problems)
    if "name" in cfg:
        cfg.name = str(cfg.name)
    expand(cfg)


def overrides() -> list[str]:
    """What this job was given on the command line; its references to secrets are kept as references."""
    if not HydraConfig.initialized():
        return []
    return list(map(str, plain(HydraConfig.get().overrides)["task"]))
