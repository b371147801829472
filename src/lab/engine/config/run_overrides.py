"""The overrides with which a run was started: `lab train run=FOLDER` resumes a run without repeating them."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from omegaconf import DictConfig

from lab.engine.config.allow import read_config
from lab.engine.config.user_paths import JUDGES, stored_paths
from lab.engine.config.words import override_word, value_of
from lab.engine.errors import fail
from lab.engine.files import expanded, read_json
from lab.engine.folder import CONFIG, STAMP, is_half_made, latest, refuse_links
from lab.engine.keys import key_of

NAMES_A_RUN = ("run", "finetune", "warm_start", *JUDGES)


def run_overrides(folder: Path, cfg: DictConfig) -> list[str]:
    """The overrides that give a run's config: those that it was started with, and those that changed it since.

    Args:
        folder: the run's folder.
        cfg: the config in it.

    Raises:
        UserError: the stamp is damaged.
    """
    stamp = read_json(folder / STAMP)
    changes = {key: value for resumed in stamp["resumed"] for key, value in resumed["changes"].items()}
    changes |= stored_paths(cfg)  # absolute: the working directory may differ; references stay references
    started = [word for word in stamp["overrides"] if not word.startswith("-")]  # no flag from an edited file
    kept = [word for word in started if key_of(word) not in ("run", *changes)]
    return [*kept, *(f"++{override_word(key, value)}" for key, value in changes.items())]


def add_run_overrides(arguments: Sequence[str]) -> list[str]:
    """Put the overrides of an existing run before the arguments of `lab train run=FOLDER …`, unless they set the same.

    Raises:
        UserError: the folder holds something other than a run.
    """
    keys = {key_of(argument): argument for argument in arguments if argument[:1] != "-"}
    run = value_of(keys.get("run", "run=null"))
    if not run:
        return list(arguments)
    folder = expanded(str(run))
    stored: list[str] = []
    if (folder / CONFIG).exists():
        refuse_links(folder, everywhere=True)
        words = run_overrides(folder, read_config(folder))
        stored = [word for word in words if not _is_set(key_of(word), map(key_of, arguments))]
    elif folder.exists() and not (folder.is_dir() and is_half_made(folder)):
        fail([f"run={folder}: the folder is not empty and holds no run; name a new folder"])
    return [*stored, *(word for word in arguments if key_of(word) != "run"), override_word("run", str(folder))]


def resolve_latest(arguments: Sequence[str]) -> list[str]:
    """Replace `latest` by the folder of the newest run, where a key names a run.

    Raises:
        UserError: there is no run.
    """
    log_dirs = [str(value_of(argument)) for argument in arguments if argument.startswith("log_dir=")]
    log_dir = expanded(log_dirs[-1] if log_dirs else "logs")
    named = [word for word in arguments if key_of(word) in NAMES_A_RUN and value_of(word) == "latest"]
    return [override_word(key_of(word), str(latest(log_dir))) if word in named else word for word in arguments]


def _is_set(key: str, keys: Iterable[str]) -> bool:
    """Return whether one of `keys` sets this key, or the mapping that the key is in."""
    return any(key == other or key.startswith(f"{other}.") for other in keys)
