"""What each part of the fast recipe is worth: one change at a time, all else equal (chapter 12).

A narrow copy of the network of cifar_utils.fast, three epochs on 45,000 pictures of CIFAR-10,
judged on 5,000 held out. Each row takes one part of the recipe away, or adds one; "recipe" is the
whole, also at other lengths, so that points of accuracy can be read as epochs. Claims: without
shortcuts, or with SGD for Muon at the best of four rates, the network learns less in the same
steps; without growing pictures less at the same cost; with SGD, whitening makes a difference; each
by more than twice the seeds' spread.
"""

import dataclasses

import airbench94
import torch
from torch import nn

from cifar_utils import data, fast, runs

NAME = "ladder"
RECIPE = fast.Recipe(phases=((20, 1), (24, 1), (32, 1)), widths=(32, 128, 256), batch_size=512)
LENGTHS = (2, 4, 6)  # epochs of "recipe", beside the three of every other row
CHANGES = {  # what the row changes of the recipe's plain settings
    "recipe": {},
    "random flips": {"alternate": False},
    "no label smoothing": {"smoothing": 0.0},
    "constant rate": {"schedule": lambda done: 1.0},
    "no warm-up": {"schedule": lambda done: 1 - done},
    "whole pictures": {"phases": ((32, 3),)},
    "whole pictures, same cost": {"phases": ((32, 1.9),)},
    "batch of 256": {"batch_size": 256},
    "batch of 1024": {"batch_size": 1024},
    "batch of 500": {"batch_size": 500},
    # What follows changes network or optimizer, in `one`:
    "random stem": {},
    "random start": {},
    "no shortcuts": {},
    "ReLU": {},
    "margin left and above": {},
    "SGD": {},
    "SGD, a third of the rate": {},
    "SGD, three times the rate": {},
    "SGD, nine times the rate": {},
    "random stem, SGD": {},
    "random start, SGD": {},
    "fast biases": {},
    "fixed norm scales": {},
    "decay on norms": {},
    "lookahead": {},
}
SGD_RATES = {"SGD": 1, "SGD, a third of the rate": 1 / 3}
SGD_RATES |= {"SGD, three times the rate": 3, "SGD, nine times the rate": 9}
ROWS = [{"change": change, "epochs": 3, "seed": seed} for seed in range(3) for change in CHANGES]
ROWS += [{"change": "recipe", "epochs": n, "seed": seed} for seed in range(3) for n in LENGTHS]


def change_network(model: fast.FastNet, change: str) -> None:
    """Make the row's change to a fresh network, in place."""
    if "random stem" in change:
        nn.Conv2d.reset_parameters(model.whiten)
        model.whiten.weight.requires_grad_(True)
    for i, group in enumerate(model.groups if change == "no shortcuts" else []):
        model.groups[i] = nn.Sequential(group.down, group.pair)
    if change == "margin left and above":  # keeps the last map's size; the pool then drops a row
        down = model.groups[2].down
        down[0], down[1] = nn.Sequential(nn.ZeroPad2d((1, 0, 1, 0)), down[0]), nn.MaxPool2d(2)
    for module in list(model.groups.modules()):
        if "random start" in change and isinstance(module, nn.Conv2d):
            module.reset_parameters()
        if change == "fixed norm scales" and isinstance(module, nn.BatchNorm2d):
            module.weight.requires_grad_(False)
        for i, layer in enumerate(module if isinstance(module, nn.Sequential) else []):
            if change == "ReLU" and isinstance(layer, nn.SiLU):
                module[i] = nn.ReLU()


def optimizers_for(
    model: fast.FastNet, recipe: fast.Recipe, change: str
) -> list[torch.optim.Optimizer]:
    """The recipe's optimizers, with the row's change."""
    muon, sgd = fast.optimizers_for(model, recipe)
    rest = sgd.param_groups[0]
    if "SGD" in change:  # at airbench94's rate, and around it
        rate, decay = airbench94.RATE * recipe.batch_size, airbench94.DECAY * recipe.batch_size
        options = {"weight_decay": decay / rate, "momentum": airbench94.MOMENTUM}
        options["lr"] = rate * SGD_RATES.get(change, 3)  # 3: the best of the four
        return [torch.optim.SGD(muon.param_groups[0]["params"], nesterov=True, **options), sgd]
    if change == "fast biases":
        biases = {id(m.bias) for m in model.groups.modules() if isinstance(m, nn.BatchNorm2d)}
        fast_ones = [p for p in rest["params"] if id(p) in biases]
        rest["params"] = [p for p in rest["params"] if id(p) not in biases]
        sgd.add_param_group({"params": fast_ones, "lr": 16 * recipe.rate})
    if change == "decay on norms":
        rest["weight_decay"] = recipe.decay
    return [muon, sgd]


def one(run: runs.Run, change: str, epochs: int, seed: int) -> dict:
    """Train once; validation accuracy with one and with six views."""
    cifar10 = run.load("cifar10")
    train, val = data.hold_out(cifar10.train, n=run.pick(smoke=100, laptop=5000, gpu=5000))
    recipe = dataclasses.replace(RECIPE, **CHANGES[change])
    if change == "recipe":
        recipe = dataclasses.replace(recipe, phases=[(px, epochs / 3) for px, _ in recipe.phases])
    torch.manual_seed(seed)
    scale = fast.SCALES["cifar10"]
    some = data.normalize(train.images[:5000], **scale)
    model = fast.FastNet(10, recipe.widths, some)
    change_network(model, change)
    model.to(run.device, memory_format=torch.channels_last)
    options = {"seed": seed, "precision": "fp32", "log": lambda line: None}
    if change == "lookahead":
        slow = airbench94.Lookahead(model)
        steps = round(len(train) // recipe.batch_size * epochs)
        options["after_step"] = lambda step: slow.follow(step, steps)
    optimizers = optimizers_for(model, recipe, change)
    fast.train(model, optimizers, train, recipe, **scale, **options)
    images = data.normalize(val.images, **scale).to(run.device)
    judged = {v: fast.answers(model, images, v).cpu() for v in (1, 6)}
    return {"precision": "fp32"} | {
        f"val_accuracy_{views}": (logits.argmax(1) == val.labels).float().mean().item()
        for views, logits in judged.items()
    }


if __name__ == "__main__":
    runs.run_study(NAME, ROWS, one)
