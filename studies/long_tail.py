"""Four ways to train on a long tail (chapter 8): CIFAR-100 with imbalance 100.

The class of rank i keeps n_max · 100^(-i/99) training pictures (Cui et al., 2019,
arXiv:1901.05555): 450 of the first class, 4 of the last, some 9,750 in all. Which class has which
rank is drawn once: an alphabet may hide an accident ("aquarium fish" would always be rich). All
rows take as many steps, with crop and flip; the weighted sampler alone shows rare pictures more
often. Validation is balanced, and accuracy is given for ranks of more than 100 pictures (head), of
20 to 100 (middle) and of fewer (tail).
4 rows × 3 seeds.
"""

import math

import numpy as np
import torch
from gap import BATCH, SCALE, network, train_once
from torch import nn
from torch.nn import functional as F
from torch.utils.data import WeightedRandomSampler
from torchvision.ops import sigmoid_focal_loss

from cifar_utils import data, metrics, runs
from cifar_utils.training import evaluate

CURES = ("plain", "weighted sampler", "class weights", "focal loss")
PARTS = {"head": slice(0, 33), "middle": slice(33, 67), "tail": slice(67, 100)}  # ranks
DECAY = 5e-4
PRIOR = 0.01  # of a sigmoid at the start of focal loss, as RetinaNet sets it


def profile(n_max: int, imbalance: float = 100, classes: int = 100) -> list[int]:
    """How many pictures the class of each rank keeps, at least one."""
    return [max(1, int(n_max * imbalance ** (-i / (classes - 1)))) for i in range(classes)]


def ranks(classes: int = 100) -> torch.Tensor:
    """The label that has each rank: a permutation, always the same."""
    return torch.randperm(classes, generator=torch.Generator().manual_seed(0))


def long_tailed(train: data.Split) -> data.Split:
    """The first pictures of every class, as many as its rank may keep."""
    n_max = int(torch.bincount(train.labels).min())
    kept = [
        (train.labels == label).nonzero().flatten()[:n]
        for label, n in zip(ranks(), profile(n_max), strict=True)
    ]
    return train.subset(torch.cat(kept).sort().values)


class Resampled:
    """Batches of the pictures that a sampler draws, drawn anew each epoch."""

    def __init__(self, split: data.Split, sampler: WeightedRandomSampler, seed: int, **options):
        self.split, self.sampler, self.seed, self.options = split, sampler, seed, options
        self.epoch = 0

    def loader(self) -> data.BatchLoader:
        """The batches of one epoch."""
        drawn = self.split.subset(list(self.sampler))
        return data.BatchLoader(drawn, BATCH, seed=1000 * self.seed + self.epoch, **self.options)

    def __len__(self):
        return len(self.split) // BATCH

    def __iter__(self):
        self.epoch += 1
        return iter(self.loader())


def focal(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """torchvision's focal loss, summed over classes: 100 yes-or-no questions a picture."""
    targets = F.one_hot(labels, logits.shape[1]).to(logits.dtype)
    loss = sigmoid_focal_loss(logits, targets, alpha=-1, gamma=2, reduction="sum")
    return loss / len(labels)


def one(run: runs.Run, cure: str, seed: int) -> dict:
    """Train once; accuracy of every class by rank, and of head, middle, tail and all."""
    full, val = data.hold_out(
        run.load("cifar100").train, run.pick(smoke=100, laptop=5000, gpu=5000)
    )
    train = long_tailed(full)
    counts = torch.bincount(train.labels, minlength=100)
    model = network().to(run.device, memory_format=torch.channels_last)
    options = {"shuffle": True, "drop_last": True, "crop": 4, "flip": True, "device": run.device}
    options |= SCALE
    batches = data.BatchLoader(train, BATCH, seed=seed, **options)
    loss_fn = nn.CrossEntropyLoss()
    if cure == "weighted sampler":
        draws = torch.Generator().manual_seed(seed)
        weights = 1 / counts[train.labels]
        sampler = WeightedRandomSampler(weights, len(train), replacement=True, generator=draws)
        batches = Resampled(train, sampler, seed, **options)
    elif cure == "class weights":
        weights = len(train) / (len(counts) * counts)  # their mean over training pictures is 1
        loss_fn = nn.CrossEntropyLoss(weight=weights.to(run.device))
    elif cure == "focal loss":
        loss_fn = focal
        nn.init.constant_(model.fc.bias, -math.log((1 - PRIOR) / PRIOR))
    epochs = run.pick(smoke=2, laptop=8, gpu=8)
    shown = train_once(model, batches, epochs, loss_fn=loss_fn, decay=DECAY)
    scale = SCALE | {"device": run.device}
    judged = evaluate(model, data.BatchLoader(val, 500, **scale), precision="fp32")
    clean = evaluate(model, data.BatchLoader(train, 500, **scale), precision="fp32")
    by_rank = metrics.per_class_accuracy(judged.logits, judged.labels)[ranks()].tolist()
    answered = torch.bincount(judged.logits.argmax(1), minlength=100)[ranks()].tolist()
    figures = {"precision": "fp32", "epochs": epochs, "shown_accuracy": shown}
    figures |= {part: round(float(np.mean(by_rank[where])), 6) for part, where in PARTS.items()}
    figures |= {"val_accuracy": judged.accuracy, "train_accuracy": clean.accuracy}
    figures |= {"by_rank": [round(share, 4) for share in by_rank], "answered": answered}
    figures |= {"ranks": ranks().tolist(), "counts": counts[ranks()].tolist()}
    print(f"  {' '.join(f'{part} {figures[part]:.1%}' for part in PARTS)}", flush=True)
    return figures


ROWS = [{"cure": cure, "seed": seed} for seed in range(3) for cure in CURES]

if __name__ == "__main__":
    runs.run_study("long_tail", ROWS, one)
