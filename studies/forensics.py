"""Why a frozen ResNet could score 5 % on CIFAR-100: the suspects one at a time (chapter 6).

A published tutorial freezes an ImageNet ResNet-34, trains a new head on CIFAR-100 and reports 5 %.
Here the backbone is the shipped ResNet-10, trained on CIFAR-10 and frozen; the head is one linear
layer, trained by SGD with momentum 0.9, batches of 200 and 20 epochs on 50 pictures a class. These
are 500 steps; the tutorial took 25,000 at its rate of 0.01, so one row takes as many. "none" is a
sensible recipe: whole pictures, flipped or not, the backbone in eval mode, a rate that falls by
cosine from the best of four (validation, seed 0). Each other row is one suspect: those with a
constant rate change rate and schedule together, those with crops also enlarge the picture, which
"large picture" does alone. "all but the rate" changes the geometry, BatchNorm's mode, the test
pictures and the loss together.

The tutorial cropped 32 of 224 pixels a side, a seventh, which its ResNet-34 shrinks to a map of
1 × 1. Here that is 8 of 56, which our backbone shrinks to 1 × 1. Claims: a head trained on such
crops and asked about whole pictures loses most of its accuracy; asked about crops it loses less;
log-softmax twice changes nothing. Run or resume it with `make study NAME=forensics`.
"""

import torch
from torch import Tensor, nn
from torch.optim import SGD
from torchvision.transforms import v2

from cifar_utils import data, features, metrics, runs, transfer, weights

NAME = "forensics"
RATES = (0.1, 0.3, 1.0, 3.0)
BATCH, EPOCHS, LARGE, SMALL = 200, 20, 56, 8
SUSPECTS = {  # what differs from "none"
    "none": {},
    "large picture": {"size": LARGE},
    "small crop": {"size": LARGE, "train_crop": SMALL},
    "small crop, matched": {"size": LARGE, "train_crop": SMALL, "test_crop": SMALL},
    "crop in test only": {"size": LARGE, "test_crop": SMALL},
    "augmented test": {"augment_test": True},
    "train-mode statistics": {"train_mode": True},
    "rate 0.01 constant": {"lr": 0.01, "cosine": False},
    "rate 0.001 constant": {"lr": 0.001, "cosine": False},
    "rate 0.01, 25,000 steps": {"lr": 0.01, "cosine": False, "epochs": 1000},
    "log-softmax twice": {"twice": True},
    "all but the rate": {
        "size": LARGE,
        "train_crop": SMALL,
        "train_mode": True,
        "augment_test": True,
        "twice": True,
    },
}
seen: dict[tuple, Tensor] = {}  # features that several rows need


def random_window(images: Tensor, size: int) -> Tensor:
    """From each picture (N, 3, H, W) a window of its own, `size` pixels a side."""
    y, x = torch.randint(images.shape[-1] - size + 1, (2, len(images), 1)) + torch.arange(size)
    rows = torch.arange(len(images))[:, None, None]
    return images[rows, :, y[:, :, None], x[:, None, :]].permute(0, 3, 1, 2)


def resized(images: Tensor, size: int) -> Tensor:
    """The pictures at `size` pixels a side, still uint8."""
    return images if size == images.shape[-1] else v2.functional.resize(images, [size, size])


def augmented(images: Tensor) -> Tensor:
    """Each picture flipped or not, shifted by up to 4 pixels, erased in part or not."""
    draw = torch.Generator().manual_seed(0)
    images = data.random_flip(data.random_crop(images, 4, draw), draw)
    erase = v2.RandomErasing(p=0.5)
    return torch.stack([erase(image) for image in images])


def train_head(head, train, labels, lr, cosine, twice, epochs, order) -> float:
    """Train `head` on what `train(indices)` gives for a batch; accuracy in the last epoch."""
    optimizer = SGD(head.parameters(), lr=lr, momentum=0.9)
    steps = epochs * -(-len(labels) // BATCH)
    plan = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps)
    for _ in range(epochs):
        correct = 0
        for pick in torch.randperm(len(labels), generator=order).split(BATCH):
            logits = head(train(pick))
            correct += (logits.argmax(1) == labels[pick]).sum().item()
            if twice:
                logits = logits.log_softmax(1)
            loss = nn.functional.cross_entropy(logits, labels[pick])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if cosine:
                plan.step()
    return correct / len(labels)


def one(run: runs.Run, suspect: str, lr: float, seed: int) -> dict:
    """Train one head; what validation says."""
    options = {"size": 32, "train_crop": None, "test_crop": None, "augment_test": False}
    options |= {"train_mode": False, "cosine": True, "twice": False, "epochs": EPOCHS, "lr": lr}
    options |= SUSPECTS[suspect]
    size, train_crop, test_crop = (options[key] for key in ("size", "train_crop", "test_crop"))
    model, about = weights.load("resnet10_cifar10")
    model.fc = nn.Identity()
    transfer.freeze(model)
    model = model.to(run.device, memory_format=torch.channels_last)
    scale = {"mean": about["mean"], "std": about["std"]}

    def made(images: Tensor, *key) -> Tensor:
        if key not in seen:
            seen[key] = features.extract(model, images, **scale)
        return seen[key]

    some = run.pick(smoke=100, laptop=5000, gpu=5000)
    pool, val = data.hold_out(run.load("cifar100").train, some)
    train = data.hold_out(pool, some, seed)[1]
    images = resized(train.images, size)
    draw = torch.Generator().manual_seed(seed)  # of flips, the same in every row of a seed
    if options["train_mode"]:
        transfer.unfreeze(model)  # the averages move; no gradient is asked for
        model.train()
    elif not train_crop:  # pictures that never change: features of both flips, once
        plain = made(images, "train", seed, size)
        flipped = made(images.flip(3), "flipped", seed, size)

    def batch(pick: Tensor) -> Tensor:
        flip = torch.rand(len(pick), 1, generator=draw) < 0.5
        if not (train_crop or options["train_mode"]):
            return torch.where(flip, flipped[pick], plain[pick])
        some = images[pick]
        if train_crop:
            some = random_window(some, train_crop)
        some = torch.where(flip[:, :, None, None], some.flip(3), some)
        some = data.normalize(some.to(run.device), **scale)
        with torch.no_grad():
            return model(some.contiguous(memory_format=torch.channels_last)).cpu()

    torch.manual_seed(seed)  # of the head, the same in every row of a seed
    head = nn.Linear(about["architecture"]["width"] * 8, 100)
    order = torch.Generator().manual_seed(seed)
    recipe = {key: options[key] for key in ("lr", "cosine", "twice", "epochs")}
    train_accuracy = train_head(head, batch, train.labels, order=order, **recipe)

    test, key = resized(val.images, size), ("val", size)
    if test_crop:
        test, key = v2.functional.center_crop(test, [test_crop, test_crop]), (*key, test_crop)
    if options["augment_test"]:
        test, key = augmented(test), (*key, "augmented", seed)
    if options["train_mode"]:
        key = (*key, suspect, seed)  # the averages are not what they were
    with torch.no_grad():
        accuracy = metrics.accuracy(head(made(test, *key)), val.labels)
    print(f"  {suspect}: {accuracy:.1%}; in training {train_accuracy:.1%}", flush=True)
    figures = {"val_accuracy": accuracy, "train_accuracy": train_accuracy, "pictures": len(train)}
    return {"precision": "fp32"} | options | figures


if __name__ == "__main__":
    search = [{"suspect": "none", "lr": lr, "seed": 0} for lr in RATES]
    rows = runs.run_study(NAME, search, one)
    tried = [row for row in rows if row["suspect"] == "none" and row["seed"] == 0]
    lr = max(tried, key=lambda row: row["val_accuracy"])["lr"]
    again = [
        {"suspect": suspect, "lr": SUSPECTS[suspect].get("lr", lr), "seed": seed}
        for seed in range(3)
        for suspect in SUSPECTS
    ]
    runs.run_study(NAME, again, one)
