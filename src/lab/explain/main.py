"""`lab explain`: which pixels or words drove the prediction, and how far that can be trusted."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from pydantic import Field
from torch import Tensor

from lab import config, run
from lab.check import wrong_arguments
from lab.data.base import Data
from lab.display import in_utf8, say
from lab.errors import UserError
from lab.explain.group import Group
from lab.folder import write_json
from lab.secrets import redacted
from lab.tasks.classification import Classification
from lab.test import read

FOLDER = "explain"  # in the run's
MOST = 20  # samples of a picture
SUSPECT = 0.5  # the rank correlation from which on a method is warned of


@dataclass
class Keys:
    """The keys of conf/explain.yaml."""

    run: Any
    log_dir: Any
    data: Any
    input: Any
    methods: Annotated[list[Literal["integrated_gradients", "gradcam", "occlusion"]], Field(min_length=1)]
    num_mistakes: Annotated[int, Field(ge=0, le=MOST)]
    seed: Annotated[int, Field(ge=0, lt=2**32)]
    trainer: Any


def main(cfg: DictConfig) -> None:
    config.quiet()
    if problems := list(wrong_arguments("", Keys, OmegaConf.to_container(cfg))):
        config.fail(problems)
    saved, data, task = run.load(cfg.run, cfg.data.root)
    run.settle(saved)
    if not isinstance(task, Classification):
        raise UserError(f"error: run={cfg.run}: it is no classifier; explain shows what such a run looks at.")
    try:
        kind: Any = import_module(f"lab.explain.{data.inputs.kind}")
    except ImportError as error:
        if error.name == f"lab.explain.{data.inputs.kind}":
            config.fail([f"explain: there is no {error.name}, which shows {data.inputs.kind}. Write one."])
        if (error.name or "").partition(".")[0] != "captum":
            raise
        config.fail([f"explain: {error}. pip install 'lab[explain]'"])
    from lab.explain import scores

    task.net = copy.deepcopy(task.net)  # a copy is not compiled, so that its layers can be looked into
    task.to(run.evaluation_trainer(saved, cfg.trainer).strategy.root_device)
    groups = own_items(cfg, data, task) if cfg.input is not None else of_test_split(cfg, data, task)
    samples = [
        (prepared(item[None], data, task), target[None].to(task.device))
        for group in groups
        for item, target in zip(group.items, group.target, strict=True)
    ]
    methods = chosen(cfg.methods, kind.methods(data.inputs), kind.left_out(task.net, samples[0][0]), data.inputs.kind)
    folder = Path(cfg.run) / FOLDER
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise UserError(f"error: {folder} can't be made: {error.strerror}.") from error
    maps, report = scores.explain(methods, task, samples, data.inputs.entry, kind.blank(data.inputs), cfg.seed)
    for group in groups:
        own = {name: [values.pop(0)[0].cpu() for _ in group.items] for name, values in maps.items()}
        path = kind.draw(data.inputs, group, own, task.class_names, folder)
        report.setdefault("samples", []).append(listed(group, path, task.class_names))
        say(path)
    write_json(folder / "report.json", report)
    say(*table(report).split("\n"))


def chosen(names: Sequence[str], known: dict[str, Any], left_out: dict[str, str], kind: str) -> dict[str, Any]:
    """The methods asked for that say something of the net; the others are named.

    Raises:
        UserError: there are none.
    """
    why = {name: left_out.get(name, f"it is not for {kind}") for name in names if name in left_out or name not in known}
    if len(why) == len(names):
        config.fail([f"methods: no {' and no '.join(names)} here: {why[names[0]]}; choose another"])
    for name, reason in why.items():
        say(f"{name} is left out: {reason}")
    return {name: known[name] for name in names if name not in why}


def prepared(items: np.ndarray, data: Data, task: Classification) -> Tensor:
    """(B, …) as the net gets them."""
    batch = {data.inputs.entry: torch.from_numpy(items).to(task.device)}
    return data.on_after_batch_transfer(batch)[data.inputs.entry]


@torch.no_grad()
def answers(items: np.ndarray, data: Data, task: Classification) -> tuple[Tensor, Tensor]:
    """(B,) probabilities of the (B,) most probable classes."""
    probability, target = task({data.inputs.entry: prepared(items, data, task)}).softmax(-1).cpu().max(-1)
    return probability, target


def own_items(cfg: DictConfig, data: Data, task: Classification) -> list[Group]:
    """What a user gives."""
    names = list(data.inputs.find(str(cfg.input)))
    shown = names[:MOST]
    found = [data.inputs.read([name]) for name in shown]  # each in its own size
    if errors := [error for _, (error,) in found if error]:
        raise UserError(f"error: input={cfg.input}: {errors[0]}")
    items = [item for (item,), _ in found]
    probability, target = map(torch.cat, zip(*(answers(item[None], data, task) for item in items), strict=True))
    title = f"{len(shown)} of {len(names)} {data.inputs.kind} in {cfg.input}" if len(names) > 1 else str(cfg.input)
    samples = [redacted(name) for name in shown]
    return [Group("inputs", redacted(title), samples, items, target, probability)]


def of_test_split(cfg: DictConfig, data: Data, task: Classification) -> list[Group]:
    """The most confident mistakes, and the most confident right answer of each class."""
    read(data, cfg.run)
    split, outputs = data.splits["test"], []
    for batch in data.test_dataloader():
        probability, target = answers(batch[data.inputs.entry].cpu().numpy(), data, task)
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
        items = [split.__getitems__([i])[data.inputs.entry][0].cpu().numpy() for i in places]
        return Group(
            name, title, [redacted(names[i]) for i in places], items, target[rows], probability[rows], label[rows]
        )

    few = wrong[: cfg.num_mistakes]
    mistakes = f"The {len(few)} surest of {len(wrong)} mistakes in {len(label)} {data.inputs.kind}"
    right = f"The surest right answer of each class ({len(shown)} of {len(task.class_names)})"
    groups = [group("mistakes", mistakes, few)] if few else []
    groups += [group("right", right, [best[c] for c in shown])] if shown else []
    if not groups:
        raise UserError("error: num_mistakes=0: the net has no right answer to show either.")
    return groups


def listed(group: Group, path: Path, class_names: Sequence[str]) -> dict[str, Any]:
    """A group for `report.json`."""
    labels = {"label": [class_names[i] for i in group.label.tolist()]} if group.label is not None else {}
    prediction = [class_names[i] for i in group.target.tolist()]
    return {"picture": path.name, "sample": list(map(in_utf8, group.samples)), "prediction": prediction} | labels


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
        "deletion: mean probability of the class while positions go, the most important first; low is good",
        "insertion: the same while they come; high is good",
    ]
    for name, of in scores.items():
        if max(of.get("signed", 0), of.get("absolute", 0)) > SUSPECT:
            lines.append(f"warning: {name} says nearly the same of shuffled weights: do not trust it here")
        if name != "random" and of["deletion"] >= chance["deletion"] and of["insertion"] <= chance["insertion"]:
            lines.append(f"warning: {name} ranks positions no better than chance: do not trust it here")
    return "\n".join(lines)
