"""Every classification model of torchvision fits the data."""

import pytest
import torch
from torchvision import models

from lab.nets.torchvision import TorchvisionNet

ON_META = [name for name in models.list_models(module=models) if not name.startswith("regnet")]  # it computes widths


@pytest.mark.parametrize("name", [*ON_META, "regnet_x_400mf", "regnet_y_400mf"])
def test_every_torchvision_model_fits_the_data(name):
    with torch.device("meta" if name in ON_META else "cpu"):
        net = TorchvisionNet(num_channels=1, image_size=224, num_classes=7, name=name).eval()
        assert net(torch.zeros(2, 1, 224, 224)).shape == (2, 7)
