"""`lab data`: what was found in the data of an experiment, used and left out. Nothing is trained."""

from omegaconf import DictConfig

from lab.build import read_data
from lab.engine.config.compose import freeze
from lab.engine.display import say
from lab.engine.errors import fail
from lab.engine.launch.rendezvous import refuse_multiple_processes
from lab.engine.training import process
from lab.engine.training.lightning_quirks import filter_warnings
from lab.runs.check import check


def main(cfg: DictConfig) -> None:
    """Check the config, read the data, print the whole report."""
    filter_warnings()
    refuse_multiple_processes("data", "it")
    freeze(cfg)
    if cfg.run is not None:
        fail([f"run={cfg.run}: data makes no run; leave it out. A run's report is in its folder."])
    cfg.sweep = cfg.launcher = None
    check(cfg, writes=False)
    process.set_up_process(cfg)
    say(*read_data(cfg).report.full().rstrip("\n").split("\n"))
