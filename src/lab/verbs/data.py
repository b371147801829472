"""`lab data`: report which samples of an experiment's data were found, used and left out. Nothing is trained."""

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
    """Check the config, read the data and print the full report."""
    filter_warnings()
    refuse_multiple_processes("data", "it")
    freeze(cfg)
    if cfg.run is not None:
        fail([f"run={cfg.run}: lab data makes no run; remove run= (a run's report is data_report.txt in its folder)"])
    check(cfg, writes=False)
    process.set_up_process(cfg)
    say(*read_data(cfg).report.full().rstrip("\n").split("\n"))
