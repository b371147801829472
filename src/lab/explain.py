"""`lab explain`: which pixels the answers of a finished run came from, and how far the pictures can be trusted."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from PIL import Image
from pydantic import Field
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from lab import config, run
from lab.check import wrong_arguments
from lab.data.images import ImageData
from lab.errors import UserError
from lab.folder import write_json
from lab.overlay import Row, figure
from lab.tasks.classification import Classification
from lab.test import read

FOLDER = "explain"  # in the run's
MOST = 20  # samples of a picture
SUSPECT = 0.5  # the rank correlation from which on a method is warned of


@dataclass
class Keys:
    """The keys of conf/explain.yaml."""

    run: Any
    input: Any
    methods: Annotated[list[Literal["integrated_gradients", "gradcam", "occlusion"]], Field(min_length=1)]
    num_mistakes: Annotated[int, Field(ge=0, le=MOST)]
    seed: Annotated[int, Field(ge=0, lt=2**32)]
    trainer: Any


@dataclass
class Group:
    """The samples of a picture: `pixels` are 0 to 255, `target` is the class that the net answers with."""

    name: str
    title: str
    samples: list[str]
    pixels: Tensor
    target: Tensor
    probability: Tensor
    label: Tensor | None = None  # of samples of the test split


def main(cfg: DictConfig) -> None:
    config.quiet()
    if problems := list(wrong_arguments("", Keys, OmegaConf.to_container(cfg))):
        config.fail(problems)
    try:
        from lab import attribution
    except ImportError as error:
        config.fail([f"explain: {error}. pip install 'lab[explain]'"])
    saved, data, task = run.load(cfg.run)
    run.settle(saved)
    if not (isinstance(task, Classification) and isinstance(data, ImageData)):
        raise UserError(f"error: run={cfg.run}: it does not classify images; explain shows what such a run looks at.")
    task.net = copy.deepcopy(task.net)  # a copy is not compiled, so that its layers can be looked into
    task.to(run.evaluation_trainer(saved, cfg.trainer).strategy.root_device)
    groups = own_files(cfg, data, task) if cfg.input is not None else of_test_split(cfg, data, task)
    image = torch.cat([prepared(group.pixels, data, task) for group in groups])
    target = torch.cat([group.target for group in groups]).to(task.device)
    methods = {name: attribution.METHODS[name] for name in cfg.methods}
    if "gradcam" in methods and attribution.feature_map(task.net, image) is None:
        why = "the net has no convolution that leaves more than a pixel"
        if len(methods) == 1:
            config.fail([f"methods: no gradcam here: {why}; choose another"])
        print(f"gradcam is left out: {why}")
        del methods["gradcam"]
    folder = Path(cfg.run) / FOLDER
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise UserError(f"error: {folder} can't be made: {error.strerror}.") from error
    maps, report = attribution.explain(methods, task, image, target, cfg.seed)
    write_json(folder / "report.json", report | {"samples": [listed(group, task.class_names) for group in groups]})
    draw(groups, maps, task.class_names, folder)
    print(table(report))


def prepared(pixels: Tensor, data: ImageData, task: Classification) -> Tensor:
    """(B, C, H, W) of 0 to 255 as the net gets them."""
    return data.on_after_batch_transfer({"image": pixels.to(task.device)})["image"]


def own_files(cfg: DictConfig, data: ImageData, task: Classification) -> list[Group]:
    """A user's images."""
    if not Path(str(cfg.input)).exists():
        raise UserError(f"error: input={cfg.input}: there is no such file or folder.")
    paths, files = data.read_inputs(Path(str(cfg.input)))
    num = min(len(paths), MOST)
    pixels = files.__getitems__(range(num))["image"]
    with torch.no_grad():
        probability, target = task({"image": prepared(pixels, data, task)}).softmax(-1).cpu().max(-1)
    title = f"{num} of {len(paths)} images in {cfg.input}" if Path(str(cfg.input)).is_dir() else str(cfg.input)
    return [Group("inputs", title, paths[:num], pixels, target, probability)]


def of_test_split(cfg: DictConfig, data: ImageData, task: Classification) -> list[Group]:
    """The most confident mistakes, and the most confident right answer of each class."""
    read(data, cfg.run)
    split, outputs = data.splits["test"], []
    with torch.no_grad():
        for batch in data.test_dataloader():
            probability, target = task({"image": prepared(batch["image"], data, task)}).softmax(-1).cpu().max(-1)
            outputs.append((batch["index"].cpu(), batch["label"].cpu(), target, probability))
    index, label, target, probability = (torch.cat(column) for column in zip(*outputs, strict=True))
    order = probability.argsort(descending=True, stable=True)
    wrong = [i for i in order.tolist() if label[i] != target[i]]
    best: dict[int, int] = {}  # of each class
    for i in order.tolist():
        if label[i] == target[i]:
            best.setdefault(int(label[i]), i)
    missed = label[wrong].bincount(minlength=len(task.class_names))
    shown = sorted(sorted(best, key=lambda c: -missed[c])[:MOST])  # of many classes, those that are missed most

    def group(name: str, title: str, rows: Sequence[int]) -> Group:
        names = data.names.get("test") or list(map(str, range(len(index))))
        places = index[rows].tolist()
        pixels = split.__getitems__(places)["image"].cpu()
        return Group(name, title, [names[i] for i in places], pixels, target[rows], probability[rows], label[rows])

    few = wrong[: cfg.num_mistakes]
    mistakes = f"The {len(few)} surest of {len(wrong)} mistakes in {len(label)} images"
    right = f"The surest right answer of each class ({len(shown)} of {len(task.class_names)})"
    groups = [group("mistakes", mistakes, few)] if few else []
    groups += [group("right", right, [best[c] for c in shown])] if shown else []
    if not groups:
        raise UserError("error: num_mistakes=0: the net has no right answer to show either.")
    return groups


def listed(group: Group, class_names: Sequence[str]) -> dict[str, Any]:
    """A group for `report.json`."""
    labels = {"label": [class_names[i] for i in group.label.tolist()]} if group.label is not None else {}
    prediction = [class_names[i] for i in group.target.tolist()]
    return {"picture": f"{group.name}.png", "sample": group.samples, "prediction": prediction} | labels


def draw(groups: Sequence[Group], maps: dict[str, Tensor], class_names: Sequence[str], folder: Path) -> None:
    """A PNG for each group, and the same in TensorBoard."""
    first = 0
    with SummaryWriter(str(folder.parent)) as writer:
        for group in groups:
            rows = []
            for i in range(len(group.samples)):
                said, share = class_names[int(group.target[i])], f"{100 * group.probability[i]:.1f} %"
                row = Row(group.pixels[i], [values[first + i] for values in maps.values()], said, share)
                if group.label is None:
                    row.more += f"\n{Path(group.samples[i]).name}"
                elif group.label[i] != group.target[i]:
                    row.more += f"\nbut is {class_names[int(group.label[i])]}"
                rows.append(row)
            path = folder / f"{group.name}.png"
            columns = [name.replace("_", "\n").replace("gradcam", "Grad-CAM") for name in maps]
            figure(group.title, columns, rows).savefig(path)
            writer.add_image(f"{FOLDER}/{group.name}", np.asarray(Image.open(path).convert("RGB")), dataformats="HWC")
            print(path)
            first += len(rows)


def table(report: dict[str, Any]) -> str:
    """The scores of each method, and a warning for each that is not to be trusted."""
    scores = report["methods"]
    chance = scores["random"]
    lines = ["", f"{'':<21}{'sanity: signed':>15}{'absolute':>10}{'deletion':>10}{'insertion':>11}"]
    for name, of in scores.items():
        sanity = f"{of['signed']:>15.2f}{of['absolute']:>10.2f}" if name != "random" else " " * 25
        lines.append(f"{name:<21}{sanity}{of['deletion']:>10.3f}{of['insertion']:>11.3f}")
    lines += [
        "",
        "sanity: rank correlation with the picture for shuffled weights; near 1 it does not depend on the model",
        "deletion: mean probability of the class while pixels go, the most important first; low is good",
        "insertion: the same while they come; high is good",
    ]
    for name, of in scores.items():
        if max(of.get("signed", 0), of.get("absolute", 0)) > SUSPECT:
            lines.append(f"warning: {name} says nearly the same of shuffled weights: do not trust it here")
        if name != "random" and of["deletion"] >= chance["deletion"] and of["insertion"] <= chance["insertion"]:
            lines.append(f"warning: {name} ranks pixels no better than chance: do not trust it here")
    return "\n".join(lines)
