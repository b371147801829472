from typing import Any

import torch
from pydantic import PositiveInt
from torch import Tensor

from lab.data.batches import Batch
from lab.data.views import ShownSamples
from lab.engine.constraints import Fraction
from lab.features.base import Feature
from lab.features.setting import Setting
from lab.tasks.base import Stage, Step
from lab.tasks.generation import ImageGeneration
from lab.tasks.samplers import Solver, guided, integrate

STEPS, GUIDANCE = (1, 2, 4, 8, 16, 50), (1.0, 1.5, 2.0, 4.0)  # of figures
NUM_COLUMNS = 10


class FlowMatching(ImageGeneration):
    """Conditional flow matching on straight paths (Lipman et al. 2023; rectified flow, Liu et al. 2023).

    On the path from noise (time 0) to an image (time 1), x = (1 - time) · noise + time · image. The net predicts its
    velocity, image - noise. The loss is the mean squared error.

    The net takes `image`, `time`, `is_given`, and any conditions: entries of a batch, such as `label`. It leaves the
    conditions out where `is_given` is false. Classifier-free guidance needs both (Ho & Salimans 2022).

    Args:
        drop: share of the training samples whose conditions are left out.
        steps: of the sampler; a prediction may choose another number.
        solver: "euler" evaluates the net once for each step, "heun" 2 · steps - 1 times.
        guidance: above 1, images fit their conditions better and vary less; a prediction may choose another value.
    """

    most_compared = 64  # a sample takes many evaluations of the net

    def __init__(
        self,
        drop: Fraction = 0.1,
        steps: PositiveInt = 16,
        solver: Solver = "euler",
        guidance: float = 1.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if missing := [name for name in ("image", "time", "is_given") if name not in self.arguments]:
            raise ValueError(f"FlowMatching needs a net that takes {missing[0]}, such as net=unet")
        self.drop, self.steps, self.solver, self.guidance = drop, steps, solver, guidance
        self.noise_shape = self.shape

    def losses(self, batch: Batch, stage: Stage) -> Step:
        image = batch["image"]
        noise = self.normal(batch, stage, *self.shape, name="noise")
        time = self.uniform(batch, stage, name="time")
        is_given = torch.ones_like(time, dtype=torch.bool)
        if stage == "train":
            is_given = self.uniform(batch, stage, name="drop") >= self.drop
        share = time[:, None, None, None]
        x = (1 - share) * noise + share * image
        velocity = self(batch | {"image": x, "time": time, "is_given": is_given})
        error = (velocity.float() - (image - noise)).square().flatten(1).mean(1)
        return Step(error.mean(), outputs={"error": error})

    def sample(self, noise: Tensor, batch: Batch) -> Tensor:
        def velocity(x: Tensor, time: Tensor, is_given: Tensor) -> Tensor:
            return self(batch | {"image": x, "time": time, "is_given": is_given}).float()

        return integrate(guided(velocity, batch["guidance"]), noise, batch["steps"], self.solver)

    @torch.no_grad()
    def figures(self, samples: ShownSamples, outputs: dict[str, Tensor]) -> dict[str, Any]:
        """Also: images from the same noise with several numbers of steps, and with several values of guidance."""
        found = super().figures(samples, outputs)
        if samples.split == "test":
            for name, values in (("steps", STEPS), ("guidance", GUIDANCE)):
                picture = torch.cat([self.shown(NUM_COLUMNS, **{name: value}) for value in values])
                titles = [f"{name} {value:g}" for value in values for _ in range(NUM_COLUMNS)]
                found[name] = self.drawn(picture, titles, f"{name} of the sampler", NUM_COLUMNS)
        return found

    @property
    def settings(self) -> dict[str, Feature]:
        return super().settings | {
            "steps": Setting("steps", self.steps, 1, 1000, is_integer=True),
            "guidance": Setting("guidance", self.guidance, 0, 20),
        }
