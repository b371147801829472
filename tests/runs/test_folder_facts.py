"""The facts and the config in a run's folder are checked as if they were typed."""

import json
import shutil
import sys
import time

import pytest
from garbage import GARBAGE, changed
from omegaconf import OmegaConf
from refusals import one_line

from lab import runs
from lab.engine.config.allow import read_config
from lab.engine.config_file import write_config
from lab.engine.errors import UserError
from lab.runs.finished import read_facts


@pytest.fixture(scope="module")
def loaded(digits_run):
    return runs.load(digits_run)


@pytest.mark.parametrize(
    ("key", "value", "problem"),
    [
        ("features/label/class_names", [], "features.label.*class_names are empty"),
        ("features/label/class_names", 3, "features.label.class_names: "),
        ("features/label/class_names/0", None, "features.label.class_names.0: "),
        ("features/label/class_names/9", {"_target_": "evil.call"}, "features.label.class_names.9: "),
        ("features/label/class_names", ..., "features.label: class_names: ClassLabel has class_names, entry"),
        ("features/image/image_size", "8", "features.image.image_size: "),
        ("features/image/image_size", -1, "features.image.image_size: "),
        ("features/image/num_channels", 10**9, "features.image.num_channels: "),
        ("features/image/num_channels", 3, "expected mean and std of 3 channels"),
        ("features/image/mean", [], "expected mean and std of 1 channels"),
        ("features/image/mean", ..., "features.image: mean: Image has entry, image_size, mean, num_channels, std"),
        ("features/image/mean/0", "x", "features.image.mean.0: "),
        ("features/image/std/0", 0, "features.image.std.0: "),
        ("features/image/more", 1, "features.image: more: Image has "),
        ("features/image/_target_", "os.system", "features.image: os.system is not a feature"),
        ("features/image/_target_", "evil", "features.image: evil is not a feature"),
        ("features/image/_target_", "../evil.call", "features.image: ../evil.call is not a feature"),
        ("features/a b", {"_target_": "evil.call"}, "features: 'a b' is not a name; expected letters"),
        ("features/image/_target_", "lab.features.image.Imagee", "Did you mean Image?"),
        ("features/image/_target_", "lab.features.image.png", "lab.features.image.png is not a feature"),
        ("features/image/_target_", "lab.nets.mlp.MLP", "lab.nets.mlp.MLP is not a feature"),
        ("features/image/_target_", "lab.features.base.Feature", "lab.features.base.Feature is not a feature"),
        ("features/image/_target_", ["x"], "features.image should name a class with _target_"),
        ("features/image", 3, "features.image should name a class with _target_"),
        ("features/image", ..., "the features of Digits are image: Image, label: ClassLabel"),
        ("features", [], "features should be a mapping"),
        ("features", {}, "the features of Digits are image: Image, label: ClassLabel"),
        ("features", ..., "features is missing"),
        ("num_samples", None, "num_samples or fingerprint: "),
        ("num_samples/train", "3", "num_samples or fingerprint: train: "),
        ("num_samples", ..., "num_samples is missing"),
        ("fingerprint", 3, "fingerprint: "),
    ],
)
def test_facts_that_no_data_has_are_refused(key, value, problem, digits_run, loaded, tmp_path):
    content = json.loads((digits_run / "data.json").read_text())
    (tmp_path / "data.json").write_text(json.dumps(changed(content, key, value)))
    with pytest.raises(UserError, match=rf"data.json is damaged: .*{problem}") as error:
        read_facts(loaded[1], tmp_path)
    assert one_line(str(error.value))
    assert "evil" not in sys.modules


def test_a_run_of_another_version_of_lab_is_told_from_a_damaged_one(digits_run, loaded, tmp_path):
    facts, stamp = (json.loads((digits_run / name).read_text()) for name in ("data.json", "stamp.json"))
    (tmp_path / "data.json").write_text(json.dumps(changed(facts, "features", ...)))
    for content, problem in (
        (stamp, "is damaged: features is missing"),
        (changed(stamp, "format", ...), "cannot be read: features is missing. Another version of lab wrote this run"),
    ):
        (tmp_path / "stamp.json").write_text(json.dumps(content))
        with pytest.raises(UserError, match=problem) as error:
            read_facts(loaded[1], tmp_path)
        assert one_line(str(error.value))


@pytest.mark.parametrize("target", ["evil.call", "evil.features.Photo", "evil.deeply.features.Photo"])
def test_features_of_a_package_that_is_not_installed_are_no_damage(target, digits_run, loaded, tmp_path):
    content = json.loads((digits_run / "data.json").read_text())
    (tmp_path / "data.json").write_text(json.dumps(changed(content, "features/image/_target_", target)))
    with pytest.raises(UserError) as error:
        read_facts(loaded[1], tmp_path)
    problem = f"features.image: the package evil, which has {target}, is not installed."
    advice = "If it is your own, run lab inside the folder of its project."
    assert str(error.value) == f"error: {tmp_path}/data.json: {problem} {advice}"


@pytest.mark.parametrize(
    "line", ["net.widths=x", "net.widths=[-1]", "net.depth=3", "optimizer.lr=x", "data.batch_size=0"]
)
def test_a_loaded_config_is_checked_as_a_typed_one(line, digits_run, tmp_path):
    folder = shutil.copytree(digits_run, tmp_path / "run")
    cfg = OmegaConf.load(folder / "config.yaml")
    key, _, value = line.partition("=")
    OmegaConf.update(cfg, key, OmegaConf.create(f"x: {value}").x, force_add=True)
    OmegaConf.save(cfg, folder / "config.yaml")
    with pytest.raises(UserError, match="config.yaml is damaged: (net|optimizer|data)"):
        runs.load(folder)


PARTS = b"trainer: {}\ndata: {}\nnet: {}\ntask: {}\noptimizer: {}\nscheduler: {}\nlogger: {}\n"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (b"x" * 2**19, "it is larger than 0.25 MiB"),
        (b"a: [" + b"1," * 100_000 + b"]", "too many entries"),
        (b"".join(b"a%d: 1\n" % i for i in range(20_000)), "too many entries"),
        (b"a: " + b"${b}" * 20_000, "too many references"),
        (b"a: " + b"${" * 20_000, "too many references"),
        (b"# ]]]]]]]]\n" * 100 + b"a: " + b"[" * 20_000, "nested too deeply"),
        (b"a: '" + b"]" * 1000 + b"'\nb: " + b"{a: " * 1000, "nested too deeply"),
        (b"a:\n " + b"- " * 20_000, "nested too deeply"),
        (b"? " * 20_000, "nested too deeply"),
        (b"".join(b" " * i + b"a:\n" for i in range(200)), "nested too deeply"),
        (b"a: &a 1\nb: *a\n", "it has aliases"),
    ],
    ids=range(11),
)
def test_a_config_that_would_take_seconds_is_refused_at_once(text, problem, tmp_path):
    (tmp_path / "config.yaml").write_bytes(PARTS)
    assert read_config(tmp_path).trainer == {}
    (tmp_path / "config.yaml").write_bytes(PARTS + text)
    start = time.process_time()
    with pytest.raises(UserError, match=problem):
        read_config(tmp_path)
    assert time.process_time() - start < 0.5


def test_a_config_with_aliases_is_refused(digits_run, tmp_path):
    (tmp_path / "config.yaml").write_bytes(GARBAGE["yaml bomb"])
    with pytest.raises(UserError, match="aliases"):
        read_config(tmp_path)


def test_a_config_may_name_a_path_that_is_not_utf_8(digits_run, tmp_path):
    cfg = read_config(digits_run)
    cfg.data.root = "caf\udce9"
    write_config(tmp_path, cfg)
    assert read_config(tmp_path).data.root == "caf\udce9"
