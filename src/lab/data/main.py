"""`lab data`: what was found in the data of an experiment, used and left out. Nothing is trained."""

from omegaconf import DictConfig

from lab import run
from lab.check import check
from lab.config import fail, freeze, quiet
from lab.display import say
from lab.external import refuse_several


def main(cfg: DictConfig) -> None:
    """Check the config, read the data, print the whole report."""
    quiet()
    refuse_several("data", "it")
    freeze(cfg)
    if cfg.run is not None:
        fail([f"run={cfg.run}: data makes no run; leave it out. A run's report is in its folder."])
    cfg.sweep = cfg.launcher = None
    check(cfg, writes=False)
    run.settle(cfg)
    say(*run.read_data(cfg).report.full().rstrip("\n").split("\n"))
