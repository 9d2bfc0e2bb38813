"""What each part of the fast recipe is worth: one change at a time, all else equal (chapter 12).

A narrow copy of the network of cifar_utils.fast, three epochs on 45,000 pictures of CIFAR-10,
judged on 5,000 held out. Each row takes one part of the recipe away, or adds one; "recipe" is the
whole, also at other lengths, so that points of accuracy can be read as epochs. Claims: without
whitening, without the identity start, or with SGD for Muon, the network learns less in the same
steps, each by more than twice the seeds' spread.
"""

import dataclasses

import airbench94
import torch
from torch import nn

from cifar_utils import data, fast, runs

NAME = "ladder"
RECIPE = fast.Recipe(phases=((20, 1), (24, 1), (32, 1)), widths=(32, 128, 128), batch_size=500)
LENGTHS = (2, 4, 6)  # epochs of "recipe", beside the three of every other row
CHANGES = {  # what the row changes of the recipe's plain settings
    "recipe": {},
    "random flips": {"alternate": False},
    "no label smoothing": {"smoothing": 0.0},
    "constant rate": {"schedule": lambda done: 1.0},
    "whole pictures": {"phases": ((32, 3),)},
    "whole pictures, same cost": {"phases": ((32, 1.84),)},
    "batch of 250": {"batch_size": 250},
    "batch of 1000": {"batch_size": 1000},
    "batch of 512": {"batch_size": 512},
    # What follows changes network or optimizer, in `one`:
    "random stem": {},
    "random start": {},
    "SGD": {"schedule": airbench94.triangle},
    "learned norm scales": {},
    "slow biases": {"bias_rate": fast.Recipe.bias_rate / 64},
    "no decay on biases": {},
    "lookahead": {},
    "ReLU": {},
}
ROWS = [{"change": change, "epochs": 3, "seed": seed} for seed in range(3) for change in CHANGES]
ROWS += [{"change": "recipe", "epochs": n, "seed": seed} for seed in range(3) for n in LENGTHS]


def change_network(model: fast.FastNet, change: str) -> None:
    """Make the row's change to a fresh network, in place."""
    if change == "random stem":
        nn.Conv2d.reset_parameters(model.whiten)
        model.whiten.weight.requires_grad_(True)
    for group in model.groups if change == "ReLU" else []:
        for i, layer in enumerate(group):
            group[i] = nn.ReLU() if isinstance(layer, nn.GELU) else layer
    for module in model.groups.modules():
        if change == "random start" and isinstance(module, nn.Conv2d):
            module.reset_parameters()
        if change == "learned norm scales" and isinstance(module, nn.BatchNorm2d):
            module.weight.requires_grad_(True)


def optimizers_for(
    model: fast.FastNet, recipe: fast.Recipe, change: str
) -> list[torch.optim.Optimizer]:
    """The recipe's optimizers, or airbench94's one."""
    if change == "SGD":
        return [airbench94.optimizer_for(model, recipe.batch_size)]
    optimizers = fast.optimizers_for(model, recipe)
    if change == "random stem":
        optimizers[1].param_groups[2].pop("epochs")  # it has more to learn than a bias
        optimizers[1].param_groups[2]["params"].append(model.whiten.weight)
    if change == "no decay on biases":
        biases, _, whitening_bias = optimizers[1].param_groups
        biases["weight_decay"] = whitening_bias["weight_decay"] = 0.0
    return optimizers


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
