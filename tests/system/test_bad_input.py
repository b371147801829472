"""Bad input, bad numbers: each row is run, and has to end in one line, the right exit code and nothing half-written."""

import csv
import json
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import LAB, TINY
from torch.utils.data import get_worker_info

from lab.data import tiny
from lab.data.image_files import ImageFiles
from lab.data.images import Digits
from lab.engine import cli
from lab.engine.runs.checkpoints import seal
from lab.nets.mlp import MLP
from lab.runs import open as open_module
from lab.tasks.classification import Classification

TRAIN = f"train experiment=digits {TINY} data.image_size=8"
FOLDER = f"train experiment=image_folder {TINY} data.tiny=false data.root=images data.image_size=8 data.num_workers=0"
FASHION = f"train experiment=fashion_mnist {TINY} data.tiny=false data.root=files"
RESUME = "train run=run trainer.max_epochs=2"
TEST, PREDICT = "test run=run trainer=cpu", "predict run=run input=images trainer=cpu"
ASK = "predict run=run input=run/config.yaml trainer=cpu"


@dataclass
class Row:
    """A command line, the piece of the line that answers it, and what was broken before."""

    line: str
    said: str
    broken: Callable[[pytest.MonkeyPatch], object] | None = None
    code: int = 2


def finished(change: Callable[[Path], object] | None = None, name: str = "run") -> Callable[[pytest.MonkeyPatch], None]:
    """A finished run in the folder `run`, one of whose files is then changed."""

    def broken(_: object) -> None:
        shutil.copytree(os.environ["FINISHED"], "run")
        if change:
            change(Path("run") / name)

    return broken


def images(change: Callable[[Path], object], name: str = ".") -> Callable[[pytest.MonkeyPatch], None]:
    """Three classes, twenty pictures each, in the folder `images`; one file is then changed."""

    def broken(_: object) -> None:
        shutil.copytree(tiny.image_folder(), "images")
        change(Path("images") / name)

    return broken


def splits(change: Callable[[Path], object], name: str) -> Callable[[pytest.MonkeyPatch], None]:
    """The same pictures in each of train, val and test."""

    def broken(_: object) -> None:
        for split in ("train", "val", "test"):
            shutil.copytree(tiny.image_folder(), f"images/{split}")
        change(Path("images") / name)

    return broken


def fashion(change: Callable[[Path], object], name: str) -> Callable[[pytest.MonkeyPatch], None]:
    """The four files of Fashion-MNIST, tiny, below `files`."""

    def broken(_: object) -> None:
        from torchvision.datasets import FashionMNIST

        shutil.copytree(tiny.torchvision_images(FashionMNIST)[0], "files")
        change(Path("files/FashionMNIST/raw") / name)

    return broken


def empty(path: Path) -> None:
    path.write_bytes(b"")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 4
    path.write_bytes(content)


def write(text: str) -> Callable[[Path], object]:
    return lambda path: path.write_text(text)


def dangle(path: Path) -> None:
    path.with_name("new.png").symlink_to("nowhere")


def jpeg(path: Path) -> None:
    """A photograph whose second half was not copied."""
    from PIL import Image

    Image.effect_noise((64, 64), 50).save(path.with_name("0.jpg"))
    cut(path.with_name("0.jpg"))


def label(value: int) -> Callable[[Path], object]:
    def change(path: Path) -> None:
        content = bytearray(path.read_bytes())
        content[20] = value
        path.write_bytes(content)

    return change


def foreign(**shapes: tuple[int, ...]) -> Callable[[Path], object]:
    """The tensors of a checkpoint get other shapes, and its file a checksum that is right."""

    def change(path: Path) -> None:
        content = torch.load(path, weights_only=True)
        weights = content["state_dict"]
        weights.update({f"net.layers.{name[1:]}.weight": torch.zeros(shape) for name, shape in shapes.items()})
        torch.save(content, path)
        seal(path)

    return change


def another_net(path: Path) -> None:
    content = torch.load(path, weights_only=True)
    content["state_dict"] = {f"net.conv.{i}": torch.zeros(3) for i in range(4)}
    torch.save(content, path)
    seal(path)


def without_optimizer(path: Path) -> None:
    content = torch.load(path, weights_only=True)
    torch.save({"state_dict": content["state_dict"]}, path)
    seal(path)


def drop(key: str) -> Callable[[Path], object]:
    return lambda path: path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != key}))


CLASSES = foreign(_4=(7, 8))


def forward(evaluation_only: bool) -> Callable[[pytest.MonkeyPatch], None]:
    """A net that answers with nan."""

    def broken(monkeypatch: pytest.MonkeyPatch) -> None:
        right = MLP.forward
        monkeypatch.setattr(
            MLP, "forward", lambda net, image: right(net, image) * (1 if evaluation_only and net.training else np.nan)
        )

    return broken


def samples(change: Callable[[dict[str, torch.Tensor]], object], split: str = "train"):
    """The tensors of a split of the digits are changed as they are read."""

    def broken(monkeypatch: pytest.MonkeyPatch) -> None:
        right = Digits.read_splits

        def read_splits(data: Digits):
            found, names = right(data)
            change(found[split].tensors)
            return found, names

        monkeypatch.setattr(Digits, "read_splits", read_splits)

    return broken


def emptied(tensors: dict[str, torch.Tensor]) -> None:
    tensors.update({name: value[:0] for name, value in tensors.items()})


def mislabelled(value: int) -> Callable[[dict[str, torch.Tensor]], object]:
    return lambda tensors: tensors["label"].__setitem__(3, value)


def with_nan(monkeypatch: pytest.MonkeyPatch) -> None:
    """The image of sample 17 of each split has a nan, as only images of floats can."""
    right = Digits.on_after_batch_transfer

    def transfer(data, batch, dataloader_idx=0):
        batch = right(data, batch)
        batch["image"][batch["index"] == 17] = np.nan
        return batch

    monkeypatch.setattr("lab.data.images.ImageData.on_after_batch_transfer", transfer)


def workers(fate: Callable[[], object]) -> Callable[[pytest.MonkeyPatch], None]:
    """The processes that load data have an accident."""

    def broken(monkeypatch: pytest.MonkeyPatch) -> None:
        shutil.copytree(tiny.image_folder(), "images")
        right = ImageFiles.__getitems__

        def getitems(files, indices):
            if get_worker_info():
                fate()
            return right(files, indices)

        monkeypatch.setattr(ImageFiles, "__getitems__", getitems)

    return broken


def images_to_predict(monkeypatch: pytest.MonkeyPatch) -> None:
    finished()(monkeypatch)
    images(lambda _: None)(monkeypatch)


def model_of_text(monkeypatch: pytest.MonkeyPatch) -> None:
    images(lambda _: None)(monkeypatch)
    Path("x.onnx").write_text("hello")


def not_empty(_: object) -> None:
    Path("x/y").mkdir(parents=True)


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


ROWS = {
    # values in the config
    "sweep without -m": Row(f"{TRAIN} sweep.name=x", "sweep.name=x: this needs -m, seeds or cv"),
    "one fold": Row(f"{TRAIN} cv=1 fold=0", "cv=1: should be greater than or equal to 2"),
    "fold of nothing": Row(f"{TRAIN} fold=2", "fold=2: it needs cv"),
    "fold too many": Row(f"{TRAIN} cv=3 fold=3", "fold=3: expected 0 to 2"),
    "more folds than samples": Row(f"{TRAIN} cv=50 fold=0", "samples, too few for 50 folds"),
    "batch of none": Row(f"{TRAIN} data.batch_size=0", "data.batch_size=0: should be greater than 0"),
    "negative batch": Row(f"{TRAIN} data.batch_size=-1", "data.batch_size=-1: should be greater than 0"),
    "batch in quotes": Row(f"{TRAIN} data.batch_size='8'", "data.batch_size=8: should be a valid integer"),
    "batch and a half": Row(f"{TRAIN} data.batch_size=1.5", "data.batch_size=1.5: should be a valid integer"),
    "negative workers": Row(f"{FOLDER} data.num_workers=-1", "data.num_workers=-1: should be greater than"),
    "no patience": Row(f"{FOLDER} data.worker_timeout=0", "data.worker_timeout=0: should be greater than 0"),
    "negative lr": Row(f"{TRAIN} optimizer.lr=-1", "optimizer: Invalid learning rate: -1"),
    "lr of letters": Row(f"{TRAIN} optimizer.lr=abc", "optimizer.lr=abc: should be a valid number"),
    "lr of nan": Row(f"{TRAIN} optimizer.lr=nan", "optimizer: Invalid learning rate: nan"),
    "negative epochs": Row(f"{TRAIN} trainer.max_epochs=-2", "trainer: `max_epochs` must be a non-negative integer"),
    "devices of letters": Row(f"{TRAIN} trainer.devices=abc", "trainer: `devices` selected with"),
    "no devices": Row(f"{TRAIN} trainer.devices=0", "trainer: "),
    "precision": Row(f"{TRAIN} trainer.precision=17", "trainer.precision=17: should be"),
    "dropout above 1": Row(f"{TRAIN} net.dropout=2", "net.dropout=2: should be less than or equal to 1"),
    "no widths": Row(f"{TRAIN} net.widths=[]", "net.widths=[]: "),
    "a width of none": Row(f"{TRAIN} net.widths=[0]", "net.widths=[0]: should be greater than 0"),
    "typo with a plus": Row(f"{TRAIN} +devces=1", "unknown key devces"),
    "typo with a plus below": Row(f"{TRAIN} +trainer.devces=1", "unknown argument devces. Did you mean devices?"),
    "monitor's name": Row(f"{TRAIN} monitor.metric=val/accuracy", "unknown metric val/accuracy. Did you mean val/acc?"),
    "monitor's mode": Row(f"{TRAIN} monitor.mode=maxx", "monitor.mode=maxx: should be 'min' or 'max'"),
    "clip, fused, mixed": Row(
        f"{TRAIN} trainer.precision=bf16-mixed trainer.gradient_clip_val=1",
        "trainer.gradient_clip_val: it needs optimizer.fused=false with mixed precision",
    ),
    "no gpu": Row(f"{TRAIN} trainer=gpu", "trainer: ", lambda m: m.setattr("torch.cuda.is_available", lambda: False)),
    "log_dir": Row(f"{TRAIN} log_dir=/proc/nope", "log_dir=/proc/nope: /proc is not a writable folder"),
    "log_dir is a file": Row(f"{TRAIN} log_dir=x/logs", "log_dir=x/logs: ", lambda _: Path("x").write_text("")),
    "two beginnings": Row(f"{TRAIN} finetune=run warm_start=run", "finetune, warm_start: set one of them", finished()),
    # data
    "no val": Row(f"{TRAIN} data.val_fraction=0", "data.val_fraction=0: should be greater than 0"),
    "no test": Row(f"{TRAIN} data.test_fraction=0", "data.test_fraction=0: should be greater than 0"),
    "no train": Row(f"{TRAIN} data.val_fraction=0.6 data.test_fraction=0.6", "too few samples for train, val and test"),
    "empty train": Row(TRAIN, "data: train has no samples", samples(emptied)),
    "empty val": Row(TRAIN, "data: val has no samples", samples(emptied, "val")),
    "label too large": Row(TRAIN, "data: train has the label 12; there are 10 classes", samples(mislabelled(12))),
    "negative label": Row(TRAIN, "data: test has the label -1", samples(mislabelled(-1), "test")),
    "idx label": Row(FASHION, "has the label 12; there are 10 classes", fashion(label(12), "train-labels-idx1-ubyte")),
    "idx test label": Row(FASHION, "has the label 10; there are", fashion(label(10), "t10k-labels-idx1-ubyte")),
    "truncated idx": Row(FASHION, "files/FashionMNIST/raw is damaged", fashion(cut, "train-images-idx3-ubyte")),
    "truncated idx labels": Row(FASHION, "files/FashionMNIST/raw is damaged", fashion(cut, "t10k-labels-idx1-ubyte")),
    "empty idx": Row(FASHION, "files/FashionMNIST/raw is damaged", fashion(empty, "t10k-images-idx3-ubyte")),
    "text for idx": Row(FASHION, "files/FashionMNIST/raw is", fashion(write("hello"), "train-labels-idx1-ubyte")),
    "no folder": Row(FOLDER, "data.root: images is not a folder"),
    "empty folder": Row(FOLDER, "data.root: ", lambda _: Path("images").mkdir()),
    "empty class": Row(FOLDER, "data.root: ", images(lambda path: (path / "d").mkdir())),
    "truncated jpeg": Row(FOLDER, "0.jpg is not a readable image", images(jpeg, "a/0.png")),
    "truncated train": Row(FOLDER, "train/a/0.png is not a readable image", splits(cut, "train/a/0.png")),
    "truncated val": Row(FOLDER, "val/a/0.png is not a readable image", splits(cut, "val/a/0.png")),
    "truncated test": Row(FOLDER, "test/b/1.png is not a readable image", splits(cut, "test/b/1.png")),
    "zero bytes": Row(FOLDER, "test/b/1.png is not a readable image", splits(empty, "test/b/1.png")),
    "text for png": Row(FOLDER, "a/0.png is not a readable image", images(write("hello"), "a/0.png")),
    "dangling link": Row(FOLDER, "new.png is not a readable image", images(dangle, "a/0.png")),
    "predict nobody": Row("predict input=x", "run, model: expected one of them"),
    "predict both": Row("predict run=run model=x.onnx input=x", "run, model: expected one of them", finished()),
    "predict nothing": Row("predict run=run input=x", "input=x: there is no such file or folder", finished()),
    "predict nowhere": Row(f"{PREDICT} output=x/y.csv", "output=x/y.csv: the folder ", images_to_predict),
    "predict to txt": Row(
        f"{PREDICT} output=y.txt", "output=y.txt: expected a name that ends in .csv", images_to_predict
    ),
    "no top": Row(f"{PREDICT} top_k=0", "top_k=0: should be greater than 0", images_to_predict),
    "top of letters": Row(f"{PREDICT} top_k=abc", "top_k=abc: should be a valid integer", images_to_predict),
    "flip of letters": Row(f"{PREDICT} flip=maybe", "flip=maybe: should be a valid boolean", images_to_predict),
    "no model": Row("predict model=x.onnx input=.", "model=x.onnx: there is no such file", images(lambda _: None)),
    "text for onnx": Row("predict model=x.onnx input=images", "model=x.onnx: it is damaged", model_of_text),
    "model on gpu": Row(
        "predict model=x.onnx input=images trainer=gpu", "trainer: an exported model runs on the CPU", model_of_text
    ),
    "code for model": Row("predict model=x.pt2 input=images", "model=x.pt2: expected an .onnx", model_of_text),
    "export format": Row("export run=run format=onx", "unknown format onx. Did you mean onnx?", finished()),
    "export int8": Row(
        "export run=run format=aoti int8=true", "int8=True: only format=onnx can be quantised", finished()
    ),
    "int8 of letters": Row("export run=run int8=8", "int8=8: should be a valid boolean", finished()),
    "export nowhere": Row("export run=run output=x/y.onnx", "output=x/y.onnx: ", finished()),
    "export suffix": Row("export run=run output=y.pt2", "output=y.pt2: expected a name that ends in .onnx", finished()),
    "typed classes": Row(f"{TRAIN} +net.num_classes=3", "net.num_classes: the data states it (10); leave it out."),
    "typed channels": Row(f"{TRAIN} +net.num_channels=3", "net.num_channels: the data states it (1); leave it out."),
    # checkpoints
    "finetune nothing": Row(f"{TRAIN} finetune=nowhere", "finetune=nowhere"),
    "finetune empty": Row(f"{TRAIN} finetune=run", "run/best.ckpt is damaged", finished(empty, "best.ckpt")),
    "finetune truncated": Row(f"{TRAIN} finetune=run", "run/best.ckpt is damaged", finished(cut, "best.ckpt")),
    "finetune flipped": Row(f"{TRAIN} finetune=run", "run/best.ckpt is damaged", finished(flip, "best.ckpt")),
    "finetune text": Row(f"{TRAIN} finetune=x.ckpt", "x.ckpt is damaged", lambda _: Path("x.ckpt").write_text("x")),
    "finetune foreign": Row(
        f"{TRAIN} finetune=run", "the checkpoint does not fit this net", finished(another_net, "best.ckpt")
    ),
    "warm start empty": Row(f"{TRAIN} warm_start=run", "run/best.ckpt is damaged", finished(empty, "best.ckpt")),
    "warm start classes": Row(
        f"{TRAIN} warm_start=run", "the checkpoint does not fit this net", finished(CLASSES, "best.ckpt")
    ),
    "warm start without": Row(
        f"{TRAIN} warm_start=run", "the checkpoint has no optimizer state", finished(without_optimizer, "best.ckpt")
    ),
    "warm start other": Row(
        f"{TRAIN} warm_start=run optimizer=sgd", "the checkpoint is of another optimizer", finished()
    ),
    "resume empty": Row(RESUME, "No checkpoint is intact", finished(empty, "last.ckpt")),
    "resume truncated": Row(RESUME, "No checkpoint is intact", finished(cut, "last.ckpt")),
    "resume flipped": Row(RESUME, "No checkpoint is intact", finished(flip, "last.ckpt")),
    "resume foreign": Row(
        RESUME, "run/last.ckpt: the checkpoint does not fit this net", finished(another_net, "last.ckpt")
    ),
    "resume classes": Row(
        RESUME, "run/last.ckpt: the checkpoint does not fit this net", finished(CLASSES, "last.ckpt")
    ),
    "test empty": Row(TEST, "run/best.ckpt is damaged", finished(empty, "best.ckpt")),
    "test flipped": Row(TEST, "run/best.ckpt is damaged", finished(flip, "best.ckpt")),
    "test foreign": Row(
        TEST, "run/best.ckpt: the checkpoint does not fit this net", finished(another_net, "best.ckpt")
    ),
    "test channels": Row(
        TEST, "run/best.ckpt: the checkpoint does not fit this net", finished(foreign(_1=(8, 192)), "best.ckpt")
    ),
    "predict truncated": Row(ASK, "run/best.ckpt is damaged", finished(cut, "best.ckpt")),
    "predict classes": Row(ASK, "run/best.ckpt: the checkpoint does not fit this net", finished(CLASSES, "best.ckpt")),
    # run folders
    "no run": Row(f"{TRAIN} run=x", "run=x: the folder is not empty and holds no run", not_empty),
    "test no run": Row("test run=x", "x is not a finished run: the folder does not exist"),
    "resume empty config": Row(RESUME, "run/config.yaml is damaged", finished(empty, "config.yaml")),
    "resume half a config": Row(RESUME, "run/config.yaml is damaged", finished(cut, "config.yaml")),
    "resume empty stamp": Row(RESUME, "run/stamp.json is damaged", finished(empty, "stamp.json")),
    "resume other stamp": Row(RESUME, "run/stamp.json is damaged", finished(drop("overrides"), "stamp.json")),
    "resume no stamp": Row(RESUME, "run/stamp.json cannot be read: No such file", finished(Path.unlink, "stamp.json")),
    "resume half data": Row(RESUME, "run/data.json is damaged", finished(cut, "data.json")),
    "resume half results": Row(RESUME, "run/results.json is damaged", finished(cut, "results.json")),
    "test empty results": Row(TEST, "run/results.json is damaged", finished(write("{}"), "results.json")),
    "test null results": Row(TEST, "run/results.json is damaged", finished(write("null"), "results.json")),
    "test half results": Row(TEST, "run/results.json is damaged", finished(cut, "results.json")),
    "test half data": Row(TEST, "run/data.json is damaged", finished(cut, "data.json")),
    "test other data": Row(TEST, "run/data.json is damaged", finished(drop("features"), "data.json")),
    "test empty config": Row(TEST, "run/config.yaml is damaged", finished(empty, "config.yaml")),
    "test binary config": Row(
        TEST, "run/config.yaml is damaged", finished(lambda path: path.write_bytes(b"\xff\xfe\x00a: ["), "config.yaml")
    ),
    # numbers, while it runs
    "nan loss": Row(TRAIN, "the gradient is nan at step 0 (epoch 0)", forward(evaluation_only=False), code=1),
    "nan metric": Row(f"{TRAIN} monitor.metric=val/loss monitor.mode=min", "val/loss is nan", forward(True), code=1),
    "nan early stopping": Row(
        f"{TRAIN} monitor.metric=val/loss monitor.mode=min early_stopping=1 trainer.max_epochs=3",
        "val/loss is nan",
        forward(True),
        code=1,
    ),
    "huge lr": Row(f"{TRAIN} optimizer=sgd optimizer.lr=1e30", "at step 1 (epoch 0)", code=1),
    "huge lr skipped": Row(
        f"{TRAIN} optimizer=sgd optimizer.lr=1e30 not_finite=skip trainer.max_epochs=2",
        "every step of epoch 1 was skipped",
        code=1,
    ),
    "nan in images": Row(TRAIN, "the gradient is nan at step", with_nan, code=1),
    "worker killed": Row(f"{FOLDER} data.num_workers=2", "DataLoader worker", workers(kill), code=1),
    "worker stuck": Row(
        f"{FOLDER} data.num_workers=2 data.worker_timeout=2",
        "DataLoader timed out after 2",
        workers(lambda: time.sleep(600)),
        code=1,
    ),
}


@pytest.fixture(scope="module", autouse=True)
def _finished_run(tmp_path_factory):
    """One run for all rows that break one."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(sys, "argv", [str(LAB), *TRAIN.split(), f"run={folder}"])
        cli.main()
        monkeypatch.setenv("FINISHED", str(folder))
        yield


@pytest.mark.parametrize("name", ROWS)
def test_bad_input(name, tmp_path, monkeypatch, capsys):
    row = ROWS[name]
    monkeypatch.chdir(tmp_path)
    if row.broken:
        row.broken(monkeypatch)
    before = files(tmp_path)
    capsys.readouterr()
    with pytest.raises(SystemExit) as exit:
        lab(monkeypatch, row.line)
    said = capsys.readouterr()
    (line,) = said.err.splitlines()
    assert row.said in line
    assert line.startswith(("error: ", "data: ", "data.root: "))
    assert exit.value.code == row.code, line
    assert "Traceback" not in said.out
    if row.code == 2:
        assert files(tmp_path) == before, "something was left behind"
        return
    (folder,) = tmp_path.glob("logs/*/*")
    assert json.loads((folder / "results.json").read_text())["status"] == "failed"
    for checkpoint in folder.glob("*.ckpt"):
        weights = torch.load(checkpoint, weights_only=True)["state_dict"]
        assert all(value.isfinite().all() for value in weights.values()), checkpoint


def lab(monkeypatch: pytest.MonkeyPatch, line: str) -> None:
    monkeypatch.setattr(sys, "argv", [str(LAB), *line.split()])
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    cli.main()


def test_a_broken_sample_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with_nan(monkeypatch)
    with pytest.raises(SystemExit, match="1"):
        lab(monkeypatch, f"{TRAIN} data.batch_size=4")
    (found,) = re.findall(r"samples \[(.*?)\] of the training split", capsys.readouterr().err)
    assert len(found.split(", ")) == 4
    assert "17" in found.split(", ")


def test_a_broken_sample_can_be_skipped_and_is_counted(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with_nan(monkeypatch)
    right = Classification.validation_step
    monkeypatch.setattr(  # it is broken in training alone
        Classification,
        "validation_step",
        lambda task, batch, i: right(task, batch | {"image": batch["image"].nan_to_num()}, i),
    )
    lab(monkeypatch, f"{TRAIN} data.batch_size=4 not_finite=skip trainer.max_epochs=2 trainer.log_every_n_steps=1")
    (folder,) = tmp_path.glob("logs/*/*")
    with open(folder / "metrics.csv") as file:
        counts = [row["skipped_steps"] for row in csv.DictReader(file) if row.get("skipped_steps")]
    assert float(counts[-1]) == 2
    assert json.loads((folder / "results.json").read_text())["status"] == "finished"


def test_a_picture_that_breaks_during_training_fails_the_run(tmp_path, monkeypatch, capsys):
    """All are read before; this one is cut afterwards."""
    monkeypatch.chdir(tmp_path)
    splits(Path.touch, "val/a/12.png")(monkeypatch)
    create = open_module.create_run

    def create_and_cut(*args):
        create(*args)
        cut(Path("images/val/a/12.png"))

    monkeypatch.setattr("lab.runs.open.create_run", create_and_cut)
    with pytest.raises(SystemExit, match="2"):
        lab(monkeypatch, FOLDER)
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith(("error", "data"))]
    assert "val/a/12.png is not a readable image" in line
    (folder,) = tmp_path.glob("logs/*/*")
    assert json.loads((folder / "results.json").read_text())["status"] == "failed"
    assert not (folder / "crash.txt").exists()


def files(folder: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() if p.is_file() else b"" for p in folder.rglob("*") if p.name != ".lock"}


def test_there_are_enough_rows():
    assert len(ROWS) >= 44
