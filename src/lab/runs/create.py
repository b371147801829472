"""The folder of a new run."""

from datetime import datetime
from pathlib import Path

from omegaconf import DictConfig

from lab.data.base import Data
from lab.engine.config.compose import overrides
from lab.engine.config.paths import keep_root
from lab.engine.errors import RunError, UserError
from lab.engine.folder import DATA_REPORT, FACTS, STAMP, write_config, write_json, write_text
from lab.engine.runs.stamp import stamp
from lab.runs import judges


def create(cfg: DictConfig, data: Data, folder: Path) -> None:
    """Make a folder a run's: what is known of its data, its stamp, and last its config.

    Raises:
        RunError: the disk is full, or the folder can't be written to.
    """
    cfg.run = None
    keep_root(cfg)
    try:
        write_json(folder / FACTS, data.facts.plain())
        write_text(folder / DATA_REPORT, data.report.full())
        inputs = {"data": data.facts.fingerprint, "judges": judges.fingerprints(cfg)}
        write_json(folder / STAMP, stamp(folder, overrides()) | inputs)
        write_config(folder, cfg)  # last: a folder that has it is a run
    except OSError as error:
        raise RunError(
            f"error: {folder} could not be written ({error.strerror}). Make room, and give the same command again."
        ) from error


def unused(parent: Path) -> Path:
    """A new folder in `parent`, named by the time, with _1, _2, … where that is taken.

    Raises:
        UserError: it can't be made.
    """
    try:
        parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"error: {parent} can't be made: {error.strerror}.") from error
    name = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    folder, n = parent / name, 0
    while True:
        try:
            folder.mkdir()
            return folder
        except FileExistsError:
            n += 1
            folder = parent / f"{name}_{n}"
