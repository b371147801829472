"""Weights of another run, with which a new run starts."""

from pathlib import Path
from typing import Any

from lightning import LightningModule
from omegaconf import DictConfig

from lab.engine.display import command, say
from lab.engine.errors import fail
from lab.engine.folder import BEST
from lab.engine.runs import checkpoints


def start_from(cfg: DictConfig, task: LightningModule) -> None:
    """Give a new run's task the weights of another's (`finetune`), or its optimizer's state too (`warm_start`).

    For fine-tuning, weights whose shape differs, such as those of a head for other classes, stay as they are.

    Raises:
        UserError: nothing in the checkpoint fits.
    """
    key = "finetune" if cfg.finetune else "warm_start"
    source = cfg[key]
    if source is None:
        return
    if not str(source).startswith(("http://", "https://")) and not Path(source).exists():
        fail([f"{key}={source}: there is no such run or checkpoint."])
    path = Path(source) / BEST if Path(source).is_dir() else source
    checkpoint = checkpoints.read(path, sealed=False)
    weights, own = checkpoint.get("state_dict", {}), task.state_dict()
    fitting = {name: value for name, value in weights.items() if name in own and value.shape == own[name].shape}
    others = sorted(set(own) - set(fitting))
    if not fitting or (others and key == "warm_start"):
        fail([f"{key}={source}: the checkpoint does not fit this net: {', '.join(others[:3])} differ."])
    task.load_state_dict(fitting, strict=False)
    new = f"; new: {', '.join(others)}" if others else ""
    say(f"{len(fitting)} of {len(own)} tensors are loaded from {path}{new}")
    if key == "warm_start":
        task.optimizer_state = _optimizer_state(checkpoint, task, str(source))


def _optimizer_state(checkpoint: dict[str, Any], task: Any, source: str) -> Any:
    """The moments of an optimizer of the same kind; by its settings' names, for a checkpoint holds no class."""
    hint = f"{command(f'finetune={source}')} needs only the weights."
    if not (states := checkpoint.get("optimizer_states")):
        fail([f"warm_start={source}: it has no optimizer state. {hint}"])
    own, theirs = task.build_optimizer().state_dict(), states[0]
    if checkpoints.group_sizes(own) != checkpoints.group_sizes(theirs) or any(
        one.keys() - other.keys()  # a schedule adds some
        for one, other in zip(own["param_groups"], theirs["param_groups"], strict=True)
    ):
        fail([f"warm_start={source}: it was trained with another optimizer. {hint}"])
    return states[0]["state"]
