"""Imports point downwards: from the map to the engine, without cycles; imports inside functions count."""

import ast
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
    "cli", "training", "launch runs", "config", "config_file", "lock", "folder", "files",
    "errors markdown secrets timing",
    "constraints display draws keys launch.environment memory records training.lightning_quirks",
)  # fmt: skip


def name_of(path) -> str:
    return ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__")


MODULES = {name_of(path): path for path in sorted((SOURCE / "lab").rglob("*.py")) if path.name != "__main__.py"}


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
    floor = {f"{inside}.{room}": number for room, number in floors(plan).items()}

    def room(module: str) -> str:
        names = [name for name in floor if f"{module}.".startswith(f"{name}.")]
        return max(names, key=len)

    modules = [module for module in MODULES if module.startswith(f"{inside}.")]
    pairs = [(module, other) for module in modules for other in sorted(imports(module)) if other != inside]
    outside = [f"{module} imports {other}" for module, other in pairs if not other.startswith(f"{inside}.")]
    assert not outside
    rooms = [(room(module), room(other), f"{module} imports {other}") for module, other in pairs]
    upwards = [text for own, other, text in rooms if own != other and floor[own] <= floor[other]]
    assert not upwards


def test_no_module_imports_itself_through_others():
    TopologicalSorter({module: imports(module) for module in MODULES}).prepare()


def test_there_are_at_most_16_rooms_on_9_floors():
    rooms = {module.split(".")[1] for module in MODULES if "." in module}
    assert rooms == floors(ROOMS).keys()
    assert len(rooms) <= 16
    assert len(ROOMS) <= 9
