"""The fast recipes beside airbench94's: minutes of whole trainings, from steps run in turn.

Whole trainings take the better part of an hour. Here the fastest step of each kind times the number
of such steps makes a training. The studies `speedrun` and `airbench94` have whole trainings, and
what they reach.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from cifar_utils import data, fast

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "studies"))
import airbench94
import speedrun


def measure() -> list[dict]:
    """For each recipe its minutes, and how many times they go into airbench94's."""
    torch.set_flush_denormal(True)
    rows = []
    for dataset_name in fast.SCALES:
        drawn = data.load(dataset_name, stand_in=(airbench94.RECIPE.batch_size, 1))
        trainings = {
            f"{name} {kind}": (speedrun.OURS, recipe)
            for (name, kind), recipe in fast.RECIPES.items()
            if name == dataset_name
        }
        rows += in_turn(drawn, trainings | {f"airbench94 on {dataset_name}": speedrun.PEER})
    return rows


def in_turn(dataset: data.Dataset, trainings: speedrun.Trainings) -> list[dict]:
    """A row for each training; the last training is airbench94's, which the others are held to."""
    best = speedrun.steps_in_turn(dataset, trainings, "cpu")
    minutes = {name: speedrun.minutes(trainings[name][1], best[name]) for name in trainings}
    *_, peer = minutes.values()
    rows = []
    for training, (_, recipe) in trainings.items():
        row = {
            "name": f"training, {training}",
            "ratio": round(peer / minutes[training], 2),
            "minutes": round(minutes[training], 1),
        }
        for size, _ in recipe.phases:
            row[f"pictures_per_second_{size}px"] = round(recipe.batch_size / best[training][size])
        rows.append(row)
    return rows


if __name__ == "__main__":
    print(*measure(), sep="\n")
