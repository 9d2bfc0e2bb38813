"""Scratch, frozen, unfrozen, gradual: CIFAR-100 learned from 5, 20, 100 and 500 pictures a class.

The backbone is the shipped ResNet-10, trained on CIFAR-10 (`studies/backbone.py`). "frozen" trains
a head on its features, "random" does so on the features of the same network before any training;
"scratch" trains that network whole; "unfrozen" gives the backbone a fresh head and trains all of
it; "gradual" trains the head, then stages 3 and 4 too, then everything, a third of the time each.
The last three see every picture equally often.

Each method first chooses among three or four settings (`value`: a decay for the heads, a peak rate
for the rest) at 20 pictures a class, on validation, with seed 0. The rows that count train on
pictures drawn from all 50,000, three seeds, and are judged once, on the test set. Claims (chapters
6 and 7): with few pictures the frozen backbone beats random features and scratch; unfrozen beats
frozen once there are many. Run or resume it with `make study NAME=few_pictures`.
"""

import torch
from torch.optim import SGD
from torch.optim.lr_scheduler import OneCycleLR

from cifar_utils import data, features, metrics, models, runs, training, transfer, weights

HEADS = {"frozen", "random"}  # methods that train a head on features
CHOICES = {
    "frozen": (1e-5, 1e-4, 1e-3),
    "random": (1e-5, 1e-4, 1e-3),
    "scratch": (0.05, 0.1, 0.2, 0.4),
    "unfrozen": (0.02, 0.05, 0.1, 0.2),
    "gradual": (0.02, 0.05, 0.1, 0.2),
}
EPOCHS = {5: 30, 20: 15, 100: 6, 500: 3}  # by pictures a class; a multiple of 3 for "gradual"
PHASES = (
    ("fc",),
    ("layer3", "layer4", "fc"),
    ("conv1", "bn1", "layer1", "layer2", "layer3", "layer4", "fc"),
)


def starting_point(method: str) -> models.ResNet:
    """The pretrained network, or for "scratch" and "random" the same one with fresh weights."""
    model, about = weights.load("resnet10_cifar10")
    if method in ("scratch", "random"):
        model = weights.build(about["architecture"])
    return model


def few(train: data.Split, per_class: int, seed: int) -> data.Split:
    """That many pictures of each of the 100 classes; all of them where there are no more."""
    n = 100 * per_class
    return train if n >= len(train) else data.hold_out(train, n, seed)[1]


def train_head(run, method, value, train, judge, seed) -> dict:
    """A head on the features of a frozen network."""
    torch.manual_seed(seed)
    model = starting_point(method).to(run.device)
    model.fc = torch.nn.Identity()
    scale = {"mean": data.CIFAR10_MEAN, "std": data.CIFAR10_STD}
    head = features.fit_head(
        features.extract(model, train.images, **scale), train.labels, 100, value
    )
    logits = head(features.extract(model, judge.images, **scale))
    return {"accuracy": metrics.accuracy(logits, judge.labels)}


def train_network(run, method, value, train, judge, epochs, seed) -> dict:
    """The network itself: whole from the start, or in phases."""
    scale = {"mean": data.CIFAR10_MEAN, "std": data.CIFAR10_STD, "device": run.device}
    size = 64 if len(train) <= 2000 else 128
    batches = data.BatchLoader(train, size, shuffle=True, crop=4, flip=True, seed=seed, **scale)
    torch.manual_seed(seed)
    model = starting_point(method)
    transfer.replace_head(model, 100)
    model.to(run.device)
    history = training.History()
    phases = PHASES if method == "gradual" else PHASES[-1:]
    for parts in phases:
        transfer.freeze(model)
        for part in parts:
            transfer.unfreeze(model.get_submodule(part))
        learning = [p for p in model.parameters() if p.requires_grad]
        optimizer = SGD(learning, lr=value, momentum=0.9, weight_decay=5e-4, nesterov=True)
        steps = epochs // len(phases) * len(batches)
        plan = OneCycleLR(optimizer, value, total_steps=steps, pct_start=0.25)
        options = {"optimizer": optimizer, "scheduler": plan, "precision": "fp32", "log": None}
        phase = training.fit(model, batches, epochs=epochs // len(phases), **options)
        for name, values in phase.to_dict().items():
            getattr(history, name).extend(values)
    judged = training.evaluate(model, data.BatchLoader(judge, 500, **scale), precision="fp32")
    return {
        "accuracy": judged.accuracy,
        "train_accuracy": history.train_accuracy[-1],
        "train_loss": history.train_loss,
        "train_seconds": round(sum(history.seconds), 1),
    }


def one(run: runs.Run, method: str, per_class: int, value: float, judge: str, seed: int) -> dict:
    """Train once; accuracy on the pictures that `judge` names, "val" or "test"."""
    cifar100 = run.load("cifar100")
    pool, held = cifar100.train, cifar100.test
    if judge == "val":
        pool, held = data.hold_out(pool, run.pick(smoke=100, laptop=5000, gpu=5000))
    train = few(pool, run.pick(smoke=1, laptop=per_class, gpu=per_class), seed)
    if method in HEADS:
        figures = train_head(run, method, value, train, held, seed)
    else:
        epochs = run.pick(smoke=3, laptop=EPOCHS[per_class], gpu=EPOCHS[per_class])
        figures = {"epochs": epochs} | train_network(run, method, value, train, held, epochs, seed)
    print(f"  {method}, {per_class} a class: {figures['accuracy']:.1%} on {judge}", flush=True)
    return {"precision": "fp32", "pictures": len(train)} | figures


def best(rows: list[dict], method: str) -> float:
    """The setting with the highest validation accuracy."""
    tried = [row for row in rows if row["method"] == method and row["judge"] == "val"]
    return max(tried, key=lambda row: row["accuracy"])["value"]


if __name__ == "__main__":
    search = [
        {"method": m, "per_class": 20, "value": v, "judge": "val", "seed": 0}
        for m, values in CHOICES.items()
        for v in values
    ]
    rows = runs.run_study("few_pictures", search, one)
    chosen = {method: best(rows, method) for method in CHOICES}
    final = [
        {"method": m, "per_class": n, "value": chosen[m], "judge": "test", "seed": seed}
        for seed in range(3)
        for n in EPOCHS
        for m in CHOICES
    ]
    runs.run_study("few_pictures", final, one)
