"""The fast recipes beside airbench94's: minutes of whole trainings, from steps run in turn.

Whole trainings take the better part of an hour. Here steps of each kind (recipe, picture size) are
run in turn, so that what else the machine does falls on all alike; the fastest of a kind times the
number of such steps makes a training. The studies `speedrun` and `airbench94` have whole trainings,
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


TRAININGS = {
    f"{name} {kind}": (ours, name, recipe) for (name, kind), recipe in fast.RECIPES.items()
} | {"airbench94": (peer, "cifar10", airbench94.RECIPE)}


def seconds_a_step(
    learn: Callable, name: str, recipe: fast.Recipe, size: int, steps: int = 3
) -> float:
    """Seconds of the fastest of some steps; the first, which sets up, does not count."""
    drawn = data.load(name, stand_in=(recipe.batch_size, 1))  # an epoch is one step
    stamps = []
    few = dataclasses.replace(recipe, phases=((size, steps + 1),))
    learn(drawn, few, lambda line: stamps.append(time.perf_counter()))
    return min(after - before for before, after in pairwise(stamps))


def measure(rounds: int = 3) -> list[dict]:
    """For each recipe its minutes, and how many times they go into airbench94's."""
    torch.set_flush_denormal(True)
    best: dict[tuple[str, int], float] = {}
    for _ in range(rounds):
        for training, (learn, name, recipe) in TRAININGS.items():
            for size, _ in recipe.phases:
                seconds = seconds_a_step(learn, name, recipe, size)
                best[training, size] = min(best.get((training, size), seconds), seconds)
    minutes = {
        training: sum(
            epochs * (PICTURES // recipe.batch_size) * best[training, size] / 60
            for size, epochs in recipe.phases
        )
        for training, (_, _, recipe) in TRAININGS.items()
    }
    rows = []
    for training, (_, _, recipe) in TRAININGS.items():
        row = {
            "name": f"training, {training}",
            "ratio": round(minutes["airbench94"] / minutes[training], 2),
            "minutes": round(minutes[training], 1),
        }
        for size, _ in recipe.phases:
            row[f"pictures_per_second_{size}px"] = round(recipe.batch_size / best[training, size])
        rows.append(row)
    return rows


if __name__ == "__main__":
    print(*measure(), sep="\n")
