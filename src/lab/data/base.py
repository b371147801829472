"""The base class of data modules: read the splits once, then load and preprocess their batches."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import lightning as L
import torch
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor
from torch.utils.data import DataLoader

from lab.data.batches import Batch, Batches, Tensors, no_collate
from lab.data.data_report import DataReport
from lab.data.facts import Facts
from lab.data.samplers import evaluation_batches, training_sampler
from lab.data.split import draw_splits
from lab.engine.errors import UserError
from lab.engine.training.trainer import typed
from lab.features.base import Feature


class Data(L.LightningDataModule):
    """Three splits, and how they are batched.

    A subclass declares `features` and defines `read`. It passes the arguments that it does not know to this class, with
    `**kwargs`. The rest of the contract:

    * `features` names the inputs and the targets, with their types. They are known before anything is read. `read`
      returns `Facts` with a feature of exactly this type for each name. Each feature with an entry in a batch has as
      many rows as `index`.
    * `read` is called once in each process, and returns the same in each. It may rely on `prepare_data`, which may
      download. A feature that is learned from the training split and belongs to the weights, such as a tokenizer, is
      `known(name)` unless that is None. Missing or damaged samples raise UserError. `report` gets everything that
      `read` finds, leaves out or doubts.
    * `draw` draws the splits that the files do not define. Cross-validation needs it: if `read` does not call it, `cv=`
      is refused. `names` may have a name for each sample of a split, such as its path, for reports.
    * A split is a `Batches`, and each of its batches is a `Batch`. If it has `length`, batches group samples of similar
      length, and `tokens_per_batch` may replace `batch_size`.
    * `on_after_batch_transfer` makes the input of the net: it casts, normalises and augments on the device. It must
      also work without a trainer, and then must not augment. A batch may have the entries of some features only: the
      task decides which features are its inputs.
    * An argument `root` is the path of the files. It may be relative; the config of a run has it absolute.
    * `show` and `figures` may show samples.

    The order of an epoch depends on `seed` and the epoch only. With several processes, each training sample goes to one
    process; the last samples, too few for a batch, are left out of the epoch. Each evaluation sample is seen by exactly
    one process. None is repeated to fill a batch, so the metrics are those of a single process. If samples differ in
    length, an epoch has all of them, in batches of similar length.

    Args:
        batch_size: samples in the batch of each process.
        num_workers: processes that load samples that are not in memory; 0: the main process loads them.
        worker_timeout: seconds to wait for a batch before the run ends with an error.
        tiny: read a small generated data set of the same format instead.
        seed: of the order and the augmentation.
        split_seed: of `draw`.
        cv: number of cross-validation folds, without the samples of an official test set; None: no cross-validation.
        fold: the fold that is the test split.
    """

    features: ClassVar[dict[str, type[Feature]]]  # the inputs and targets by the name that people see, such as "image"
    tokens_per_batch: int | None = None  # including padding; replaces `batch_size` if samples differ in length

    def __init__(
        self,
        batch_size: PositiveInt,
        num_workers: NonNegativeInt = 0,
        worker_timeout: PositiveFloat = 120.0,
        tiny: bool = False,
        seed: int = 0,
        split_seed: int = 0,
        cv: int | None = None,
        fold: int | None = None,
    ) -> None:
        super().__init__()
        self.batch_size, self.num_workers, self.worker_timeout = batch_size, num_workers, worker_timeout
        self.tiny, self.seed, self.split_seed, self.cv, self.fold = tiny, seed, split_seed, cv, fold
        self.splits: dict[str, Batches] = {}
        self.names: dict[str, Sequence[str]] = {}  # of the samples of a split, if they have names
        self.is_drawn = False  # `read` has called `draw`
        self.report = DataReport()
        self.facts: Any = None  # the `Facts` of the run: set by `setup`, or loaded with a run
        self.found: Any = None  # the `Facts` that `read` returned
        self.inherited: Facts | None = None  # of the run that is resumed, or whose weights are loaded
        self.is_checked = False  # a process of this run has already read every file
        self.position = 0, 0  # the epoch in which training starts, and the number of its batches that are done

    def setup(self, stage: str | None = None) -> None:
        if self.splits or stage == "predict":
            return
        self.report = DataReport()
        self.splits, self.found = self.read()
        self.report.samples = self.report.samples or {name: len(split) for name, split in self.splits.items()}
        if self.cv is not None and not self.is_drawn:
            raise UserError(f"cv: {type(self).__name__} has no folds: its `read` does not call `draw`. Leave cv out.")
        self.facts = self.facts or self.found

    @abstractmethod
    def read(self) -> tuple[dict[str, Batches], Facts]:
        """Read the splits "train", "val" and "test", and the facts.

        Raises:
            UserError: files are missing or damaged, or a split is empty.
        """

    def known(self, name: str) -> Any:
        """Return the feature of this name that the weights were trained with; None: there are no weights yet.

        The facts of the run itself come first, then those of the run whose weights are loaded.
        """
        for facts in (self.facts, self.inherited):
            feature = facts.features.get(name) if facts else None
            if isinstance(feature, self.features[name]):
                return feature
        return None

    def draw(
        self, label: Tensor | int, fractions: dict[str, float], group: Sequence[str] | None = None, num_test: int = 0
    ) -> dict[str, list[int]]:
        """Draw sample indices for "train" and for each part in `fractions`. In cross-validation "test" is the fold.

        `label`, `fractions` and `group` are those of `lab.data.split.draw_splits`. `num_test` is the number of samples
        in an official test split, which cross-validation leaves out.
        """
        folds = None if self.cv is None or self.fold is None else (self.cv, self.fold)
        parts = draw_splits(label, fractions, self.split_seed, group, folds)
        self.is_drawn = True
        self.report.describe_draw(fractions, folds, bool(group), num_test)
        self.names |= {name: list(map(str, index)) for name, index in parts.items()}
        return parts

    def train_dataloader(self) -> DataLoader[Batch]:
        split, rank, world_size = self._split("train")
        is_fixed = self.trainer is not None and typed(self.trainer).overfit_batches > 0
        sampler = training_sampler(
            split, self.batch_size, self.tokens_per_batch, rank, world_size, self.seed, self.position, is_fixed
        )
        return self._loader(split, **sampler)

    def val_dataloader(self) -> DataLoader[Batch]:
        return self._evaluation_loader("val")

    def test_dataloader(self) -> DataLoader[Batch]:
        return self._evaluation_loader("test")

    def _evaluation_loader(self, name: str) -> DataLoader[Batch]:
        split, rank, world_size = self._split(name)
        batches = evaluation_batches(split, self.batch_size, self.tokens_per_batch, rank, world_size)
        return self._loader(split, batch_sampler=batches)

    def _split(self, name: str) -> tuple[Batches, int, int]:
        """The samples of a split, the rank of this process, and the number of processes."""
        split, (rank, world_size) = self.splits[name], self.rank_and_size()
        if len(split) < world_size:
            raise UserError(f"data: {name} has {len(split)} samples, fewer than the {world_size} processes.")
        return split, rank, world_size

    def rank_and_size(self) -> tuple[int, int]:
        """The rank of this process, and the number of processes."""
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def _loader(self, split: Batches, **kwargs: Any) -> DataLoader[Batch]:
        if isinstance(split, Tensors):  # the split moves to the device once; workers would only copy it
            device = self.trainer.strategy.root_device if self.trainer else torch.device("cpu")
            return DataLoader(split.to(device), collate_fn=no_collate, **kwargs)
        return DataLoader(
            split,
            num_workers=self.num_workers,
            timeout=self.worker_timeout if self.num_workers else 0,
            persistent_workers=self.num_workers > 0,
            pin_memory=torch.cuda.is_available(),
            collate_fn=no_collate,
            **kwargs,
        )

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        return {name: values.to(device, non_blocking=device.type == "cuda") for name, values in batch.items()}

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int = 0) -> Batch:
        """Return the input of the net, computed on its device."""
        return batch

    def show(self, batch: Batch, captions: Sequence[str], title: str) -> Any:
        """A figure, or a Markdown text, of samples of a split, each with its caption; None: they cannot be shown."""
        return None

    def figures(self, batch: Batch) -> dict[str, Any]:
        """Figures of a training batch as the net gets it."""
        return {}

    def state_dict(self) -> dict[str, int]:
        """The current epoch, and the number of its batches that are done."""
        assert self.trainer is not None
        loop = self.trainer.fit_loop
        epoch: Any = loop.epoch_progress.current
        done = loop.epoch_loop.batch_progress.current.completed if epoch.ready > epoch.processed else 0
        return {"epoch": epoch.processed, "batches": done}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self.position = state_dict["epoch"], state_dict["batches"]
