"""The finished runs that teach or judge another run: where they are, and which weights they must have."""

from collections.abc import Iterator
from pathlib import Path

from omegaconf import DictConfig

from lab.engine.config.paths import JUDGES
from lab.engine.errors import UserError
from lab.engine.folder import BEST, STAMP, check_finished, expanded, read_json
from lab.engine.runs.checkpoints import damage, fingerprint

EXPECTED: dict[Path, str | None] = {}  # the fingerprints of judges that are made from now on; None: any
CHANGED = "this judge has other weights than when the run was started; a new run takes them"


def folders(cfg: DictConfig) -> dict[str, Path]:
    """The folders of a config's judges, by key."""
    named = {key: cfg.task.get(key.rpartition(".")[2]) for key in JUDGES}
    return {key: expanded(value).absolute() for key, value in named.items() if value and isinstance(value, str)}


def fingerprints(cfg: DictConfig) -> dict[str, str]:
    """The fingerprints of the judges' weights, by key, for a run's stamp."""
    return {key: fingerprint(folder / BEST) for key, folder in folders(cfg).items()}


def wrong_judges(cfg: DictConfig, run: Path | None = None) -> Iterator[str]:
    """A line for each judge that is no finished run, or not the one with which the run in a folder was started."""
    known = _stamped(run) if run else {}
    for key, folder in folders(cfg).items():
        try:
            check_finished(folder)
        except UserError as error:
            yield f"{key}: {str(error).removeprefix('error: ')}"
            continue
        if problem := damage(folder / BEST):
            yield f"{key}: {folder / BEST} {problem}"
        elif known.get(key, mark := fingerprint(folder / BEST)) != mark:
            yield f"{key}={folder}: {CHANGED}"


def expect(cfg: DictConfig, run: Path | None) -> None:
    """Have judges that are made from now on refuse weights other than those that a run was started with.

    Args:
        cfg: of the run.
        run: its folder. A run that begins, and has no stamp yet, expects the weights that there are now.
    """
    known = _stamped(run) if run else {}
    for key, folder in folders(cfg).items():
        EXPECTED[folder] = known.get(key) or (fingerprint(folder / BEST) if (folder / BEST).is_file() else None)


def _stamped(run: Path) -> dict[str, str]:
    known: dict[str, str] = read_json(run / STAMP)["judges"] if (run / STAMP).exists() else {}
    return known
