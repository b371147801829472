"""Two processes on the CPU: what is particular to being several."""

import json
import os
import re
import subprocess
import sys

import lightning as L
import pytest
import torch
from conftest import LAB, PLAIN
from tables import read_rows

from lab import runs
from lab.engine.config import allow
from lab.engine.training.lightning_quirks import filter_warnings

QUICK = (*PLAIN, "net=mlp", "trainer.max_epochs=2", "trainer.enable_progress_bar=false")


def run_folders(tmp_path):
    return [path.parent for path in (tmp_path / "logs").rglob("stamp.json")]


@pytest.fixture(scope="module")
def recorder(tmp_path_factory):
    """A callback, importable by every rank, that writes down what each rank sees."""
    folder = tmp_path_factory.mktemp("callbacks")
    (folder / "recorder.py").write_text(
        """
import json, os
import lightning as L

class Recorder(L.Callback):
    def __init__(self, folder):
        self.folder, self.seen = folder, {"train": [], "test": []}

    def on_train_batch_end(self, trainer, task, outputs, batch, batch_idx):
        if trainer.current_epoch == 0:
            self.seen["train"] += batch["index"].tolist()

    def on_test_batch_end(self, trainer, task, outputs, batch, batch_idx, dataloader_idx=0):
        self.seen["test"] += batch["index"].tolist()

    def on_test_end(self, trainer, task):
        total = sum(p.double().sum().item() for p in task.net.parameters())
        rate = task.optimizer.keywords["lr"]
        content = self.seen | {"weights": total, "lr": rate, "seed": trainer.datamodule.seed}
        name = f"rank{trainer.global_rank}_{rate}_{trainer.datamodule.seed}.json"
        with open(os.path.join(self.folder, name), "w") as file:
            json.dump(content, file)
"""
    )
    (folder / "sitecustomize.py").write_text(
        "from lab.engine.config import allow\nallow.MODULES += ('recorder',)\n"
    )  # as a fork does
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(allow, "MODULES", (*allow.MODULES, "recorder"))
        patch.setenv("PYTHONPATH", str(folder), prepend=os.pathsep)
        yield folder


def record(lab, recorder, tmp_path, *arguments):
    result = lab(
        "train", *QUICK, "trainer=ddp_cpu", *arguments,
        f"+callbacks.recorder={{_target_: recorder.Recorder, folder: '{tmp_path}'}}",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return result, {path.stem: json.loads(path.read_text()) for path in tmp_path.glob("rank*.json")}


def test_two_processes_see_disjoint_samples_and_give_one_process_metrics(lab, recorder, tmp_path):
    result, ranks = record(lab, recorder, tmp_path, "figures=true")
    first, second = (ranks[name] for name in sorted(ranks))
    assert not set(first["train"]) & set(second["train"])
    assert len(first["train"]) == len(second["train"]) > 40
    assert first["weights"] == second["weights"]
    tested = first["test"] + second["test"]
    assert len(tested) == len(set(tested)) == 40, "a test sample is missing, or counted twice"
    assert result.stdout.count("test/acc ") == 1, "both processes report"

    (folder,) = run_folders(tmp_path)
    assert "name: digits" in (folder / "config.yaml").read_text()
    results = json.loads((folder / "results.json").read_text())
    rows = read_rows(folder / "metrics.csv")
    assert [row["step"] for row in rows if row["val/loss"]] == [row["step"] for row in rows if row["train/loss"]]
    assert len([row for row in rows if row["test/loss"]]) == 1
    torch.load(folder / "best.ckpt", weights_only=True)

    filter_warnings()
    _, data, task = runs.load(folder)
    data.setup("test")
    predictions = read_rows(folder / "test_predictions.csv")
    assert [row["sample"] for row in predictions] == list(data.names["test"]), "rows of both, in the samples' order"
    labels = [data.facts.features["label"].class_names[i] for i in data.splits["test"].tensors["label"].tolist()]
    assert [row["label"] for row in predictions] == labels
    confusion = (folder / "figures/test_classes.md").read_text()
    assert sum(int(line.split("|")[-2]) for line in confusion.splitlines()[2:] if "|" in line) == 40
    again = L.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False).test(task, data, verbose=False)[0]
    assert again.pop("test/loss") == pytest.approx(results["test"].pop("test/loss"), rel=1e-6)
    assert again == results["test"], "not exactly the metrics of one process"

    tables = {}
    for trainer in ("cpu", "ddp_cpu"):
        shown = lab("test", f"run={folder}", f"trainer={trainer}")
        assert shown.returncode == 0, shown.stderr
        tables[trainer] = re.findall(r"(\S+) +(\d\.\d+)", shown.stdout)
    assert tables["cpu"] == tables["ddp_cpu"]
    assert float(dict(tables["cpu"])["test/acc"]) == pytest.approx(results["test"]["test/acc"], abs=5e-5)
    assert run_folders(tmp_path) == [folder], "testing made a folder"


def test_every_rank_of_a_sweeps_job_has_that_jobs_config(lab, recorder, tmp_path):
    _, ranks = record(lab, recorder, tmp_path, "optimizer.lr=0.001,0.01", "-m", "seed=3")
    assert sorted(ranks) == ["rank0_0.001_3", "rank0_0.01_3", "rank1_0.001_3", "rank1_0.01_3"]
    for rate in ("0.001", "0.01"):
        assert ranks[f"rank0_{rate}_3"]["weights"] == ranks[f"rank1_{rate}_3"]["weights"]
    folders = run_folders(tmp_path)
    assert sorted(runs.load(folder)[0].optimizer.lr for folder in folders) == [0.001, 0.01]


@pytest.fixture
def torchrun(tmp_path):
    """`lab train` in two processes that torchrun starts."""

    def torchrun(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--no-python"]
        return subprocess.run(
            [*command, str(LAB), "train", *QUICK, *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=200
        )

    return torchrun


def test_torchrun_s_processes_share_one_run(torchrun, tmp_path):
    auroc = "task.metrics.auroc={_target_: torchmetrics.AUROC, task: multiclass}"  # tried by the first one alone
    result = torchrun("trainer=ddp_cpu", "seed=4", "log_dir=other", auroc)
    assert result.returncode == 0, result.stderr
    (folder,) = (tmp_path / "other").glob("*/*")
    assert folder.name.startswith("torchrun-"), "restarted, it would not find its folder"
    assert result.stdout.count("test/acc ") == 1
    assert torch.load(folder / "best.ckpt", weights_only=True)["epoch_so_far"].__len__() == 2
    results = json.loads((folder / "results.json").read_text())
    assert results["status"] == "finished"
    assert 0 <= results["test"]["test/auroc"] <= 1


def test_torchrun_s_processes_end_with_the_first(torchrun, tmp_path):
    result = torchrun("data=image_folder", "data.root=nowhere", "data.tiny=false")
    assert result.returncode
    assert "data.root: nowhere is not a folder" in result.stderr
    assert "Traceback" not in result.stderr.split("ChildFailedError")[0].rpartition("Traceback")[0]
    assert not list(tmp_path.glob("logs/*/*/best.ckpt"))


def test_processes_with_other_weights_do_not_train(lab, recorder, tmp_path):
    wrong = (
        "import torch\nimport lightning as L\n\nclass Wrong(L.Callback):\n"
        "    def setup(self, trainer, task, stage):\n"
        "        if trainer.global_rank == 1:\n"
        "            next(task.parameters()).data.add_(1e-3)\n"
    )
    (recorder / "wrong.py").write_text(wrong)
    (recorder / "sitecustomize.py").write_text(
        "from lab.engine.config import allow\nallow.MODULES += ('recorder', 'wrong')\n"
    )
    result = lab("train", *QUICK, "trainer=ddp_cpu", "+callbacks.wrong={_target_: wrong.Wrong}")
    assert result.returncode == 1
    assert "error: the weights of processes 0 and 1 differ" in result.stderr
    assert not list(tmp_path.glob("logs/*/*/*.ckpt"))


def test_processes_with_another_config_do_not_train(lab, recorder, tmp_path):
    """As where the environment of a second machine is another."""
    (recorder / "sitecustomize.py").write_text(
        "import os\nfrom lab.engine.config import allow\nallow.MODULES += ('recorder',)\n"
        "os.environ['LR'] = '0.1' if os.environ.get('LOCAL_RANK') == '1' else '0.01'\n"
    )
    result = lab("train", *QUICK, "trainer=ddp_cpu", "optimizer.lr='${oc.decode:${oc.env:LR}}'")
    assert result.returncode == 1
    assert "error: the configs of processes 0 and 1 differ" in result.stderr
    assert not list(tmp_path.glob("logs/*/*/*.ckpt"))
