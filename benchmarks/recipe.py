"""The fast recipe beside airbench94's: seconds for a whole training, from steps run in turn.

Whole trainings take the better part of an hour. Here steps of each kind (recipe, picture size) are
run in turn, so that what else the machine does falls on both alike; the fastest of a kind times the
number of such steps makes a training. The `speedrun` and `airbench94` studies have whole trainings,
and what they reach.
"""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import torch

from cifar_utils import data, fast

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "studies"))
import airbench94

PICTURES = 50_000


def ours(drawn: data.Dataset, recipe: fast.Recipe, log: Callable[[str], None]) -> None:
    fast.learn(drawn, recipe, 0, "cpu", log=log)


def peer(drawn: data.Dataset, recipe: fast.Recipe, log: Callable[[str], None]) -> None:
    airbench94.learn(drawn, recipe, 0, log=log)


def seconds_a_step(learn: Callable, recipe: fast.Recipe, size: int, steps: int = 3) -> float:
    """Seconds of the fastest of some steps; the first, which sets up, does not count."""
    drawn = data.load("cifar10", stand_in=(recipe.batch_size, 1))  # an epoch is one step
    stamps = []
    few = dataclasses.replace(recipe, phases=((size, steps + 1),))
    learn(drawn, few, lambda line: stamps.append(time.perf_counter()))
    return min(after - before for before, after in pairwise(stamps))


def measure(rounds: int = 3) -> dict:
    """Minutes of both trainings and how many times ours goes into the peer's."""
    torch.set_flush_denormal(True)
    pairs = ((ours, fast.RECIPES["cifar10", "full"]), (peer, airbench94.RECIPE))
    kinds = [(learn, recipe, size) for learn, recipe in pairs for size, _ in recipe.phases]
    best: dict[tuple, float] = {}
    for _ in range(rounds):
        for kind in kinds:
            best[kind] = min(best.get(kind, float("inf")), seconds_a_step(*kind))
    minutes = {}
    for learn, recipe in pairs:
        batches = PICTURES // recipe.batch_size
        steps = {size: epochs * batches for size, epochs in recipe.phases}
        minutes[learn] = sum(n * best[learn, recipe, size] for size, n in steps.items()) / 60
    whole = best[peer, airbench94.RECIPE, 32]
    return {
        "name": "training, airbench94's minutes over ours",
        "ratio": round(minutes[peer] / minutes[ours], 2),
        "ours_minutes": round(minutes[ours], 1),
        "airbench94_minutes": round(minutes[peer], 1),
        "airbench94_pictures_per_second": round(airbench94.RECIPE.batch_size / whole),
    }


if __name__ == "__main__":
    print(measure())
