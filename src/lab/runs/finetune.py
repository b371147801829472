"""The initial weights of a new run that come from another run: `finetune` and `warm_start`."""

from pathlib import Path
from typing import Any

from lightning import LightningModule
from omegaconf import DictConfig

from lab.engine.display import command, say
from lab.engine.errors import fail
from lab.engine.folder import BEST
from lab.engine.runs import checkpoints


def load_pretrained(cfg: DictConfig, task: LightningModule) -> None:
    """Load the weights of another run (`finetune`), and with `warm_start` also the state of its optimizer.

    `finetune` skips weights whose shape differs, such as those of a head for other classes. `warm_start` needs all.

    Raises:
        UserError: the checkpoint is missing or does not fit the task.
    """
    key = "finetune" if cfg.finetune else "warm_start"
    source = cfg[key]
    if source is None:
        return
    if not str(source).startswith(("http://", "https://")) and not Path(source).exists():
        fail([f"{key}={source}: there is no such run or checkpoint"])
    path = Path(source) / BEST if Path(source).is_dir() else source
    checkpoint = checkpoints.read(path, sealed=False)
    loaded, current = checkpoint.get("state_dict", {}), task.state_dict()
    fitting = {name: value for name, value in loaded.items() if name in current and value.shape == current[name].shape}
    others = sorted(set(current) - set(fitting))
    if not fitting or (others and key == "warm_start"):
        fail([f"{key}={source}: the checkpoint does not fit this net: {', '.join(others[:3])} differ."])
    task.load_state_dict(fitting, strict=False)
    new = f"; newly initialized: {', '.join(others)}" if others else ""
    say(f"{len(fitting)} of {len(current)} tensors are loaded from {path}{new}")
    if key == "warm_start":
        task.optimizer_state = _optimizer_state(checkpoint, task, str(source))


def _optimizer_state(checkpoint: dict[str, Any], task: Any, source: str) -> Any:
    """The state of the optimizer in a checkpoint.

    A checkpoint does not name the optimizer's class. The class is taken for the same if its settings have the same
    names.
    """
    hint = f"{command(f'finetune={source}')} needs only the weights."
    if not (states := checkpoint.get("optimizer_states")):
        fail([f"warm_start={source}: the checkpoint has no optimizer state. {hint}"])
    new, old = task.build_optimizer().state_dict(), states[0]
    if checkpoints.group_sizes(new) != checkpoints.group_sizes(old) or any(
        new_group.keys() - old_group.keys()  # a schedule adds settings to the old group
        for new_group, old_group in zip(new["param_groups"], old["param_groups"], strict=True)
    ):
        fail([f"warm_start={source}: the checkpoint is of another optimizer. {hint}"])
    return old["state"]
