"""The article's listing on Fashion-MNIST: its Dataset, DataLoader, CNN, SGD and evaluation. Imports nothing of lab.

Its second CNN (pooling, dropout), the flattened size mended for 28 pixels, trained as it says: batches of 32, learning
rate 0.01, momentum 0.9, 10 epochs. Prints the seconds of each epoch, and last the test accuracy.
"""

import argparse
import sys
import time
from itertools import islice

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision import datasets, transforms


class CNN(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 32, kernel_size=3)
        self.conv2 = nn.Conv2d(32, 64, kernel_size=3)
        self.fc1 = nn.Linear(64 * 5 * 5, 128)
        self.fc2 = nn.Linear(128, 10)
        self.dropout = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        x = x.view(-1, 64 * 5 * 5)
        x = self.dropout(F.relu(self.fc1(x)))
        return F.log_softmax(self.fc2(x), dim=1)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--root", required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--steps", type=int, help="of an epoch, without the test; default: all, and the test")
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.5,), (0.5,))])
    train = datasets.FashionMNIST(args.root, train=True, transform=transform)
    test = datasets.FashionMNIST(args.root, train=False, transform=transform)
    train_loader = DataLoader(train, batch_size=32, shuffle=True)
    test_loader = DataLoader(test, batch_size=32, shuffle=False)

    model = CNN()
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    for epoch in range(args.epochs):
        start, running_loss = time.monotonic(), 0.0
        for inputs, labels in islice(train_loader, args.steps):
            optimizer.zero_grad()
            loss = criterion(model(inputs), labels)
            loss.backward()
            optimizer.step()
            running_loss += loss.item()
        print(time.monotonic() - start)
        print(f"epoch {epoch + 1}, loss {running_loss / len(train_loader):.4f}", file=sys.stderr)
    if args.steps:
        return

    model.eval()
    correct = 0
    with torch.no_grad():
        for inputs, labels in test_loader:
            correct += (model(inputs).argmax(1) == labels).sum().item()
    print(correct / len(test))


if __name__ == "__main__":
    main()
