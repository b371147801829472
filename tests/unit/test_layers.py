"""Imports point downwards: from the map to the engine, without cycles; imports inside functions count."""

import ast
import os
import subprocess
import sys
from functools import cache
from graphlib import TopologicalSorter

import pytest
from conftest import CONF

SOURCE = CONF.parent / "src"
# From the highest floor to the lowest. A module imports modules of its own room, and rooms on lower floors.
ROOMS = (
    "sweep verbs testing", "train", "runs", "build", "callbacks", "tasks", "data metrics",
    "features figures nets optim", "engine",
)  # fmt: skip
ENGINE = (
    "cli", "training", "launch runs", "config", "lock", "folder", "errors markdown secrets timing",
    "constraints display draws keys records",
)  # fmt: skip
LIGHT = (
    "lab.data.images", "lab.data.text", "lab.data.text_files", "lab.data.translation", "lab.features.image",
    "lab.features.text", "lab.nets.cnn", "lab.nets.seq2seq", "lab.tasks.classification", "lab.tasks.translation",
    "lab.optim", "lab.figures.classification", "lab.metrics.translation",
)  # fmt: skip
MACHINERY = {"hydra", "optuna", "lab.engine.cli", "lab.engine.config.compose", "lab.engine.config.command_line"}


def name_of(path) -> str:
    return ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__")


MODULES = {name_of(path): path for path in sorted((SOURCE / "lab").rglob("*.py"))}


@cache
def imports(module: str) -> set[str]:
    """The modules of lab that a module names in its import statements, wherever they stand."""
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else node.module for name in names}
    return (found & MODULES.keys()) - {module, "lab"}


def floors(plan: tuple[str, ...]) -> dict[str, int]:
    return {room: number for number, rooms in enumerate(reversed(plan)) for room in rooms.split()}


@pytest.mark.parametrize(("inside", "plan"), [("lab", ROOMS), ("lab.engine", ENGINE)])
def test_imports_point_downwards(inside, plan):
    floor, depth = floors(plan), inside.count(".") + 1
    upwards = []
    for module in MODULES:
        if not module.startswith(f"{inside}."):
            continue
        room = module.split(".")[depth]
        for other in imports(module):
            above = other.split(".")[depth] if other.startswith(f"{inside}.") else "outside"
            if above == room:
                continue
            if above == "outside" or floor[above] >= floor[room]:
                upwards.append(f"{module} imports {other}")
    assert not upwards


def test_no_module_imports_itself_through_others():
    TopologicalSorter({module: imports(module) for module in MODULES}).prepare()


def test_there_are_at_most_16_rooms_on_9_floors():
    rooms = {module.split(".")[1] for module in MODULES if "." in module}
    assert rooms == floors(ROOMS).keys()
    assert len(rooms) <= 16
    assert len(ROOMS) <= 9


def test_data_nets_tasks_and_features_load_neither_hydra_nor_the_command_line():
    code = f"import sys, {', '.join(LIGHT)}; print(*sys.modules)"
    environ = os.environ | {"PYTHONPATH": str(SOURCE)}
    done = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True)
    loaded = done.stdout.split()
    assert not MACHINERY & set(loaded)
    assert not [name for name in loaded if name.startswith(("lab.verbs", "lab.sweep"))]
