"""How the settings of the sampler change the scores of a run of flow matching: `python bench/generation.py RUN`.

The run has a judge and `ema`. Each row generates the samples of `lab test` anew. The table is put in
bench/generation.md and .json.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import bench
import torch

from lab import runs
from lab.engine.folder import BEST
from lab.engine.runs import checkpoints
from lab.tasks.base import Step

SETTINGS = [  # weights, solver, steps, guidance
    *(("EMA", "euler", steps, 1.0) for steps in (1, 2, 4, 8, 16, 50)),
    ("EMA", "heun", 4, 1.0),
    ("raw", "euler", 16, 1.0),
    *(("EMA", "euler", 16, guidance) for guidance in (1.5, 2.0, 4.0)),
]
SCORES = ("fd", "gap_closed", "kid", "precision", "recall", "judged_right", "nearest")


def evaluations(solver: str, steps: int, guidance: float) -> int:
    """The number of evaluations of the net for a sample."""
    return (steps if solver == "euler" else 2 * steps - 1) * (1 if guidance == 1 else 2)


def measured(folder: Path) -> list[dict[str, Any]]:
    cfg, data, task = runs.load(folder, test_split=True)
    trainer: Any = runs.evaluation_trainer(cfg, {})
    averaged = {name: value.clone() for name, value in task.state_dict().items()}
    weights = {"EMA": averaged, "raw": checkpoints.read(folder / BEST)["current_model_state"]}
    task.losses = lambda batch, stage: Step(torch.zeros(()))  # type: ignore[attr-defined]  # the loss would take longer
    trainer.test(task, data, verbose=False)  # the judge looks at the training images
    rows = []
    for name, solver, steps, guidance in SETTINGS:
        task.load_state_dict(weights[name])
        task.solver, task.steps, task.guidance = solver, steps, guidance  # type: ignore[assignment]
        start = time.process_time()
        scores = {key.partition("/")[2]: value for key, value in trainer.test(task, data, verbose=False)[0].items()}
        seconds = time.process_time() - start
        row = {"weights": name, "solver": solver, "steps": steps, "guidance": guidance}
        rows.append(row | {"evaluations": evaluations(solver, steps, guidance), "seconds": seconds} | scores)
        print(rows[-1], flush=True)
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    columns = ("weights", "solver", "steps", "guidance", "evaluations", "seconds", *SCORES)
    lines = [columns, ["---"] * len(columns)]
    lines += [[f"{value:.3g}" if isinstance(value := row[name], float) else value for name in columns] for row in rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def main() -> None:
    torch.set_num_threads(1)
    rows = measured(Path(sys.argv[1]))
    first = rows[0]
    note = (
        f"{first['num_generated']:.0f} samples; `fd` of training images {first['fd_train']:.3g}, of the mean image of"
        f" each class {first['fd_class_mean']:.3g}; the judge recognises {first['judged_right_real']:.3g} of real"
        f" images. CPU-seconds, OMP_NUM_THREADS=1. {bench.hardware()}"
    )
    text = f"{table(rows)}\n\n{note}\n"
    (bench.HERE / "generation.md").write_text(text, encoding="utf-8")
    document = json.dumps({"machine": note, "rows": rows}, indent=2)
    (bench.HERE / "generation.json").write_text(document + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
