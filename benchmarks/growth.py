"""How the cost of a training step grows with pictures, width, depth and resolution.

Each row doubles one thing of a ResNet-20 of width 16 on a batch of 128 drawn pictures of 32 pixels.
Steps of all rows are run in turn. `ratio` is seconds over the plain row's; `operations_ratio` is
what counting multiply-adds says it should be.
"""

from __future__ import annotations

import time

import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from cifar_utils import models

PLAIN = {"pictures": 128, "depth": 20, "width": 16, "side": 32}
ROWS = {
    "plain": {},
    "twice the pictures": {"pictures": 256},
    "twice the width": {"width": 32},
    "twice the blocks": {"depth": 38},
    "twice the side": {"side": 64},
}


def step_of(pictures: int, depth: int, width: int, side: int):
    """A function that does one training step, forward and backward."""
    model = models.cifar_resnet(depth, width=width).to(memory_format=torch.channels_last)
    images = torch.randn(pictures, 3, side, side).to(memory_format=torch.channels_last)
    labels = torch.zeros(pictures, dtype=torch.int64)

    def step() -> None:
        model.zero_grad()
        F.cross_entropy(model(images), labels).backward()

    return step


def operations(step) -> int:
    """Floating-point operations of one step, as torch counts them."""
    with FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops()


def measure(rounds: int = 5) -> list[dict]:
    """One row for each thing doubled: {"name", "ratio", "operations_ratio", "milliseconds"}."""
    torch.manual_seed(0)
    steps = {name: step_of(**(PLAIN | change)) for name, change in ROWS.items()}
    counted = {name: operations(step) for name, step in steps.items()}  # also warms up
    best: dict[str, float] = {}
    for _ in range(rounds):
        for name, step in steps.items():
            begun = time.perf_counter()
            step()
            seconds = time.perf_counter() - begun
            best[name] = min(best.get(name, seconds), seconds)
    return [
        {
            "name": f"cost of a step, {name}",
            "ratio": round(best[name] / best["plain"], 2),
            "operations_ratio": round(counted[name] / counted["plain"], 2),
            "milliseconds": round(1000 * best[name], 1),
        }
        for name in steps
    ]


if __name__ == "__main__":
    print(*measure(), sep="\n")
