"""A classifier of two inputs: a digit, and the word that says whether to add five to it."""

from typing import ClassVar

import torch
from torch import Tensor, nn

from lab.data.base import Data
from lab.data.batches import Batches
from lab.data.data_report import digest, fingerprint
from lab.data.facts import Facts
from lab.data.images import Digits
from lab.data.text import EncodedTexts, Ragged
from lab.features.image import Image
from lab.features.labels import ClassLabel
from lab.features.text import Text
from lab.features.tokens import TextTokenizer, train_tokenizer
from lab.tasks.base import Batch

WORDS = ("as it is", "five more")


class DigitsAndWords(Data):
    """`image` (B, 1, 8, 8), `token` (B, T), `label` (B,), the digit, plus five modulo ten where the text says so."""

    features: ClassVar = {"image": Image, "text": Text, "label": ClassLabel}

    def read(self) -> tuple[dict[str, Batches], Facts]:
        drawn = {"split_seed": self.split_seed, "cv": self.cv, "fold": self.fold}
        digits = Digits(image_size=8, val_fraction=0.2, test_fraction=0.2, batch_size=1, tiny=self.tiny, **drawn)
        splits, classes = digits.read_splits()
        content = train_tokenizer(WORDS, "words", 10, 1, 8)
        tokens, read, contents = TextTokenizer(content), {}, {}
        for name, split in splits.items():
            image, digit = split.tensors["image"], split.tensors["label"]
            which = torch.arange(len(digit)) % 2
            label = (digit + 5 * which) % 10
            words = Ragged.of(tokens.encode([WORDS[i] for i in which.tolist()]))
            read[name] = EncodedTexts({"token": words}, {"image": image, "label": label})
            contents[name] = [digest(x.tobytes(), WORDS[i].encode()) for x, i in zip(image.numpy(), which, strict=True)]
        self.names = digits.names
        self.report.describe(contents, self.names)
        features = {"image": Image(1, 8), "text": Text(content, 8), "label": ClassLabel(classes)}
        return read, Facts(features, {name: len(split) for name, split in read.items()}, fingerprint(contents))

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int = 0) -> Batch:
        return batch | {"image": batch["image"].float() / 255} if "image" in batch else batch


class BagOfWords(nn.Module):
    """The mean of the tokens' vectors."""

    def __init__(self, vocab_size: int, width: int = 16) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocab_size, width, padding_idx=0)

    def forward(self, token: Tensor) -> Tensor:
        """(B, T) token -> (B, width)."""
        return self.embed(token).sum(1) / (token != 0).sum(1, keepdim=True)


class Pixels(nn.Module):
    def __init__(self, num_channels: int, image_size: int, width: int = 64) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(num_channels * image_size**2, width), nn.ReLU())

    def forward(self, image: Tensor) -> Tensor:
        """(B, C, H, W) image -> (B, width)."""
        return self.layers(image)


class Fusion(nn.Module):
    """Two towers, whose features a layer puts together.

    Args:
        image: of the pictures.
        text: of the texts.
    """

    def __init__(self, image: nn.Module, text: nn.Module, num_classes: int) -> None:
        super().__init__()
        self.image, self.text = image, text
        self.head = nn.Sequential(nn.Linear(80, 64), nn.ReLU(), nn.Linear(64, num_classes))

    def forward(self, image: Tensor, token: Tensor) -> Tensor:
        """(B, C, H, W) image, (B, T) token -> (B, num_classes) logits."""
        return self.head(torch.cat([self.image(image), self.text(token)], 1))
