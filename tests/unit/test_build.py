"""Facts of the data's features fill the arguments of nets, tasks and metrics by name."""

import json
import sys
from contextlib import nullcontext
from dataclasses import dataclass, replace
from types import ModuleType
from typing import ClassVar

import numpy as np
import pytest
from omegaconf import OmegaConf, open_dict

from lab.build import build_data, build_task
from lab.data.base import Data
from lab.data.facts import Facts, stated_by
from lab.engine.config import allow
from lab.engine.config.instantiate import InstantiationError, instantiate
from lab.engine.errors import UserError
from lab.features.base import Feature
from lab.features.image import Image
from lab.features.labels import ClassLabel
from lab.features.numbers import Numbers
from lab.runs.check import wrong_calls
from lab.runs.finished import changed_facts
from lab.tasks.added_metrics import added_metrics

NAMES = ["cat", "${oc.env:HOME}", "{_target_: os.system}"]
WORDS, CHARACTERS = (str(list(range(n))) for n in (30, 40))


@dataclass(frozen=True)
class Words(Feature):
    """As texts are, which may be deleted."""

    tokenizer: str
    vocab_size: int
    max_length: int
    entry: str = "token"

    fact_names = ("vocab_size", "max_length", "tokenizer")

    @property
    def entries(self) -> tuple[str, ...]:
        return (self.entry,)


IMAGES = Facts({"image": Image(3, 8, [0.5] * 3, [0.2] * 3), "label": ClassLabel(NAMES)}, {"train": 7}, "f")
PAIRS = Facts({"text": Words(WORDS, 7, 9), "target": Words(CHARACTERS, 8, 5, entry="target")}, {"train": 7}, "f")
SAME = Facts({"text": Words(WORDS, 7, 9), "target": Words(WORDS, 7, 9, entry="target")}, {"train": 7}, "f")
FUSION = Facts(IMAGES.features | {"text": Words(WORDS, 7, 9), "table": Numbers(["x", "y"])}, {"train": 7}, "f")
TWO_CAMERAS = Facts({"left": Image(1, 8), "right": Image(3, 8, entry="right")}, {"train": 7}, "f")


def net(name, required="", optional=""):
    """A class with these arguments, as a fork would write it in `lab.nets.made_up`."""
    arguments = [*required.split(), *optional.split()]
    plain = [argument.partition("=")[0] for argument in arguments]
    source = (
        f"def __init__(self, {', '.join(arguments)}):\n    self.given = dict({', '.join(f'{n}={n}' for n in plain)})"
    )
    own = {}
    exec(source, own)
    return type(name, (), {"__init__": own["__init__"], "__module__": "lab.nets.made_up"})


KINDS = [
    net("Classifier", "num_channels image_size num_classes"),
    net("OfNames", "class_names label_class_names"),
    net("Defaults", optional="num_classes=2 image_size=4 vocab_size=None"),
    net("MoreDefaults", optional="num_channels=1 text_vocab_size=9"),
    net("Std", "num_classes", "std=0.02 mean=0.0 names=3 entry=4 num_samples=5 fingerprint=6 label=7 width=8"),
    net("Common", "std"),
    net("Seq2Seq", "text_vocab_size target_vocab_size target_max_length"),
    net("OneVocabulary", "vocab_size"),
    net("Lengths", "max_length tokenizer"),
    net("Holder", optional="tower=None towers=None text=None image=None target=None left=None right=None other=None"),
    net("Tower", "num_channels"),
    net("Stereo", "left_num_channels right_num_channels image_size"),
    net("Table", "table_size"),
]


@pytest.fixture(autouse=True)
def made_up(monkeypatch):
    module = ModuleType("lab.nets.made_up")
    for kind in KINDS:
        setattr(module, kind.__name__, kind)
    module.Failing = type("Failing", (), {"__init__": failing, "__module__": "lab.nets.made_up"})
    module.Child = type("Child", (KINDS[0],), {"__init__": child, "__module__": "lab.nets.made_up"})
    monkeypatch.setitem(sys.modules, "lab.nets.made_up", module)
    monkeypatch.setattr(allow, "MODULES", (*allow.MODULES, "lab.nets.made_up"))


def failing(self, num_classes, kind):
    raise {"value": ValueError, "os": OSError, "type": TypeError}[kind](f"{num_classes} is bad")


def child(self, width=3, **kwargs):
    KINDS[0].__init__(self, **kwargs)


def target(name, **arguments):
    return {"_target_": f"lab.nets.made_up.{name}"} | arguments


def built(node, facts, **given):
    return instantiate(OmegaConf.create({"net": node}).net, facts, **given)


def plain(value):
    """The arguments of made-up classes, also of those in their arguments; without None."""
    if isinstance(value, dict):
        return {name: plain(each) for name, each in value.items() if each is not None}
    if isinstance(value, list):
        return list(map(plain, value))
    return plain(value.given) if hasattr(value, "given") else value


FILLED = {
    "a net": (IMAGES, target("Classifier"), {"num_channels": 3, "image_size": 8, "num_classes": 3}),
    "lists": (IMAGES, target("OfNames"), {"class_names": NAMES, "label_class_names": NAMES}),
    "no default is replaced": (IMAGES, target("Defaults"), {"num_classes": 2, "image_size": 4}),
    "a default that the data does not state may be set": (
        IMAGES,
        target("Defaults", vocab_size=5),
        {"num_classes": 2, "image_size": 4, "vocab_size": 5},
    ),
    "common words": (
        FUSION,
        target("Std"),
        {
            "num_classes": 3,
            "std": 0.02,
            "mean": 0.0,
            "names": 3,
            "entry": 4,
            "num_samples": 5,
            "fingerprint": 6,
            "label": 7,
            "width": 8,
        },
    ),
    "a base class's": (IMAGES, target("Child"), {"num_channels": 3, "image_size": 8, "num_classes": 3}),
    "each of two": (
        PAIRS,
        target("Seq2Seq"),
        {"text_vocab_size": 7, "target_vocab_size": 8, "target_max_length": 5},
    ),
    "two that agree": (SAME, target("Lengths"), {"max_length": 9, "tokenizer": WORDS}),
    "nested": (IMAGES, target("Holder", tower=target("Tower")), {"tower": {"num_channels": 3}}),
    "in a list": (
        IMAGES,
        target("Holder", towers=[target("Tower"), 3, target("Holder", tower=target("Tower"))]),
        {"towers": [{"num_channels": 3}, 3, {"tower": {"num_channels": 3}}]},
    ),
    "in a mapping": (
        FUSION,
        target("Holder", other={"a": target("Table"), "b": {"c": target("OneVocabulary")}}),
        {"other": {"a": {"table_size": 2}, "b": {"c": {"vocab_size": 7}}}},
    ),
    "the feature of a node's name": (
        PAIRS,
        target("Holder", text=target("OneVocabulary"), target=target("Lengths")),
        {"text": {"vocab_size": 7}, "target": {"max_length": 5, "tokenizer": CHARACTERS}},
    ),
    "and of one around it": (
        PAIRS,
        target("Holder", target=target("Holder", towers=[target("OneVocabulary")], text=target("OneVocabulary"))),
        {"target": {"towers": [{"vocab_size": 8}], "text": {"vocab_size": 7}}},
    ),
    "two cameras": (
        TWO_CAMERAS,
        target("Holder", left=target("Tower"), right=target("Tower"), other=target("Stereo")),
        {
            "left": {"num_channels": 1},
            "right": {"num_channels": 3},
            "other": {"left_num_channels": 1, "right_num_channels": 3, "image_size": 8},
        },
    ),
}


@pytest.mark.parametrize("case", FILLED)
def test_facts_fill_the_arguments_without_a_default(case):
    facts, node, expected = FILLED[case]
    assert plain(built(node, facts)) == expected


@pytest.mark.parametrize("name", ["std", "mean", "entry", "num_samples", "fingerprint", "image", "label", "features"])
def test_a_common_word_is_no_fact(name):
    assert name not in IMAGES.arguments().values
    assert name not in set(stated_by({"image": Image, "label": ClassLabel}))
    with pytest.raises(InstantiationError, match="missing 1 required positional argument: 'std'"):
        built(target("Common"), IMAGES)


RETYPED = {
    "an int": (IMAGES, target("Classifier", num_classes=5), "net.num_classes: the data states it (3); leave it out."),
    "the same": (IMAGES, target("Classifier", num_classes=3), "net.num_classes: the data states it (3); leave it out."),
    "null": (IMAGES, target("Classifier", image_size=None), "net.image_size: the data states it (8); leave it out."),
    "a text": (IMAGES, target("Classifier", image_size="x"), "net.image_size: the data states it (8); leave it out."),
    "a list": (
        IMAGES,
        target("OfNames", class_names=["a"]),
        "net.class_names: the data states it (['cat', '${oc.env:HOME}', '{_target_: o…); leave it out.",
    ),
    "by the feature's name": (
        PAIRS,
        target("Seq2Seq", target_vocab_size=5),
        "net.target_vocab_size: the data states it (8); leave it out.",
    ),
    "a long text": (SAME, target("Lengths", tokenizer="{}"), f"net.tokenizer: the data states it ({WORDS[:39]}…);"),
    "nested": (
        IMAGES,
        target("Holder", tower=target("Tower", num_channels=1)),
        "net.tower.num_channels: the data states it (3); leave it out.",
    ),
    "in a list": (
        IMAGES,
        target("Holder", towers=[target("Tower"), target("Tower", num_channels=1)]),
        "net.towers[1].num_channels: the data states it (3); leave it out.",
    ),
    "in a feature's node": (
        TWO_CAMERAS,
        target("Holder", right=target("Tower", num_channels=1)),
        "net.right.num_channels: the data states it (3); leave it out.",
    ),
    "with a default": (
        IMAGES,
        target("Defaults", image_size=5),
        "net.image_size: the data states it (8); leave it out; it is filled where the class has no default.",
    ),
    "with a default, in a list": (
        IMAGES,
        target("Holder", towers=[target("MoreDefaults", num_channels=3)]),
        "net.towers[0].num_channels: the data states it (3); leave it out; it is filled where",
    ),
    "with a default, by the feature's name": (
        PAIRS,
        target("MoreDefaults", text_vocab_size=None),
        "net.text_vocab_size: the data states it (7); leave it out; it is filled where",
    ),
    "of two features": (
        PAIRS,
        target("OneVocabulary"),
        "net.vocab_size: text states 7, target states 8; name the argument text_vocab_size or target_vocab_size",
    ),
    "of two, set": (
        PAIRS,
        target("OneVocabulary", vocab_size=7),
        "net.vocab_size: text states 7, target states 8; name the argument text_vocab_size or target_vocab_size",
    ),
    "of two cameras": (
        TWO_CAMERAS,
        target("Holder", other=target("Tower")),
        "net.other.num_channels: left states 1, right states 3; name the argument left_num_channels or",
    ),
}


@pytest.mark.parametrize("case", RETYPED)
def test_a_fact_is_stated_once(case):
    facts, node, problem = RETYPED[case]
    with pytest.raises(UserError) as error:
        built(node, facts)
    assert str(error.value).startswith(f"error: {problem}")
    assert len(str(error.value).splitlines()) == 1


def test_two_facts_of_one_argument_are_told_apart():
    """A feature named `a` with the fact `b_c`, and one named `a_b` with the fact `c`."""
    facts = replace(IMAGES, features={"label": ClassLabel(["a", "b"]), "label_num": Classes(["a"] * 4)})
    assert facts.arguments().ambiguous["label_num_classes"] == {"label": 2, "label_num": 4}


@dataclass(frozen=True)
class Classes(ClassLabel):
    fact_names = ("classes",)

    @property
    def classes(self) -> int:
        return self.num_classes


@pytest.mark.parametrize(
    ("place", "name", "fits"),
    [
        ("net: NODE", "lab.nets.cnn.CNN", True), ("net: {tower: NODE}", "lab.nets.cnn.CNN", True),
        ("task: {teacher: NODE}", "lab.nets.cnn.CNN", True), ("task: {nets: [NODE]}", "lab.nets.cnn.CNN", True),
        ("task: NODE", "lab.nets.cnn.CNN", False), ("data: {net: NODE}", "lab.nets.cnn.CNN", False),
        ("task: {outputs: {x: NODE}}", "lab.features.image.Image", True),
        ("task: NODE", "lab.features.image.Image", False), ("net: NODE", "lab.features.image.Image", False),
        ("net: {x: NODE}", "lab.tasks.classification.Classification", False),
    ],
)  # fmt: skip
def test_a_task_may_hold_nets(place, name, fits):
    with nullcontext() if fits else pytest.raises(UserError, match="belongs under"):
        allow.refuse(OmegaConf.create(place.replace("NODE", f"{{_target_: {name}}}")))


def test_hydras_own_keys():
    made = built(target("Classifier", num_classes=1, _partial_=True) | {"image_size": 4}, None)
    assert plain(made(num_channels=2)) == {"num_channels": 2, "image_size": 4, "num_classes": 1}
    assert plain(built(target("Classifier", _partial_=True), IMAGES)()) == FILLED["a net"][2]
    node = target("Tower", num_channels=3)
    assert built(target("Holder", other=node, _recursive_=False), None).given["other"] == node


def test_a_call_that_refuses_its_arguments_is_one_line():
    for kind in ("value", "os"):
        with pytest.raises(UserError, match="^error: net.towers\\[0\\]: 3 is bad$"):
            built(target("Holder", towers=[target("Failing", kind=kind)]), IMAGES)
    with pytest.raises(InstantiationError, match="net: 3 is bad"):
        built(target("Failing", kind="type"), IMAGES)


def test_given_arguments_go_to_the_outermost_call_that_takes_them():
    node = target("Holder", tower=target("Tower"), text=3)
    found = plain(built(node, IMAGES, text=4, num_channels=5, unknown=6))
    assert found == {"tower": {"num_channels": 3}, "text": 4}


@pytest.mark.parametrize(
    ("node", "expected"),
    [
        ({"_target_": "torchmetrics.AUROC", "task": "multiclass"}, {"num_classes": 3}),
        ({"_target_": "torchmetrics.classification.MulticlassAccuracy", "average": "macro"}, {"num_classes": 3}),
        ({"_target_": "torchmetrics.CohenKappa", "task": "multiclass"}, {"num_classes": 3}),
        ({"_target_": "torchmetrics.Accuracy", "task": "multiclass", "num_classes": 5}, "num_classes: the data states"),
    ],
)
def test_metrics_get_facts_the_same_way(node, expected):
    task = {"_target_": "lab.tasks.classification.Classification", "metrics": {"more": node}}
    cfg = OmegaConf.create({"task": task})
    if isinstance(expected, str):
        with pytest.raises(UserError, match=f"task.metrics.more.{expected}"):
            dict(added_metrics(cfg, IMAGES))
    else:
        more = dict(added_metrics(cfg, IMAGES))["more"]
        assert {name: getattr(more, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("key", "node", "problems"),
    [
        ("net", target("Classifier"), []),
        ("net", target("Common"), ["net.std: Common requires it"]),
        (
            "net",
            target("Holder", towers=[target("Tower"), target("Common")]),
            ["net.towers[1].std: Common requires it"],
        ),
        ("net", target("OfNames"), []),
        ("net", target("OneVocabulary"), ["net.vocab_size: OneVocabulary requires it"]),
        ("net", target("Holder", other=target("Table")), ["net.other.table_size: Table requires it"]),
        ("task", target("Tower"), []),
        ("optimizer", target("Tower"), ["optimizer.num_channels: Tower requires it"]),
    ],
)
def test_what_the_data_will_state_is_known_before_it_is_read(key, node, problems, compose):
    cfg = compose("experiment=digits")
    with open_dict(cfg):
        cfg[key] = node
    found = list(wrong_calls(cfg, ("data", key)))
    assert [problem.partition(", and the data states")[0] for problem in found] == problems
    assert all("image_size, image_std, num_channels" in problem for problem in found if key == "net"), found


@pytest.mark.parametrize(
    ("key", "problem"),
    [
        ("task.optimizer", "task.optimizer: leave it out; optimizer=… sets it."),
        ("task.net", "task.net: leave it out; net=… sets it."),
        ("data.cv", "data.cv: leave it out; cv=… sets it."),
        ("data.fold", "data.fold: leave it out; fold=… sets it."),
    ],
)
def test_what_a_group_sets_is_not_set_again(key, problem, compose):
    cfg = compose("experiment=digits")
    OmegaConf.update(cfg, key, 1, force_add=True)
    build_it = build_data if key.startswith("data") else lambda cfg: build_task(cfg, IMAGES)
    with pytest.raises(UserError, match=problem):
        build_it(cfg)


class Pairs(Data):
    features: ClassVar = {"text": Words, "target": Words}


OTHER = Facts({"text": Words(CHARACTERS, 8, 3), "label": ClassLabel(NAMES)}, {}, "")


@pytest.mark.parametrize(
    ("own", "inherited", "expected"),
    [
        (None, None, {"text": None, "target": None}),
        (None, PAIRS, PAIRS.features),
        (SAME, PAIRS, SAME.features),
        (PAIRS, None, PAIRS.features),
        (None, OTHER, {"text": OTHER.features["text"], "target": None}),
        (None, IMAGES, {"text": None, "target": None}),
        (None, replace(PAIRS, features={"text": ClassLabel(NAMES)}), {"text": None, "target": None}),
    ],
)
def test_a_runs_own_facts_come_before_those_of_the_run_it_starts_from(own, inherited, expected):
    data = Pairs(4)
    data.facts, data.inherited = own, inherited
    assert {name: data.known(name) for name in data.features} == expected


@pytest.mark.parametrize(
    ("now", "different"),
    [
        (IMAGES, []),
        (replace(IMAGES, fingerprint="other", num_samples={}), []),
        (replace(IMAGES, features=IMAGES.features | {"image": Image(3, 8, [0.1] * 3, [1.0] * 3)}), []),
        (replace(IMAGES, features=IMAGES.features | {"image": Image(1, 8)}), ["image: num_channels"]),
        (replace(IMAGES, features=IMAGES.features | {"label": ClassLabel(NAMES[::-1])}), ["label: class_names"]),
        (
            replace(IMAGES, features={"image": Image(3, 9), "label": ClassLabel(["a"])}),
            ["image: image_size", "label: num_classes, class_names"],
        ),
    ],
)
def test_a_test_names_the_features_that_have_changed(now, different):
    problems = [f"data: {each} differ from those that logs/x was trained with." for each in different]
    assert list(changed_facts(IMAGES, now, "logs/x")) == problems


@pytest.mark.parametrize("facts", [IMAGES, TWO_CAMERAS, replace(IMAGES, features={"row": Numbers(["x", "y"])})])
def test_facts_are_plain_values_and_back(facts):
    plain = json.loads(json.dumps(facts.plain()))
    assert Facts.of_plain(plain) == facts
    assert np.all([each["_target_"].startswith("lab.features.") for each in plain["features"].values()])
