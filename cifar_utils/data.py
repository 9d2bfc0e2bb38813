"""CIFAR pictures in memory: loading, splitting, augmenting, batching.

`load` finds a data set (`cifar_utils.sources` says where and how it is checked) and gives two
`Split`s; `BatchLoader` makes normalized batches of one, with fresh draws for every picture.
Pictures are `(N, 3, 32, 32) uint8` until the moment they are normalized.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torchvision
from torch import Generator, Tensor

from cifar_utils import proofs, sources
from cifar_utils.formats import DataError as DataError  # what `load` raises

# Mean and standard deviation of each channel over all pixels of the training set, in 0..1.
CIFAR10_MEAN, CIFAR10_STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
CIFAR100_MEAN, CIFAR100_STD = (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)


@dataclass(frozen=True)
class Split:
    """Pictures and their labels, on the CPU.

    images: `(N, 3, 32, 32) uint8`; labels: `(N,) int64`; coarse_labels: `(N,) int64` or None.
    """

    images: Tensor
    labels: Tensor
    coarse_labels: Tensor | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, indices: Tensor | Sequence[int] | np.ndarray) -> Split:
        """The pictures at `indices`, in that order (a copy)."""
        pick = torch.as_tensor(indices, dtype=torch.int64)
        coarse = None if self.coarse_labels is None else self.coarse_labels[pick]
        return Split(self.images[pick], self.labels[pick], coarse)


@dataclass(frozen=True)
class Dataset:
    """A training and a test split, and where they come from.

    source: for people, never an absolute path. split: "official", "re-split" (the pictures are
    CIFAR's, their division into training and test is not), "unverified" (counts and colors are
    CIFAR's, no more is known) or "stand-in". digest: SHA-256 of content, whatever its order.
    """

    name: str
    source: str
    stand_in: bool
    classes: tuple[str, ...]
    superclasses: tuple[str, ...] | None
    digest: str
    split: str
    train: Split
    test: Split


def load(
    name: str, folder: str | Path | None = None, *, stand_in: tuple[int, int] | None = None
) -> Dataset:
    """CIFAR-10 ("cifar10") or CIFAR-100 ("cifar100"), from the first place that has it.

    The places: `folder`, else the environment's `CIFAR_DATA`, and nothing else once one is named;
    `data/` in the repository; the Hub's parquet mirror; the official archive; at last, with a
    printed warning, the drawn stand-in. stand_in: `(n_train, n_test)` takes one of that size.
    Raises DataError if a named folder does not hold the set, or files are not what they should be.
    """
    found = sources.find(name, folder, stand_in)
    train, test = (
        Split(*(column if column is None else torch.from_numpy(column) for column in part))
        for part in (found.train, found.test)
    )
    rest = {"stand_in": found.split == "stand-in", "train": train, "test": test}
    return Dataset(name=name, **(vars(found) | rest))


def hold_out(train: Split, n: int = 5000, seed: int = 0) -> tuple[Split, Split]:
    """Set aside `n` training pictures for validation, the same share of every class.

    Returns (train, val): `train` without the pictures of `val`. The choice depends on `seed` and
    the labels only, on every machine and version: it is drawn from raw generator bits.
    """
    if not 0 < n < len(train):
        raise ValueError(f"n must be between 1 and {len(train) - 1}, got {n}")
    labels = train.labels.numpy()
    keys = np.random.PCG64(seed).random_raw(len(labels))
    order = np.lexsort((keys, labels))  # by class, at random within a class
    counts = np.bincount(labels)
    quota, rest = np.divmod(counts * n, len(labels))
    quota[np.argsort(-rest, kind="stable")[: n - quota.sum()]] += 1  # largest remainders
    held = np.zeros(len(labels), dtype=bool)
    for start, size in zip(np.cumsum(counts) - counts, quota, strict=True):
        held[order[start : start + size]] = True
    return train.subset(np.flatnonzero(~held)), train.subset(np.flatnonzero(held))


def channel_stats(images: Tensor | np.ndarray) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel, over all pixels of all pictures.

    images: `(N, 3, H, W) uint8`. Returns two `(3,) float32` tensors, in 0..1. Each pixel counts
    once, so this is the data set's deviation, not the mean of the pictures' own deviations.
    """
    mean, std = proofs.channel_stats(np.asarray(images))
    return torch.tensor(mean).float(), torch.tensor(std).float()


def torchvision_dataset(
    dataset: Dataset, train: bool = True, transform: Callable | None = None
) -> torchvision.datasets.CIFAR10:
    """torchvision's own CIFAR10 (or CIFAR100) object over pictures that are already in memory.

    Its `[i]` gives `(PIL image or what transform makes of it, label)`, as after a download.
    """
    split = dataset.train if train else dataset.test
    kind = {"cifar10": torchvision.datasets.CIFAR10, "cifar100": torchvision.datasets.CIFAR100}
    made = kind[dataset.name].__new__(kind[dataset.name])
    torchvision.datasets.VisionDataset.__init__(made, dataset.name, transform=transform)
    made.train = train
    made.data = np.ascontiguousarray(split.images.permute(0, 2, 3, 1).numpy())  # (N, 32, 32, 3)
    made.targets = split.labels.tolist()
    made.classes = list(dataset.classes)
    made.class_to_idx = {name: label for label, name in enumerate(dataset.classes)}
    return made


def random_crop(
    images: Tensor, padding: int, generator: Generator, mode: str = "reflect"
) -> Tensor:
    """Shift every picture by its own draw of -padding..padding pixels in each direction.

    images: `(N, C, H, W)`; mode: "reflect" mirrors the border, "constant" is 0. Built in chapter 1.
    """
    n, channels, height, width = images.shape
    down, right = torch.randint(-padding, padding + 1, (2, n, 1), generator=generator)
    y, x = torch.arange(height) + down, torch.arange(width) + right  # (N, H), (N, W)
    rows = (height - 1) - (height - 1 - y.abs()).abs()  # mirrored back inside: -1 is 1, H is H-2
    columns = (width - 1) - (width - 1 - x.abs()).abs()
    pixels = (rows[:, :, None] * width + columns[:, None, :]).view(n, 1, -1).to(images.device)
    cropped = images.flatten(2).gather(2, pixels.expand(-1, channels, -1)).view_as(images)
    if mode == "constant":
        outside = (y != rows)[:, None, :, None] | (x != columns)[:, None, None, :]
        cropped = cropped.masked_fill(outside.to(images.device), 0)
    return cropped


def random_flip(images: Tensor, generator: Generator) -> Tensor:
    """Mirror each picture left to right with probability one half.

    images: `(N, C, H, W)`, any dtype. Built in chapter 1.
    """
    flip = torch.rand(len(images), 1, 1, 1, generator=generator) < 0.5
    return torch.where(flip.to(images.device), images.flip(3), images)


def cutout(images: Tensor, size: int, generator: Generator) -> Tensor:
    """Zero one `size` × `size` square in each picture, its middle anywhere in the picture.

    images: `(N, C, H, W)`; on normalized pictures zero is the mean color. The square may reach
    over the border (DeVries and Taylor, 2017, arXiv:1708.04552). Built in chapter 4.
    """
    n, _, height, width = images.shape
    top = torch.randint(height, (n, 1), generator=generator) - size // 2
    left = torch.randint(width, (n, 1), generator=generator) - size // 2
    rows, columns = torch.arange(height) - top, torch.arange(width) - left  # (N, H), (N, W)
    rows, columns = (rows >= 0) & (rows < size), (columns >= 0) & (columns < size)
    hole = rows[:, None, :, None] & columns[:, None, None, :]  # (N, 1, H, W)
    return images.masked_fill(hole.to(images.device), 0)


def normalize(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """From `(N, 3, H, W) uint8` to float32: to 0..1, minus the mean, over the deviation.

    mean, std: one number a channel, in 0..1. Built in chapter 1.
    """
    mean = torch.as_tensor(mean, dtype=torch.float32, device=images.device).view(3, 1, 1)
    std = torch.as_tensor(std, dtype=torch.float32, device=images.device).view(3, 1, 1)
    return images.float().div_(255).sub_(mean).div_(std)


class BatchLoader:
    """Batches from a split that lies in memory, as uint8, on `device`.

    Iterating gives `(images, labels)`: `(B, 3, 32, 32) float32` normalized, `(B,) int64`.
    Every picture gets its own draw of crop (by up to `crop` pixels, what moves in as
    `padding_mode` says), flip and cutout (a square of `cutout` pixels), in that order. All draws
    and the order of the pictures come from one generator on the CPU, so they are the same on
    every device; `state_dict()` holds its state for a checkpoint.
    """

    def __init__(
        self,
        split: Split,
        batch_size: int = 128,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        shuffle: bool = False,
        drop_last: bool = False,
        crop: int = 0,
        padding_mode: str = "reflect",
        flip: bool = False,
        cutout: int = 0,
        device: torch.device | str = "cpu",
        seed: int = 0,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        if padding_mode not in ("reflect", "constant"):
            raise ValueError(f"padding_mode is 'reflect' or 'constant', got {padding_mode!r}")
        self.images, self.labels = split.images.to(device), split.labels.to(device)
        self.batch_size, self.shuffle, self.drop_last = batch_size, shuffle, drop_last
        self.mean, self.std = torch.as_tensor(mean), torch.as_tensor(std)
        self.crop, self.padding_mode, self.flip, self.cutout = crop, padding_mode, flip, cutout
        self.generator = Generator().manual_seed(seed)

    def __len__(self) -> int:
        full, rest = divmod(len(self.labels), self.batch_size)
        return full + (rest > 0 and not self.drop_last)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        n = len(self.labels)
        order = torch.randperm(n, generator=self.generator) if self.shuffle else torch.arange(n)
        for pick in order.to(self.labels.device).split(self.batch_size)[: len(self)]:
            images = self.images[pick]
            if self.crop:
                images = random_crop(images, self.crop, self.generator, self.padding_mode)
            if self.flip:
                images = random_flip(images, self.generator)
            images = normalize(images, self.mean, self.std)
            if self.cutout:  # after normalizing, so that the square has the mean color
                images = cutout(images, self.cutout, self.generator)
            yield images, self.labels[pick]

    def state_dict(self) -> dict[str, Tensor]:
        """The generator's state: tensors only, so a checkpoint loads with `weights_only=True`."""
        return {"generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from where `state_dict` was taken, between two epochs."""
        self.generator.set_state(state["generator"].cpu())
