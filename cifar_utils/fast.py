"""CIFAR in as few operations as we know how: the recipe of chapter 12.

A frozen first layer that whitens; three groups of convolutions that start as the identity; Muon for
their filters; pictures that grow while the network learns; rates that rise and fall to zero. After
Jordan (2024), "94% on CIFAR-10 in 3.29 Seconds on a Single GPU" (arXiv:2404.00498), and his later
recipe with Muon. The groups' shape, the head and the rates follow what others made of these for
CIFAR-100 (futurebiohackers and NAVIER-STOKED, in
https://github.com/AIDDA-Institute/CIFAR-100-speedrun); growing pictures go back to Howard (2018).
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


def triangle(done: float, rise: float = 0.25) -> float:
    """The rate's share of its peak after a share `done` of the steps: from 0 to 1, and to 0."""
    return done / rise if done < rise else (1 - done) / (1 - rise)


@dataclasses.dataclass(frozen=True)
class Recipe:
    """All that is chosen; the rates are for batches of `batch_size`."""

    phases: tuple[tuple[int, float], ...]  # (pixels a side, epochs), in order
    widths: tuple[int, int, int] = (64, 256, 512)  # channels of the three groups
    batch_size: int = 1024
    filter_rate: float = 0.18  # a step of Muon, as a share of a filter's own norm
    filter_momentum: float = 0.6
    rate: float = 1.38  # of norms and head, with SGD
    momentum: float = 0.9  # Nesterov's
    decay: float = 5e-4  # of the head
    smoothing: float = 0.2
    crop: int = 2  # pixels of 32
    alternate: bool = True  # mirror each picture in every other epoch, not at random
    schedule: Callable[[float], float] = triangle  # share of steps → share of the rate


RECIPES = {
    ("cifar10", "full"): Recipe(phases=((20, 2), (24, 2), (32, 4.7))),
    ("cifar10", "quick"): Recipe(phases=((20, 1), (24, 1)), batch_size=512),
    ("cifar100", "full"): Recipe(phases=((20, 4), (24, 3), (32, 4))),
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


def identity_conv(channels_in: int, channels: int, side: int = 3) -> nn.Conv2d:
    """A convolution of `side`×`side` whose first `channels_in` filters pass their input on.

    Built in chapter 12
    """
    conv = nn.Conv2d(channels_in, channels, side, padding=(side - 1) // 2, bias=False)
    nn.init.dirac_(conv.weight[:channels_in])
    return conv


class Group(nn.Module):
    """(N, C_in, H, W) → (N, C, H/2, W/2): a convolution of `side`×`side`, pooled; then a shortcut
    around a 3×3 convolution to half as many channels and a 1×1 convolution back.
    """

    def __init__(self, channels_in: int, channels: int, side: int) -> None:
        super().__init__()
        wide, narrow = identity_conv(channels_in, channels, side), channels // 2
        # 2×2 filters get no margin: 7 pixels a side become 6, then 3, and 4 become 3, then 2.
        pool = nn.MaxPool2d(2, ceil_mode=side == 2)
        self.down = nn.Sequential(wide, pool, *norm_act(channels))
        there = [identity_conv(channels, narrow), *norm_act(narrow)]
        self.pair = nn.Sequential(*there, identity_conv(narrow, channels, 1), *norm_act(channels))

    def forward(self, x: Tensor) -> Tensor:
        x = self.down(x)
        return x + self.pair(x)


def norm_act(channels: int) -> list[nn.Module]:
    """BatchNorm whose averages follow within a few steps, and SiLU, which is cheaper than GELU."""
    return [nn.BatchNorm2d(channels, momentum=0.3), nn.SiLU()]


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
        shapes = zip((24, *widths), widths, (3, 3, 2), strict=False)
        self.groups = nn.Sequential(*[Group(*shape) for shape in shapes])
        self.head = nn.Linear(widths[-1], num_classes, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        x = F.silu(self.whiten(images))  # 32 → 31 pixels a side
        x = self.groups(x).flatten(2)  # 31 → 15 → 7 → 3 pixels a side → 9 in a row
        return self.head(x.max(2).values + x.mean(2)) / 7  # small logits at first


def optimizers_for(model: FastNet, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Muon for the filters, SGD with momentum for biases, norms and head."""
    learning = [p for p in model.parameters() if p.requires_grad]
    rest = {"params": [p for p in learning if p.ndim == 1], "lr": recipe.rate}
    head = {"params": [model.head.weight], "lr": recipe.rate, "weight_decay": recipe.decay}
    sgd = torch.optim.SGD([rest, head], momentum=recipe.momentum, nesterov=True)
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
    rates = [(group, group["lr"]) for o in optimizers for group in o.param_groups]
    endless = draws(len(split), batch_size, generator, recipe.alternate)
    scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")
    every_label, step, begun = split.labels.to(device), 0, time.perf_counter()
    model.to(memory_format=torch.channels_last).train()
    for size, epochs in recipe.phases:
        images = shrink(split.images, size).to(device)
        for _ in range(round(batches * epochs)):
            for group, lr in rates:
                group["lr"] = lr * recipe.schedule(step / steps)
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
            scaler.scale(loss).backward()
            for optimizer in optimizers:
                scaler.step(optimizer)
            scaler.update()
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
