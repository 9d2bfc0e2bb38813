"""The backbone that chapters 6 and 7 transfer: a ResNet-10 of width 16, trained on CIFAR-10.

One row. Chapter 4's recipe on all 50,000 training pictures; the test set is asked once, at the end.
The network goes to weights/ with its description. Run or resume it with `make study NAME=backbone`.
"""

from pathlib import Path

from torch import nn
from torch.optim import SGD
from torch.optim.lr_scheduler import OneCycleLR

from cifar_utils import data, runs, training, weights

NAME = "resnet10_cifar10"
ARCHITECTURE = {"block": "BasicBlock", "layers": [1, 1, 1, 1], "width": 16, "num_classes": 10}
RATE, EPOCHS = 0.2, 16
SCALE = {"mean": data.CIFAR10_MEAN, "std": data.CIFAR10_STD}


def train_network(
    run: runs.Run, pictures: data.Split, architecture: dict, epochs: int, seed: int
) -> tuple[nn.Module, training.History]:
    """Chapter 4's recipe on `pictures`: the network, and what each epoch left."""
    train = data.BatchLoader(
        pictures, 128, shuffle=True, crop=4, flip=True, seed=seed, device=run.device, **SCALE
    )
    model = weights.build(architecture).to(run.device)
    heavy = [p for p in model.parameters() if p.ndim > 1]
    light = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": heavy, "weight_decay": 5e-4}, {"params": light, "weight_decay": 0.0}]
    optimizer = SGD(groups, lr=RATE, momentum=0.9, nesterov=True)
    plan = {"pct_start": 0.25, "anneal_strategy": "linear"}
    history = training.fit(
        model,
        train,
        epochs=epochs,
        optimizer=optimizer,
        scheduler=OneCycleLR(optimizer, RATE, total_steps=epochs * len(train), **plan),
        loss_fn=nn.CrossEntropyLoss(label_smoothing=0.1),
        checkpoint=run.folder / "training.pt",
        precision="fp32",
    )
    return model, history


def accuracy(run: runs.Run, model: nn.Module, pictures: data.Split) -> float:
    """Fraction of `pictures` that the network gets right."""
    batches = data.BatchLoader(pictures, 500, device=run.device, **SCALE)
    return training.evaluate(model, batches, precision="fp32").accuracy


def about(run: runs.Run, cifar10: data.Dataset, study: str, architecture: dict) -> dict:
    """What a shipped network's description says, but for its own figures."""
    return {
        "architecture": architecture,
        "classes": cifar10.classes,
        **SCALE,
        "input_size": 32,
        "results": f"results/studies/{study}.jsonl",
        "dataset": run.stamp["dataset"],
    }


def folder(run: runs.Run) -> Path:
    """Where the network goes: at budget smoke not to weights/."""
    return run.folder if run.budget == "smoke" else weights.SHIPPED


def one(run: runs.Run, seed: int) -> dict:
    """Train once, store the network; test accuracy and history."""
    cifar10 = run.load("cifar10")
    epochs = run.pick(smoke=2, laptop=EPOCHS, gpu=EPOCHS)
    model, history = train_network(run, cifar10.train, ARCHITECTURE, epochs, seed)
    figures = {"test_accuracy": accuracy(run, model, cifar10.test)}
    description = about(run, cifar10, "backbone", ARCHITECTURE)
    weights.save(NAME, model, description | figures, folder(run))
    return {"precision": "fp32", **figures, "epochs": epochs, "history": history.to_dict()}


if __name__ == "__main__":
    runs.run_study("backbone", [{"seed": 0}], one)
