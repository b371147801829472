"""The leading template's MNIST run, rebuilt from its modules: per-sample transforms under the Lightning Trainer.

Same net, optimizer, schedule, metrics, splits, batches and checkpoints as lightning-hydra-template's default
experiment (commit bddbc24), without its Hydra and with Lightning's plain progress bar for its rich one, which both cost
more; on Fashion-MNIST's files, which have MNIST's format and size. The last line that it prints has the CPU-seconds of
each epoch with its validation.
"""

import argparse
import time

import torch
from floor import mlp
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import ConcatDataset, DataLoader, random_split
from torchmetrics import MaxMetric, MeanMetric
from torchmetrics.classification import Accuracy
from torchvision.datasets import FashionMNIST
from torchvision.transforms import Compose, Normalize, ToTensor

Batch = tuple[Tensor, Tensor]


class MNISTModule(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net, self.criterion = mlp(), nn.CrossEntropyLoss()
        self.train_acc, self.val_acc, self.test_acc = (Accuracy("multiclass", num_classes=10) for _ in range(3))
        self.train_loss, self.val_loss, self.test_loss = MeanMetric(), MeanMetric(), MeanMetric()
        self.val_acc_best = MaxMetric()
        self.seconds: list[float] = []

    def model_step(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        x, y = batch
        logits = self.net(x)
        return self.criterion(logits, y), torch.argmax(logits, dim=1), y

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        loss, preds, targets = self.model_step(batch)
        self.train_loss(loss)
        self.train_acc(preds, targets)
        self.log("train/loss", self.train_loss, on_step=False, on_epoch=True, prog_bar=True)
        self.log("train/acc", self.train_acc, on_step=False, on_epoch=True, prog_bar=True)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        loss, preds, targets = self.model_step(batch)
        self.val_loss(loss)
        self.val_acc(preds, targets)
        self.log("val/loss", self.val_loss, on_step=False, on_epoch=True, prog_bar=True)
        self.log("val/acc", self.val_acc, on_step=False, on_epoch=True, prog_bar=True)

    def on_validation_epoch_end(self) -> None:
        self.val_acc_best(self.val_acc.compute())
        self.log("val/acc_best", self.val_acc_best.compute(), sync_dist=True, prog_bar=True)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        loss, preds, targets = self.model_step(batch)
        self.test_loss(loss)
        self.test_acc(preds, targets)
        self.log("test/loss", self.test_loss, on_step=False, on_epoch=True, prog_bar=True)
        self.log("test/acc", self.test_acc, on_step=False, on_epoch=True, prog_bar=True)

    def on_train_epoch_start(self) -> None:
        self.start = time.process_time()

    def on_train_epoch_end(self) -> None:
        self.seconds.append(time.process_time() - self.start)

    def configure_optimizers(self) -> dict:
        optimizer = torch.optim.Adam(self.parameters(), lr=0.001)
        scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, mode="min", factor=0.1, patience=10)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "monitor": "val/loss", "interval": "epoch", "frequency": 1},
        }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--root", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--epochs", type=int, default=10)
    args = parser.parse_args()
    transform = Compose([ToTensor(), Normalize((0.1307,), (0.3081,))])
    parts = ConcatDataset([FashionMNIST(args.root, train=train, transform=transform) for train in (True, False)])
    splits = random_split(parts, [55 / 70, 5 / 70, 10 / 70], torch.Generator().manual_seed(42))
    train, val, test = (DataLoader(split, batch_size=128, shuffle=i == 0) for i, split in enumerate(splits))
    trainer = Trainer(
        default_root_dir=args.out,
        accelerator="cpu",
        max_epochs=args.epochs,
        callbacks=[
            ModelCheckpoint(args.out, "epoch_{epoch:03d}", monitor="val/acc", mode="max", save_last=True),
            EarlyStopping("val/acc", patience=100, mode="max"),
        ],
    )
    task = MNISTModule()
    trainer.fit(task, train, val)
    trainer.test(task, test, verbose=False)
    print()
    print(*task.seconds)


if __name__ == "__main__":
    main()
