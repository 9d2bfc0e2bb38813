"""Six ways to fine-tune the same backbone on 20 pictures a class of CIFAR-100 (chapter 7).

The shipped ResNet-10, trained on CIFAR-10, learns 100 new classes from 2,000 pictures in 15 epochs.
"one rate": a fresh head, and everything learns at the same rate, one cycle. Each other row changes
one thing: "discriminative" gives every part half the rate of the part after it; "averages frozen"
keeps BatchNorm's statistics of CIFAR-10; "no warm-up" begins at the peak and falls by cosine; "head
first" begins with the head that suits the frozen features. Each of the five tries three or four
peak rates with seed 0; for "averages frozen" and "head first" the best was the lowest tried, and a
lower one might do better. The best on validation is repeated with seeds 1 and 2. "a high rate" is
"one rate" with a peak of 0.8, to see what is forgotten. A row whose loss is no longer finite says
where, and counts as no picture right.

Recorded beside the accuracies: how far each part went from where it began, relative to its norm,
and what the network, given back its old head, still knows of pictures that it once learned. Claim:
the high rate moves the backbone more, and knows less of the old pictures and of the new. What the
others are worth is said from the rows. 6 rows × 3 seeds and 12 more of the search, judged
on 5,000 validation pictures. Run or resume it with `make study NAME=unfreezing`.
"""

import torch
from few_pictures import few
from torch.optim import SGD
from torch.optim.lr_scheduler import CosineAnnealingLR, OneCycleLR

from cifar_utils import data, features, runs, training, transfer, weights

RATES = {  # peaks of the head's rate
    "one rate": (0.05, 0.1, 0.2),
    "discriminative": (0.05, 0.1, 0.2, 0.4),
    "averages frozen": (0.0125, 0.025, 0.05, 0.1),
    "no warm-up": (0.05, 0.1, 0.2),
    "head first": (0.05, 0.1, 0.2),
}
HIGH = 0.8
EPOCHS = 15
SCALE = {"mean": data.CIFAR10_MEAN, "std": data.CIFAR10_STD}  # of the backbone's own pictures


def prepare(variant: str, train: data.Split):
    """The network with its 100-way head, as the variant begins."""
    model, _ = weights.load("resnet10_cifar10")
    if variant == "head first":
        model.fc = torch.nn.Identity()
        frozen = features.extract(model, train.images, **SCALE)
        model.fc = features.fit_head(frozen, train.labels, 100).requires_grad_(True)
    else:
        transfer.replace_head(model, 100)
    if variant == "averages frozen":
        transfer.freeze_averages(model)
    return model


def recipe(model, variant: str, rate: float, steps: int):
    """The optimizer and its schedule."""
    factor = 1 / 2 if variant == "discriminative" else 1.0
    groups = transfer.parameter_groups(model, rate, factor)
    optimizer = SGD(groups, lr=rate, momentum=0.9, weight_decay=5e-4, nesterov=True)
    if variant == "no warm-up":
        return optimizer, CosineAnnealingLR(optimizer, steps)
    peaks = [group["lr"] for group in groups]
    return optimizer, OneCycleLR(optimizer, peaks, total_steps=steps, pct_start=0.25)


def parts(model) -> dict[str, torch.Tensor]:
    """All parameters of each part as one vector (a copy)."""
    found = {name: list(part.parameters()) for name, part in model.named_children()}
    flat = {name: [p.detach().flatten().cpu() for p in tensors] for name, tensors in found.items()}
    return {name: torch.cat(tensors) for name, tensors in flat.items() if tensors}


def distance(before: dict, after: dict) -> dict[str, float]:
    """How far each part went, relative to where it began."""
    went = {name: (after[name] - start).norm() / start.norm() for name, start in before.items()}
    return {name: round(share.item(), 4) for name, share in went.items()}


def one(run: runs.Run, variant: str, lr: float, seed: int) -> dict:
    """Fine-tune once; accuracies at the end, and how far the backbone went."""
    cifar10 = run.load("cifar10").train
    cifar100 = run.load("cifar100").train
    n_val, n_watch = run.pick(smoke=(100, 50), laptop=(5000, 1000), gpu=(5000, 1000))
    pool, val = data.hold_out(cifar100, n_val)
    old, watch = data.hold_out(cifar10, n_val)[1], data.hold_out(val, n_watch)[1]
    train = few(pool, run.pick(smoke=1, laptop=20, gpu=20), seed)
    augment = {"shuffle": True, "crop": 4, "flip": True, "seed": seed, "device": run.device}
    batches = data.BatchLoader(train, 64, **augment, **SCALE)
    old, watch, val = (
        data.BatchLoader(part, 500, device=run.device, **SCALE) for part in (old, watch, val)
    )
    torch.manual_seed(seed)
    model = prepare(variant, train).to(run.device)
    before = parts(model)
    start = training.evaluate(model, val, precision="fp32").accuracy
    epochs = run.pick(smoke=3, laptop=EPOCHS, gpu=EPOCHS)
    optimizer, schedule = recipe(model, variant, lr, epochs * len(batches))
    options = {"optimizer": optimizer, "scheduler": schedule, "val": watch, "precision": "fp32"}
    try:
        history = training.fit(model, batches, epochs=epochs, log=None, **options)
    except training.TrainingError as error:
        diverged = str(error).partition(". Try")[0]
        print(f"  {diverged}", flush=True)
        return {"precision": "fp32", "diverged": diverged}
    end = training.evaluate(model, val, precision="fp32")
    went = distance(before, parts(model))
    model.fc = weights.load("resnet10_cifar10")[0].fc.to(run.device)
    remembered = training.evaluate(model, old, precision="fp32").accuracy
    print(f"  {start:.1%} → {end.accuracy:.1%}; CIFAR-10: {remembered:.1%}; {went}", flush=True)
    return {
        "precision": "fp32",
        "start_accuracy": start,
        "val_accuracy": end.accuracy,
        "val_loss": round(end.loss, 5),
        "train_accuracy": history.train_accuracy[-1],
        "cifar10_accuracy": remembered,
        "watched_accuracy": history.val_accuracy,
        "train_losses": [round(loss, 4) for loss in history.train_loss],
        "train_seconds": round(sum(history.seconds), 1),
        "distance": went,
    }


def best_rate(rows: list[dict], variant: str) -> float:
    """The peak rate of the best validation accuracy among a variant's rows with seed 0."""
    tried = [row for row in rows if row["variant"] == variant and row["seed"] == 0]
    tried = [row for row in tried if "diverged" not in row]
    return max(tried, key=lambda row: row["val_accuracy"])["lr"]


if __name__ == "__main__":
    search = [{"variant": v, "lr": lr, "seed": 0} for v, rates in RATES.items() for lr in rates]
    rows = runs.run_study("unfreezing", search, one)
    again = [
        {"variant": variant, "lr": lr, "seed": seed}
        for seed in range(3)
        for variant, lr in [*((v, best_rate(rows, v)) for v in RATES), ("a high rate", HIGH)]
    ]
    runs.run_study("unfreezing", again, one)
