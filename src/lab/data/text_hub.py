"""Public data sets of texts, from the `datasets` library of Hugging Face."""

from typing import Any, Literal

import torch

from lab.data import tiny_text
from lab.data.text import Labelled, TextData
from lab.engine.constraints import Share
from lab.engine.errors import UserError, one_line

SETS = {  # id on the hub, the column of the texts, and the test split: the one of sst2 has no published classes
    "ag_news": ("fancyzhx/ag_news", "text", "test"),
    "imdb": ("stanfordnlp/imdb", "text", "test"),
    "sst2": ("stanfordnlp/sst2", "sentence", "validation"),
}


class HuggingFaceTexts(TextData):
    """A public data set, from the cache of the library or downloaded to it.

    Args:
        name: the data set.
        val_fraction: share of the training texts of each class in the validation split.
    """

    def __init__(self, name: Literal["ag_news", "imdb", "sst2"], val_fraction: Share, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.set, self.val_fraction = name, val_fraction

    def read_splits(self) -> tuple[dict[str, Labelled], list[str]]:
        _, text, test = SETS[self.set]
        found = tiny_text.hub(text, test) if self.tiny else self._load()
        official = {
            name: Labelled(list(found[name][text]), torch.tensor(list(found[name]["label"])))
            for name in ("train", test)
        }
        train = official["train"]
        parts = self.draw(train.label, {"val": self.val_fraction})
        splits = {name: train.subset(index) for name, index in parts.items()}
        return {"test": official[test]} | splits, list(found["train"].features["label"].names)

    def _load(self) -> Any:
        try:
            import datasets
        except ImportError as error:
            raise UserError(
                f"data: {self.set} needs the package datasets: pip install 'lab-template[datasets]';"
                " data.tiny=true does not."
            ) from error
        try:
            return datasets.load_dataset(SETS[self.set][0])
        except Exception as error:  # several libraries raise different errors
            raise UserError(
                f"data: {self.set} is not in the cache of Hugging Face's datasets, and could not be downloaded"
                f" ({one_line(error)[:200]}). Connect to the network; data.tiny=true needs none."
            ) from error
