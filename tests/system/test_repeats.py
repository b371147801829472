"""A run over folds and seeds: one folder, one row, and of each sample a prediction by a run that never saw it."""

import json
import statistics

import pytest
from conftest import TINY
from tables import read_rows
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from lab.engine.errors import UserError
from lab.sweep import main as sweep
from lab.sweep.repeats import aggregate, write_out_of_fold


def test_cross_validation_tests_every_sample_once(lab, tmp_path):
    result = lab("train", "experiment=digits", *TINY.split(), "cv=3", "seeds=2", "sweep.name=cv", "sweep.jobs=2")
    assert result.returncode == 0, result.stderr
    place = tmp_path / "logs/digits/cv"
    results = [json.loads((folder / "results.json").read_text()) for folder in sorted(place.glob("00?"))]
    scores = [r["test"]["test/acc"] for r in results]
    assert len(scores) == 6
    assert f"{statistics.mean(scores):.4f} ± {statistics.stdev(scores):.4f}" in result.stdout

    predictions = read_rows(place / "out_of_fold.csv")
    assert sorted((row["seed"], int(row["sample"])) for row in predictions) == [
        (seed, sample) for seed in "01" for sample in range(200)
    ]
    for number, (seed, fold) in enumerate((s, f) for s in "01" for f in "012"):
        own = [row for row in predictions if (row["seed"], row["fold"]) == (seed, fold)]
        assert own[0].items() >= read_rows(place / f"{number:03d}/test_predictions.csv")[0].items()
        right = sum(row["label"] == row["prediction"] for row in own)
        assert right / len(own) == pytest.approx(scores[number])
        for row in own:
            assert sum(float(row[f"p({name})"]) for name in range(10)) == pytest.approx(1, abs=1e-4)
            assert float(row[f"p({row['prediction']})"]) == float(row["probability"])

    events = EventAccumulator(str(place / "001")).Reload()
    content = events.PluginTagToContent("hparams")
    session = HParamsPluginData.FromString(content["_hparams_/session_start_info"]).session_start_info
    stamp = json.loads((place / "001/stamp.json").read_text())
    typed = {word.lstrip("+").partition("=")[0] for word in stamp["overrides"]} - {"run", "log_dir"}
    assert session.hparams.keys() == typed
    assert {key: session.hparams[key].number_value for key in ("seed", "fold")} == {"seed": 0, "fold": 1}
    assert "_hparams_/experiment" not in content, "one run's columns would be those of all"
    assert "val/acc" in events.Tags()["scalars"]
    shown = {name: events.Scalars(name)[-1].value for name in ("best/val/acc", "test/acc")}
    own = {"best/val/acc": results[1]["best"]["value"], "test/acc": results[1]["test"]["test/acc"]}
    assert shown == pytest.approx(own)

    again = lab("test", f"run={place}/001")
    assert f"{scores[1]:.4f}" in again.stdout, "the folder does not say which fold it tests on"


def test_an_official_test_set_stays_out_of_it(compose):
    from lab.build import read_data

    cfg = compose("experiment=fashion_mnist", "data.tiny=true", "cv=4", "fold=1")
    whole, fold = read_data(compose("experiment=fashion_mnist", "data.tiny=true")), read_data(cfg)
    sizes = {name: len(split) for name, split in fold.splits.items()}
    assert sizes["test"] == 40
    assert sum(sizes.values()) == len(whole.splits["train"]) + len(whole.splits["val"])


def test_files_of_a_group_stay_together(compose, tmp_path):
    from PIL import Image

    from lab.build import read_data

    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for i in range(24):
            Image.new("L", (8, 8), i).save(tmp_path / name / f"p{i // 4}-{i}.png")
    words = ["experiment=image_folder", f"data.root={tmp_path}", r"data.group='(p\d+)-'"]
    for more in ([], ["cv=3", "fold=2"]):
        data = read_data(compose(*words, *more))
        groups = [
            {path.rpartition("/")[2].partition("-")[0] for path in data.names[s]} for s in ("train", "val", "test")
        ]
        assert sorted(name for group in groups for name in group) == [f"p{i}" for i in range(6)]
    with pytest.raises(UserError, match="no match in"):
        read_data(compose(*words[:2], "data.group=nobody"))


def test_a_fold_that_is_missing_and_a_key_that_only_some_have_are_told_apart(tmp_path, capsys):
    for name, (status, words, head) in {
        "000": ("finished", {"net": "cnn", "fold": "0"}, "p(a)"),
        "001": ("finished", {"net": "mlp", "net.widths": "[4]", "fold": "0"}, "p(b)"),
        "002": ("failed", {"net": "mlp", "net.widths": "[4]", "fold": "1"}, "p(b)"),
    }.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").write_text("{}")
        (tmp_path / name / "stamp.json").write_text(json.dumps({"overrides": [f"{k}={v}" for k, v in words.items()]}))
        results = {"status": status, "best": {"metric": "val/acc", "mode": "max", "value": 0.5}}
        (tmp_path / name / "results.json").write_text(json.dumps(results))
        (tmp_path / name / "test_predictions.csv").write_text(f"sample,{head}\n7,0.25\n")
    write_out_of_fold(tmp_path, {"net", "net.widths", "fold"})
    assert read_rows(tmp_path / "out_of_fold.csv") == [
        {"fold": "0", "net": "cnn", "net.widths": "", "sample": "7", "p(a)": "0.25", "p(b)": ""},
        {"fold": "0", "net": "mlp", "net.widths": "[4]", "sample": "7", "p(a)": "", "p(b)": "0.25"},
    ]
    assert "of 2 of 3 runs" in capsys.readouterr().out
    (tmp_path / "empty").mkdir()
    assert aggregate(tmp_path / "empty", {"fold"}) == ""


@pytest.mark.parametrize(
    ("words", "said"),
    {
        "seeds=2 seed=1,2": "seed=1,2: seeds=2 already sets the seeds",
        "cv=3 sweep=optuna optimizer.lr=1,2": "only sweep=grid repeats runs",
        "cv=2,3": "cv=2,3: cv and seeds cannot be swept",
        "cv=1": "cv=1: should be greater than or equal to 2",
        "seeds=some": "seeds=some: should be a valid integer",
        "cv=3 run=x": "a sweep makes a folder for each",
    }.items(),
)
def test_a_mistake_is_said_in_a_line(words, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=said):
        sweep.main(["-m", "experiment=digits", "sweep.name=1", *words.split()])
    assert not list(tmp_path.glob("logs/digits/*"))


def fold(place, number, content):
    folder = place / f"{number:03d}"
    folder.mkdir()
    (folder / "config.yaml").write_text("{}")
    (folder / "stamp.json").write_text(json.dumps({"overrides": [f"fold={number}"]}))
    results = {"status": "finished", "best": {"metric": "val/acc", "mode": "max", "value": 0.5}}
    (folder / "results.json").write_text(json.dumps(results))
    (folder / "test_predictions.csv").write_bytes(content)


@pytest.mark.parametrize("name", [b"caf\xe9.png", b"\xff\xfe", "日本.png".encode(), b'a ""b'])
def test_out_of_fold_predictions_name_files_that_are_not_utf8(name, tmp_path):
    content = b'sample,file\n7,"' + name + b'"\n'
    for number in range(2):
        fold(tmp_path, number, content)
    write_out_of_fold(tmp_path, {"fold"})
    assert (tmp_path / "out_of_fold.csv").read_bytes().count(name) == 2


@pytest.mark.parametrize("content", [b"sample,file\n7\n", b"sample\n7,8\n"])
def test_damaged_predictions_are_named(content, tmp_path):
    fold(tmp_path, 0, content)
    with pytest.raises(UserError, match="000/test_predictions.csv is damaged"):
        write_out_of_fold(tmp_path, {"fold"})
