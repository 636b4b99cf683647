"""Make the three models of the design-space experiment with seeded weights, ready for `yard register`; no download.

    python examples/design_space/models.py [--out DIR]

Writes, beside this file or into DIR (then with networks.py and the manifests): weights as safetensors, and a small
held-out data set for each. All layers but the last have random weights. The last is fitted on an easy artificial
task (linear discriminants), so that answers are decisions with a margin: where random answers tie, a last bit decides,
and no proof could tell an exact artifact from a wrong one. About 15 seconds on 2 cores.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import networks
import numpy as np
import torch
from networks import PADDING, VOCABULARY
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import nn

HERE = Path(__file__).resolve().parent
MODELS = ("gan-discriminator", "resnet-cifar", "translation")
IMAGE_CLASSES = 10
NOISE = 0.3
RIDGE = 0.02
LOGIT_SCALE = 8.0
SENTENCES = 256
BUCKET, LONGEST = 8, 48
"""Clients pad a sentence to the next multiple of BUCKET: only requests of equal shape can be joined to a batch."""


def patterns(cells: int, count: int, random: np.random.Generator) -> NDArray[np.float32]:
    """Random blocks: (count, 3, 32, 32) from `cells` x `cells` normal values."""
    noise = random.normal(size=(count, 3, cells, cells)).astype(np.float32)
    return noise.repeat(32 // cells, axis=2).repeat(32 // cells, axis=3)


def pictures(per_class: int, seed: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Images (n, 3, 32, 32) of ten classes, each with a colour and a coarse pattern of its own, and their labels."""
    of_class = np.random.default_rng(0)
    colour = of_class.normal(size=(IMAGE_CLASSES, 3, 1, 1)).astype(np.float32)
    classes = colour + patterns(2, IMAGE_CLASSES, of_class) + patterns(8, IMAGE_CLASSES, of_class)
    random = np.random.default_rng(seed)
    labels = np.arange(IMAGE_CLASSES, dtype=np.int64).repeat(per_class)
    images = classes[labels] + NOISE * (patterns(4, len(labels), random) + patterns(16, len(labels), random))
    return images / 2, labels


def real_and_made(per_class: int, seed: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """As many pictures (label 1) as images without any structure (label 0)."""
    real, _ = pictures(per_class, seed)
    made = np.random.default_rng(seed + 100).normal(size=real.shape).astype(np.float32) * real.std()
    return np.concatenate([real, made]), np.repeat(np.array([1, 0]), len(real))


def sentences(count: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Token ids (count, LONGEST), padded with 0, and how long each row is after padding to a multiple of BUCKET.

    Lengths are log-normal with a median of about 17 words, as sentences of news are; ids are Zipf-like, as words are.
    """
    random = np.random.default_rng(seed)
    words = np.clip(np.exp(random.normal(np.log(17), 0.5, count)).round(), 2, LONGEST).astype(np.int64)
    ranks = 1 + (np.exp(random.random((count, LONGEST)) * np.log(VOCABULARY - 1))).astype(np.int64)
    ids = np.where(np.arange(LONGEST) < words[:, None], np.minimum(ranks, VOCABULARY - 1), PADDING)
    return ids, -(-words // BUCKET) * BUCKET


def discriminant(features: torch.Tensor, labels: torch.Tensor, classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight (classes, d) and bias of linear discriminant analysis: the class whose mean is nearest, in the metric of
    the spread within the classes, has the highest output. Fisher 1936; the spread is regularised."""
    count = torch.bincount(labels, minlength=classes).clamp(min=1).float()
    means = torch.zeros(classes, features.shape[1]).index_add_(0, labels, features) / count[:, None]
    around = features - means[labels]
    within = around.T @ around / len(around)
    within += RIDGE * within.diagonal().mean() * torch.eye(len(within))
    weight = torch.linalg.solve(within, means.T).T
    bias = -0.5 * (weight * means).sum(1)
    scale = LOGIT_SCALE / weight.norm(dim=1).mean()
    return weight * scale, bias * scale


@torch.inference_mode()
def settle(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Give the normalisations of a convolutional network the statistics of `images`; return their features."""
    for module in model.modules():
        if isinstance(module, networks.Residual):
            module.body[-1].weight.fill_(0.2)  # as at the start of training: like images keep like features
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # a plain average over the passes
            module.reset_running_stats()
    model.train()
    for rows in torch.randperm(len(images)).split(64):
        model(images[rows])
    model.eval()
    return torch.cat([model.features(rows) for rows in images.split(64)])


@torch.inference_mode()
def set_head(model: nn.Module, weight: torch.Tensor, bias: torch.Tensor) -> None:
    model.head.weight.copy_(weight)
    model.head.bias.copy_(bias)


def save(model: nn.Module, folder: Path, name: str, **arrays: NDArray[np.generic]) -> None:
    save_file(model.state_dict(), folder / f"{name}.safetensors")
    np.savez(folder / f"{name}.npz", **arrays)


def make_discriminator(folder: Path) -> None:
    """Real pictures against noise."""
    torch.manual_seed(0)
    model = networks.discriminator()
    images, real = real_and_made(per_class=40, seed=1)
    weight, bias = discriminant(settle(model, torch.from_numpy(images)), torch.from_numpy(real), 2)
    set_head(model, weight[1:] - weight[:1], bias[1:] - bias[:1])
    images, real = real_and_made(per_class=13, seed=2)
    save(model, folder, "gan-discriminator", x=images, y=real)


def make_resnet(folder: Path) -> None:
    """Ten classes of pictures."""
    torch.manual_seed(0)
    model = networks.resnet20()
    images, labels = pictures(per_class=80, seed=1)
    features = settle(model, torch.from_numpy(images))
    set_head(model, *discriminant(features, torch.from_numpy(labels), IMAGE_CLASSES))
    images, labels = pictures(per_class=25, seed=2)
    save(model, folder, "resnet-cifar", x=images, y=labels)


@torch.inference_mode()
def make_translation(folder: Path) -> None:
    """A dictionary: every word of the source has one word of the target language."""
    torch.manual_seed(0)
    model = networks.translation().eval()
    ids, _ = sentences(count=1500, seed=1)
    # Every word must have been seen: rare ones stand in sentences of their own.
    every = np.resize(np.random.default_rng(3).permutation(np.arange(1, VOCABULARY)), (4 * VOCABULARY // 32, 32))
    ids = np.concatenate([ids[:, :32], every])
    source = torch.from_numpy(ids)
    features = torch.cat([model.features(rows) for rows in source.split(64)])
    kept = source != PADDING
    words = torch.randperm(VOCABULARY)[source[kept]]
    set_head(model, *discriminant(features[kept], words, VOCABULARY))
    ids, lengths = sentences(SENTENCES, seed=2)
    save(model, folder, "translation", source=ids, tokens=lengths)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=HERE, help="folder for weights, data and manifests")
    folder = parser.parse_args().out.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    if folder != HERE:
        for name in ("networks.py", *(f"{model}.yaml" for model in MODELS)):
            shutil.copyfile(HERE / name, folder / name)
    torch.set_num_threads(2)
    make_discriminator(folder)
    make_resnet(folder)
    make_translation(folder)
    print("\n".join(f"yard register {folder / model}.yaml" for model in MODELS))


if __name__ == "__main__":
    main()
