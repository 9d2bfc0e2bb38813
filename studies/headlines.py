"""The chapters' headline trainings again, with other seeds: how far apart can two runs end?

Each row is the last training of a chapter at budget laptop, on all training pictures, judged on the
test pictures as the chapter does it; the chapter's own record is the run with seed 0. From these
`practice.check_result` knows the range in which a reader's run should end. Headlines without dice
(a head fitted by L-BFGS, a shipped network) need no seeds.
"""

import torch
from torch import nn
from torch.optim import SGD
from torch.optim.lr_scheduler import CosineAnnealingLR, OneCycleLR

from cifar_utils import data, features, models, runs, training, transfer, weights

NAME = "headlines"
CHAPTERS = (
    "02_simple_cnn",
    "07_transfer_unfrozen",
    "05_cifar100_from_scratch",
    "04_resnet_training",
)
ROWS = [{"chapter": chapter, "seed": seed} for seed in (1, 2) for chapter in CHAPTERS]
SCALE = {"mean": data.CIFAR10_MEAN, "std": data.CIFAR10_STD}
SCALE_100 = {"mean": data.CIFAR100_MEAN, "std": data.CIFAR100_STD}
SMOOTH = nn.CrossEntropyLoss(label_smoothing=0.1)


def one_cycle(model: nn.Module, batches: int, epochs: int, rate: float):
    """Chapter 4's optimizer and schedule, which chapter 5 takes over."""
    heavy = [p for p in model.parameters() if p.ndim > 1]
    light = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": heavy, "weight_decay": 5e-4}, {"params": light, "weight_decay": 0.0}]
    optimizer = SGD(groups, lr=rate, momentum=0.9, nesterov=True)
    plan = {"total_steps": epochs * batches, "pct_start": 0.25, "anneal_strategy": "linear"}
    return optimizer, OneCycleLR(optimizer, rate, **plan)


def batches_of(split: data.Split, scale: dict, seed: int, size: int = 128) -> data.BatchLoader:
    """Training batches as chapters 4, 5 and 7 make them."""
    return data.BatchLoader(split, size, shuffle=True, crop=4, flip=True, seed=seed, **scale)


def simple_cnn(run: runs.Run, seed: int) -> float:
    """Chapter 2: the small CNN, on the pictures as they are, its validation pictures left out."""
    cifar10 = run.load("cifar10")
    train, _ = data.hold_out(cifar10.train, n=run.pick(smoke=100, laptop=5000, gpu=5000))
    batches = data.BatchLoader(train, 128, shuffle=True, seed=seed, **SCALE)
    model, epochs = models.SimpleCNN(), run.pick(smoke=1, laptop=6, gpu=6)
    optimizer = SGD(model.parameters(), lr=0.032, momentum=0.9)
    plan = CosineAnnealingLR(optimizer, epochs * len(batches))
    return fitted(model, batches, cifar10.test, SCALE, epochs, optimizer, plan)


def resnet(run: runs.Run, seed: int) -> float:
    """Chapter 4: a ResNet-10 of width 32 on CIFAR-10."""
    cifar10 = run.load("cifar10")
    batches = batches_of(cifar10.train, SCALE, seed)
    epochs = run.pick(smoke=2, laptop=13, gpu=13)
    model = models.ResNet(
        models.BasicBlock, [1, 1, 1, 1], width=run.pick(smoke=4, laptop=32, gpu=32)
    )
    plan = one_cycle(model, len(batches), epochs, 0.2)
    return fitted(model, batches, cifar10.test, SCALE, epochs, *plan, loss_fn=SMOOTH)


def hundred_classes(run: runs.Run, seed: int) -> float:
    """Chapter 5: the same with a max-pool behind its stem, on CIFAR-100."""
    cifar100 = run.load("cifar100")
    batches = batches_of(cifar100.train, SCALE_100, seed)
    epochs, width = run.pick(smoke=2, laptop=12, gpu=12), run.pick(smoke=4, laptop=32, gpu=32)
    model = models.ResNet(models.BasicBlock, [1, 1, 1, 1], 100, width)
    model.maxpool = nn.MaxPool2d(3, 2, padding=1)
    plan = one_cycle(model, len(batches), epochs, 0.2)
    return fitted(model, batches, cifar100.test, SCALE_100, epochs, *plan, loss_fn=SMOOTH)


def unfrozen(run: runs.Run, seed: int) -> float:
    """Chapter 7: the shipped backbone under a fitted head, all of it fine-tuned on CIFAR-100."""
    cifar100 = run.load("cifar100")
    model, about = weights.load("resnet10_cifar10")
    scale = {"mean": about["mean"], "std": about["std"]}
    tried = [r for r in runs.study("few_pictures") if r["method"] == "unfrozen"]
    rate = max((r for r in tried if r["judge"] == "val"), key=lambda r: r["accuracy"])["value"]
    model.fc = nn.Identity()
    found = features.extract(model, cifar100.train.images, **scale)
    model.fc = features.fit_head(found, cifar100.train.labels, 100).requires_grad_(True)
    epochs, size = run.pick(smoke=(1, 64), laptop=(3, 128), gpu=(3, 128))
    batches = batches_of(cifar100.train, scale, seed, size)
    groups = transfer.parameter_groups(model, rate)
    peaks = [group["lr"] for group in groups]
    optimizer = SGD(groups, lr=peaks[0], momentum=0.9, weight_decay=5e-4, nesterov=True)
    plan = OneCycleLR(optimizer, peaks, total_steps=epochs * len(batches), pct_start=0.25)
    return fitted(model, batches, cifar100.test, scale, epochs, optimizer, plan)


def fitted(
    model: nn.Module,
    batches: data.BatchLoader,
    test: data.Split,
    scale: dict,
    epochs: int,
    optimizer: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.LRScheduler,
    **options,
) -> float:
    """Test accuracy after a training in fp32."""
    plain = {"optimizer": optimizer, "scheduler": scheduler, "precision": "fp32"} | options
    training.fit(model, batches, epochs=epochs, **plain)
    return training.evaluate(model, data.BatchLoader(test, 500, **scale), precision="fp32").accuracy


TRAINING = dict(zip(CHAPTERS, (simple_cnn, unfrozen, hundred_classes, resnet), strict=True))


def one(run: runs.Run, chapter: str, seed: int) -> dict:
    """Train once, judge once."""
    return {"precision": "fp32", "test_accuracy": TRAINING[chapter](run, seed)}


if __name__ == "__main__":
    runs.run_study(NAME, ROWS, one)
