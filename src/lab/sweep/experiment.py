from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from lab.config import CONF
from lab.runs.index import Run, read


def experiment(run: Run) -> str:
    """What a run was asked for as a file for `conf/experiment/`, over the experiment that it varied."""
    defaults: list[Any] = [run.overrides["experiment"]]
    values = OmegaConf.create()
    for key, text in run.overrides.items():
        if key == "experiment":
            continue
        if (CONF / key).is_dir():
            defaults.append({f"override /{key}": text})
        else:
            value: Any = OmegaConf.to_container(OmegaConf.create(f"value: {text}"), resolve=False)
            OmegaConf.update(values, key, value["value"], force_add=True)
    about = f"# The best of its sweep: {run.best['metric']} {run.best['value']:.4f}, {run.folder}."
    lines = ["# @package _global_", about, OmegaConf.to_yaml({"defaults": defaults}), OmegaConf.to_yaml(values)]
    return "\n".join(lines).replace("{}\n", "")


def write_best(place: Path, mode: str) -> None:
    """Put the best of a sweep's runs, of all its starts, in `best.yaml`."""
    done = [run for run in read(place) if run.status == "finished"]
    if done:
        best = (max if mode == "max" else min)(done, key=lambda run: run.best["value"])
        (place / "best.yaml").write_text(experiment(best))
        print(f"as an experiment: cp {place / 'best.yaml'} conf/experiment/NAME.yaml")
