import os
from pathlib import Path, PurePath
from typing import Any

from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from lab.engine.folder import BEST


class BestCheckpoint(ModelCheckpoint):
    """Keeps `best.ckpt`, the weights with the best value of the monitored metric.

    Its state is that value alone. Lightning's also names files, which it removes: paths that another machine wrote, or
    somebody else. All paths here follow from the folder that the run has now.

    Args:
        folder: the run's.
        metric: what is monitored.
        mode: "min" or "max".
    """

    def __init__(self, folder: Path, metric: str, mode: str) -> None:
        self.folder = folder
        super().__init__(folder, Path(BEST).stem, monitor=metric, mode=mode, enable_version_counter=False)

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best_model_score}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        score, path = state_dict.get("best"), Path(str(self.dirpath)) / BEST
        if isinstance(score, Tensor) and path.is_file():
            self.best_model_score = self.kth_value = score
            self.best_model_path = self.kth_best_model_path = str(path)
            self.best_k_models = {str(path): score}


def confine_checkpoints(callback: ModelCheckpoint, folder: Path) -> None:
    """Have a `ModelCheckpoint` of a config write to `folder`; its state may name files there alone, wherever it was."""
    callback.dirpath = str(folder)
    load = callback.load_state_dict

    def load_state_dict(state: dict[str, Any]) -> None:
        def here(path: Any) -> str:  # a metric's name has a slash, and so may the file's have folders
            own = PurePath(os.path.relpath(str(path), str(state["dirpath"]) or "/") if path else "")
            return str(folder / own) if own.suffix == ".ckpt" and ".." not in own.parts else ""

        best = {here(path): score for path, score in dict(state["best_k_models"]).items() if here(path)}
        paths = {key: here(state[key]) for key in ("best_model_path", "kth_best_model_path", "last_model_path")}
        load(state | paths | {"dirpath": str(folder), "best_k_models": best})

    callback.load_state_dict = load_state_dict  # type: ignore[method-assign,assignment]
