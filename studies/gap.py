"""The gap between training and validation accuracy, and what eleven measures do to it (chapter 8).

A small ResNet-10 learns CIFAR-100 from 25 pictures a class for 24 epochs: bare, then with one
measure at a time, then with the cheap ones together. Every row runs the same loop, takes as many
steps, and is judged the same way: on its own training pictures without any augmentation, in eval
mode, and on 4,000 held-out pictures. Another 1,000 are watched while training: they choose the
epoch at which the row "early stopping" stops, so that the pictures that judge chose nothing.
12 rows × 3 seeds. `make study NAME=gap ARGS=--long` adds rows of 240 epochs; they want a GPU.
"""

import dataclasses
import sys

import torch
from torch import nn
from torch.optim import SGD
from torch.optim.lr_scheduler import OneCycleLR
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from cifar_utils import data, models, runs
from cifar_utils.training import evaluate

RATE, BATCH = 0.1, 64
SCALE = {"mean": data.CIFAR100_MEAN, "std": data.CIFAR100_STD}
IN_BATCHES = {  # drawn for each picture by BatchLoader
    "flip": {"flip": True},
    "crop": {"crop": 4},
    "flip + crop": {"flip": True, "crop": 4},
    "together": {"flip": True, "crop": 4},
}
FIRST = {  # torchvision's, called with one PIL picture at a time
    "AutoAugment": [v2.AutoAugment(v2.AutoAugmentPolicy.CIFAR10)],
    "TrivialAugment": [v2.TrivialAugmentWide()],
    "flip + crop + TrivialAugment": [
        v2.RandomCrop(32, padding=4, padding_mode="reflect"),
        v2.RandomHorizontalFlip(),
        v2.TrivialAugmentWide(),
    ],
}
LAST = {"erasing": [v2.RandomErasing()]}  # after normalizing: the hole has the mean color
MIX = {"mixup": v2.MixUp(alpha=0.2, num_classes=100), "cutmix": v2.CutMix(num_classes=100)}
DECAY = {"weight decay": 5e-4, "together": 5e-4}
SMOOTHING = {"label smoothing": 0.1, "together": 0.1}


def network() -> models.ResNet:
    """The network of all three studies of chapter 8: ResNet-10 with a max-pool after its stem.

    In chapter 5 the pool costs little accuracy and saves more than half of the time.
    """
    model = models.ResNet(models.BasicBlock, [1, 1, 1, 1], 100, width=16)
    model.maxpool = nn.MaxPool2d(3, 2, padding=1)
    return model


def batches(dataset: data.Dataset, split: data.Split, measure: str, seed: int, device):
    """Training batches of `split`, augmented picture by picture as `measure` says."""
    if measure not in FIRST and measure not in LAST:
        options = IN_BATCHES.get(measure, {})
        options = options | {"shuffle": True, "drop_last": True, "seed": seed, "device": device}
        return data.BatchLoader(split, BATCH, **options, **SCALE)
    tensor = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(*SCALE.values())]
    transform = v2.Compose([*FIRST.get(measure, ()), *tensor, *LAST.get(measure, ())])
    pictures = data.torchvision_dataset(dataclasses.replace(dataset, train=split), True, transform)
    order = torch.Generator().manual_seed(seed)
    return DataLoader(pictures, BATCH, shuffle=True, drop_last=True, generator=order)


def keep(images, labels):
    """Mix nothing."""
    return images, labels


def train_once(model, train, epochs, *, loss_fn, mix=keep, decay=0.0, each_epoch=None):
    """Chapter 2's loop with one more line, `mix`; accuracy of every epoch on what was shown.

    Mixed targets count as right where the larger part is.
    """
    device = next(model.parameters()).device
    optimizer = SGD(model.parameters(), lr=RATE, momentum=0.9, weight_decay=decay, nesterov=True)
    scheduler = OneCycleLR(optimizer, RATE, total_steps=epochs * len(train), pct_start=0.25)
    shown = []
    for _ in range(epochs):
        model.train()
        right, seen = 0, 0
        for images, labels in train:
            images = images.to(device, memory_format=torch.channels_last)
            images, targets = mix(images, labels.to(device))
            logits = model(images)
            loss = loss_fn(logits, targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
            larger = targets if targets.ndim == 1 else targets.argmax(1)
            right += (logits.detach().argmax(1) == larger).sum()
            seen += len(labels)
        shown.append(round(right.item() / seen, 6))
        if each_epoch:
            each_epoch(model)
    return shown


class Watch:
    """Judges a network after every epoch and keeps its weights where it was best so far."""

    def __init__(self, batches):
        self.batches, self.accuracy, self.loss, self.best = batches, [], [], {}

    def __call__(self, model):
        now = evaluate(model, self.batches, precision="fp32")
        self.accuracy.append(now.accuracy)
        self.loss.append(round(now.loss, 5))
        best = {"accuracy": max(self.accuracy[:-1], default=-1) < now.accuracy}
        best["loss"] = min(self.loss[:-1], default=1e9) > self.loss[-1]
        for what in (what for what, is_best in best.items() if is_best):
            weights = {name: value.clone() for name, value in model.state_dict().items()}
            self.best[what] = len(self.loss), weights


def split_for(run: runs.Run, dataset: data.Dataset):
    """(few training pictures, 1,000 to watch, 4,000 to judge), stratified and always the same."""
    full = (5000, 1000, 2500)
    n_val, n_watch, n_few = run.pick(smoke=(100, 50, 200), laptop=full, gpu=full)
    train, val = data.hold_out(dataset.train, n_val)
    judge, watch = data.hold_out(val, n_watch)
    return data.hold_out(train, n_few)[1], watch, judge


def one(run: runs.Run, measure: str, epochs: int, seed: int) -> dict:
    """Train once; clean training and validation figures at the end, and every epoch's."""
    dataset = run.load("cifar100")
    train, watch, judge = split_for(run, dataset)
    model = network().to(run.device, memory_format=torch.channels_last)
    shown = batches(dataset, train, measure, seed, run.device)
    watch, judge, clean = (
        data.BatchLoader(part, 500, device=run.device, **SCALE) for part in (watch, judge, train)
    )
    watched = Watch(watch)
    shown_accuracy = train_once(
        model,
        shown,
        run.pick(smoke=2, laptop=epochs, gpu=epochs),
        loss_fn=nn.CrossEntropyLoss(label_smoothing=SMOOTHING.get(measure, 0.0)),
        mix=MIX.get(measure, keep),
        decay=DECAY.get(measure, 0.0),
        each_epoch=watched,
    )

    def figures() -> dict:
        on_train, on_judge = (evaluate(model, part, precision="fp32") for part in (clean, judge))
        return {
            "train_accuracy": on_train.accuracy,
            "train_loss": round(on_train.loss, 5),
            "val_accuracy": on_judge.accuracy,
            "val_loss": round(on_judge.loss, 5),
        }

    found = {"precision": "fp32", "shown_accuracy": shown_accuracy}
    found |= {"watched_accuracy": watched.accuracy, "watched_loss": watched.loss}
    if measure == "early stopping":  # the same training as "none", left at its best epoch
        found["last_epoch"] = figures()
        for what in ("loss", "accuracy"):
            epoch, weights = watched.best[what]
            model.load_state_dict(weights)
            found[f"best_{what}"] = {"epoch": epoch} | figures()
    found |= figures()
    print(f"  train {found['train_accuracy']:.1%}, val {found['val_accuracy']:.1%}", flush=True)
    return found


MEASURES = (
    *("none", "flip", "crop", "erasing", "weight decay", "label smoothing", "mixup", "cutmix"),
    *("AutoAugment", "TrivialAugment", "early stopping", "together"),
)
ROWS = [{"measure": m, "epochs": 24, "seed": seed} for seed in range(3) for m in MEASURES]
LONG = ("none", "mixup", "cutmix", "AutoAugment", "TrivialAugment", "together")
LONG_ROWS = [{"measure": m, "epochs": 240, "seed": seed} for seed in range(3) for m in LONG]

if __name__ == "__main__":
    runs.run_study("gap", ROWS + (LONG_ROWS if "--long" in sys.argv else []), one)
