"""The encoder and the decoder of a variational autoencoder for images of a class."""

import torch
from pydantic import PositiveInt
from torch import Tensor, nn


class VAE(nn.Module):
    """A convolutional encoder and decoder (Kingma & Welling 2014), both of which know the class.

    Args:
        width: channels at the higher resolution; the lower ones have twice as many.
        latent_size: numbers that describe an image.
    """

    def __init__(
        self,
        num_channels: PositiveInt,
        image_size: PositiveInt,
        num_classes: PositiveInt,
        width: PositiveInt = 48,
        latent_size: PositiveInt = 32,
    ) -> None:
        super().__init__()
        if image_size % 4:
            raise ValueError(f"VAE needs an image_size that is a multiple of 4, got {image_size}")
        self.latent_size = latent_size
        self.encoder = Encoder(num_channels, image_size, num_classes, 2 * latent_size, width)
        self.decoder = Decoder(num_channels, image_size, num_classes, latent_size, width)
        self.log_std = nn.Parameter(torch.zeros(()))  # of the pixels around the decoder's image

    def encode(self, image: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, H, W) image, (B,) label -> (B, latent_size) mean and logarithm of the variance."""
        mean, log_variance = self.encoder(image, label).chunk(2, 1)
        return mean, log_variance.clamp(-10, 10)

    def forward(self, image: Tensor, label: Tensor) -> Tensor:
        """(B, C, H, W) image, (B,) label -> (B, C, H, W) reconstruction from the mean of the latent vector."""
        return self.decoder(self.encode(image, label)[0], label)


class Encoder(nn.Module):
    """(B, C, H, W) image, (B,) label -> (B, num_out)."""

    def __init__(self, num_channels: int, image_size: int, num_classes: int, num_out: int, width: int) -> None:
        super().__init__()
        side, wide = image_size // 4, 2 * width
        self.label_embedding = nn.Embedding(num_classes, width)
        self.stem = nn.Sequential(nn.PixelUnshuffle(2), nn.Conv2d(4 * num_channels, width, 3, padding=1))
        self.layers = nn.Sequential(
            nn.SiLU(),
            nn.Conv2d(width, wide, 3, stride=2, padding=1),
            nn.SiLU(),
            nn.Conv2d(wide, wide, 3, padding=1),
            nn.SiLU(),
            nn.Flatten(),
            nn.Linear(wide * side**2, num_out),
        )

    def forward(self, image: Tensor, label: Tensor) -> Tensor:
        return self.layers(self.stem(image) + self.label_embedding(label)[:, :, None, None])


class Decoder(nn.Module):
    """(B, latent_size) latent vector, (B,) label -> (B, C, H, W) image. It is the generator of a GAN too."""

    def __init__(self, num_channels: int, image_size: int, num_classes: int, latent_size: int, width: int) -> None:
        super().__init__()
        self.side, wide = image_size // 4, 2 * width
        self.label_embedding = nn.Embedding(num_classes, latent_size)
        self.first = nn.Linear(2 * latent_size, wide * self.side**2)
        self.layers = nn.Sequential(
            *normalised(wide),
            nn.Conv2d(wide, wide, 3, padding=1),
            *normalised(wide),
            nn.Upsample(scale_factor=2.0),
            nn.Conv2d(wide, width, 3, padding=1),
            *normalised(width),
            nn.Conv2d(width, width, 3, padding=1),
            *normalised(width),
            nn.Conv2d(width, 4 * num_channels, 3, padding=1),
            nn.PixelShuffle(2),
        )

    def forward(self, latent: Tensor, label: Tensor) -> Tensor:
        x = self.first(torch.cat([latent, self.label_embedding(label)], 1))
        return self.layers(x.unflatten(1, (-1, self.side, self.side)))


def normalised(width: int) -> tuple[nn.Module, nn.Module]:
    """A norm over all features of an image, and SiLU. Batch normalisation would make images depend on each other."""
    return nn.GroupNorm(1, width), nn.SiLU()
