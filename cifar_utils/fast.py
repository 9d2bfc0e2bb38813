"""CIFAR in as few operations as we know how: the recipe of chapter 12.

Seven convolutions, the first frozen, the others started as the identity; Muon for their filters;
pictures that grow while the network learns; rates that fall to zero. After Jordan (2024), "94% on
CIFAR-10 in 3.29 Seconds on a Single GPU" (arXiv:2404.00498), and his later recipe with Muon;
growing pictures go back to Howard (2018).
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from cifar_utils import data
from cifar_utils.muon import Muon
from cifar_utils.precision import autocast, choose_precision


@dataclasses.dataclass(frozen=True)
class Recipe:
    """All that is chosen. Rates of biases and head are for each picture of a batch."""

    phases: tuple[tuple[int, float], ...]  # (pixels a side, epochs), in order
    widths: tuple[int, int, int] = (64, 256, 256)  # channels of the three groups
    batch_size: int = 2000
    filter_rate: float = 0.24  # a step of Muon, as a share of a filter's own norm
    filter_momentum: float = 0.6
    bias_rate: float = 0.053
    head_rate: float = 0.00083
    momentum: float = 0.85  # of biases and head, Nesterov's
    decay: float = 2e-6  # what a step at full rate takes off a weight, for each picture
    smoothing: float = 0.2
    crop: int = 2  # pixels of 32
    alternate: bool = True  # mirror each picture in every other epoch, not at random
    schedule: Callable[[float], float] = lambda done: 1 - done  # share of steps → share of the rate


RECIPES = {
    ("cifar10", "full"): Recipe(phases=((20, 3), (24, 2), (32, 3))),
    ("cifar10", "quick"): Recipe(phases=((20, 1), (24, 1))),
    ("cifar100", "full"): Recipe(phases=((20, 4), (24, 3), (32, 4)), widths=(64, 256, 512)),
}

CIFAR10 = {"mean": data.CIFAR10_MEAN, "std": data.CIFAR10_STD}
SCALES = {"cifar10": CIFAR10, "cifar100": {"mean": data.CIFAR100_MEAN, "std": data.CIFAR100_STD}}


def whitening_filters(images: Tensor, floor: float = 5e-4) -> Tensor:
    """Filters that make the values of a 2×2 patch uncorrelated and equally large.

    images: (N, 3, H, W) normalized. Returns (24, 3, 2, 2): the 12 principal directions of the
    patches, each over the root of its variance plus `floor`, then their negatives, so that a
    nonlinearity behind loses nothing. Built in chapter 12
    """
    patches = F.unfold(images, 2).transpose(1, 2).reshape(-1, 12)
    variances, directions = torch.linalg.eigh(patches.T @ patches / len(patches))
    filters = (directions / (variances + floor).sqrt()).T.reshape(12, 3, 2, 2)
    return torch.cat([filters, -filters])


def conv3x3(channels_in: int, channels: int) -> nn.Conv2d:
    """A 3×3 convolution whose first `channels_in` filters pass their input on unchanged.

    Built in chapter 12
    """
    conv = nn.Conv2d(channels_in, channels, 3, padding=1, bias=False)
    nn.init.dirac_(conv.weight[:channels_in])
    return conv


def bias_norm(channels: int) -> nn.BatchNorm2d:
    """BatchNorm that learns only its bias, and whose averages follow within a few steps."""
    norm = nn.BatchNorm2d(channels, eps=1e-12, momentum=0.4)
    norm.weight.requires_grad_(False)
    return norm


def group(channels_in: int, channels: int) -> nn.Sequential:
    """(N, C_in, H, W) → (N, C, H/2, W/2): conv, pool, norm, GELU, conv, norm, GELU."""
    first = [conv3x3(channels_in, channels), nn.MaxPool2d(2), bias_norm(channels), nn.GELU()]
    return nn.Sequential(*first, conv3x3(channels, channels), bias_norm(channels), nn.GELU())


class FastNet(nn.Module):
    """(N, 3, H, W) normalized → (N, num_classes) logits, for pictures of 16 pixels a side or more.

    The first layer whitens patches as `images` (N, 3, H, W), normalized, have them; only its bias
    learns.
    """

    def __init__(self, num_classes: int, widths: Sequence[int], images: Tensor) -> None:
        super().__init__()
        self.whiten = nn.Conv2d(3, 24, 2)
        self.whiten.weight.requires_grad_(False).copy_(whitening_filters(images))
        nn.init.zeros_(self.whiten.bias)
        pairs = zip((24, *widths), widths, strict=False)
        self.groups = nn.Sequential(*[group(before, after) for before, after in pairs])
        self.head = nn.Linear(widths[-1], num_classes, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        x = F.gelu(self.whiten(images))  # 32 → 31 pixels a side
        x = self.groups(x)  # 31 → 15 → 7 → 3
        return self.head(x.amax((2, 3))) / 9


def optimizers_for(model: FastNet, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Muon for the filters, SGD with momentum for biases and head; decay apart from the rates.

    The loss is a mean over the batch: the more pictures, the farther SGD may step.

    The whitening bias has done its learning after three epochs: key "epochs" of its group.
    """
    learning = [p for p in model.groups.parameters() if p.requires_grad]
    bias_rate, head_rate, decay = (
        rate * recipe.batch_size for rate in (recipe.bias_rate, recipe.head_rate, recipe.decay)
    )
    parts = [
        {"params": [p for p in learning if p.ndim == 1], "lr": bias_rate},
        {"params": [model.head.weight], "lr": head_rate},
        {"params": [model.whiten.bias], "lr": bias_rate, "epochs": 3},
    ]
    parts = [part | {"weight_decay": decay / part["lr"]} for part in parts]
    sgd = torch.optim.SGD(parts, momentum=recipe.momentum, nesterov=True)
    filters = [p for p in learning if p.ndim == 4]
    return [Muon(filters, recipe.filter_rate, recipe.filter_momentum), sgd]


def shrink(images: Tensor, size: int) -> Tensor:
    """(N, 3, H, W) uint8 → (N, 3, size, size) uint8, each pixel the mean of what it covers."""
    to = {"size": (size, size), "mode": "bilinear", "antialias": True}
    small = [F.interpolate(some.float(), **to).round().byte() for some in images.split(2000)]
    return torch.cat(small) if size != images.shape[-1] else images


def draws(
    n: int, batch_size: int, generator: Generator, alternate: bool = True
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches without end: which pictures (B,) int64, and which of them mirrored (B,) bool.

    Each epoch has an order of its own. With `alternate` each picture is mirrored in every other
    epoch, so that any two show it both ways; without, at random. Built in chapter 12
    """
    mirrored = torch.rand(n, generator=generator) < 0.5
    while True:
        order = torch.randperm(n, generator=generator)
        for pick in order.split(batch_size)[: n // batch_size]:
            yield pick, mirrored[pick]
        mirrored = ~mirrored if alternate else torch.rand(n, generator=generator) < 0.5


def train(
    model: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    split: data.Split,
    recipe: Recipe,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    seed: int = 0,
    precision: str = "auto",
    after_step: Callable[[int], None] = lambda step: None,
    log: Callable[[str], None] = print,
) -> None:
    """Train `model` in place, where it is; `after_step` gets the number of steps done."""
    device = next(model.parameters()).device
    precision = choose_precision(device) if precision == "auto" else precision
    generator = Generator(device).manual_seed(seed)
    batch_size = min(recipe.batch_size, len(split))
    batches = len(split) // batch_size  # in an epoch
    steps = round(batches * sum(epochs for _, epochs in recipe.phases))
    rates = [(g, g["lr"], g.get("epochs")) for o in optimizers for g in o.param_groups]
    endless = draws(len(split), batch_size, generator, recipe.alternate)
    every_label, step, begun = split.labels.to(device), 0, time.perf_counter()
    model.to(memory_format=torch.channels_last).train()
    for size, epochs in recipe.phases:
        images = shrink(split.images, size).to(device)
        for _ in range(round(batches * epochs)):
            for group, lr, until in rates:
                done = step / (until * batches if until else steps)
                group["lr"] = lr * recipe.schedule(min(1.0, done))
            with device:  # draw where the pictures are: no step waits for a copy
                pick, mirrored = next(endless)
                batch = data.random_crop(images[pick], max(1, recipe.crop * size // 32), generator)
            batch = torch.where(mirrored[:, None, None, None], batch.flip(3), batch)
            batch = data.normalize(batch, mean, std).to(memory_format=torch.channels_last)
            with autocast(device, precision):
                logits = model(batch)
            labels = every_label[pick]
            loss = F.cross_entropy(logits.float(), labels, label_smoothing=recipe.smoothing)
            model.zero_grad()
            loss.backward()
            for optimizer in optimizers:
                optimizer.step()
            step += 1
            after_step(step)
            if step % batches == 0 or step == steps:
                seconds = time.perf_counter() - begun
                log(f"{step:>4}/{steps}  {size} px  loss {loss:.3f}  {seconds:.0f} s")


def learn(
    dataset: data.Dataset, recipe: Recipe, seed: int, device: torch.device | str, **options: Any
) -> FastNet:
    """A network trained on all training pictures of `dataset`; options go to `train`."""
    torch.manual_seed(seed)
    scale = SCALES[dataset.name]
    some = data.normalize(dataset.train.images[:5000], **scale)
    model = FastNet(len(dataset.classes), recipe.widths, some).to(device)
    optimizers = optimizers_for(model, recipe)
    train(model, optimizers, dataset.train, recipe, seed=seed, **scale, **options)
    return model


@torch.inference_mode()
def answers(model: nn.Module, images: Tensor, views: int = 1) -> Tensor:
    """Logits (N, C) of normalized images, the mean over 1, 2 or 6 `views` of each.

    2: the picture and its mirror image; 6: both, also moved by one pixel up-left and down-right,
    the unmoved pair counting twice.
    """
    model.eval()
    (height, width), found = images.shape[2:], []
    for batch in images.split(1000):
        shown = [(batch, 1.0)]
        if views == 6:
            around = F.pad(batch, (1, 1, 1, 1), mode="reflect")
            shown += [(around[:, :, :height, :width], 0.5), (around[:, :, 2:, 2:], 0.5)]
        shown += [(view.flip(3), share) for view, share in shown] if views > 1 else []
        found.append(sum(share * model(view) for view, share in shown) / sum(s for _, s in shown))
    return torch.cat(found)
