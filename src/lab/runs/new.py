"""The folder of a new run."""

from datetime import datetime
from pathlib import Path

from omegaconf import DictConfig

from lab.data.base import Data
from lab.engine.config.compose import choices, overrides
from lab.engine.config.user_paths import make_paths_absolute
from lab.engine.config_file import write_config
from lab.engine.errors import RunError, UserError
from lab.engine.files import write_json, write_text
from lab.engine.folder import DATA_REPORT, FACTS, STAMP
from lab.engine.runs.stamp import stamp
from lab.runs import judges


def new_folder(parent: Path) -> Path:
    """Make a folder in `parent`, named after the time. If the name is taken, _1, _2, … is added.

    Raises:
        UserError: `parent` cannot be made.
    """
    try:
        parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"error: {parent} cannot be made: {error.strerror}.") from error
    name = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    folder, number = parent / name, 0
    while True:
        try:
            folder.mkdir()
            return folder
        except FileExistsError:
            number += 1
            folder = parent / f"{name}_{number}"


def create_run(cfg: DictConfig, data: Data, folder: Path) -> None:
    """Write the facts of the data, the data report, the stamp and the config into the folder of a new run.

    Raises:
        RunError: the disk is full, or the folder is not writable.
    """
    cfg.run = None
    make_paths_absolute(cfg)
    try:
        write_json(folder / FACTS, data.facts.plain())
        write_text(folder / DATA_REPORT, data.report.full())
        fingerprints = {"data": data.facts.fingerprint, "judges": judges.fingerprints(cfg)}
        write_json(folder / STAMP, stamp(folder, overrides()) | {"choices": choices()} | fingerprints)
        write_config(folder, cfg)  # last: a folder with a config is a run
    except OSError as error:
        raise RunError(
            f"error: {folder} could not be written ({error.strerror}). Free some space, then repeat the command."
        ) from error
