"""What augmentation is worth with few and with many pictures (chapter 8).

The small ResNet-10 of `gap.py` learns CIFAR-100 from 1, 10 and 100 % of 45,000 training pictures:
without augmentation, with flip and crop, and with TrivialAugment on top. Each size has its own
number of epochs, the same for its three rows: 44, 10 and 1. In one epoch no picture is seen twice,
and none can be learned by heart; `make study NAME=augment_by_size ARGS=--long` adds 60 epochs of
all pictures, for a GPU. 9 rows × 3 seeds.
"""

import sys

import torch
from gap import SCALE, batches, network, train_once
from torch import nn

from cifar_utils import data, runs
from cifar_utils.training import evaluate

AUGMENTATIONS = ("none", "flip + crop", "flip + crop + TrivialAugment")
SIZES = {450: 44, 4_500: 10, 45_000: 1}  # pictures: epochs
DECAY = 5e-4


def one(run: runs.Run, pictures: int, augmentation: str, epochs: int, seed: int) -> dict:
    """Train once; clean training and validation accuracy at the end."""
    dataset = run.load("cifar100")
    train, val = data.hold_out(dataset.train, run.pick(smoke=100, laptop=5000, gpu=5000))
    if pictures < len(train):
        train = data.hold_out(train, run.pick(smoke=128, laptop=pictures, gpu=pictures))[1]
    model = network().to(run.device, memory_format=torch.channels_last)
    shown = batches(dataset, train, augmentation, seed, run.device)
    epochs = run.pick(smoke=1, laptop=epochs, gpu=epochs)
    shown_accuracy = train_once(model, shown, epochs, loss_fn=nn.CrossEntropyLoss(), decay=DECAY)
    first = train.subset(range(min(len(train), 4500)))  # enough to judge by
    clean, val = (
        evaluate(model, data.BatchLoader(part, 500, device=run.device, **SCALE), precision="fp32")
        for part in (first, val)
    )
    print(f"  train {clean.accuracy:.1%}, val {val.accuracy:.1%}", flush=True)
    return {
        "precision": "fp32",
        "shown_accuracy": shown_accuracy,
        "train_accuracy": clean.accuracy,
        "train_loss": round(clean.loss, 5),
        "val_accuracy": val.accuracy,
        "val_loss": round(val.loss, 5),
    }


def rows(sizes: dict[int, int]) -> list[dict]:
    """Every augmentation at every size, seed by seed."""
    return [
        {"pictures": n, "augmentation": augmentation, "epochs": epochs, "seed": seed}
        for seed in range(3)
        for n, epochs in sizes.items()
        for augmentation in AUGMENTATIONS
    ]


if __name__ == "__main__":
    long = rows({45_000: 60}) if "--long" in sys.argv else []
    runs.run_study("augment_by_size", rows(SIZES) + long, one)
