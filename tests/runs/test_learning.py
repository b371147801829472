"""Nothing is hidden in a run: it learns what a plain loop would, and reports what its best weights answer."""

import json
import math

import pytest
import torch
import torch.nn.functional as F

from lab import runs
from lab.data.augment import Augment
from lab.nets.mlp import MLP

DIGITS = ("experiment=digits", "data.tiny=true", "net=mlp", "seed=3")
AUGMENT = {"rotate": 10, "shift": 0.08, "scale": 0.1}  # the experiment's
SEED, EPOCHS, RATE, WARMUP, MOMENTUM, DECAY, EMA = 3, 3, 0.05, 0.25, 0.9, 0.01, 0.8


def test_a_run_ends_on_the_weights_of_a_plain_loop(trained):
    folder = trained(
        *DIGITS, "optimizer=sgd", f"optimizer.lr={RATE}", f"optimizer.weight_decay={DECAY}", f"ema={EMA}",
        "scheduler=warmup_cosine", f"scheduler.warmup={WARMUP}", f"trainer.max_epochs={EPOCHS}",
    )  # fmt: skip
    checkpoint = torch.load(folder / "best.ckpt", weights_only=True)
    assert checkpoint["epoch"] == EPOCHS - 1, "the last epoch is not the best: nothing is shown"
    train = _splits(folder)["train"]
    mean, std = (train["image"] / 255).mean(), (train["image"] / 255).std(correction=0)
    torch.manual_seed(SEED)
    net = MLP(num_channels=1, image_size=32, num_classes=10)
    optimizer = torch.optim.SGD(net.parameters(), RATE, MOMENTUM, weight_decay=DECAY)
    averaged: list[torch.Tensor] = []
    num_batches = len(train["label"]) // 32
    step, total = 0, EPOCHS * num_batches
    warmup = round(WARMUP * total)
    for epoch in range(EPOCHS):
        order = torch.randperm(len(train["label"]), generator=torch.Generator().manual_seed(SEED + epoch))
        for index in order.split(32)[:num_batches]:
            image = Augment(**AUGMENT)(train["image"][index].float(), index, SEED, epoch)
            loss = F.cross_entropy(net((image / 255 - mean) / std), train["label"][index])
            rising, falling = (step + 1) / warmup, (1 + math.cos(math.pi * (step - warmup) / (total - warmup))) / 2
            optimizer.param_groups[0]["lr"] = RATE * (rising if step < warmup else falling)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            now = [p.detach().clone() for p in net.parameters()]
            averaged = [EMA * a + (1 - EMA) * p for a, p in zip(averaged or now, now, strict=True)]
            step += 1
    assert step == checkpoint["global_step"]
    for state, by_hand in (("current_model_state", list(net.parameters())), ("state_dict", averaged)):
        for (name, value), expected in zip(checkpoint[state].items(), by_hand, strict=True):
            torch.testing.assert_close(value, expected, atol=1e-5, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}")


def test_what_is_reported_is_what_the_best_weights_answer(trained):
    """The largest loss is the best here, for then the best weights are not the last."""
    folder = trained(
        *DIGITS, "net.dropout=0.5", "net.batch_norm=true", "task.label_smoothing=0.2", "ema=null",
        "monitor={metric: val/loss, mode: max}", "trainer.max_epochs=3",
    )  # fmt: skip
    checkpoint = torch.load(folder / "best.ckpt", weights_only=True)
    assert checkpoint["epoch"] < 2, "the last epoch is the best: nothing is shown"
    net = MLP(num_channels=1, image_size=32, num_classes=10, batch_norm=True).eval()
    net.load_state_dict({name.removeprefix("net."): value for name, value in checkpoint["state_dict"].items()})
    image, splits = json.loads((folder / "data.json").read_text())["features"]["image"], _splits(folder)
    values = {}
    for split in ("val", "test"):
        with torch.no_grad():
            logits = net((splits[split]["image"] / 255 - image["mean"][0]) / image["std"][0])
        values[f"{split}/loss"] = F.cross_entropy(logits, splits[split]["label"]).item()
        values[f"{split}/acc"] = (logits.argmax(1) == splits[split]["label"]).float().mean().item()
    results = json.loads((folder / "results.json").read_text())
    assert results["best"]["value"] == pytest.approx(values["val/loss"], rel=1e-4)
    assert results["test"]["test/loss"] == pytest.approx(values["test/loss"], rel=1e-4)
    assert results["test"]["test/acc"] == pytest.approx(values["test/acc"])


def _splits(folder):
    _, data, _ = runs.load(folder)
    data.setup("fit")
    return {name: split.tensors for name, split in data.splits.items()}
