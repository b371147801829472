"""A run is a folder: it is made or resumed, checked, trained in, and loaded later."""

from lab.runs.create import create, unused
from lab.runs.load import changes, evaluation_trainer, load, load_data, read, read_facts, restore
from lab.runs.results import best_score, check_monitor, recorded, validate

__all__ = [
    "best_score", "changes", "check_monitor", "create", "evaluation_trainer", "load", "load_data",
    "read", "read_facts", "recorded", "restore", "unused", "validate",
]  # fmt: skip
