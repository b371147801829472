"""The settings that end a training, and whether a checkpoint has reached them. Nothing heavy is imported here."""

from datetime import timedelta
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from lab.engine.errors import UserError

ENDS = ("trainer.max_epochs", "trainer.max_steps", "trainer.max_time", "early_stopping")


def ends(cfg: DictConfig) -> dict[str, Any]:
    """The settings that end the training, by key. A finished run is trained further only if one of them changes."""
    values = OmegaConf.create({key: OmegaConf.select(cfg, key) for key in ENDS})
    content = OmegaConf.to_container(values, resolve=False)
    assert isinstance(content, dict)
    return {str(key): value for key, value in content.items()}


def check_limits(end: dict[str, Any], content: dict[str, Any], folder: Path) -> None:
    """Refuse limits that a checkpoint has passed already.

    Args:
        end: the settings; see `ends`.
        content: the content of the checkpoint.
        folder: the run's folder, for the message.

    Raises:
        UserError: a limit is smaller than what the checkpoint has trained.
    """
    in_epoch = content["loops"]["fit_loop"]["epoch_loop.batch_progress"]["current"]["completed"] > 0
    epochs = content["epoch"] + (in_epoch and not content["last"]["fitted"])
    for key, done in (("trainer.max_epochs", epochs), ("trainer.max_steps", content["global_step"])):
        if _limit(end[key]) < done:
            unit = key.rpartition("_")[2]
            raise UserError(
                f"error: {key}={end[key]}: {folder} has already trained {done} {unit}. Choose a larger number;"
                f" finetune={folder} starts a new run from its weights."
            )


def why_ended(end: dict[str, Any], content: dict[str, Any]) -> str | None:
    """The reason why a checkpoint is not trained further with these settings; None: it is."""
    last = content["last"]
    if not last["fitted"]:
        return None
    if key := _reached(end, content):
        return f"{key}={end[key]} is reached; a larger one trains further"
    old, new = last["end"]["early_stopping"], end["early_stopping"]
    if old is not None and _stopped_early(content):
        if new is None or new > old:
            return None
        return "it stopped early; a larger early_stopping, or null, trains further"
    elapsed = content["callbacks"].get("Timer", {}).get("time_elapsed", {}).get("train", 0.0)
    if elapsed >= _seconds(last["end"]["trainer.max_time"]):
        if elapsed < _seconds(end["trainer.max_time"]):
            return None
        return "it reached trainer.max_time; a larger one, or null, trains further"
    return None if _reached(last["end"], content) else "a callback stopped it"


def _reached(end: dict[str, Any], content: dict[str, Any]) -> str | None:
    """The key of the limit that a checkpoint has reached, or None."""
    for key, done in (("trainer.max_epochs", content["epoch"]), ("trainer.max_steps", content["global_step"])):
        if done >= _limit(end[key]):
            return key
    return None


def _limit(value: int | None) -> float:
    return float("inf") if value is None or value == -1 else value


def _stopped_early(content: dict[str, Any]) -> bool:
    states = (state for key, state in content["callbacks"].items() if key.partition("{")[0] == "ResumableEarlyStopping")
    return any(state["wait_count"] >= state["patience"] for state in states)


def _seconds(duration: Any) -> float:
    """The seconds that Lightning's Timer reads from `max_time`."""
    if duration is None:
        return float("inf")
    if isinstance(duration, str):
        duration = dict(zip(("days", "hours", "minutes", "seconds"), map(int, duration.split(":")), strict=True))
    return timedelta(**duration).total_seconds()
