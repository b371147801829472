from typing import Any

import torch
from pydantic import NonNegativeFloat
from torch import Tensor

from lab.data.batches import Batch
from lab.data.views import ShownSamples
from lab.nets import vae as nets
from lab.tasks.base import Stage, Step
from lab.tasks.generation import ImageGeneration


class VAE(ImageGeneration):
    """The variational autoencoder (Kingma & Welling 2014): the negative ELBO, in nats for each pixel and channel.

    The loss has two parts, of an image x, a latent vector z with the distribution q(z | x) of the encoder, and the
    distribution p(x | z) of the decoder, which is normal with one learned standard deviation (Rybkin et al. 2021):

    * `reconstruction`: -log p(x | z), without the constant log(2π) / 2;
    * `kl`: the divergence of q(z | x) from N(0, 1).

    Samples are the means of p(x | z) for z from N(0, 1).

    Args:
        beta: the weight of `kl` (β-VAE, Higgins et al. 2017); 1: the ELBO.
    """

    net: nets.VAE

    def __init__(self, beta: NonNegativeFloat = 1.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not isinstance(self.net, nets.VAE):
            raise ValueError(f"VAE needs net=vae, or a subclass; got {type(self.net).__name__}")
        self.beta = beta
        self.noise_shape = (self.net.latent_size,)

    def losses(self, batch: Batch, stage: Stage) -> Step:
        image, label = batch["image"], batch["label"]
        mean, log_variance = self.net.encode(image, label)
        noise = self.normal(batch, stage, *self.noise_shape, name="latent")
        decoded = self.net.decoder(mean + (log_variance / 2).exp() * noise, label).float()
        log_std = self.net.log_std
        reconstruction = (0.5 * ((image - decoded) / log_std.exp()).square() + log_std).mean()
        kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).float().sum(1).mean() / image[0].numel()
        parts = {"reconstruction": reconstruction, "kl": kl}
        return Step(reconstruction + self.beta * kl, parts)

    def sample(self, noise: Tensor, batch: Batch) -> Tensor:
        return self.net.decoder(noise, batch["label"])

    @torch.no_grad()
    def figures(self, samples: ShownSamples, outputs: dict[str, Tensor]) -> dict[str, Any]:
        """Also: images of the split, and their reconstructions from the mean of q(z | x)."""
        shown = samples[torch.arange(min(20, len(samples.index)))]
        batch = samples.data.on_after_batch_transfer({name: x.to(self.device) for name, x in shown.items()})
        both = torch.stack([self.picture(batch["image"]), self.picture(self(batch))], 1).flatten(0, 1)
        names = [text for i in batch["label"].tolist() for text in (self.class_names[i], "reconstruction")]
        return super().figures(samples, outputs) | {"reconstructions": self.drawn(both, names, "reconstructions")}
