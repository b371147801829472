from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import NonNegativeFloat
from torch import Tensor, nn

from lab.data.batches import Batch
from lab.nets import gan as nets
from lab.tasks.base import Stage, Step
from lab.tasks.generation import ImageGeneration


class GAN(ImageGeneration):
    """A GAN with the loss of R3GAN (Huang et al. 2024, https://arxiv.org/abs/2501.05441), and two optimizers.

    Each generated image is compared with a real image of the same class. With the scores of the discriminator,
    d = generated - real, the losses are the parts

    * `generator`: softplus(-d);
    * `discriminator`: softplus(d), and in training the gradient penalties R1 and R2: penalty / 2 times the squared
      gradient of the score, at real and at generated images.

    The loss that is reported is the mean of d. No loss tells how good the images are; `monitor` should be a score of
    the judge, or the last weights are as good as any.

    Args:
        penalty: the weight of R1 and of R2.
    """

    net: nets.GAN

    def __init__(self, penalty: NonNegativeFloat = 0.05, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not isinstance(self.net, nets.GAN):
            raise ValueError(f"GAN needs net=gan, or a subclass; got {type(self.net).__name__}")
        self.penalty = penalty
        self.noise_shape = (self.net.latent_size,)

    def parameters_of(self) -> dict[str, Iterable[tuple[str, nn.Parameter]]]:
        return {name: getattr(self.net, name).named_parameters() for name in ("generator", "discriminator")}

    def losses(self, batch: Batch, stage: Stage) -> Step:
        real, label = batch["image"], batch["label"]
        fake = self.net.generator(self.normal(batch, stage, *self.noise_shape, name="noise"), label)
        score = self.net.discriminator
        parts = {"generator": F.softplus(score(real, label).detach() - score(fake, label)).mean()}
        fake = fake.detach()
        if stage == "train" and self.penalty:
            real, fake = real.clone().requires_grad_(), fake.requires_grad_()
        of_real, of_fake = score(real, label), score(fake, label)
        distance = of_fake - of_real
        parts["discriminator"] = F.softplus(distance).mean()
        if stage == "train":
            r1, r2 = (squared_slope(each, x) for each, x in ((of_real, real), (of_fake, fake)))
            parts["discriminator"] = parts["discriminator"] + self.penalty / 2 * (r1 + r2)
        return Step(distance.mean().detach(), parts)

    def sample(self, noise: Tensor, batch: Batch) -> Tensor:
        return self.net.generator(noise, batch["label"])


def squared_slope(score: Tensor, image: Tensor) -> Tensor:
    """The mean squared norm of the gradient of (B,) scores in (B, ...) images; it can be differentiated again."""
    if not image.requires_grad:
        return score.new_zeros(())
    (slope,) = torch.autograd.grad(score.sum(), image, create_graph=True)
    return slope.square().flatten(1).sum(1).mean()
