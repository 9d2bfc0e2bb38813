"""Build any network of the zoo, count it, check one training step, and train it.

python -m apps.zoo                                    what there is, and what it costs
python -m apps.zoo resnet18                           CIFAR-10, by the recipe of chapter 4
python -m apps.zoo resnet50 --dataset cifar100 --budget gpu
python -m apps.zoo imagenet_vit_b_16 --budget smoke   a few steps on drawn pictures
python -m apps.zoo imagenet_efficientnet_b4 --dataset imagefolder --data FOLDER
python -m apps.zoo imagenet_resnet34 --dataset cifar100 --pretrained
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import functools
import math
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import OneCycleLR
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import VisionTransformer, get_model

from apps.pictures import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Pictures,
    TrainError,
    collate,
    load_pictures,
    on_device,
    require_numbers,
)
from cifar_utils import checkpoints, data, distributed, models, training, transfer, weights

ROOT = Path(__file__).resolve().parents[1]


@dataclasses.dataclass(frozen=True)
class Network:
    """A network by name: what it is, how large its pictures are, how it is made."""

    about: str
    size: int  # pixels a side
    make: Callable[[int, int], nn.Module]  # of classes and pixels a side


def _narrow(depth: int) -> Network:
    about = f"He's ResNet-{depth} for CIFAR, 16 channels at first"
    return Network(about, 32, lambda classes, size: models.cifar_resnet(depth, classes))


def _wide(name: str) -> Network:
    about = f"ResNet-{name.removeprefix('resnet')} with the CIFAR stem"
    return Network(about, 32, lambda classes, size: getattr(models, name)(classes))


def _resnet10(width: int, pool: bool = False) -> Network:
    def make(classes: int, size: int) -> nn.Module:
        model = models.ResNet(models.BasicBlock, [1, 1, 1, 1], classes, width)
        model.maxpool = nn.MaxPool2d(3, 2, padding=1) if pool else nn.Identity()
        return model

    after = ", a max-pool after its stem" if pool else ""
    return Network(f"ResNet-10, {width} channels at first{after}", 32, make)


def _imagenet(name: str, size: int = 224) -> Network:
    def make(classes: int, size: int) -> nn.Module:
        fixed = {"image_size": size} if name.startswith("vit") else {}
        return get_model(name, weights=None, num_classes=classes, **fixed)

    return Network(f"torchvision's {name}", size, make)


def _efficientnet(classes: int, size: int) -> nn.Module:
    model = get_model("efficientnet_b0", weights=None, num_classes=classes)
    model.features[0][0].stride = (1, 1)  # 32 pixels end as 2 × 2, not as one
    return model


def _convnext(classes: int, size: int) -> nn.Module:
    model = get_model("convnext_tiny", weights=None, num_classes=classes)
    model.features[0][0] = nn.Conv2d(3, 96, kernel_size=2, stride=2)
    return model


def _vit(classes: int, size: int) -> nn.Module:
    return VisionTransformer(size, 4, 6, 4, hidden_dim=256, mlp_dim=512, num_classes=classes)


NETWORKS = {
    "simple_cnn": Network("chapter 2's LeNet", 32, lambda n, size: models.SimpleCNN(n)),
    **{f"resnet{depth}": _narrow(depth) for depth in (8, 20, 32, 44, 56, 110)},
    "resnet10_16": _resnet10(16),
    "resnet10_16_pool": _resnet10(16, pool=True),
    "resnet10_32": _resnet10(32),
    "resnet10_32_pool": _resnet10(32, pool=True),
    **{f"resnet{depth}": _wide(f"resnet{depth}") for depth in (18, 34, 50, 101, 152)},
    "efficientnet_b0": Network("torchvision's, first stride 1 instead of 2", 32, _efficientnet),
    "convnext_tiny": Network("torchvision's, first patches of 2 pixels, not 4", 32, _convnext),
    "vit_lite": Network("vision transformer: 6 layers of 256, patches of 4", 32, _vit),
    "imagenet_resnet34": _imagenet("resnet34"),
    "imagenet_resnet50": _imagenet("resnet50"),
    "imagenet_efficientnet_b0": _imagenet("efficientnet_b0"),
    "imagenet_efficientnet_b4": _imagenet("efficientnet_b4", 380),
    "imagenet_convnext_tiny": _imagenet("convnext_tiny"),
    "imagenet_vit_b_16": _imagenet("vit_b_16"),
}
# What --budget stands for: epochs, pictures a step, training pictures (None: all).
BUDGETS = {"smoke": (2, 16, 64), "laptop": (13, 128, None), "gpu": (30, 128, None)}


def count(name: str, classes: int | None = None) -> tuple[int, int]:
    """Parameters, and multiply-adds of one picture's forward pass, at the network's own size.

    classes: by default 1,000 for a network of ImageNet's, else 10. Nothing is computed: the
    network is laid out on the `meta` device. Additions of biases, norms and ReLUs are not counted.
    """
    return _count(name, classes or default_classes(name))


@functools.cache
def _count(name: str, classes: int) -> tuple[int, int]:
    network = NETWORKS[name]
    with torch.device("meta"):
        model = network.make(classes, network.size)
        images = torch.empty(2, 3, network.size, network.size)
    # In training mode: evaluation takes attention's fused kernel, which the counter cannot see.
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.train()(images)
    size = sum(p.numel() for p in model.parameters())
    return size, counter.get_total_flops() // 2 // len(images)  # two operations a multiply-add


def default_classes(name: str) -> int:
    """The classes that a network's figures are given for."""
    return 1000 if name.startswith("imagenet_") else 10


def listing() -> str:
    """A line for each network: name, pixels, parameters, multiply-adds, what it is."""
    lines = [f"{'name':26}{'pixels':>7}{'parameters':>13}{'multiply-adds':>16}"]
    for name, network in NETWORKS.items():
        size, work = count(name)
        lines.append(f"{name:26}{network.size:7}{size:13,}{work:16,}   {network.about}")
    return "\n".join(lines)


def check_step(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """The loss of one training step, taken by a copy of `model`: (N, 3, H, W), (N,).

    Raises TrainError if the loss is not finite, if a parameter gets no gradient or one that is not
    finite, or if the step leaves the weights where they were.
    """
    trial = copy.deepcopy(model).train()
    loss = nn.functional.cross_entropy(trial(images), labels)
    if not math.isfinite(loss.item()):
        raise TrainError(f"the first loss is {loss.item()}: look at the pictures, then at --rate")
    loss.backward()
    for name, parameter in trial.named_parameters():
        if parameter.grad is None or not parameter.grad.isfinite().all():
            raise TrainError(f"{name} gets no gradient, or one that is not finite")
    torch.optim.SGD(trial.parameters(), lr=0.1).step()
    if all(torch.equal(a, b) for a, b in zip(trial.parameters(), model.parameters(), strict=True)):
        raise TrainError("one step has changed no weight")
    return loss.item()


def recipe(
    model: nn.Module, steps: int, rate: float | None = None, pretrained: bool = False
) -> tuple[torch.optim.Optimizer, OneCycleLR]:
    """One cycle to zero, as in chapter 4, with SGD for a network that has BatchNorm.

    A network without (SimpleCNN, ConvNeXt, transformers) gets AdamW. No decay on biases and norms.
    rate: the peak, by default 0.2 for SGD, 0.001 for AdamW, a tenth of it where `pretrained`. Only
    chapter 4's networks were tried with it: for the others it is where a search would begin.
    Raises TrainError for fewer than 5 steps, which make no cycle.
    """
    if steps < 5:
        raise TrainError(f"{steps} steps make no cycle: take more --epochs or a smaller --batch")
    heavy = [p for p in model.parameters() if p.ndim > 1]
    light = [p for p in model.parameters() if p.ndim <= 1]
    normed = any(isinstance(layer, nn.BatchNorm2d) for layer in model.modules())
    rate = rate or (0.2 if normed else 0.001) * (0.1 if pretrained else 1)
    decay = 5e-4 if normed else 0.05
    groups = [{"params": heavy, "weight_decay": decay}, {"params": light, "weight_decay": 0.0}]
    optimizer: torch.optim.Optimizer
    if normed:
        optimizer = torch.optim.SGD(groups, lr=rate, momentum=0.9, nesterov=True)
    else:
        optimizer = torch.optim.AdamW(groups, lr=rate)
    cycle = {"total_steps": steps, "pct_start": 0.25, "anneal_strategy": "linear"}
    return optimizer, OneCycleLR(optimizer, rate, **cycle)


class Batches:
    """What `fit` takes: normalized batches, other draws in each epoch, resumable by `generator`."""

    def __init__(self, pictures: Pictures, batch: int, here: distributed.World, workers: int = 0):
        options = {"num_workers": workers, "collate_fn": collate(pictures.train)}
        self.loader = distributed.training_loader(pictures.train, batch, here, **options)
        self.pictures, self.here = pictures, here
        self.generator = torch.Generator().manual_seed(pictures.train.seed)

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        epoch = int(torch.randint(2**31, (), generator=self.generator))
        self.loader.sampler.set_epoch(epoch)  # another order
        self.loader.dataset.epoch = epoch  # and other draws for each picture
        return on_device(self.loader, self.here, self.pictures, "fp32")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    first, _, examples = __doc__.partition("\n\n")
    made = argparse.ArgumentParser(
        prog="python -m apps.zoo",
        description=first,
        epilog="examples:\n" + examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("name", nargs="?", choices=NETWORKS, metavar="NAME", help="default: list all")
    kinds = ("cifar10", "cifar100", "imagefolder")
    made.add_argument("--dataset", choices=kinds, default="cifar10", help="default: cifar10")
    made.add_argument("--data", metavar="FOLDER", help="an imagefolder's has train/ and val/")
    made.add_argument(
        "--budget", choices=BUDGETS, help="default: the environment's CIFAR_BUDGET, else laptop"
    )
    made.add_argument(
        "--pretrained",
        action="store_true",
        help="begin with torchvision's weights (a name with imagenet_); every layer learns",
    )
    for option in ("epochs", "batch", "train-pictures", "test-pictures"):
        made.add_argument(f"--{option}", type=int, metavar="N", help="default: the budget's")
    made.add_argument("--size", type=int, metavar="N", help="pixels a side that the network sees")
    made.add_argument("--rate", type=float, metavar="X", help="peak learning rate")
    made.add_argument("--workers", type=int, metavar="N", default=0, help="default: 0")
    made.add_argument("--seed", type=int, metavar="N", default=0, help="default: 0")
    made.add_argument("--device", choices=("auto", "cpu", "cuda", "mps"), default="auto")
    out = "for checkpoint.pt; name another for each --data (default: in runs/zoo/)"
    made.add_argument("--out", metavar="FOLDER", help=out)
    made.set_defaults(hold_out=0)
    return made


def settings(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line, with the budget's values where it says nothing. Raises TrainError."""
    given = parser().parse_args(arguments)
    if given.name is None:
        return given
    given.budget = given.budget or os.environ.get("CIFAR_BUDGET", "laptop")
    if given.budget not in BUDGETS:
        raise TrainError(f"no budget {given.budget!r}: it is smoke, laptop or gpu")
    if given.dataset == "imagefolder" and not given.data:
        raise TrainError("--dataset imagefolder needs --data FOLDER, with train/ and val/ in it")
    if given.pretrained and not given.name.startswith("imagenet_"):
        raise TrainError(f"there are no pretrained weights for {given.name}: take an imagenet_ one")
    least = dict.fromkeys("epochs batch size train_pictures test_pictures".split(), 1)
    require_numbers(given, least | {"rate": 0, "workers": 0, "seed": 0})
    epochs, batch, pictures = BUDGETS[given.budget]
    own = NETWORKS[given.name].size
    given.epochs, given.batch = given.epochs or epochs, given.batch or batch
    given.train_pictures = given.train_pictures or pictures
    given.test_pictures = given.test_pictures or pictures
    marks = "-pretrained" * given.pretrained + (f"-{given.size}" if given.size else "")
    # A transformer's weights belong to one size, so pretrained ones keep theirs.
    given.size = given.size or (own if given.pretrained else min(own, 64) if pictures else own)
    name = f"{given.name}-{given.dataset}-{given.budget}-{given.seed}{marks}"
    given.out = Path(given.out) if given.out else ROOT / "runs" / "zoo" / name
    return given


def build(given: argparse.Namespace, classes: int) -> nn.Module:
    """The network for `classes`; one made for larger pictures than CIFAR's gets them enlarged."""
    torch.manual_seed(given.seed)
    if given.pretrained:
        model, _ = transfer.imagenet(given.name.removeprefix("imagenet_"))
        transfer.replace_head(model, classes)
    else:
        model = NETWORKS[given.name].make(classes, given.size)
    if given.dataset != "imagefolder" and given.size != 32:
        model = nn.Sequential(nn.Upsample(size=(given.size,) * 2, mode="bilinear"), model)
    return model


def run(given: argparse.Namespace) -> float:
    """Load, build, count, check, train, judge; the accuracy on the test pictures."""
    here = distributed.find_world(given.device)
    pictures = load_pictures(given)
    if given.pretrained:  # what the weights expect
        pictures = dataclasses.replace(pictures, mean=IMAGENET_MEAN, std=IMAGENET_STD)
    if len(pictures.train) < given.batch:
        raise TrainError(f"{len(pictures.train)} pictures make no batch of {given.batch}: lower it")
    own, (size, work) = NETWORKS[given.name].size, count(given.name, pictures.classes)
    print(f"{given.name}, {size:,} parameters, {work:,} multiply-adds a picture of {own} pixels")
    model = build(given, pictures.classes).to(here.device, memory_format=torch.channels_last)
    batches = Batches(pictures, given.batch, here, given.workers)
    before = batches.generator.get_state()
    loss = check_step(model, *next(iter(batches)))
    batches.generator.set_state(before)
    print(f"one step checked: loss {loss:.3f}, of {math.log(pictures.classes):.3f} for a guess")
    optimizer, cycle = recipe(model, given.epochs * len(batches), given.rate, given.pretrained)
    given.out.mkdir(parents=True, exist_ok=True)
    training.fit(
        model,
        batches,
        epochs=given.epochs,
        optimizer=optimizer,
        scheduler=cycle,
        loss_fn=nn.CrossEntropyLoss(label_smoothing=0.1),
        checkpoint=given.out / "checkpoint.pt",
    )
    test = pictures.test or pictures.val
    loader = distributed.judging_loader(test, given.batch, here, collate_fn=collate(test))
    judged = training.evaluate(model, on_device(loader, here, pictures, "fp32"))
    print(f"test: {judged.accuracy:.2%} of {len(judged.labels):,} ({pictures.identity})")
    return judged.accuracy


def main(arguments: Sequence[str] | None = None) -> int:
    """The program; its exit status."""
    try:
        given = settings(arguments)
        if given.name is None:
            print(listing())
        else:
            run(given)
        return 0
    except (
        *(TrainError, data.DataError, training.TrainingError, weights.WeightsError),
        *(checkpoints.CheckpointError, distributed.DistributedError),
    ) as error:
        print(f"apps.zoo: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
