import traceback
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer

from lab.errors import UserError
from lab.folder import CONFIG


class Crash(Callback):
    """Writes what an error needs to be found into the run's `crash.txt`: where it happened, on what, and the config.

    What is the user's to mend is said in a line, and needs no such file.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self.where: tuple[int, Any] = (0, None)

    def on_train_batch_start(self, trainer: Trainer, task: LightningModule, batch: Any, batch_idx: int) -> None:
        self.where = batch_idx, batch["index"]

    def on_exception(self, trainer: Trainer, task: LightningModule, exception: BaseException) -> None:
        if isinstance(exception, (UserError, KeyboardInterrupt, SystemExit)):
            return
        batch_idx, index = self.where
        samples = [] if index is None else index.tolist()
        lines = [
            f"process {trainer.global_rank} of {trainer.world_size}, epoch {trainer.current_epoch}, batch {batch_idx},"
            f" step {trainer.global_step}",
            f"samples of the training split in the last batch: {samples}",
            "",
            "".join(traceback.format_exception(exception)),
            (self.folder / CONFIG).read_text(),
        ]
        rank = f"_{trainer.global_rank}" if trainer.global_rank else ""
        (self.folder / f"crash{rank}.txt").write_text("\n".join(lines))
