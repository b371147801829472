"""`lab explain`: which pixels or words drove the prediction, and how far that can be trusted."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, cast

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from pydantic import Field
from torch import Tensor

from lab import runs
from lab.data.base import Data
from lab.data.facts import inputs_of, scored
from lab.engine.config.signatures import wrong_arguments
from lab.engine.display import in_utf8, say
from lab.engine.errors import UserError, fail, unknown
from lab.engine.folder import write_json
from lab.engine.secrets import redacted
from lab.engine.training import process
from lab.engine.training.lightning_quirks import filter_warnings
from lab.features.base import Feature
from lab.tasks.base import Task
from lab.verbs.explain.base import explainer, unexplained
from lab.verbs.explain.group import Group

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
    methods: Annotated[list[str], Field(min_length=1)] | None
    num_mistakes: Annotated[int, Field(ge=0, le=MOST)]
    seed: Annotated[int, Field(ge=0, lt=2**32)]
    trainer: Any


def main(cfg: DictConfig) -> None:
    filter_warnings()
    if problems := list(wrong_arguments("", Keys, OmegaConf.to_container(cfg))):
        fail(problems)
    saved, data, task = runs.load(cfg.run, cfg.data.root)
    process.set_up_process(saved)
    task = cast(Task, task)
    inputs = inputs_of(data.facts.features, task.input_entries)
    if why := unexplained(inputs, task.outputs, task.input_entries):
        raise UserError(f"error: run={cfg.run}: {why}")
    ((feature,), (output,)) = inputs.values(), task.outputs.values()
    kind = explainer(feature)
    known = kind.methods()
    if wrong := [name for name in cfg.methods or () if name not in known]:
        fail([f"methods={wrong[0]}: {unknown('method', wrong[0], known)}"])
    from lab.verbs.explain import scores

    task.net = copy.deepcopy(task.net)  # a copy is not compiled, so that its layers can be looked into
    task.to(runs.evaluation_trainer(saved, cfg.trainer).strategy.root_device)
    net = Explained(task, data, feature)
    groups = own_items(cfg, net) if cfg.input is not None else of_test_split(cfg, net, output)
    samples = [
        (net.prepared(item[None]), target[None].to(task.device))
        for group in groups
        for item, target in zip(group.items, group.target, strict=True)
    ]
    methods = chosen(cfg.methods or list(known), known, kind.left_out(task.net, samples[0][0]))
    folder = Path(cfg.run) / FOLDER
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise UserError(f"error: {folder} can't be made: {error.strerror}.") from error
    maps, report = scores.explain(methods, task, samples, net.entry, kind.blank, cfg.seed)
    for group in groups:
        own = {name: [values.pop(0)[0].cpu() for _ in group.items] for name, values in maps.items()}
        path = kind.draw(group, own, output.choices, folder)
        report.setdefault("samples", []).append(listed(group, path, output.choices))
        say(path)
    write_json(folder / "report.json", report)
    say(*table(report).split("\n"))


def chosen(names: Sequence[str], known: dict[str, Any], left_out: dict[str, str]) -> dict[str, Any]:
    """The methods asked for that say something of the net; the others are named.

    Raises:
        UserError: there are none.
    """
    why = {name: left_out[name] for name in names if name in left_out}
    if len(why) == len(names):
        fail([f"methods: no {' and no '.join(names)} here: {why[names[0]]}; choose another"])
    for name, reason in why.items():
        say(f"{name} is left out: {reason}")
    return {name: known[name] for name in names if name not in why}


class Explained:
    """A task's net as a function of its one input.

    Args:
        task: in eval mode.
        data: which prepares a batch.
        feature: the input.
    """

    def __init__(self, task: Task, data: Data, feature: Feature) -> None:
        self.task, self.data, self.feature, self.entry = task, data, feature, feature.entries[0]

    def prepared(self, items: np.ndarray) -> Tensor:
        """(B, …) as the net gets them."""
        batch = {self.entry: torch.from_numpy(items), "index": torch.zeros(len(items), dtype=torch.int64)}
        batch = {name: values.to(self.task.device) for name, values in batch.items()}
        return self.data.on_after_batch_transfer(batch)[self.entry]

    @torch.no_grad()
    def answers(self, items: np.ndarray) -> tuple[Tensor, Tensor]:
        """(B,) probabilities of the (B,) most probable choices."""
        probability, target = self.task({self.entry: self.prepared(items)}).softmax(-1).cpu().max(-1)
        return probability, target


def own_items(cfg: DictConfig, net: Explained) -> list[Group]:
    """The items that a user gives."""
    names = list(net.feature.find(str(cfg.input)))
    shown = names[:MOST]
    found = [net.feature.read([name]) for name in shown]  # each in its own size
    if errors := [error for _, (error,) in found if error]:
        raise UserError(f"error: input={cfg.input}: {errors[0]}")
    items = [sample[net.entry] for (sample,), _ in found]
    probability, target = map(torch.cat, zip(*(net.answers(item[None]) for item in items), strict=True))
    title = f"{len(shown)} of {len(names)} {net.feature.item}s in {cfg.input}" if len(names) > 1 else str(cfg.input)
    samples = [redacted(name) for name in shown]
    return [Group("inputs", redacted(title), samples, items, target, probability)]


def of_test_split(cfg: DictConfig, net: Explained, output: Feature) -> list[Group]:
    """The most confident mistakes, and the most confident right answer of each class."""
    data = net.data
    (true, *_) = [*scored(data.facts.features, output), None]
    if true is None:
        raise UserError(f"error: run={cfg.run}: its data has no labels of these answers; give items: input=PATH.")
    runs.read(data, cfg.run)
    split, outputs = data.splits["test"], []
    for batch in data.test_dataloader():
        probability, target = net.answers(batch[net.entry].cpu().numpy())
        outputs.append((batch["index"].cpu(), batch[true].cpu(), target, probability))
    index, label, target, probability = (torch.cat(column) for column in zip(*outputs, strict=True))
    order = probability.argsort(descending=True, stable=True)
    wrong = [i for i in order.tolist() if label[i] != target[i]]
    best: dict[int, int] = {}  # of each class
    for i in order.tolist():
        if label[i] == target[i]:
            best.setdefault(int(label[i]), i)
    missed = label[wrong].bincount(minlength=len(output.choices))
    shown = sorted(sorted(best, key=lambda c: -missed[c])[:MOST])  # of many classes, those that are missed most

    def group(name: str, title: str, rows: Sequence[int]) -> Group:
        names = data.names.get("test") or list(map(str, range(len(index))))
        places = index[rows].tolist()
        items = [split.__getitems__([i])[net.entry][0].cpu().numpy() for i in places]
        return Group(
            name, title, [redacted(names[i]) for i in places], items, target[rows], probability[rows], label[rows]
        )

    few = wrong[: cfg.num_mistakes]
    mistakes = f"The {len(few)} surest of {len(wrong)} mistakes in {len(label)} {net.feature.item}s"
    right = f"The surest right answer of each class ({len(shown)} of {len(output.choices)})"
    groups = [group("mistakes", mistakes, few)] if few else []
    groups += [group("right", right, [best[c] for c in shown])] if shown else []
    if not groups:
        raise UserError("error: num_mistakes=0: the net has no right answer to show either.")
    return groups


def listed(group: Group, path: Path, choices: Sequence[str]) -> dict[str, Any]:
    """A group for `report.json`."""
    labels = {"label": [choices[i] for i in group.label.tolist()]} if group.label is not None else {}
    prediction = [choices[i] for i in group.target.tolist()]
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
