from pathlib import Path
from typing import Any

from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from lab.engine.folder import BEST


class BestCheckpoint(ModelCheckpoint):
    """Keeps `best.ckpt`, the weights with the best value of the monitored metric.

    Its state is only that value. The state of Lightning's `ModelCheckpoint` also holds paths of files that it deletes,
    which may come from another machine or another person. Here all paths follow from the run's current folder.

    Args:
        folder: of the run.
        metric: the monitored one.
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
