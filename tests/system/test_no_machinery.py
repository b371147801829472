"""The modules of data, nets, tasks and features load no machinery; each test starts a Python process."""

import os
import subprocess
import sys

from conftest import CONF

SOURCE = CONF.parent / "src"
LIGHT = (
    "lab.data.audio_folder", "lab.features.audio", "lab.nets.audio",
    "lab.data.images", "lab.data.text", "lab.data.text_files", "lab.data.translation", "lab.features.image",
    "lab.features.text", "lab.nets.cnn", "lab.nets.seq2seq", "lab.tasks.classification", "lab.tasks.translation",
    "lab.optim", "lab.figures.classification", "lab.metrics.translation",
)  # fmt: skip
MACHINERY = {"hydra", "optuna", "lab.engine.cli", "lab.engine.config.compose", "lab.engine.config.command_line"}


def test_data_nets_tasks_and_features_load_neither_hydra_nor_the_command_line():
    code = f"import sys, {', '.join(LIGHT)}; print(*sys.modules)"
    environ = os.environ | {"PYTHONPATH": str(SOURCE)}
    done = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True)
    loaded = done.stdout.split()
    assert not MACHINERY & set(loaded)
    assert not [name for name in loaded if name.startswith(("lab.verbs", "lab.sweep"))]
