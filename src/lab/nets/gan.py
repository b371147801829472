"""The generator and the discriminator of a GAN for images of a class."""

from pydantic import PositiveInt
from torch import Tensor, nn

from lab.nets.vae import Decoder


class GAN(nn.Module):
    """A generator and a discriminator, both of which know the class.

    Args:
        width: channels at the higher resolution; the lower ones have twice as many.
        latent_size: random numbers from which an image is made.
    """

    def __init__(
        self,
        num_channels: PositiveInt,
        image_size: PositiveInt,
        num_classes: PositiveInt,
        width: PositiveInt = 48,
        latent_size: PositiveInt = 64,
    ) -> None:
        super().__init__()
        if image_size % 4:
            raise ValueError(f"GAN needs an image_size that is a multiple of 4, got {image_size}")
        self.latent_size = latent_size
        self.generator = Decoder(num_channels, image_size, num_classes, latent_size, width)
        self.discriminator = Discriminator(num_channels, image_size, num_classes, width)

    def forward(self, noise: Tensor, label: Tensor) -> Tensor:
        """(B, latent_size) noise, (B,) label -> (B, C, H, W) image."""
        return self.generator(noise, label)


class Discriminator(nn.Module):
    """A convolutional net with a projection of the class (Miyato & Koyama 2018).

    It has no norm, and SiLU in the place of ReLU: the gradient penalty needs a smooth function of each image alone.
    """

    def __init__(self, num_channels: int, image_size: int, num_classes: int, width: int) -> None:
        super().__init__()
        wide = 2 * width
        self.layers = nn.Sequential(
            nn.PixelUnshuffle(2),
            nn.Conv2d(4 * num_channels, width, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(width, wide, 3, stride=2, padding=1),
            nn.SiLU(),
            nn.Conv2d(wide, wide, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(wide, wide, 3, stride=2, padding=1),
            nn.SiLU(),
            nn.Flatten(),
        )
        side = -(-image_size // 8)
        # a last bias would change no difference of scores
        self.score = nn.Linear(wide * side**2, num_classes, bias=False)

    def forward(self, image: Tensor, label: Tensor) -> Tensor:
        """(B, C, H, W) image, (B,) label -> (B,) score; higher: more like real images of this class."""
        return self.score(self.layers(image)).gather(1, label[:, None])[:, 0]
