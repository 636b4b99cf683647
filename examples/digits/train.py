"""Train a small CNN on scikit-learn's handwritten digits (1797 images of 8 x 8) and save it for `yard publish`.

Writes digits.pt2 (an exported program with a dynamic batch) and holdout.npz (a fifth of the data, never trained on)
beside this file. Seeded, so that the same library versions give the same files; about 5 seconds on 2 cores.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

HERE = Path(__file__).resolve().parent
EPOCHS = 30


def build() -> nn.Module:
    """A CNN from images (batch, 1, 8, 8) float32 in [0, 1] to logits (batch, 10)."""
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3, padding=1),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.3),
        nn.Linear(64 * 4 * 4, 64),
        nn.ReLU(),
        nn.Linear(64, 10),
    )


class Digits(nn.Module):
    """The CNN with its input named as in the manifest."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = build()

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.layers(image)


def train(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> None:
    """Plain Adam on cross-entropy with a cosine learning rate."""
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS)
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(images)).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images[rows]), labels[rows]).backward()
            optimizer.step()
        schedule.step()


def main() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(2)
    digits = load_digits()
    images = (digits.images[:, None] / 16).astype(np.float32)
    train_x, test_x, train_y, test_y = train_test_split(
        images, digits.target.astype(np.int64), test_size=0.2, stratify=digits.target, random_state=0
    )
    model = Digits()
    model.train()
    train(model, torch.from_numpy(train_x), torch.from_numpy(train_y))
    model.eval()
    with torch.inference_mode():
        accuracy = float((model(torch.from_numpy(test_x)).argmax(1).numpy() == test_y).mean())
    batch = torch.export.Dim("batch", min=1, max=4096)
    # An example batch of 2 or more: with 1, the exporter bakes the batch dimension in.
    program = torch.export.export(model, (torch.from_numpy(test_x[:2]),), dynamic_shapes={"image": {0: batch}})
    torch.export.save(program, HERE / "digits.pt2")
    np.savez(HERE / "holdout.npz", x=test_x, y=test_y)
    print(f"digits.pt2: accuracy {accuracy:.4f} on the {len(test_y)} held-out images of holdout.npz")


if __name__ == "__main__":
    main()
