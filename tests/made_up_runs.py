"""Folders that look like runs, without training."""

from omegaconf import OmegaConf

from lab.engine.config_file import GROUPS
from lab.engine.files import write_json


def put(logs, name, status="finished", value=0.5, **overrides):
    folder = logs / name
    folder.mkdir(parents=True)
    config = {part: {} for part in GROUPS} | {"seed": None} | overrides | {"net": {"name": overrides.get("net")}}
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(config))
    words = ["experiment=x", *(f"{key}={v}" for key, v in overrides.items())]
    write_json(folder / "stamp.json", {"overrides": words, "began": len(list(logs.rglob("stamp.json")))})
    results = {"status": status, "seconds": {"total": 3.0}}
    if status == "finished":
        results |= {"best": {"metric": "val/acc", "mode": "max", "value": value}, "test": {"test/acc": value - 0.01}}
    write_json(folder / "results.json", results)
    return folder
