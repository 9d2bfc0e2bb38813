"""What `apps.train` learns from: CIFAR in memory, or an ImageFolder of your own.

What happens to a picture is drawn from seed, epoch and the picture's index alone, so it is the
same whichever process reads it. Both kinds give bytes; `on_device` normalizes them.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from cifar_utils import data
from cifar_utils.distributed import World

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class TrainError(RuntimeError):
    """Training cannot begin or go on; the message says why and what to try."""


def require_numbers(given: argparse.Namespace, least: dict[str, int]) -> None:
    """Raise TrainError for an option whose number is below its least, endless or none."""
    for name, low in least.items():
        value = getattr(given, name)
        if value is None or low <= value < (2**63 if isinstance(value, int) else math.inf):
            continue
        option = name.replace("_", "-")
        raise TrainError(f"--{option} must be at least {low}, and a number to count with: {value}")


def keyed_draws(seed: int, epoch: int, indices: Sequence[int], count: int) -> Tensor:
    """`count` uniform draws in [0, 1) for each picture: (N, count) float64.

    They depend on seed, epoch and the picture's index only: not on the batch it is in, nor on the
    process that reads it. Source: the finalizer of SplitMix64 (Steele et al., 2014).
    """
    key = np.asarray(indices, np.uint64)[:, None] * np.uint64(count)
    key = key + np.arange(count, dtype=np.uint64)
    for word in (epoch, seed, 0):
        key = key + np.array([word], np.uint64) * np.uint64(0x9E3779B97F4A7C15)  # wraps around
        key = (key ^ (key >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        key = (key ^ (key >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        key = key ^ (key >> np.uint64(31))
    return torch.from_numpy((key >> np.uint64(11)) * 2.0**-53)


def crop_and_flip(images: Tensor, draws: Tensor, padding: int) -> Tensor:
    """Shift each picture by up to `padding` pixels, mirroring the border, and flip every second.

    images: (N, C, H, W); draws: (N, 3) in [0, 1), for down, right and flip. As in chapter 1, but
    the draws come from outside.
    """
    n, _, height, width = images.shape
    down, right = ((draws[:, :2] * (2 * padding + 1)).long() - padding).T
    y, x = torch.arange(height) + down[:, None], torch.arange(width) + right[:, None]
    rows = (height - 1) - (height - 1 - y.abs()).abs()
    columns = (width - 1) - (width - 1 - x.abs()).abs()
    columns = torch.where(draws[:, 2:] < 0.5, columns.flip(1), columns)
    place = torch.arange(n)[:, None, None]
    return images[place, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


class InMemory(Dataset):
    """A split of CIFAR, read a batch at a time: (B, 3, 32, 32) uint8 and (B,) int64."""

    def __init__(self, split: data.Split, seed: int = 0, padding: int = 0):
        self.split, self.seed, self.padding, self.epoch = split, seed, padding, 0

    def __len__(self) -> int:
        return len(self.split)

    def __getitems__(self, indices: list[int]) -> tuple[Tensor, Tensor]:
        images, labels = self.split.images[indices], self.split.labels[indices]
        if self.padding:
            draws = keyed_draws(self.seed, self.epoch, indices, 3)
            images = crop_and_flip(images, draws, self.padding)
        return images, labels


class FromFolder(Dataset):
    """An ImageFolder, read a picture at a time: (3, size, size) uint8 and its label."""

    def __init__(self, folder: ImageFolder, transform: v2.Transform, seed: int = 0):
        self.folder, self.transform, self.seed, self.epoch = folder, transform, seed, 0

    def __len__(self) -> int:
        return len(self.folder)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        try:
            picture, label = self.folder[index]
        except (OSError, SyntaxError) as error:  # Pillow raises either for damaged files
            name = Path(self.folder.samples[index][0])
            raise TrainError(
                f"{name.parent.name}/{name.name} cannot be read: {error}. Remove or replace it."
            ) from error
        key = int(keyed_draws(self.seed, self.epoch, [index], 1).item() * 2**53)
        with torch.random.fork_rng(devices=[]):  # torchvision draws from the global generator
            torch.default_generator.manual_seed(key)
            return self.transform(picture), label


def imagenet_transforms(size: int) -> tuple[v2.Transform, v2.Transform]:
    """What training and evaluation do to a picture; both end in (3, size, size) uint8."""
    training = [
        v2.RandomResizedCrop(size, antialias=True),
        v2.ColorJitter(0.4, 0.4, 0.4),
        v2.RandomHorizontalFlip(),
    ]
    judging = [v2.Resize(round(size * 256 / 224), antialias=True), v2.CenterCrop(size)]
    return tuple(
        v2.Compose([*steps, v2.ToImage(), v2.ToPureTensor()]) for steps in (training, judging)
    )


@dataclass
class Pictures:
    """What a training learns from and is judged by; `identity` must be equal in all processes."""

    train: Dataset
    val: Dataset | None  # judged after each epoch
    test: Dataset | None  # judged once, at the end
    classes: int
    mean: Sequence[float]
    std: Sequence[float]
    identity: str


def load_pictures(given: argparse.Namespace) -> Pictures:
    """The data set that the command line asks for."""
    if given.dataset == "imagefolder":
        return _load_folder(given)
    stand_in = (500, 200) if given.budget == "smoke" else None
    dataset = data.load(given.dataset, given.data, stand_in=stand_in)
    train, val = dataset.train, None
    if given.hold_out:
        train, val = data.hold_out(train, given.hold_out)
    name = given.dataset.upper()
    return Pictures(
        InMemory(_first(train, given.train_pictures), given.seed, padding=4),
        val and InMemory(val),
        InMemory(_first(dataset.test, given.test_pictures)),
        len(dataset.classes),
        getattr(data, f"{name}_MEAN"),
        getattr(data, f"{name}_STD"),
        f"{dataset.source}, {dataset.digest[:12]}",
    )


def _first(split: data.Split, n: int | None) -> data.Split:
    return split.subset(range(min(n, len(split)))) if n else split


def _load_folder(given: argparse.Namespace) -> Pictures:
    folders = []
    for part in ("train", "val"):
        try:
            folders.append(ImageFolder(Path(given.data) / part))
        except FileNotFoundError as error:
            raise TrainError(
                f"{Path(given.data) / part} is not a folder of classes with pictures: {error}. "
                "An imagefolder has train/CLASS/*.jpg and val/CLASS/*.jpg."
            ) from error
    if folders[0].classes != folders[1].classes:
        odd = sorted(set(folders[0].classes) ^ set(folders[1].classes))
        raise TrainError(f"train/ and val/ hold different classes: {', '.join(odd[:5])}")
    for folder, n in zip(folders, (given.train_pictures, given.test_pictures), strict=True):
        if n and n < len(folder.samples):  # from all classes: files are sorted by class
            folder.samples = [folder.samples[i * len(folder.samples) // n] for i in range(n)]
    training, judging = imagenet_transforms(given.size)
    return Pictures(
        FromFolder(folders[0], training, given.seed),
        FromFolder(folders[1], judging),
        None,
        len(folders[0].classes),
        IMAGENET_MEAN,
        IMAGENET_STD,
        f"{' and '.join(str(len(folder)) for folder in folders)} files",
    )


def on_device(
    batches: Any, here: World, pictures: Pictures, precision: str
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches as the network takes them: copied as bytes, which are few, and normalized there.

    From pinned memory (the loaders' on a GPU machine) a non-blocking copy runs beside computing.
    """
    dtype = torch.float64 if precision == "fp64" else torch.float32
    for images, labels in batches:
        images = images.to(here.device, non_blocking=True)
        labels = labels.to(here.device, non_blocking=True)
        images = data.normalize(images, pictures.mean, pictures.std)
        yield images.to(dtype, memory_format=torch.channels_last), labels


def collate(dataset: Dataset) -> Any:
    """What makes a batch of what a data set gives: nothing, where it gives batches."""
    return _as_it_is if hasattr(dataset, "__getitems__") else None


def _as_it_is(batch: Any) -> Any:
    return batch
