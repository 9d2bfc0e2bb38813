"""Tutorial A's recipe to the letter, with another schedule only, and ours: equal pictures seen.

CIFAR-100 from scratch. Laptop: a ResNet-10 of width 16, with a max-pool after its 3×3 stem, sees
15,000 pictures for 8 epochs. Budget gpu: A's own ResNet-50 with the CIFAR stem, 45,000 pictures for
30 epochs; its rows join the same file. Claims (chapter 5): with one cycle instead of A's steps from
0.01 A's recipe ends higher, and ours ends higher still. 3 recipes × 3 seeds. Run or resume it with
`make study NAME=recipes`.
"""

import dataclasses
import os

import torch
from torch import nn
from torch.optim import SGD
from torch.optim import lr_scheduler as schedules
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from cifar_utils import data, models, runs, training

NAME = "recipes"
RECIPES = ("A", "A, one cycle", "ours")
PEAK = 0.2  # of one cycle
A_MEAN, A_STD = (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2761)  # as A has them
A_TRANSFORM = v2.Compose(
    [
        v2.RandomCrop(32, padding=4),
        v2.RandomHorizontalFlip(),
        v2.ColorJitter(brightness=0.2, contrast=0.2, saturation=0.2, hue=0.2),
        v2.RandomRotation(15),
        v2.ToImage(),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize(A_MEAN, A_STD),
    ]
)


def build(network: str) -> models.ResNet:
    """The network a row names, for 100 classes; the small one pools after its stem to save time."""
    if network == "resnet50":
        return models.resnet50(100)
    model = models.ResNet(models.BasicBlock, [1, 1, 1, 1], 100, width=16)
    model.maxpool = nn.MaxPool2d(3, 2, padding=1)
    return model


def batches_for(recipe: str, dataset: data.Dataset, seed: int, workers: int = 0):
    """Training batches of 128: picture by picture as A's, or ours."""
    if recipe == "ours":
        scale = {"mean": data.CIFAR100_MEAN, "std": data.CIFAR100_STD}
        options = {"shuffle": True, "crop": 4, "flip": True, "seed": seed}
        return data.BatchLoader(dataset.train, 128, **options, **scale)
    pictures = data.torchvision_dataset(dataset, transform=A_TRANSFORM)
    order = torch.Generator().manual_seed(seed)
    return DataLoader(pictures, 128, shuffle=True, generator=order, num_workers=workers)


def optimizer_for(recipe: str, model: nn.Module, epochs: int, batches: int):
    """The optimizer, its scheduler, and how often `fit` steps that."""
    if recipe == "A":
        optimizer = SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
        step = max(1, round(epochs * 30 / 70))  # A: every 30 of 70 epochs
        return optimizer, schedules.StepLR(optimizer, step, gamma=0.1), "epoch"
    groups = [{"params": list(model.parameters()), "weight_decay": 5e-4}]
    if recipe == "ours":
        heavy = [p for p in model.parameters() if p.ndim > 1]
        light = [p for p in model.parameters() if p.ndim <= 1]  # scales of norms, and biases
        groups = [{"params": heavy, "weight_decay": 5e-4}, {"params": light, "weight_decay": 0.0}]
    optimizer = SGD(groups, lr=PEAK, momentum=0.9, nesterov=recipe == "ours")
    plan = {"pct_start": 0.25, "anneal_strategy": "linear"}
    cycle = schedules.OneCycleLR(optimizer, PEAK, total_steps=epochs * batches, **plan)
    return optimizer, cycle, "batch"


def one(run: runs.Run, network: str, recipe: str, seed: int) -> dict:
    """Train once; validation accuracy at the end, seconds of training, and the history."""
    cifar100 = run.load("cifar100")
    train, val = data.hold_out(cifar100.train, run.pick(smoke=100, laptop=5000, gpu=5000))
    some = run.pick(smoke=400, laptop=15_000, gpu=len(train))
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))
    train = train.subset(order[:some])
    epochs = run.pick(smoke=2, laptop=8, gpu=30)
    model = build(network).to(run.device)
    workers = run.pick(smoke=0, laptop=0, gpu=8)
    batches = batches_for(recipe, dataclasses.replace(cifar100, train=train), seed, workers)
    optimizer, scheduler, step_every = optimizer_for(recipe, model, epochs, len(batches))
    norm = {"mean": data.CIFAR100_MEAN, "std": data.CIFAR100_STD}
    if recipe != "ours":
        norm = {"mean": A_MEAN, "std": A_STD}
    history = training.fit(
        model,
        batches,
        epochs=epochs,
        optimizer=optimizer,
        scheduler=scheduler,
        step_every=step_every,
        val=data.BatchLoader(val, 500, **norm),
        loss_fn=nn.CrossEntropyLoss(label_smoothing=0.1 if recipe == "ours" else 0.0),
        clip_norm=None if recipe == "ours" else 5.0,
        precision=run.pick(smoke="fp32", laptop="fp32", gpu="auto"),
    )
    return {
        "pictures_seen": epochs * len(train),
        "val_accuracy": history.val_accuracy[-1],
        "train_seconds": round(sum(history.seconds), 1),
        "history": history.to_dict(),
    }


NETWORK = "resnet50" if os.environ.get("CIFAR_BUDGET") == "gpu" else "resnet10"
ROWS = [{"network": NETWORK, "recipe": r, "seed": seed} for seed in range(3) for r in RECIPES]

if __name__ == "__main__":
    runs.run_study(NAME, ROWS, one)
