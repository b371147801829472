"""A run is a folder. It is opened, trained and finished; a finished run is loaded from its folder alone."""

from lab.runs.best import check_monitor
from lab.runs.finished import evaluation_trainer, load, load_task
from lab.runs.new import new_folder
from lab.tasks import judge

judge.loader = load_task  # tasks lie below runs, so a judge is given the loader

__all__ = ["check_monitor", "evaluation_trainer", "load", "new_folder"]
