"""Runs that translate: scores, tables, exported files, and the loss."""

import json
import math
from dataclasses import replace

import lightning as L
import pytest
import sacrebleu
import torch
from omegaconf import OmegaConf
from tables import read_rows
from torch import nn
from torchmetrics.utilities import dim_zero_cat

from lab import runs, train
from lab.build import read_data
from lab.data.facts import stored_facts
from lab.data.pairs import Pairs
from lab.engine.config.compose import compose_config
from lab.engine.errors import RunError, UserError
from lab.engine.markdown import table
from lab.engine.training.lightning_quirks import filter_warnings
from lab.features.text import Text
from lab.metrics.translation import BLEU, rows
from lab.tasks.added_metrics import added_metrics
from lab.testing.base import build, compose, read
from lab.verbs import predictor, test
from lab.verbs.export import comparison
from lab.verbs.export import main as export
from lab.verbs.predict import main as predict

PAD = 0


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    """The folder of a run that has learned 200 made-up pairs."""
    folder = tmp_path_factory.mktemp("runs") / "learned"
    words = [
        "experiment=translate_tatoeba", "data.tiny=true", "data.batch_size=8", "net.width=64", "optimizer.lr=0.01",
        "data.val_fraction=0.1", "data.test_fraction=0.1", "trainer.max_epochs=6", "trainer=cpu",
        "trainer.enable_progress_bar=false", f"run={folder}",
    ]  # fmt: skip
    filter_warnings()
    train.main(compose_config("train", words))
    return folder


def test_a_short_run_learns_to_translate(learned):
    results = json.loads((learned / "results.json").read_text())
    assert results["test"]["test/bleu"] > 60
    assert results["test"]["test/acc"] > 0.9


def test_scores_are_sacrebleu_s_of_what_was_written(learned):
    results = json.loads((learned / "results.json").read_text())["test"]
    rows = read_rows(learned / "test_predictions.csv")
    said, target = [row["translation"] for row in rows], [row["target"] for row in rows]
    assert results["test/bleu"] == pytest.approx(sacrebleu.corpus_bleu(said, [target]).score, rel=1e-6)
    assert results["test/chrf"] == pytest.approx(sacrebleu.corpus_chrf(said, [target]).score, rel=1e-6)
    assert all(row["sample"].startswith("I ") and row["target"].startswith("Je ") for row in rows)


def test_scores_do_not_depend_on_how_the_samples_are_batched(learned):
    filter_warnings()
    found = []
    for batch_size in (1, 3, 64):
        _, data, task = runs.load(learned)
        data.batch_size = batch_size
        trainer = L.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False)
        found.append(trainer.test(task, data, verbose=False)[0])
    assert found[1] == pytest.approx(found[0], rel=1e-5)
    assert found[2] == pytest.approx(found[0], rel=1e-5)
    assert found[0]["test/perplexity"] == pytest.approx(torch.tensor(found[0]["test/loss"]).exp().item(), rel=1e-4)


def test_lab_test_says_it_again(learned, capsys):
    test.main(compose_config("test", [f"run={learned}"]))
    results = json.loads((learned / "results.json").read_text())["test"]
    assert f"test/bleu       {results['test/bleu']:.4f}" in capsys.readouterr().out


def test_translations_and_attention_are_to_be_seen(learned):
    for stage in ("val", "test"):
        assert (learned / f"figures/{stage}_attention.png").stat().st_size > 5000
    lines = (learned / "figures/test_translations.md").read_text().splitlines()
    assert lines[2] == "| source | target | translation |"
    assert len(lines) > 10
    assert all(line.count("|") == 4 for line in lines[2:])


def test_a_table_keeps_its_columns_whatever_is_in_its_cells():
    assert table(["a", "b", "c"], [["a|b", "c\nd", "\\"]], "title").splitlines()[4] == "| a\\|b | c d | \\\\ |"


def test_a_run_translates_without_its_data(learned, monkeypatch):
    monkeypatch.setattr(Pairs, "read_pairs", None)
    _, _, task = runs.load(learned)
    token = torch.tensor(task.tokens.encode(["I see two red dogs."]))
    (text,) = task.target_tokens.decode(task.predict_step({"token": token}, 0)["translation"].tolist())
    assert text.startswith("Je vois")


@pytest.fixture(scope="module", params=["seq2seq", "transformer_seq2seq"])
def exported(request, tmp_path_factory):
    """A run that translates names badly, but not all alike, with its model.onnx."""
    folder = tmp_path_factory.mktemp("runs") / request.param
    words = [
        "experiment=translate_emoji", f"net={request.param}", "net.width=16", "data.tiny=true", "data.batch_size=8",
        "data.max_length=16", "optimizer.lr=0.02", "trainer.max_epochs=6", "trainer=cpu",
        "trainer.enable_progress_bar=false", "figures=false", f"run={folder}",
    ]  # fmt: skip
    filter_warnings()
    train.main(compose_config("train", words))
    export.main(compose_config("export", [f"run={folder}"]))
    return folder


def test_a_file_holds_the_search_and_says_what_the_checkpoint_says(exported, tmp_path):
    report = json.loads((exported / "export.json").read_text())["model.onnx"]
    assert report["same_answer"] == report["num_samples"]
    assert report["num_samples"] == len((exported / "test_predictions.csv").read_text().splitlines()) - 1
    (tmp_path / "in.txt").write_text("\n".join(["dog face", "", "😀", "cat " * 40, "grinning face with big eyes"]))
    said = []
    for which in (f"run={exported}", f"model={exported}/model.onnx"):
        predict.main(compose_config("predict", [which, f"input={tmp_path}/in.txt", f"output={tmp_path}/out.csv"]))
        said.append([row["translation"] for row in read_rows(tmp_path / "out.csv")])
    assert said[0] == said[1]
    assert len(set(said[0])) > 2, "a mix-up would not be seen"


def test_a_file_that_translates_otherwise_is_refused(exported, monkeypatch):
    before, program = (exported / "model.onnx").read_bytes(), export.program.program

    def greedy_program(task, data):
        task.beam_size = 1
        return program(task, data)

    monkeypatch.setattr(export.program, "program", greedy_program)
    with pytest.raises(
        RunError, match=r"is refused: .*\d+% of the predictions \(translation\) differ \(at most 2% may\)"
    ):
        export.main(compose_config("export", [f"run={exported}"]))
    assert (exported / "model.onnx").read_bytes() == before


def test_rounding_may_choose_between_translations_but_seldom(exported, monkeypatch):
    _, data, task = runs.load(exported)
    data.setup()
    path = exported / "model.onnx"
    right, size = predictor.from_onnx(path), export.program.example(task, data)
    odd = comparison.some(data, "test", 1000, size)["token"][3]

    def read(path):
        def answer(arrays):
            translation = right.predict(arrays)["translation"].copy()
            translation[(arrays["token"] == odd).all(1), 0] += 1
            return {"translation": translation}

        return answer

    monkeypatch.setitem(export.program.FORMATS, "onnx", replace(export.FORMATS["onnx"], read=read))
    share = 1 / len(data.splits["test"])
    monkeypatch.setattr(Text, "tolerance", 1.5 * share)
    made = comparison.prove(path, "onnx", right, size, data)
    assert made["same_answer"] == made["num_samples"] - 1
    monkeypatch.setattr(Text, "tolerance", 0.9 * share)
    with pytest.raises(RunError, match=f"1 of {len(data.splits['test'])} test samples"):
        comparison.prove(path, "onnx", right, size, data)


def test_a_translator_that_goes_on_from_another_reads_no_more_than_it_is_told_to(exported):
    words = ["experiment=translate_emoji", "data.tiny=true", "data.max_length=4"]
    facts = stored_facts(exported)
    data = read_data(compose_config("train", words), facts)
    for name, feature in facts.features.items():
        assert data.facts.features[name].vocab_size == feature.vocab_size
    token = data.splits["train"].__getitems__(list(range(20)))["token"]
    assert token.shape[1] == 4
    (sample,), _ = data.facts.features["text"].read(["one two three four five"])
    assert sample["token"].shape == (4,)


def test_a_translator_in_eight_bits_is_refused(learned):
    with pytest.raises(UserError, match="int8: its loss of accuracy must be measured"):
        export.main(compose_config("export", [f"run={learned}", "int8=true"]))


def test_the_loss_is_the_mean_over_tokens_and_smoothed_in_training_alone(learned):
    _, data, task = runs.load(learned)
    data.batch_size = 64
    data.setup()
    batch = next(iter(data.val_dataloader()))
    target = batch["target"][:, 1:]
    assert (target == PAD).any()
    logits = task(batch | {"target": batch["target"][:, :-1]})
    losses = nn.functional.cross_entropy(logits.transpose(1, 2), target, reduction="none")[target != PAD]
    assert task.step(batch, "val").loss.item() == pytest.approx(losses.mean().item(), rel=1e-5)
    assert task.size(batch) == len(losses)
    assert task.step(batch, "train").loss.item() > losses.mean().item() + 0.1


def test_a_new_task_guesses_and_stores_the_nets_weights_alone():
    words = ("experiment=translate_emoji", "data.tiny=true")
    data = read(words)
    task = build(compose(*words), data).eval()
    batch = data.on_after_batch_transfer(data.splits["val"].__getitems__(range(8)))
    loss = task.step(batch, "val").loss
    assert loss.item() == pytest.approx(math.log(task(batch).shape[-1]), abs=0.3)
    assert set(task.state_dict()) == {f"net.{name}" for name in task.net.state_dict()}


def test_texts_are_kept_on_the_cpu_and_gathered_from_every_process():
    metric = BLEU(None)
    for _ in range(2):
        metric.update(torch.tensor([[97, 98, 0]]), torch.tensor([[5, 6], [7, 0]]))
    assert {(x.dtype, x.device.type) for x in (*metric.reference, *metric.translation)} == {(torch.int32, "cpu")}
    metric.sync(dist_sync_fn=lambda x, group: [x, x], distributed_available=lambda: True)
    assert rows(dim_zero_cat(metric.reference)) == [[97, 98]] * 4
    assert rows(dim_zero_cat(metric.translation)) == [[5, 6], [7]] * 4
    metric.unsync()
    assert rows(dim_zero_cat(metric.translation)) == [[5, 6], [7]] * 2


def test_a_task_says_that_it_takes_no_metrics():
    cfg = OmegaConf.create({"task": {"_target_": "lab.tasks.translation.Translation", "metrics": {"a": "x"}}})
    with pytest.raises(UserError, match=r"^error: task.metrics: task Translation does not accept additional metrics$"):
        list(added_metrics(cfg, None))
