"""`lab explain`: which pixels or words drove the predictions of a run, and how far each method can be trusted."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, cast

import numpy as np
import torch
from omegaconf import DictConfig
from pydantic import Field
from torch import Tensor

from lab import runs
from lab.data.base import Data
from lab.data.batches import Batch
from lab.data.facts import inputs_of, scored
from lab.engine.config.settings import check_settings
from lab.engine.display import in_utf8, say
from lab.engine.errors import UserError, fail, unknown
from lab.engine.files import write_json
from lab.engine.secrets import redacted
from lab.features.base import Feature
from lab.tasks.base import Task
from lab.verbs.explain.base import explainer, unexplained
from lab.verbs.explain.group import Group

FOLDER = "explain"  # in the run's folder
MOST = 20  # samples in a figure
SUSPECT = 0.5  # a rank correlation above this causes a warning


@dataclass
class Settings:
    """The types of those keys of conf/explain.yaml whose defaults do not show them."""

    methods: Annotated[list[str], Field(min_length=1)] | None
    num_mistakes: Annotated[int, Field(ge=0, le=MOST)]
    seed: Annotated[int, Field(ge=0, lt=2**32)]


def main(cfg: DictConfig) -> None:
    check_settings("explain", cfg, Settings)
    saved, data, task = runs.load(cfg.run, cfg.data.root, test_split=cfg.input is None)
    task = cast(Task, task)
    inputs = inputs_of(data.facts.features, task.input_entries)
    if reason := unexplained(inputs, task.outputs, task.input_entries):
        raise UserError(f"error: run={cfg.run}: {reason}")
    ((feature,), (output,)) = inputs.values(), task.outputs.values()
    attribution = explainer(feature)
    known = attribution.methods()
    if wrong := [name for name in cfg.methods or () if name not in known]:
        fail([f"methods={wrong[0]}: {unknown('method', wrong[0], known)}"])
    from lab.verbs.explain import scores

    task.net = copy.deepcopy(task.net)  # a copy is not compiled, so hooks on its layers work
    task.to(runs.evaluation_trainer(saved, cfg.trainer).strategy.root_device)
    net = Explained(task, data, feature)
    front_end, explained = attribution.split(task.explained_net())
    groups = own_items(cfg, net) if cfg.input is not None else of_test_split(cfg, net, output)
    samples = [
        (front_end(net.of_item(item)), target[None].to(task.device))
        for group in groups
        for item, target in zip(group.items, group.target, strict=True)
    ]
    methods = usable(cfg.methods or list(known), known, attribution.left_out(explained, samples[0][0]))
    folder = Path(cfg.run) / FOLDER
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise UserError(f"error: {folder} cannot be made: {error.strerror}.") from error
    maps, report = scores.explain(methods, explained, task.explained_probability, samples, attribution.blank, cfg.seed)
    for group in groups:
        of_group = {name: [values.pop(0)[0].cpu() for _ in group.items] for name, values in maps.items()}
        path = attribution.draw(group, of_group, output.explained, folder)
        report.setdefault("samples", []).append(description(group, path, output.explained))
        say(path)
    write_json(folder / "report.json", report)
    say(*score_table(report).split("\n"))


def usable(names: Sequence[str], known: dict[str, Any], left_out: dict[str, str]) -> dict[str, Any]:
    """The methods among `names` that work for this net. For each of the others a line is printed.

    Raises:
        UserError: no method works.
    """
    reasons = {name: left_out[name] for name in names if name in left_out}
    if len(reasons) == len(names):
        fail([f"methods={','.join(names)}: not for this net: {reasons[names[0]]}; choose another method"])
    for name, reason in reasons.items():
        say(f"{name} is skipped: {reason}")
    return {name: known[name] for name in names if name not in reasons}


class Explained:
    """The explained net of a task as a function of its only input.

    Args:
        task: the task, in evaluation mode.
        data: it prepares a batch.
        feature: the input.
    """

    def __init__(self, task: Task, data: Data, feature: Feature) -> None:
        self.task, self.data, self.feature, self.entry = task, data, feature, feature.entries[0]
        self.net = task.explained_net()

    def prepared(self, batch: Batch) -> Batch:
        """A batch as the net expects it."""
        num = len(batch[self.entry])
        batch = {"index": torch.zeros(num, dtype=torch.int64)} | {name: batch[name] for name in self.feature.entries}
        return self.data.on_after_batch_transfer({name: each.to(self.task.device) for name, each in batch.items()})

    def of_item(self, item: np.ndarray) -> Tensor:
        """(1, …) the first entry of a sample as the net expects it."""
        return self.prepared({name: torch.from_numpy(item)[None] for name in self.feature.entries})[self.entry]

    @torch.no_grad()
    def answers(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The (B,) probabilities of the (B,) predicted classes, and these classes."""
        batch = self.prepared(batch)
        logits = self.net(**{name: batch[name] for name in self.task.arguments if name in batch})
        probability, target = self.task.explained_probability(logits).cpu().max(-1)
        return probability, target


def own_items(cfg: DictConfig, net: Explained) -> list[Group]:
    """The group of the user's items (`input`)."""
    names = list(net.feature.find(str(cfg.input)))
    shown = names[:MOST]
    results = [net.feature.read([name]) for name in shown]  # one by one, as their sizes may differ
    if errors := [error for _, (error,) in results if error]:
        raise UserError(f"error: input={cfg.input}: {errors[0]}")
    items = [sample[net.entry] for (sample,), _ in results]
    batches = [{name: torch.as_tensor(array)[None] for name, array in sample.items()} for (sample,), _ in results]
    probability, target = map(torch.cat, zip(*map(net.answers, batches), strict=True))
    title = f"{len(shown)} of {len(names)} {net.feature.item}s in {cfg.input}" if len(names) > 1 else str(cfg.input)
    samples = [redacted(name) for name in shown]
    return [Group("inputs", redacted(title), samples, items, target, probability)]


def of_test_split(cfg: DictConfig, net: Explained, output: Feature) -> list[Group]:
    """Two groups of test samples: the most confident mistakes, and the most confident correct prediction per class.

    One group of samples at equal distances, if a sample has no single label.
    """
    data = net.data
    (true, *_) = [*scored(data.facts.features, output), None]
    if true is None:
        return [spaced_samples(net)]
    split, outputs = data.splits["test"], []
    for batch in data.test_dataloader():
        probability, target = net.answers(batch)
        outputs.append((batch["index"].cpu(), batch[true].cpu(), target, probability))
    index, label, target, probability = (torch.cat(column) for column in zip(*outputs, strict=True))
    order = probability.argsort(descending=True, stable=True)
    wrong = [i for i in order.tolist() if label[i] != target[i]]
    best: dict[int, int] = {}  # class -> its most confident correct prediction
    for i in order.tolist():
        if label[i] == target[i]:
            best.setdefault(int(label[i]), i)
    num_missed = label[wrong].bincount(minlength=len(output.explained))
    shown = sorted(sorted(best, key=lambda c: -num_missed[c])[:MOST])  # the classes with the most mistakes

    def group(name: str, title: str, rows: Sequence[int]) -> Group:
        names = data.names.get("test") or list(map(str, range(len(index))))
        indices = index[rows].tolist()
        items = [split.__getitems__([i])[net.entry][0].cpu().numpy() for i in indices]
        return Group(
            name, title, [redacted(names[i]) for i in indices], items, target[rows], probability[rows], label[rows]
        )

    few = wrong[: cfg.num_mistakes]
    mistakes = f"The {len(few)} most confident of {len(wrong)} mistakes in {len(label)} {net.feature.item}s"
    right = f"The most confident correct prediction of each class ({len(shown)} of {len(output.explained)})"
    groups = [group("mistakes", mistakes, few)] if few else []
    groups += [group("right", right, [best[c] for c in shown])] if shown else []
    if not groups:
        raise UserError("error: num_mistakes=0: there is no correct prediction to show either; choose 1 or more.")
    return groups


def spaced_samples(net: Explained) -> Group:
    """The group of at most `MOST` test samples at equal distances."""
    split, names = net.data.splits["test"], net.data.names.get("test")
    index = list(range(0, len(split), -(-len(split) // MOST)))
    batches = [split.__getitems__([i]) for i in index]
    items = [batch[net.entry][0].cpu().numpy() for batch in batches]
    probability, target = map(torch.cat, zip(*map(net.answers, batches), strict=True))
    title = f"{len(index)} of {len(split)} {net.feature.item}s of the test split"
    return Group("samples", title, [redacted(names[i] if names else str(i)) for i in index], items, target, probability)


def description(group: Group, path: Path, choices: Sequence[str]) -> dict[str, Any]:
    """The entry of a group in `report.json`."""
    labels = {"label": [choices[i] for i in group.label.tolist()]} if group.label is not None else {}
    prediction = [choices[i] for i in group.target.tolist()]
    return {"picture": path.name, "sample": list(map(in_utf8, group.samples)), "prediction": prediction} | labels


def score_table(report: dict[str, Any]) -> str:
    """The scores of each method, and a warning for each method that should not be trusted."""
    methods = report["methods"]
    chance = methods["random"]
    lines = ["", f"{'':<21}{'sanity: signed':>15}{'absolute':>10}{'deletion':>10}{'insertion':>11}"]
    for name, scores in methods.items():
        sanity = f"{scores['signed']:>15.2f}{scores['absolute']:>10.2f}" if name != "random" else " " * 25
        lines.append(f"{name:<21}{sanity}{scores['deletion']:>10.3f}{scores['insertion']:>11.3f}")
    lines += [
        "",
        "sanity: rank correlation with the explanation of shuffled weights; near 1: independent of the trained weights",
        "deletion: mean probability of the class while positions are deleted, the most important first; low is good",
        "insertion: the same while positions are inserted; high is good",
    ]
    for name, scores in methods.items():
        if max(scores.get("signed", 0), scores.get("absolute", 0)) > SUSPECT:
            lines.append(f"warning: {name} explains shuffled weights in nearly the same way. Do not trust it here.")
        if name != "random" and scores["deletion"] >= chance["deletion"] and scores["insertion"] <= chance["insertion"]:
            lines.append(f"warning: {name} ranks positions no better than chance. Do not trust it here.")
    return "\n".join(lines)
