"""The base class of data modules: splits read once, loaders without hidden state, batches as dicts."""

from abc import abstractmethod
from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar, Self

import lightning as L
import torch
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lab.data.buckets import BucketSampler, buckets
from lab.data.facts import Facts
from lab.data.report import DataReport
from lab.data.samplers import EpochSampler, shard
from lab.data.split import fold_split, grouped_split, stratified_split
from lab.engine.errors import UserError
from lab.engine.training.trainer import typed
from lab.features.base import Feature

Batch = dict[str, Tensor]
"""The samples of a step by entry, such as `image`; each entry is a tensor with a row for each sample.

* `index` (B,) int64 is always there: the position of each sample in its split. Evaluation, augmentation and predictions
  rely on it.
* A `Feature` names its entries. A batch may have others, such as a reference that only a metric takes.
* Where samples differ in length, the shorter ones are padded with zeros to the longest of the batch. Padding must be
  recognisable: token 0 is padding, other features have an entry with the lengths, labels are -1.
* There are no lists, and nothing is collated: such a batch can be sharded, exported and written down.
"""


class Batches(Dataset[Batch]):
    """A dataset that hands out whole batches: `__getitems__` is one indexing call, with nothing to collate."""

    length: Tensor | None = None  # of samples, where they differ: as `buckets` takes it

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitems__(self, indices: Sequence[int]) -> Batch: ...

    @abstractmethod
    def subset(self, indices: Sequence[int]) -> Self: ...

    def __getitem__(self, index: int) -> Batch:
        return {name: values[0] for name, values in self.__getitems__([index]).items()}


class Tensors(Batches):
    """Samples in memory, or on a GPU: tensors whose first dimension is the samples', such as `image` and `label`."""

    def __init__(self, **tensors: Tensor) -> None:
        self.tensors = tensors

    def __len__(self) -> int:
        return len(next(iter(self.tensors.values())))

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        index = torch.as_tensor(indices).to(next(iter(self.tensors.values())).device, non_blocking=True)
        return {name: values.index_select(0, index) for name, values in self.tensors.items()} | {"index": index}

    def subset(self, indices: Sequence[int]) -> Self:
        index = torch.as_tensor(indices)
        return type(self)(**{name: values[index] for name, values in self.tensors.items()})

    def to(self, device: torch.device) -> Self:
        self.tensors = {name: values.to(device) for name, values in self.tensors.items()}
        return self


class Samples:
    """Those of a split, in the order of what a task made of them.

    Args:
        data: that has been read.
        split: its name.
        index: (N,) of its samples.
    """

    def __init__(self, data: "Data", split: str, index: Tensor) -> None:
        self.data, self.split, self.index = data, split, index

    def __getitem__(self, which: Tensor) -> Batch:
        return self.data.splits[self.split].__getitems__(self.index[which].tolist())

    def show(self, which: Tensor, captions: Sequence[str], title: str) -> Any:
        """A figure of some, each with its caption, or a text in Markdown."""
        return self.data.show(self[which], captions, title)


class TrainingSplit:
    """The training split of data that has been read, for `lab.nets.base.InitFromData`."""

    def __init__(self, data: "Data", is_double: bool = False) -> None:
        self.data, self.split, self.is_double = data, data.splits["train"], is_double

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: Tensor) -> Batch:
        batch = {name: values.cpu() for name, values in self.split.__getitems__(index.tolist()).items()}
        if self.is_double:  # bytes are levels
            batch = {name: x.double() if x.dtype == torch.uint8 else x for name, x in batch.items()}
        return self.data.on_after_batch_transfer(batch)

    def double(self) -> "TrainingSplit":
        return TrainingSplit(self.data, is_double=True)


class Data(L.LightningDataModule):
    """Three splits and how they are batched.

    A subclass declares `features` and defines `read`. It passes the arguments that it does not know on to this class,
    by `**kwargs`. The rest of the contract:

    * `features` names the inputs and targets and their types, known before anything is read. `read` returns `Facts`
      with a feature of exactly these types for each. A feature with an entry in a batch has the same number of rows as
      `index`.
    * `read` is called once for each process, and gives the same in each. It may rely on `prepare_data`, which may
      download. What is learned from the training split and belongs to the weights, such as a tokenizer, it takes from
      `known(name)` where that is not None. Samples that are missing or damaged raise UserError. Whatever it finds,
      leaves out or doubts goes into `report`.
    * `draw` splits what no file splits. It makes cross-validation possible: a `read` that does not call it refuses
      `cv=`. `names` may have a name for each sample of a split, such as its path, which reports show.
    * A split is a `Batches`, and each of its batches is a `Batch`. Where it has `length`, batches group samples of
      similar length; `tokens_per_batch` then may replace `batch_size`.
    * `on_after_batch_transfer` makes what the net gets: it casts, normalises and augments on the device. It also works
      without a trainer, and then must not augment. A batch may have the entries of some features alone, for the task
      decides which of them are its inputs.
    * An argument `root` is where files are; it may be relative, and a run's config has it absolute.
    * `show` and `figures` may show samples.

    The order of an epoch is a function of `seed` and the epoch alone. With several processes the training samples
    are dealt out disjointly; those that fill no batch are left out of that epoch. Each evaluation sample is seen by
    exactly one process: none is repeated to fill a batch, so the metrics are those of a single process. Samples that
    differ in length are all in each epoch, in batches of about the same length.

    Args:
        batch_size: samples in each process's batch.
        num_workers: processes that load what is not in memory; 0 loads in the main process.
        worker_timeout: seconds after which a batch that has not come ends the run; its worker is stuck.
        tiny: read a small stand-in of the same format instead, made on the spot.
        seed: of the order and the augmentation.
        split_seed: of what is drawn for validation and test.
        cv: folds that the samples are dealt into, those of an official test set left out; None: no cross-validation.
        fold: the one that is the test split.
    """

    features: ClassVar[dict[str, type[Feature]]]  # by the name that people see, such as "image"; inputs and targets
    tokens_per_batch: int | None = None  # padding included; in place of `batch_size`, where samples differ in length

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
        self.split_seed, self.cv, self.fold = split_seed, cv, fold
        self.names: dict[str, Sequence[str]] = {}  # of a split's samples, where they have some
        self.batch_size, self.num_workers, self.worker_timeout = batch_size, num_workers, worker_timeout
        self.tiny, self.seed = tiny, seed
        self.splits: dict[str, Batches] = {}
        self.facts: Any = None  # the run's `Facts`, known after `setup`, or restored with a run
        self.inherited: Facts | None = None  # of the run that this run resumes, or whose weights it starts from
        self.found: Any = None  # the `Facts` that reading gave
        self.report = DataReport()
        self.is_checked = False  # a process of this run has found every file readable
        self.position = 0, 0  # the epoch that training starts in, and how many of its batches are done

    @abstractmethod
    def read(self) -> tuple[dict[str, Batches], Facts]:
        """The splits "train", "val" and "test", and the facts.

        Raises:
            UserError: files are missing or damaged, or a split is empty.
        """

    def known(self, name: str) -> Any:
        """The feature of this name that belongs to the weights, which `read` uses; None: there are no weights yet.

        A run's own facts come first, then those of the run whose weights it starts from, then what is found.
        """
        for facts in (self.facts, self.inherited):
            feature = facts.features.get(name) if facts else None
            if isinstance(feature, self.features[name]):
                return feature
        return None

    def setup(self, stage: str | None = None) -> None:
        if not self.splits and stage != "predict":
            self.report = DataReport()
            self.splits, self.found = self.read()
            self.report.samples = self.report.samples or {name: len(split) for name, split in self.splits.items()}
            if self.cv is not None and "test" not in self.names:
                raise UserError(f"cv: {type(self).__name__} has no folds; its `read` is to `draw` its splits.")
            self.facts = self.facts or self.found

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int = 0) -> Batch:
        """What a net gets of a batch, made on its device."""
        return batch

    def show(self, batch: Batch, captions: Sequence[str], title: str) -> Any:
        """Samples as a split has them, each with its caption: a figure, or a text in Markdown; None: there is none."""
        return None

    def figures(self, batch: Batch) -> dict[str, Any]:
        """Figures of a training batch, as the net sees it."""
        return {}

    def draw(
        self, label: Tensor, fractions: dict[str, float], group: Sequence[str] | None = None, num_test: int = 0
    ) -> dict[str, list[int]]:
        """Sample indices of "train" and of each part in `fractions`; in cross-validation "test" is the fold.

        Args:
            label: (N,) class of each sample.
            fractions: the share of every class that goes to a part.
            group: of each sample; no two parts have samples of the same.
            num_test: samples of a test split that the data has; cross-validation leaves them out.
        """
        drawn = " and ".join(fractions)
        if self.cv is not None and self.fold is not None:
            self.report.find(f"fold {self.fold} of {self.cv} is the test split; the others train and validate")
            self.report.leave_out(
                "samples of the data's own test split, which cross-validation does not use", (), num_test
            )
        elif drawn:
            whole = ", groups whole" if group else ""
            self.report.find(f"no {drawn} split: drawn from train{whole}")
        split = partial(grouped_split, group=group) if group else stratified_split
        if self.cv is None or self.fold is None:
            parts = split(label, fractions, self.split_seed)
        else:
            rest, test = fold_split(label, self.cv, self.fold, self.split_seed, group)
            fractions = {name: share for name, share in fractions.items() if name != "test"}
            split = partial(grouped_split, group=[group[i] for i in rest]) if group else stratified_split
            of_rest = split(label[rest], fractions, self.split_seed)
            parts = {name: [rest[i] for i in index] for name, index in of_rest.items()} | {"test": test}
        self.names |= {name: list(map(str, index)) for name, index in parts.items()}
        return parts

    def train_dataloader(self) -> DataLoader[Batch]:
        dataset, rank, world_size = self._split("train")
        epoch, num_batches = self.position
        if dataset.length is not None:
            size, tokens = None if self.tokens_per_batch else self.batch_size, self.tokens_per_batch
            cut = partial(buckets, dataset.length, batch_size=size, tokens_per_batch=tokens, world_size=world_size)
            batches = BucketSampler(cut, len(dataset), world_size, rank, self.seed, epoch, num_batches)
            # Lightning does this for a sampler alone
            batches.fixed = self.trainer is not None and typed(self.trainer).overfit_batches > 0
            return self._loader(dataset, batch_sampler=batches)
        sampler = EpochSampler(dataset, world_size, rank, self.seed, epoch, num_batches * self.batch_size)
        drop_last = len(sampler) >= self.batch_size  # a last batch of one sample would break batch norm
        return self._loader(dataset, batch_size=self.batch_size, sampler=sampler, drop_last=drop_last)

    def val_dataloader(self) -> DataLoader[Batch]:
        return self._evaluation_loader("val")

    def test_dataloader(self) -> DataLoader[Batch]:
        return self._evaluation_loader("test")

    def _evaluation_loader(self, split: str) -> DataLoader[Batch]:
        dataset, rank, world_size = self._split(split)
        if dataset.length is None:
            batches = shard(len(dataset), self.batch_size, rank, world_size)
        else:
            size, tokens = None if self.tokens_per_batch else self.batch_size, self.tokens_per_batch
            if tokens is None:  # long ones come in smaller batches, with less padding
                tokens = int(self.batch_size * dataset.length.view(len(dataset), -1).amax(1).float().mean())
            cut = buckets(dataset.length, torch.arange(len(dataset)), size, tokens, world_size)
            mixed = torch.randperm(len(cut), generator=torch.Generator().manual_seed(0))  # a few are of all lengths
            batches = [cut[i] for i in mixed.tolist()[rank::world_size]]
        return self._loader(dataset, batch_sampler=batches)

    def _loader(self, dataset: Batches, **kwargs: Any) -> DataLoader[Batch]:
        if isinstance(dataset, Tensors):  # they go to the GPU once and for all; a worker would only copy
            device = self.trainer.strategy.root_device if self.trainer else torch.device("cpu")
            return DataLoader(dataset.to(device), collate_fn=as_it_is, **kwargs)
        return DataLoader(
            dataset,
            num_workers=self.num_workers,
            timeout=self.worker_timeout if self.num_workers else 0,
            persistent_workers=self.num_workers > 0,
            pin_memory=torch.cuda.is_available(),
            collate_fn=as_it_is,
            **kwargs,
        )

    def state_dict(self) -> dict[str, int]:
        """The epoch that training is in, and how many of its batches are done."""
        assert self.trainer is not None
        loop = self.trainer.fit_loop
        epoch: Any = loop.epoch_progress.current
        done = loop.epoch_loop.batch_progress.current.completed if epoch.ready > epoch.processed else 0
        return {"epoch": epoch.processed, "batches": done}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self.position = state_dict["epoch"], state_dict["batches"]

    def _split(self, name: str) -> tuple[Batches, int, int]:
        """Its samples, which process this is, and how many share them."""
        dataset = self.splits[name]
        rank, world_size = self._rank()
        if len(dataset) < world_size:
            raise UserError(f"data: {name} has {len(dataset)} samples, fewer than the {world_size} processes.")
        return dataset, rank, world_size

    def _rank(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)


def as_it_is(batch: Any) -> Batch:
    """The `collate_fn` for a dataset of batches."""
    return batch
