"""`crash.txt`: where a training failed."""

import traceback
from pathlib import Path

from lightning import Trainer

from lab.engine.files import read_text, write_text
from lab.engine.folder import CONFIG
from lab.engine.secrets import redacted


def report(folder: Path, trainer: Trainer, samples: list[int], exception: BaseException) -> None:
    """Write `crash.txt`: the step, the last samples, the traceback and the config of a failed training."""
    lines = [
        f"process {trainer.global_rank} of {trainer.world_size}, epoch {trainer.current_epoch},"
        f" batch {trainer.fit_loop.batch_idx}, step {trainer.global_step}",
        f"samples of the training split in the last batches: {samples}",
        "",
        "".join(traceback.format_exception(exception)),
        read_text(folder / CONFIG),
    ]
    rank = f"_{trainer.global_rank}" if trainer.global_rank else ""
    write_text(folder / f"crash{rank}.txt", redacted("\n".join(lines)))
