"""Four learning-rate schedules compared at equal effort (chapter 4).

A ResNet-8 sees 20,000 CIFAR-10 pictures for 12 epochs. Each schedule tries three peak rates with
seed 0; its best rate, chosen on validation, is repeated with seeds 1 and 2. "plateau" waits two
epochs without a better validation loss, then halves the rate, as tutorial C's does after five.
"""

import torch
from torch.optim import SGD
from torch.optim import lr_scheduler as schedules

from cifar_utils import data, models, runs, training

NAME = "schedules"
KINDS = ("plateau", "step", "cosine", "one-cycle")
RATES = (0.05, 0.2, 0.8)


def scheduler_for(kind: str, optimizer: SGD, rate: float, epochs: int, batches: int):
    """The scheduler and how often `fit` steps it."""
    if kind == "plateau":
        return schedules.ReduceLROnPlateau(optimizer, factor=0.5, patience=2), "epoch"
    if kind == "step":
        return schedules.StepLR(optimizer, step_size=max(1, epochs // 3), gamma=0.1), "epoch"
    if kind == "cosine":
        return schedules.CosineAnnealingLR(optimizer, T_max=epochs * batches), "batch"
    return schedules.OneCycleLR(optimizer, rate, total_steps=epochs * batches), "batch"


def one(run: runs.Run, schedule: str, lr: float, seed: int) -> dict:
    """Train once; what validation says at the end, and the whole history."""
    cifar10 = run.load("cifar10")
    train, val = data.hold_out(cifar10.train, n=run.pick(smoke=100, laptop=5000, gpu=5000))
    some = run.pick(smoke=200, laptop=20_000, gpu=20_000)
    train = train.subset(
        torch.randperm(len(train), generator=torch.Generator().manual_seed(0))[:some]
    )
    scale = {"mean": data.CIFAR10_MEAN, "std": data.CIFAR10_STD, "device": run.device}
    train = data.BatchLoader(train, 128, shuffle=True, crop=4, flip=True, seed=seed, **scale)
    val = data.BatchLoader(val, 500, **scale)
    epochs = run.pick(smoke=1, laptop=12, gpu=12)
    model = models.cifar_resnet(8).to(run.device)
    optimizer = SGD(model.parameters(), lr=lr, momentum=0.9, weight_decay=5e-4, nesterov=True)
    scheduler, step_every = scheduler_for(schedule, optimizer, lr, epochs, len(train))
    options = {"scheduler": scheduler, "step_every": step_every, "precision": "bf16"}
    history = training.fit(model, train, epochs=epochs, optimizer=optimizer, val=val, **options)
    return {
        "precision": "bf16",
        "val_accuracy": history.val_accuracy[-1],
        "history": history.to_dict(),
    }


def best_rate(rows: list[dict], schedule: str) -> float:
    """The rate of the best validation accuracy among a schedule's rows with seed 0."""
    tried = [r for r in rows if r["schedule"] == schedule and r["seed"] == 0]
    return max(tried, key=lambda r: r["val_accuracy"])["lr"]


if __name__ == "__main__":
    search = [{"schedule": k, "lr": lr, "seed": 0} for k in KINDS for lr in RATES]
    rows = runs.run_study(NAME, search, one)
    again = [{"schedule": k, "lr": best_rate(rows, k), "seed": s} for s in (1, 2) for k in KINDS]
    runs.run_study(NAME, again, one)
