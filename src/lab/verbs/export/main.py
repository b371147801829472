"""`lab export`: a finished run as one file. The file is only written if its predictions agree with the checkpoint."""

import logging
import os
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from lab import runs
from lab.data.base import Data
from lab.data.facts import scored
from lab.engine.config.settings import wrong_settings
from lab.engine.display import say
from lab.engine.errors import RunError, UserError, fail, unknown
from lab.engine.files import read_json, write_json
from lab.features.base import Arrays, Feature
from lab.tasks.base import Task
from lab.verbs import predictor
from lab.verbs.export import program
from lab.verbs.export.comparison import compare_with_checkpoint, inputs_of_file, prove, reason, some, table
from lab.verbs.export.program import FORMATS, Format

NUM_FOR_CALIBRATION = 512  # training samples
FLOAT32 = {"accelerator": "cpu", "devices": 1, "num_nodes": 1, "strategy": "auto", "precision": "32-true"}
REPORT = "export.json"


def main(cfg: DictConfig) -> None:
    chosen, output = check(cfg)
    _, data, task = runs.load(cfg.run, cfg.data.root, test_split=True)
    checkpoint = predictor.from_run(cfg.run, OmegaConf.create(FLOAT32))
    if cfg.int8 and not any(scored(data.facts.features, feature) for feature in checkpoint.outputs.values()):
        raise UserError("error: int8: its loss of accuracy must be measured, but no output of this run has a score.")
    reports, size = {}, program.example(cast(Task, task), data)
    if not size:
        raise UserError(f"error: export: {type(task).__name__} has no inputs, so it cannot be exported.")
    check_entries(cfg.format, size, checkpoint.outputs)
    with tempfile.TemporaryDirectory(prefix=".export-", dir=output.parent) as folder, silence():
        path = Path(folder) / output.name  # a failed export leaves no file behind
        make(chosen, task, data, path)
        reports[output.name] = prove(path, cfg.format, checkpoint, size, data)
        if cfg.int8:
            quantised = path.with_name(f"{path.stem}_int8.onnx")
            program.quantise(path, inputs_of_file(some(data, "train", NUM_FOR_CALIBRATION, size), size), quantised)
            model = chosen.read(quantised)
            reports[quantised.name] = compare_with_checkpoint(quantised, "onnx, int8", checkpoint, model, size, data)
        for name in reports:
            os.replace(path.with_name(name), output.with_name(name))
    report_path = output.with_name(REPORT)
    write_json(report_path, (read_json(report_path) if report_path.exists() else {}) | reports)
    for name, each in reports.items():
        say(*table(name, each).split("\n"))
    say(f"report       {report_path}")


@contextmanager
def silence() -> Iterator[None]:
    """Silence the warnings of the exporters, which users cannot act on."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logging.disable(logging.NOTSET)


def check(cfg: DictConfig) -> tuple[Format, Path]:
    """The format, and the file to write.

    Raises:
        UserError: the config is invalid, with a line for each problem.
    """
    problems = list(wrong_settings("export", cfg))
    if cfg.format not in FORMATS:
        fail([*problems, f"format={cfg.format}: {unknown('format', str(cfg.format), FORMATS)}"])
    chosen = FORMATS[cfg.format]
    output = Path(cfg.run) / chosen.name if cfg.output is None else Path(str(cfg.output))
    if cfg.int8 and cfg.format != "onnx":
        problems.append(f"int8={cfg.int8}: only format=onnx can be quantised; remove int8=")
    if not all(map(find_spec, chosen.needs)):
        problems.append(
            f"format={cfg.format}: this needs {', '.join(chosen.needs)}: pip install 'lab-template[export]'"
        )
    if output.suffix != Path(chosen.name).suffix:
        problems.append(f"output={output}: expected a name that ends in {Path(chosen.name).suffix}")
    if not os.access(output.absolute().parent, os.W_OK):
        problems.append(f"output={output}: the folder {output.absolute().parent} does not exist or is not writable")
    if problems:
        fail(problems)
    return chosen, output


def check_entries(format_name: str, size: Arrays, outputs: dict[str, Feature]) -> None:
    """Refuse outputs whose entries would have the same name in the file.

    Args:
        format_name: the format.
        size: an example batch: the entries that the file takes.
        outputs: the features of the task's outputs.

    Raises:
        UserError: two outputs share an entry, or (in ONNX, where all names are unique) an input and an output do.
    """
    of_outputs: dict[str, str] = {}
    for name, feature in outputs.items():
        for entry in feature.entries:
            if entry in of_outputs:
                both = f"the outputs {of_outputs[entry]} and {name}" if of_outputs[entry] != name else name
                raise UserError(f"error: export: {both} have two entries named {entry}; rename one of them.")
            if format_name == "onnx" and entry in size:
                raise UserError(
                    f"error: format=onnx: an input and the output {name} have an entry named {entry}. Rename the"
                    " output's entry, or choose format=torch_export."
                )
            of_outputs[entry] = name


def make(chosen: Format, task: Any, data: Data, path: Path) -> None:
    """Write the file. Raises RunError if torch or the compiler fails."""
    say(f"exporting    {path.name}")  # a translation model takes a minute
    try:
        chosen.write(program.program(task, data), task, data, path)
    except Exception as error:  # exporters and compilers raise anything
        raise RunError(f"error: export: {path.name} could not be made ({reason(error)}).") from error
