"""The backbone that chapters 6 and 7 transfer: a ResNet-10 of width 16, trained on CIFAR-10.

One row. Chapter 4's recipe on all 50,000 training pictures; the test set is asked once, at the end.
The network goes to weights/ with its description. Run or resume it with `make study NAME=backbone`.
"""

from torch import nn
from torch.optim import SGD
from torch.optim.lr_scheduler import OneCycleLR

from cifar_utils import data, runs, training, weights

NAME = "resnet10_cifar10"
ARCHITECTURE = {"block": "BasicBlock", "layers": [1, 1, 1, 1], "width": 16, "num_classes": 10}
RATE, EPOCHS = 0.2, 16


def one(run: runs.Run, seed: int) -> dict:
    """Train once, store the network; test accuracy and history."""
    cifar10 = run.load("cifar10")
    scale = {"mean": data.CIFAR10_MEAN, "std": data.CIFAR10_STD, "device": run.device}
    train = data.BatchLoader(
        cifar10.train, 128, shuffle=True, crop=4, flip=True, seed=seed, **scale
    )
    epochs = run.pick(smoke=2, laptop=EPOCHS, gpu=EPOCHS)
    model = weights.build(ARCHITECTURE).to(run.device)
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
    test = training.evaluate(model, data.BatchLoader(cifar10.test, 500, **scale), precision="fp32")
    about = {
        "architecture": ARCHITECTURE,
        "classes": cifar10.classes,
        "mean": data.CIFAR10_MEAN,
        "std": data.CIFAR10_STD,
        "input_size": 32,
        "results": "results/studies/backbone.jsonl",
        "dataset": run.stamp["dataset"],
        "test_accuracy": test.accuracy,
    }
    weights.save(NAME, model, about, run.folder if run.budget == "smoke" else weights.SHIPPED)
    figures = {"precision": "fp32", "test_accuracy": test.accuracy}
    return figures | {"epochs": epochs, "history": history.to_dict()}


if __name__ == "__main__":
    runs.run_study("backbone", [{"seed": 0}], one)
