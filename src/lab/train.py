"""The map: from a config to a trained and tested run, in the order in which it happens."""

import lightning as L
from omegaconf import DictConfig

from lab.build import build_task, build_trainer, read_data
from lab.data.base import Data
from lab.engine.launch.processes import processes
from lab.engine.launch.signals import stop_request
from lab.runs.open import Run, join_run, open_run
from lab.runs.results import print_summary, recorded, test_best_weights
from lab.tasks.base import Task


@stop_request.handle_signals()
def main(cfg: DictConfig) -> float:
    """`lab train`: train a new run, or resume one. Return its best value of `monitor.metric`, for a sweep."""
    with open_run(cfg) as run:
        return train(run) if run.best is None else run.best


@stop_request.handle_signals()
def join(folder: str) -> float:
    """`lab rank FOLDER`: train as one more process of the run in a folder."""
    return train(join_run(folder))


def train(run: Run) -> float:
    """Train and test, and write everything into the run's folder."""
    data, task = prepare(run)
    folder = run.begin(data, task)  # locked; made, or the checkpoint to resume from is found
    trainer = build_trainer(run.cfg, folder, run.step)  # callbacks, loggers, accelerator
    with recorded(folder, trainer, task, run.step) as results, processes(trainer, "rank", str(folder)):
        trainer.fit(task, data, ckpt_path=run.checkpoint, weights_only=True)
        best = test_best_weights(trainer, task, data, results)
    print_summary(trainer, results, folder)
    return best


def prepare(run: Run) -> tuple[Data, Task]:
    """The data, and the task with the weights with which the run starts."""
    data = read_data(run.cfg, run.inherited_facts(), run.is_checked)  # files -> splits, facts
    run.check_data(data)
    L.seed_everything(run.cfg.seed, workers=True, verbose=False)
    task = build_task(run.cfg, data.facts)  # facts -> net; net -> loss, metrics, optimizer
    run.check_task(data, task)
    run.load_weights(data, task)  # from the training split, `finetune` or `warm_start`, if any
    return data, task
