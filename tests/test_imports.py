"""What a researcher reads and changes does without the machinery around it."""

import subprocess
import sys

import pytest

MODULES = (
    "lab.data.images", "lab.data.text_files", "lab.data.translation", "lab.features.image", "lab.features.text",
    "lab.nets.cnn", "lab.nets.seq2seq", "lab.tasks.classification", "lab.tasks.translation", "lab.optim",
    "lab.figures.classification", "lab.metrics.translation",
)  # fmt: skip
MACHINERY = {"hydra", "optuna", "lab.engine.cli", "lab.engine.config.compose", "lab.engine.config.command_line"}


@pytest.mark.parametrize("module", MODULES)
def test_data_nets_tasks_and_features_import_neither_hydra_nor_the_command_line(module):
    code = f"import sys, {module}; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not MACHINERY & set(loaded)
