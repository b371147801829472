"""Metrics of generated samples, in the feature space of a judge.

They are computed once, over all samples of a split, in float64 and in the order of the samples. Batches and processes
therefore change only the rounding of the judge's features.
"""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

NEIGHBOURS = 3  # of precision and recall
CHUNK = 512  # rows of a matrix of distances
NUM_COMPONENTS, NUM_FOR_COMPONENTS = 64, 5000  # kept; training samples from which they are computed


@dataclass(frozen=True)
class References:
    """Features that scores compare with, projected on the first components of the training samples.

    Args:
        projection: (D, K); see `principal_components`.
        train: (M, K) of training samples.
        class_mean: (C, K) of the mean picture of each class.
    """

    projection: Tensor
    train: Tensor
    class_mean: Tensor

    @classmethod
    def of(cls, train: Tensor, class_mean: Tensor) -> Self:
        """(M, D), (C, D) features, before the projection."""
        projection = principal_components(train)
        return cls(projection, train @ projection, class_mean @ projection)


def principal_components(feature: Tensor) -> Tensor:
    """(M, D) features -> (D, K) orthogonal directions of the largest variance; K is at most NUM_COMPONENTS.

    With more numbers than samples of a split, a Fréchet distance would mostly measure the noise of the covariance.
    """
    some = feature[:: -(-len(feature) // NUM_FOR_COMPONENTS)].double()
    _, vector = torch.linalg.eigh(torch.cov(some.T).view(some.shape[1], some.shape[1]))
    return vector[:, -NUM_COMPONENTS:].float()


class GenerationScores(Metric):
    """Compares generated with real samples of the same classes, by the first components of their features.

    * `fd`: the squared Fréchet distance (Heusel et al. 2017), `kid`: the kernel distance (Bińkowski et al. 2018).
    * `precision`, `recall`: the share of generated samples near real ones, and the reverse (Kynkäänniemi et al. 2019).
    * `judged_right`: the share of generated samples that the judge recognises as the asked class; `judged_right_real`:
      the same for real samples.
    * `num_generated`: the number of generated samples; `fd` and `recall` depend on it.
    * `nearest`: the mean distance of a generated sample to the nearest training sample, divided by that of a real one.
      It is near 0 if training samples are copied.
    * `fd_train`, `fd_class_mean`: `fd` with training samples, and with the mean of each class, in the place of
      generated samples. `gap_closed` is 1 - fd / fd_class_mean.
    """

    index: list[Tensor]
    label: list[Tensor]
    real: list[Tensor]
    generated: list[Tensor]
    real_class: list[Tensor]
    generated_class: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        for name in ("index", "label", "real", "generated", "real_class", "generated_class"):
            self.add_state(name, [], dist_reduce_fx="cat")
        self.references: References | None = None  # set before the first `compute`

    def update(
        self,
        index: Tensor,
        label: Tensor,
        is_generated: Tensor,
        real: Tensor,
        generated: Tensor,
        real_class: Tensor,
        generated_class: Tensor,
    ) -> None:
        """Add a batch.

        Args:
            index: (B,) of the samples in their split.
            label: (B,) asked class.
            is_generated: (B,) bool; the other rows are left out.
            real: (B, D) features of the real samples.
            generated: (B, D) features of the generated samples.
            real_class: (B,) class that the judge gives to the real samples.
            generated_class: (B,) class that the judge gives to the generated samples.
        """
        given = (index, label, real, generated, real_class, generated_class)
        states = (self.index, self.label, self.real, self.generated, self.real_class, self.generated_class)
        for rows, state in zip(given, states, strict=True):
            state.append(rows[is_generated])

    def compute(self) -> dict[str, Tensor]:
        order = dim_zero_cat(self.index).argsort().cpu()
        states = (self.label, self.real, self.generated, self.real_class, self.generated_class)
        label, real, generated, real_class, generated_class = (dim_zero_cat(rows).cpu()[order] for rows in states)
        assert self.references is not None, "the task sets the references"
        projection, train, class_mean = self.references.projection, self.references.train, self.references.class_mean
        real, generated, num = real @ projection, generated @ projection, len(label)
        fd, fd_class_mean = frechet_distance(generated, real), frechet_distance(class_mean[label], real)
        precision, recall = precision_and_recall(real, generated)
        values = {
            "fd": fd,
            "fd_train": frechet_distance(train[torch.arange(num) * len(train) // num], real),
            "fd_class_mean": fd_class_mean,
            "gap_closed": 1 - fd / fd_class_mean,
            "kid": kernel_distance(generated, real),
            "precision": precision,
            "recall": recall,
            "judged_right": (generated_class == label).double().mean(),
            "judged_right_real": (real_class == label).double().mean(),
            "nearest": nearest(generated, train).mean() / nearest(real, train).mean(),
            "num_generated": torch.tensor(float(num)),
        }
        return {name: value.float() for name, value in values.items()}


def frechet_distance(a: Tensor, b: Tensor) -> Tensor:
    """(N, D), (M, D) features -> the squared Fréchet distance of two normal distributions with their moments.

    The trace of the matrix root is a sum of the eigenvalues of a symmetric matrix: no complex numbers appear.
    """
    a, b = a.double(), b.double()
    cov_a, cov_b = (torch.cov(x.T).view(x.shape[1], x.shape[1]) for x in (a, b))
    value, vector = torch.linalg.eigh(cov_a)
    root = vector * value.clamp(min=0).sqrt() @ vector.T
    cross = torch.linalg.eigvalsh(root @ cov_b @ root).clamp(min=0).sqrt().sum()
    return (a.mean(0) - b.mean(0)).square().sum() + cov_a.trace() + cov_b.trace() - 2 * cross


def kernel_distance(a: Tensor, b: Tensor) -> Tensor:
    """(N, D), (M, D) features -> the squared MMD with the kernel (x · y / D + 1)³, without bias."""
    a, b = a.double(), b.double()

    def kernel(x: Tensor, y: Tensor) -> Tensor:
        return (x @ y.T / x.shape[1] + 1) ** 3

    def mean_of_pairs(x: Tensor) -> Tensor:
        values = kernel(x, x)
        return (values.sum() - values.trace()) / (len(x) * (len(x) - 1))

    return mean_of_pairs(a) + mean_of_pairs(b) - 2 * kernel(a, b).mean()


def precision_and_recall(real: Tensor, generated: Tensor) -> tuple[Tensor, Tensor]:
    """(N, D), (M, D) features -> precision and recall.

    A sample is near others if it is not farther from one of them than its NEIGHBOURS-th neighbour of the same kind.
    """
    return _share_inside(generated, real), _share_inside(real, generated)


def _share_inside(a: Tensor, b: Tensor) -> Tensor:
    """The share of the rows of `a` inside the ball of a row of `b`."""
    a, b = a.double(), b.double()
    most = min(NEIGHBOURS + 1, len(b))
    radius = torch.cat([torch.cdist(rows, b).kthvalue(most, 1).values for rows in b.split(CHUNK)])
    inside = [(torch.cdist(rows, b) <= radius).any(1) for rows in a.split(CHUNK)]
    return torch.cat(inside).double().mean()


def nearest(a: Tensor, b: Tensor) -> Tensor:
    """(N, D), (M, D) features -> (N,) distance of each row of `a` to the nearest row of `b`."""
    return torch.cat([torch.cdist(rows, b).amin(1) for rows in a.split(CHUNK)]).double()
