"""Compare an epoch of experiment=spoken_digits with the same epoch in a bare loop: the cost of lab's loop.

    python bench/audio_loop.py ROOT [ROUNDS]        ROOT: the folder of the Free Spoken Digit Dataset

Both augment, and have the same net with its front end, waveforms in memory, batches and optimizer. A round trains
one epoch of each; the figures are CPU time of this process, without validation.
"""

import statistics
import sys
import tempfile
import time

import lightning as L
import torch
import torch.nn.functional as F

from lab import train
from lab.build import build_trainer, read_data
from lab.engine.config.compose import compose_config
from lab.engine.config.instantiate import instantiate
from lab.nets.audio import AudioCNN


class Timer(L.Callback):
    """The CPU seconds of each epoch."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_train_epoch_start(self, *_: object) -> None:
        self.start = time.process_time()

    def on_train_epoch_end(self, *_: object) -> None:
        self.seconds.append(time.process_time() - self.start)


def with_lab(words: list[str], epochs: int) -> list[float]:
    timer = Timer()

    def build(*args: object) -> L.Trainer:
        trainer = build_trainer(*args)
        trainer.callbacks.append(timer)
        return trainer

    train.build_trainer = build
    with tempfile.TemporaryDirectory() as folder:
        train.main(compose_config("train", [*words, f"trainer.max_epochs={epochs}", f"run={folder}/run"]))
    return timer.seconds[1:]


def bare(words: list[str], epochs: int) -> list[float]:
    cfg = compose_config("train", words)
    data, seconds = read_data(cfg), []
    augment = instantiate(cfg.data.augment)
    net = AudioCNN(8000, 10, width=cfg.net.width)
    optimizer = torch.optim.AdamW(net.parameters(), lr=cfg.optimizer.lr, weight_decay=cfg.optimizer.weight_decay)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, cfg.optimizer.lr, total_steps=1000)
    for epoch in range(epochs):
        start = time.process_time()
        for batch in data.train_dataloader():
            waveform, length = batch["waveform"], batch["waveform_length"]
            waveform, length = augment(waveform, length, batch["index"], 0, epoch, 8000)
            loss = F.cross_entropy(net(waveform, length), batch["label"], label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
        seconds.append(time.process_time() - start)
    return seconds[1:]


def main() -> None:
    augment = "data.augment={_target_: lab.data.augment_audio.AudioAugment, speed: 0.2, noise: true}"
    words = ["experiment=spoken_digits", f"data.root={sys.argv[1]}", augment, "trainer=cpu", "figures=false",
             "trainer.enable_progress_bar=false", "trainer.limit_test_batches=1"]  # fmt: skip
    torch.set_num_threads(1)
    ratios = []
    for _ in range(int(sys.argv[2]) if len(sys.argv) > 2 else 3):
        floor, lab = min(bare(words, 3)), min(with_lab(words, 3))
        ratios.append(lab / floor)
        print(f"lab {lab:.2f} CPU-seconds, bare {floor:.2f}, ratio {ratios[-1]:.3f}", flush=True)
    print(f"median {statistics.median(ratios):.3f}")


if __name__ == "__main__":
    main()
