"""A checkpoint of a run's folder is checked before a run resumes from it."""

import pytest
import torch
from garbage import changed

from lab import runs
from lab.engine.errors import UserError
from lab.engine.runs import checkpoints
from lab.runs import resume


@pytest.fixture(scope="module")
def loaded(digits_run):
    return runs.load(digits_run)


@pytest.fixture(scope="module")
def content(digits_run):
    return torch.load(digits_run / "last.ckpt", weights_only=True)


@pytest.mark.parametrize(
    "key",
    [
        *checkpoints.NEEDED, *(f"last/{key}" for key in checkpoints.NEEDED_LAST), "loops/fit_loop",
        "loops/fit_loop/epoch_progress", "loops/fit_loop/epoch_loop.batch_progress/current",
        "loops/fit_loop/epoch_loop.batch_progress/current/completed", "last/end/early_stopping",
        "callbacks/FiniteGuard/num_skipped", "optimizer_states/0", "optimizer_states/0/state", "lr_schedulers/0",
        "optimizer_states/0/param_groups/0/params",
    ],
)  # fmt: skip
@pytest.mark.parametrize("value", [..., "x", None], ids=str)
def test_a_checkpoint_that_lacks_an_entry_is_refused(key, value, content, digits_run):
    checkpoints.check_content(content, digits_run)
    if key == "last/end/early_stopping" and value is not ...:
        return
    with pytest.raises(UserError, match="a run cannot resume from it: .* is missing or has a wrong type"):
        checkpoints.check_content(changed(content, key, value), digits_run)


ROWS = {"offered": ["preds"], "rows": {"preds": torch.ones(4, 3)}}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("sums", ...), ("sums", 3), ("sums", ({},)), ("sums", ({"loss": 1.0}, 1)),
        ("sums", ({"loss": torch.ones(2)}, 1)),
        ("sums", ({"loss": torch.ones(())}, "1")), ("sums", ([], 1)), ("metrics", {"acc.tp": 3}),
        ("pending", ...), ("pending", {"offered": []}), ("pending", {"offered": [], "rows": []}),
        ("pending", ROWS | {"offered": []}), ("pending", ROWS | {"rows": {"preds": [1.0]}}),
        ("pending", ROWS | {"rows": {"preds": torch.ones(())}}),
        ("pending", {"offered": ["a", "b"], "rows": {"a": torch.ones(2), "b": torch.ones(3)}}),
    ],
    ids=str,
)  # fmt: skip
def test_a_checkpoint_of_another_epoch_so_far_is_refused(key, value, content, digits_run):
    good = changed(content, "epoch_so_far/0/sums", ({"loss": torch.ones(())}, 4))
    good = changed(good, "epoch_so_far/0/pending", ROWS)
    checkpoints.check_content(good, digits_run)
    with pytest.raises(UserError, match=rf"epoch_so_far\.0\.{key}.* is missing or has a wrong type"):
        checkpoints.check_content(changed(good, f"epoch_so_far/0/{key}", value), digits_run)


@pytest.mark.parametrize(
    ("name", "state"),
    [
        ("FiniteGuard", {"x": 1}),
        ("ResumableEarlyStopping{'monitor': 'val/acc'}", {"wait_count": 1}),
        (
            "ResumableEarlyStopping{'monitor': 'val/acc'}",
            {"wait_count": "1", "stopped_epoch": 0, "patience": 1, "best_score": 0.5},
        ),
        ("BestCheckpoint{}", {"best": "x"}),
        ("ModelCheckpoint{'monitor': None}", {"dirpath": "x"}),
        ("EMAWeightAveraging", {}),
        ("Timer", {"time_elapsed": 3.0}),
        ("FiniteGuard", 3),
        ("FiniteGuard", None),
    ],
    ids=str,
)
def test_a_callbacks_state_that_it_could_not_load_is_refused(name, state, content, digits_run):
    with pytest.raises(UserError, match=r"cannot resume from it: callbacks\..* is missing or"):
        checkpoints.check_content(content | {"callbacks": {name: state}}, digits_run)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("optimizer_states", []),
        ("optimizer_states/0/param_groups", []),
        ("optimizer_states/0/param_groups/0/params", [0]),
        ("optimizer_states/0/state", {99: {}}),
        ("lr_schedulers", []),
        ("state_dict", {}),
    ],
    ids=str,
)
def test_a_checkpoint_of_another_optimizer_is_refused_before_it_is_resumed(key, value, content, loaded, tmp_path):
    cfg, _, task = loaded
    torch.save(changed(content, key, value), tmp_path / "last.ckpt")
    checkpoints.seal(tmp_path / "last.ckpt")
    with pytest.raises(UserError, match=r"last\.ckpt"):
        resume.find_checkpoint(cfg, tmp_path, task)
