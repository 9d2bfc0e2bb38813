"""Depth with and without shortcuts: plain and residual networks of 20 and 56 layers on CIFAR-10.

Claim (chapter 3): after 300 steps plain-56 has a higher training loss than plain-20 and than
resnet-56, by more than twice the spread over seeds. 4 networks × 3 seeds. Run or resume it with
`make study NAME=degradation`.
"""

from itertools import chain, islice, repeat

import torch
from torch import nn
from torch.nn import functional as F

from cifar_utils import data, models, runs
from cifar_utils.precision import autocast
from cifar_utils.training import evaluate

RECIPE = "SGD: lr 0.1 after 50 steps of warm-up, momentum 0.9, decay 1e-4; batch 128, crop 4, flip"
PRECISION = "bf16"  # the same on every machine


class PlainBlock(models.BasicBlock):
    """A BasicBlock whose shortcut is left out."""

    def forward(self, x):
        z = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(z)))


def gradient_norms(model, images, labels):
    """Norms of the gradient at the first and the last convolution, on one batch, in fp32."""
    convs = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d)]
    weights = (convs[0].weight, convs[-1].weight)
    loss = F.cross_entropy(model(images), labels)
    return [gradient.norm().item() for gradient in torch.autograd.grad(loss, weights)]


def one(run, network, seed):
    """Train one network; training loss (means of 10 steps) and validation accuracy at the end."""
    steps, n_val = run.pick(smoke=(20, 100), laptop=(300, 5000), gpu=(300, 5000))
    train, val = data.hold_out(run.load("cifar10").train, n_val)
    norm = {"mean": data.CIFAR10_MEAN, "std": data.CIFAR10_STD, "device": run.device}
    augment = {"shuffle": True, "drop_last": True, "crop": 4, "flip": True, "seed": seed}
    batches = data.BatchLoader(train, 128, **augment, **norm)
    kind, depth = network.split("-")
    block = PlainBlock if kind == "plain" else models.BasicBlock
    model = models.ResNet(block, [(int(depth) - 2) // 6] * 3, width=16, shortcut="pad")
    model.to(run.device, memory_format=torch.channels_last)
    first, last = gradient_norms(model, *next(iter(batches)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    warm_up = torch.optim.lr_scheduler.LinearLR(optimizer, 0.1, total_iters=50)
    losses = []
    for images, labels in islice(chain.from_iterable(repeat(batches)), steps):
        images = images.contiguous(memory_format=torch.channels_last)
        with autocast(run.device, PRECISION):
            loss = F.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        warm_up.step()
        losses.append(loss.detach())
    curve = torch.stack(losses).float().view(-1, 10).mean(1)
    result = evaluate(model, data.BatchLoader(val, 500, **norm), precision=PRECISION)
    figures = {"recipe": RECIPE, "steps": steps, "precision": PRECISION}
    figures |= {"train_loss": [round(loss, 4) for loss in curve.tolist()]}
    figures |= {"final_train_loss": curve[-5:].mean().item(), "val_accuracy": result.accuracy}
    print(f"  loss {figures['final_train_loss']:.3f}, val {result.accuracy:.1%}", flush=True)
    return figures | {"gradient_first": first, "gradient_last": last}


NETWORKS = ("resnet-20", "plain-20", "plain-56", "resnet-56")
ROWS = [{"network": network, "seed": seed} for seed in range(3) for network in NETWORKS]

if __name__ == "__main__":
    runs.run_study("degradation", ROWS, one)
