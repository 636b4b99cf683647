"""Make a ResNet-50 with seeded random weights: the standard compute-bound model, without a download.

Writes resnet50.safetensors (the state dict; net.py builds the module) and images.npz (32 held-out images with their
labels) beside this file. Nothing is trained, but nothing is degenerate either:
- BatchNorm has the statistics of seeded images run through the network, so activations keep their scale for 50 layers;
- the last BatchNorm of each block is scaled down, as at the start of real training, so that the sum over the blocks
  does not grow and like images keep like features;
- the images come from 16 classes (a colour and a coarse random pattern each; every image adds fine noise and contrast
  of its own), and the classifier is fitted by ridge regression on other images than those saved. So the labels are
  true, the accuracy is a real one on an easy artificial task, and quantization has something to lose.
About 15 seconds on 2 cores.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from net import Bottleneck, build
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import nn

HERE = Path(__file__).resolve().parent
CLASSES = 16
LOGIT_SCALE = 12.0
RIDGE = 0.02
NOISE = 0.3


def patterns(cells: int, count: int, random: np.random.Generator) -> NDArray[np.float32]:
    """Random blocks: (count, 3, 224, 224) from `cells` x `cells` normal values."""
    noise = random.normal(size=(count, 3, cells, cells)).astype(np.float32)
    return noise.repeat(224 // cells, axis=2).repeat(224 // cells, axis=3)


def make_images(per_class: int, seed: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Images (n, 3, 224, 224) of about zero mean and unit variance, and their classes (n,)."""
    of_class = np.random.default_rng(0)
    colour = of_class.normal(size=(CLASSES, 3, 1, 1)).astype(np.float32)
    classes = colour + patterns(4, CLASSES, of_class) + patterns(14, CLASSES, of_class)
    random = np.random.default_rng(seed)
    labels = np.arange(CLASSES, dtype=np.int64).repeat(per_class)
    noise = patterns(28, len(labels), random) + patterns(112, len(labels), random)
    images = classes[labels] + NOISE * noise
    contrast = random.uniform(0.9, 1.1, size=(len(labels), 1, 1, 1)).astype(np.float32)
    return images / 2 * contrast, labels


@torch.inference_mode()
def settle(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> None:
    """Give BatchNorm the statistics of `images`, and fit the classifier on them."""
    for module in model.modules():
        if isinstance(module, Bottleneck):
            module.bn3.weight.fill_(0.2)
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # a plain average over the passes
            module.reset_running_stats()
    model.train()
    for rows in torch.randperm(len(images)).split(16):
        model(images[rows])
    model.eval()
    features = torch.cat([model.pool(model.features(rows)).flatten(1) for rows in images.split(16)])
    mean = features.mean(0)
    centred = features - mean
    # Ridge regression to one-hot labels, in its dual form: there are fewer images than features.
    wanted = nn.functional.one_hot(labels, CLASSES).float() - 1 / CLASSES
    kernel = centred @ centred.T
    dual = torch.linalg.solve(kernel + RIDGE * kernel.diagonal().mean() * torch.eye(len(images)), wanted)
    fitted = (centred.T @ dual).T
    weight = nn.functional.normalize(model.classifier.weight, dim=1) * fitted.norm(dim=1).mean()
    weight[:CLASSES] = fitted  # the other classes keep random directions of the same length
    model.classifier.weight.copy_(LOGIT_SCALE * weight)
    model.classifier.bias.copy_(-LOGIT_SCALE * (weight @ mean))


def main() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(2)
    model = build()
    images, labels = make_images(per_class=4, seed=1)
    settle(model, torch.from_numpy(images), torch.from_numpy(labels))
    images, labels = make_images(per_class=2, seed=2)
    with torch.inference_mode():
        logits = torch.cat([model(rows) for rows in torch.from_numpy(images).split(16)])
    accuracy = float((logits.argmax(1).numpy() == labels).mean())
    top = logits.topk(2).values
    save_file(model.state_dict(), HERE / "resnet50.safetensors")
    np.savez(HERE / "images.npz", x=images, y=labels)
    print(
        f"resnet50.safetensors: accuracy {accuracy:.4f} on {len(labels)} held-out images, "
        f"margin of the best class at least {(top[:, 0] - top[:, 1]).min():.2f}, mean best logit {top[:, 0].mean():.2f}"
    )


if __name__ == "__main__":
    main()
