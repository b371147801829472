"""The floor: a net trained by a bare PyTorch loop over tensors in memory. Imports nothing of lab.

Prints the seconds of each epoch. Everything that costs time and is not the arithmetic is left out: the images are
floats and normalised beforehand, nothing is measured, logged, validated or saved.
"""

import argparse
import time

import torch
import torch.nn.functional as F
from idx import load
from torch import nn


def mlp() -> nn.Module:
    def block(num_in: int, num_out: int) -> list[nn.Module]:
        return [nn.Linear(num_in, num_out), nn.BatchNorm1d(num_out), nn.ReLU()]

    return nn.Sequential(nn.Flatten(), *block(784, 64), *block(64, 128), *block(128, 64), nn.Linear(64, 10))


def cnn() -> nn.Module:
    """The article's second listing, with its flattened size corrected for 28 pixels."""
    return nn.Sequential(
        nn.Conv2d(1, 32, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(1600, 128), nn.ReLU(), nn.Dropout(0.5), nn.Linear(128, 10),
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("net", choices=["mlp", "cnn"])
    parser.add_argument("--root", required=True)
    parser.add_argument("--batch-size", type=int, required=True)
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--steps", type=int, help="of an epoch; default: all")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    torch.manual_seed(0)
    image, label = load(args.root, "train")
    image, label = image[:55_000].float().div(255).sub(0.286).div(0.353).to(args.device), label[:55_000].to(args.device)
    net = {"mlp": mlp, "cnn": cnn}[args.net]().to(args.device)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.001, fused=True)
    num_steps = args.steps or len(label) // args.batch_size
    for _ in range(args.epochs):
        start = time.monotonic()
        order = torch.randperm(len(label), device=args.device)
        for index in order[: num_steps * args.batch_size].split(args.batch_size):
            loss = F.cross_entropy(net(image.index_select(0, index)), label.index_select(0, index))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        if args.device != "cpu":
            torch.cuda.synchronize()
        print(time.monotonic() - start, flush=True)


if __name__ == "__main__":
    main()
