"""The base of tasks that generate images: predictions, scores by a judge, and figures."""

import math
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from pydantic import PositiveInt
from torch import Tensor
from torchmetrics import MetricCollection

from lab.data.base import Data
from lab.data.batches import Batch
from lab.data.views import ShownSamples
from lab.engine import draws
from lab.engine.errors import fail
from lab.features.base import Feature
from lab.features.image import Image
from lab.features.setting import Setting
from lab.metrics.added import Metrics
from lab.metrics.generation import GenerationScores, References
from lab.tasks.base import Stage, Step, Task
from lab.tasks.judge import Judge

NUM_ON_SHEET = 40  # pictures of a figure
MOST_TRAINING = 60_000  # training images that samples are compared with
CHUNK = 500  # training images in a batch of the judge
LARGEST_SEED = 2**53  # browsers know no larger integers


class ImageGeneration(Task):
    """A task whose prediction is an image of a class, made from noise.

    A subclass defines `losses` and `sample`. Conditions, such as the label, are those arguments of the net's `forward`
    that are entries of the data's batches.

    With a judge, validation and test generate an image for one of `sample_every` images of the split, with its
    conditions, and compare the generated with the real images: see `GenerationScores`. The noise of an image depends on
    the seed, the stage and the index of the sample only.

    Args:
        judge: the folder of a finished run that classifies the same images; null: there are no scores of images.
        sample_every: 1: every image of a split has a generated one.
        sheet_every: epochs between two sheets of images from the same noise.
    """

    noise_shape: tuple[int, ...]  # of a sample

    def __init__(
        self,
        num_channels: PositiveInt,
        image_size: PositiveInt,
        image_mean: list[float],
        image_std: list[float],
        class_names: list[str],
        judge: str | None = None,
        sample_every: PositiveInt = 1,
        sheet_every: PositiveInt = 1,
        **kwargs: Any,
    ) -> None:
        scored: Metrics = {"judge": GenerationScores()} if judge else {}
        stages = ("val", "test") if judge else ()
        super().__init__(metrics={stage: MetricCollection(scored).clone() for stage in stages}, **kwargs)
        self.shape, self.class_names = (num_channels, image_size, image_size), class_names
        self.mean, self.std = (torch.tensor(share)[:, None, None] for share in (image_mean, image_std))
        self.judge = Judge(judge) if judge else None
        self.sample_every, self.sheet_every = sample_every, sheet_every

    @abstractmethod
    def losses(self, batch: Batch, stage: Stage) -> Step:
        """Return the step of a batch without the scores of images."""

    @abstractmethod
    def sample(self, noise: Tensor, batch: Batch) -> Tensor:
        """(B, *noise_shape) noise, and the conditions and settings -> (B, C, H, W) images, normalised as the data."""

    def step(self, batch: Batch, stage: Stage) -> Step:
        step = self.losses(batch, stage)
        if stage != "train" and self.judge:
            step.outputs |= self._judged(self.judge, batch, stage)
        return step

    def picture(self, image: Tensor) -> Tensor:
        """(B, C, H, W) normalised images -> images in [0, 1]."""
        return (image.float() * self.std.to(image.device) + self.mean.to(image.device)).clamp(0, 1)

    def _judged(self, judge: Judge, batch: Batch, stage: Stage) -> dict[str, Tensor]:
        """The arguments of `GenerationScores.update`."""
        chosen = batch["index"] % self.sample_every == 0
        real = self.picture(batch["image"])
        generated = real.clone()
        if chosen.any():
            some = self.with_settings({name: values[chosen] for name, values in batch.items()})
            noise = self.normal(some, stage, *self.noise_shape, name="sample")
            generated[chosen] = self.picture(self.sample(noise, some))
        (real_feature, real_class), (feature, found_class) = (judged(judge, x) for x in (real, generated))
        return {
            "index": batch["index"], "label": batch["label"], "is_generated": chosen, "real": real_feature,
            "generated": feature, "real_class": real_class, "generated_class": found_class,
        }  # fmt: skip

    def on_validation_start(self) -> None:
        self._set_references()

    def on_test_start(self) -> None:
        self._set_references()

    def _set_references(self) -> None:
        """Let the judge look at the training images, with which the scores compare, once in each process."""
        scores: list[Any] = [self.metrics[stage]["judge"] for stage in ("val", "test")] if self.judge else []
        if self.judge is None or scores[0].references:
            return
        names = self.judge.facts.features["label"].class_names
        if names != self.class_names:
            fail([f"task.judge: its classes are {', '.join(names)}; expected {', '.join(self.class_names)}"])
        data: Data = self.trainer.datamodule  # type: ignore[attr-defined]
        parts = []
        total = torch.zeros(len(names), *self.shape, dtype=torch.float64)
        count = torch.zeros(len(names), dtype=torch.float64)
        for batch in training_images(data):
            image = batch["image"].to(self.device).float() / 255
            parts.append(judged(self.judge, image)[0].cpu())
            total.index_add_(0, batch["label"].cpu(), image.double().cpu())
            count += batch["label"].cpu().bincount(minlength=len(names))
        means = (total / count.clamp(min=1)[:, None, None, None]).float().to(self.device)
        references = References.of(torch.cat(parts), judged(self.judge, means)[0].cpu())
        for each in scores:
            each.references = references

    @property
    def input_entries(self) -> list[str]:
        made = ("image", "time", "is_given", "noise")
        return [*(name for name in self.arguments if name not in made), "index"]

    @property
    def settings(self) -> dict[str, Feature]:
        return {"seed": Setting("seed", 0, 0, LARGEST_SEED, is_integer=True)}

    def with_settings(self, batch: Batch) -> Batch:
        """The batch of `predict_step` with the defaults of those settings that it does not have."""
        index = batch["index"]
        absent = [each for each in self.settings.values() if each.entries[0] not in batch]
        usual = [each.decode(str(each.default).encode(), math.inf) for each in absent]
        added = {name: torch.from_numpy(array).to(index.device) for sample in usual for name, array in sample.items()}
        return batch | {name: array.expand(index.shape[0], *array.shape) for name, array in added.items()}

    @property
    def outputs(self) -> dict[str, Feature]:
        return {"picture": Image(*self.shape[:2], entry="picture")}

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """`picture` (B, C, H, W), images in [0, 1]."""
        batch = self.with_settings(batch)
        drawn = {"index": draws.joined(batch["seed"], batch["index"])}
        return {"picture": self.picture(self.sample(self.normal(drawn, "predict", *self.noise_shape), batch))}

    def shown(self, num: int = NUM_ON_SHEET, **settings: float) -> Tensor:
        """(num, C, H, W) images of every class in turn, always from the same noise."""
        index = torch.arange(num, device=self.device)
        usual = self.with_settings({"index": index, "label": index % len(self.class_names)})
        chosen = {name: torch.full_like(usual[name], value) for name, value in settings.items()}
        return self.predict_step(usual | chosen, 0)["picture"]

    def epoch_figures(self, epoch: int) -> dict[str, Any]:
        if (epoch + 1) % self.sheet_every:
            return {}
        return {"samples": self.sheet(self.shown(), f"samples after epoch {epoch}, from the same noise")}

    @torch.no_grad()
    def figures(self, samples: ShownSamples, outputs: dict[str, Tensor]) -> dict[str, Any]:
        found: dict[str, Any] = {"samples": self.sheet(self.shown(), "samples of the best weights")}
        if samples.split == "test":
            found |= {"interpolations": self._interpolations(), "nearest": self._nearest(samples.data)}
        return found

    def _interpolations(self) -> Any:
        """Images between two noises, on the circle through both: a straight line would leave the sphere of noises."""
        num, rows = 8, min(5, len(self.class_names))
        label = torch.arange(rows, device=self.device).repeat_interleave(num)
        ends = self.normal({"index": torch.arange(2 * rows, device=self.device)}, "interpolation", *self.noise_shape)
        first, second = (each.repeat_interleave(num, 0) for each in (ends[:rows], ends[rows:]))
        angle = torch.linspace(0, math.pi / 2, num, device=self.device).repeat(rows)
        angle = angle.view(-1, *[1] * len(self.noise_shape))
        batch = self.with_settings({"index": torch.arange(len(label), device=self.device), "label": label})
        picture = self.picture(self.sample(angle.cos() * first + angle.sin() * second, batch))
        return self.drawn(picture, [self.class_names[i] for i in label.tolist()], "from one noise to another", num)

    def _nearest(self, data: Data) -> Any:
        """Samples, each followed by the training image with the smallest distance between pixels."""
        picture = self.shown(10).cpu()
        best, found = torch.full((len(picture),), math.inf), torch.zeros_like(picture)
        for batch in training_images(data):
            image = batch["image"].cpu().float() / 255
            distance, place = torch.cdist(picture.flatten(1), image.flatten(1)).min(1)
            found = torch.where((distance < best)[:, None, None, None], image[place], found)
            best = best.minimum(distance)
        names = [text for distance in best.tolist() for text in ("sample", f"training\n{distance:.1f}")]
        pairs = torch.stack([picture, found], 1).flatten(0, 1)
        return self.drawn(pairs, names, "samples and the nearest training images (L2 of the pixels)")

    def sheet(self, picture: Tensor, title: str) -> Any:
        """A figure of images of every class in turn."""
        return self.drawn(picture, [self.class_names[i % len(self.class_names)] for i in range(len(picture))], title)

    def drawn(self, picture: Tensor, names: Sequence[str], title: str, columns: int = 10) -> Any:
        """A figure of (N, C, H, W) images in [0, 1], each with a name."""
        from lab.figures.images import images  # importing matplotlib takes half a second

        return images(picture, names, title, columns)


def training_images(data: Data) -> Iterator[Batch]:
    """Yield batches of the training split; of a large one, evenly spaced samples."""
    split = data.splits["train"]
    index = range(0, len(split), -(-len(split) // MOST_TRAINING))
    for start in range(0, len(index), CHUNK):
        yield split.__getitems__(index[start : start + CHUNK])


def judged(judge: Judge, picture: Tensor) -> tuple[Tensor, Tensor]:
    """(B, C, H, W) images in [0, 1] -> (B, D) features, (B,) classes."""
    feature, logits = judge.features(judge.prepare({"image": 255 * picture}))
    return feature, logits.argmax(-1)
