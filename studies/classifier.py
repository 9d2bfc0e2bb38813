"""The network that chapters 10 and 11 judge and use: a ResNet-10 of width 32, on CIFAR-10.

One row. Chapter 4's recipe, longer, on 45,000 of the training pictures: the 5,000 that
`weights.held_out` sets aside stay unseen, so that a temperature or a threshold can be chosen on
them. It is stored in half precision, and judged as it is stored; the test set is asked once.
Run or resume it with `make study NAME=classifier`.
"""

import copy

import backbone

from cifar_utils import runs, weights

NAME = "resnet10_wide_cifar10"
ARCHITECTURE = {"block": "BasicBlock", "layers": [1, 1, 1, 1], "width": 32, "num_classes": 10}
EPOCHS = 26


def one(run: runs.Run, seed: int) -> dict:
    """Train once, store the network; its accuracies as stored, and history."""
    cifar10 = run.load("cifar10")
    epochs = run.pick(smoke=2, laptop=EPOCHS, gpu=EPOCHS)
    held = run.pick(smoke=100, laptop=5000, gpu=5000)
    train, val = weights.held_out(cifar10.train, held)
    model, history = backbone.train_network(run, train, ARCHITECTURE, epochs, seed)
    figures = {"full_precision_val_accuracy": backbone.accuracy(run, model, val)}
    stored = copy.deepcopy(model).half()
    model.load_state_dict(stored.state_dict())  # the rounded weights
    figures |= {
        "val_accuracy": backbone.accuracy(run, model, val),
        "test_accuracy": backbone.accuracy(run, model, cifar10.test),
    }
    description = backbone.about(run, cifar10, "classifier", ARCHITECTURE)
    description |= {"held_out": held, "dtype": "float16"} | figures
    weights.save(NAME, stored, description, backbone.folder(run))
    return {"precision": "fp32", **figures, "epochs": epochs, "history": history.to_dict()}


if __name__ == "__main__":
    runs.run_study("classifier", [{"seed": 0}], one)
