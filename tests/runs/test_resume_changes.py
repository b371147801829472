"""A run is resumed with other words: limits, values that may change, weights that another run starts from."""

import json
import shutil

import pytest
from omegaconf import OmegaConf
from resuming import NUM_BATCHES, QUICK, lab_train, outcome, resume, saved

from lab import runs
from lab.engine.config.compose import compose_config
from lab.engine.config.run_overrides import add_run_overrides
from lab.engine.config_file import write_config
from lab.engine.errors import UserError
from lab.engine.files import write_json
from lab.engine.runs import checkpoints
from lab.runs.open import Run
from lab.testing.tasks import same
from lab.train import prepare


def test_another_net_inside_a_net_is_refused_as_any_other_change(tmp_path):
    words = ["experiment=fashion_mnist", "data.tiny=true", "trainer=cpu"]
    folder = tmp_path / "run"
    folder.mkdir()
    write_config(folder, compose_config("train", words))
    write_json(folder / "stamp.json", {"overrides": words})
    for word, key in (("net@net.net=mlp", "net.net.batch_norm"), ("net.net.widths=[4,4,8,8]", "net.net.widths")):
        with pytest.raises(UserError, match=f"{key} cannot change when"):
            resume(folder, word)


def test_a_finished_run_goes_on_for_longer(tmp_path):
    lab_train(f"run={tmp_path}/run", "scheduler=one_cycle", "optimizer.lr=0.01")
    resume(tmp_path / "run", "trainer.max_epochs=5")
    assert checkpoints.read(tmp_path / "run/last.ckpt")["global_step"] == 5 * NUM_BATCHES
    cfg, _, _ = runs.load(tmp_path / "run")
    assert (cfg.trainer.max_epochs, cfg.net.dropout) == (5, 0.3)
    stamp = json.loads((tmp_path / "run/stamp.json").read_text())
    assert stamp["resumed"][0]["changes"] == {"trainer.max_epochs": 5}
    steps = [int(row["step"]) for row in outcome(tmp_path / "run")[1] if row["val/loss"]]
    assert steps == [NUM_BATCHES * epoch - 1 for epoch in range(1, 6)]


@pytest.fixture(scope="module")
def early(tmp_path_factory):
    """A run of at most 8 epochs whose training stopped early, after 3: its weights stay as they are."""
    folder = tmp_path_factory.mktemp("early") / "run"
    lab_train(f"run={folder}", "early_stopping=2", "optimizer.lr=1e-12", "trainer.max_epochs=8", "net.batch_norm=false")
    assert checkpoints.read(folder / "last.ckpt")["epoch"] == 3
    return folder


@pytest.mark.parametrize("word", ["trainer.max_epochs=2", "trainer.max_epochs=1", "trainer.max_steps=11"])
def test_a_limit_that_is_passed_already_is_refused_before_anything_is_written(word, early):
    before = saved(early)
    with pytest.raises(UserError, match=f"{word}: .* has already trained (3 epochs|12 steps)"):
        resume(early, word)
    assert saved(early) == before


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ([], "a larger trainer.max_epochs"),
        (["trainer.max_epochs=20"], "it stopped early; a larger early_stopping"),
        (["trainer.max_steps=100"], "it stopped early; a larger early_stopping"),
        (["trainer.max_epochs=20", "early_stopping=1"], "it stopped early; a larger early_stopping"),
        (["trainer.max_epochs=3", "early_stopping=null"], "trainer.max_epochs=3 is reached"),
        (["trainer.max_steps=12", "early_stopping=3"], "trainer.max_steps=12 is reached"),
        (["trainer.max_time=00:10:00:00"], "it stopped early; a larger early_stopping"),
    ],
)
def test_a_run_that_has_nothing_left_says_why_and_does_nothing(words, why, early, capsys):
    before = saved(early)
    assert resume(early, *words) == json.loads(before["results.json"])["best"]["value"]
    assert f"is finished: {why}" in capsys.readouterr().out
    assert saved(early) == before


@pytest.mark.parametrize("killed", [False, True])
def test_another_patience_and_more_epochs_train_further(killed, early, tmp_path):
    folder = shutil.copytree(early, tmp_path / "run")
    if killed:  # while it was tested: the checkpoint is that of a training that ended
        (folder / "results.json").write_text('{"status": "running"}')
        resume(folder, "trainer.max_epochs=9")
        assert checkpoints.read(folder / "last.ckpt")["epoch"] == 3, "as an unbroken run with 9 epochs"
        return
    resume(folder, "early_stopping=null", "trainer.max_epochs=5")
    assert checkpoints.read(folder / "last.ckpt")["epoch"] == 5


@pytest.mark.parametrize(
    ("began", "steps"),
    [
        (["early_stopping=2"], [("early_stopping=null", None), ("early_stopping=2", 2), ("early_stopping=3", 3)]),
        (["checkpoint.every_n_steps=4"], [("checkpoint.every_n_steps=2", 2), ("checkpoint.every_n_steps=4", 4)]),
        (["experiment=image_folder", "data.root=/a"], [("data.root=/b", "/b"), ("data.root=/a", "/a")]),
        (["trainer=cpu"], [("trainer.strategy=ddp", "ddp"), ("trainer=cpu", "auto")]),
        (["trainer.max_epochs=3"], [("trainer.max_epochs=9", 9), ("trainer.max_epochs=3", 3)]),
    ],
    ids=str,
)
def test_a_value_can_be_changed_back(began, steps, tmp_path):
    """In a process of each resume's own the words would be typed; here they are composed."""
    from lab.runs.resume import merge_config, record_resume

    words = ["experiment=digits", "trainer=cpu", *began]
    write_json(tmp_path / "stamp.json", {"overrides": words})
    write_config(tmp_path, compose_config("train", words))
    for word, value in steps:
        cfg, changes = merge_config(compose_config("train", add_run_overrides([f"run={tmp_path}", word])), tmp_path)
        record_resume(cfg, changes, tmp_path)
        key = {"trainer=cpu": "trainer.strategy"}.get(word, word.partition("=")[0])
        assert OmegaConf.select(OmegaConf.load(tmp_path / "config.yaml"), key) == value
        assert changes == {key: value}
        _, none = merge_config(compose_config("train", add_run_overrides([f"run={tmp_path}"])), tmp_path)
        assert none == {}


@pytest.mark.parametrize("word", ["optimizer.lr=0.5", "net.widths=[8]", "seed=3", "data.batch_size=16"])
def test_what_a_run_began_with_stays(early, word):
    before = saved(early)
    with pytest.raises(
        UserError, match=r"cannot change when .* is resumed; it was .*These keys may change: trainer.max_epochs"
    ):
        resume(early, word)
    assert saved(early) == before


def test_fine_tuning_takes_the_weights_and_warm_starting_the_optimizer_too(early):
    best = checkpoints.read(early / "best.ckpt")
    tasks = {}
    for key in ("finetune", "warm_start"):
        cfg = compose_config("train", [*QUICK, "net.batch_norm=false", f"{key}={early}"])
        _, tasks[key] = prepare(Run(cfg))
        name = "net.layers.1.weight"
        assert tasks[key].state_dict()[name].equal(best["state_dict"][name])
    assert tasks["finetune"].optimizer_state is None
    moments = tasks["warm_start"].optimizer_state[0]["exp_avg"]
    assert moments.equal(best["optimizer_states"][0]["state"][0]["exp_avg"])


def test_a_fine_tuned_head_is_new_where_the_classes_are_others(early, capsys):
    words = ["net.batch_norm=false", "data=cifar100", "data.tiny=true", f"finetune={early}"]
    prepare(Run(compose_config("train", [*QUICK, *words])))
    assert "newly initialized: " in capsys.readouterr().out


@pytest.mark.parametrize("key", ["finetune", "warm_start"])
@pytest.mark.parametrize("link", ["a file", "a chain", "a run's folder"])
def test_weights_may_come_from_a_cache_of_links(key, link, tmp_path, early):
    if link == "a run's folder":
        source = tmp_path / "run"
        source.symlink_to(early)
    else:
        source = tmp_path / "blobs"
        source.symlink_to(early / "best.ckpt")
        if link == "a chain":
            (tmp_path / "second.ckpt").symlink_to(source)
            source = tmp_path / "second.ckpt"
    cfg = compose_config("train", [*QUICK, "net.batch_norm=false", f"{key}={source}"])
    _, task = prepare(Run(cfg))
    best = checkpoints.read(early / "best.ckpt")["state_dict"]
    assert same(dict(task.state_dict()), dict(best))
