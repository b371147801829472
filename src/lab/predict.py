"""`lab predict`: the answers of a finished run, or of an exported model, for one's own files.

Nothing heavy is imported here: an exported model is asked without torch.
"""

import csv
import glob
import json
import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig
from tqdm import tqdm

from lab import config, model
from lab.data.read_image import read_images, suffixes
from lab.errors import RunError, UserError

BATCH_SIZE = 64
NUM_SHOWN = 20
FORMATS = (".csv", ".jsonl", ".parquet")


def main(cfg: DictConfig) -> None:
    check(cfg)
    paths = find(cfg.input)
    asked = model.of_run(cfg.run, cfg.trainer) if cfg.run else model.of_onnx(Path(cfg.model))
    rows = answer(model.mirrored(asked) if cfg.flip else asked, paths, cfg.top_k)
    output = Path(cfg.output)
    try:
        write(rows, output)
    except OSError as error:
        raise RunError(f"error: output={output}: it could not be written: {error.strerror or error}.") from error
    show(rows, output)
    if bad := sum(bool(row["error"]) for row in rows):
        raise RunError(f"error: input: {bad} of {len(rows)} could not be read; {output} says why, under error.")


def check(cfg: DictConfig) -> None:
    """Raises UserError where something is asked for that can't be had."""
    output = Path(cfg.output)
    problems = []
    if (cfg.run is None) == (cfg.model is None):
        problems.append("run, model: say one of them, run=FOLDER or model=FILE.onnx.")
    if cfg.model is not None and cfg.trainer:
        problems.append("trainer: not with model=, which is asked on the CPU.")
    if not isinstance(cfg.top_k, int) or cfg.top_k < 1:
        problems.append(f"top_k={cfg.top_k}: it is a number of classes, 1 or more.")
    if not isinstance(cfg.flip, bool):
        problems.append(f"flip={cfg.flip}: it is true or false.")
    if output.suffix not in FORMATS:
        problems.append(f"output={output}: its name is to end in {', '.join(FORMATS)}.")
    if not output.absolute().parent.is_dir():
        problems.append(f"output={output}: there is no such folder.")
    if output.suffix == ".parquet" and not find_spec("pyarrow"):
        problems.append(f"output={output}: it takes pyarrow: pip install pyarrow")
    if problems:
        config.fail(problems)


def find(text: str) -> list[str]:
    """The paths that `input` stands for: a file, the images in a folder, a glob's files, or `-`, a line each.

    Raises:
        UserError: there are none.
    """
    if text == "-":
        paths = [line for line in os.fsdecode(sys.stdin.buffer.read()).split("\n") if line.strip()]
    elif Path(text).is_dir():
        endings = suffixes()
        files = Path(text).rglob("*")
        paths = sorted(str(path) for path in files if path.suffix.lower() in endings and path.is_file())
    elif Path(text).is_file():
        paths = [text]
    else:
        paths = sorted(path for path in glob.glob(text, recursive=True) if Path(path).is_file())
    if not paths and Path(text).is_dir():
        raise UserError(f"error: input={text}: it is a folder without images.")
    if not paths and text == "-":
        raise UserError("error: input=-: standard input has no paths, one a line.")
    if not paths:
        raise UserError(f"error: input={text}: there is no such file or folder.")
    return paths


def answer(asked: model.Model, paths: Sequence[str], top_k: int) -> list[dict[str, Any]]:
    """A row for each path: the most probable classes, the best first, or what is wrong with the file."""
    rows = []
    unknown = [(None, None)] * min(top_k, len(asked.class_names))
    with tqdm(total=len(paths), desc="Predicting", leave=False, disable=None) as bar:
        for start in range(0, len(paths), BATCH_SIZE):
            batch = paths[start : start + BATCH_SIZE]
            image, errors = read_images(batch, asked.num_channels, asked.image_size)
            answers = iter(asked.probabilities(image) if len(image) else ())
            for path, error in zip(batch, errors, strict=True):
                best = unknown if error else most_probable(asked.class_names, next(answers), top_k)
                rows.append({"path": path} | _columns(best) | {"error": error})
            bar.update(len(batch))
    return rows


def most_probable(class_names: Sequence[str], probability: np.ndarray, top_k: int) -> list[tuple[str, float]]:
    """The best first, with four decimals."""
    order = np.argsort(-probability, kind="stable")[:top_k]
    return [(class_names[i], round(float(probability[i]), 4)) for i in order]


def _columns(best: Sequence[tuple[str | None, float | None]]) -> dict[str, Any]:
    columns: dict[str, Any] = {}
    for rank, (name, probability) in enumerate(best, 1):
        number = f"_{rank}" if rank > 1 else ""
        columns |= {f"class{number}": name, f"probability{number}": probability}
    return columns


def write(rows: Sequence[dict[str, Any]], output: Path) -> None:
    """As CSV, JSON lines or Parquet, as the name ends; probabilities have four decimals in each."""
    if output.suffix == ".parquet":
        import pyarrow
        import pyarrow.parquet

        readable = [row | {"path": printable(row["path"])} for row in rows]
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(readable), output)
        return
    with open(output, "w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        if output.suffix == ".jsonl":
            file.writelines(json.dumps(row) + "\n" for row in rows)
        else:
            csv.writer(file).writerow(rows[0])
            for row in rows:
                csv.writer(file).writerow(f"{v:.4f}" if isinstance(v, float) else v for v in row.values())


def show(rows: Sequence[dict[str, Any]], output: Path) -> None:
    width = max(len(printable(row["path"])) for row in rows[:NUM_SHOWN])
    for row in rows[:NUM_SHOWN]:
        said = "not readable" if row["error"] else f"{row['probability']:.4f}  {row['class']}"
        print(f"{printable(row['path']):<{width}}  {said}")
    more = f" ({len(rows) - NUM_SHOWN} more than shown)" if len(rows) > NUM_SHOWN else ""
    print(f"\n{sum(not row['error'] for row in rows)} predictions in {output}{more}")


def printable(path: str) -> str:
    """A file's name need not be text."""
    return os.fsencode(path).decode(errors="replace")
