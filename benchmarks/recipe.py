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

OURS = {f"{name} {kind}": (fast.learn, recipe) for (name, kind), recipe in fast.RECIPES.items()}
TRAININGS = OURS | {"airbench94": speedrun.PEER}


def measure() -> list[dict]:
    """For each recipe its minutes, and how many times they go into airbench94's."""
    torch.set_flush_denormal(True)
    drawn = data.load("cifar10", stand_in=(airbench94.RECIPE.batch_size, 1))
    best = speedrun.steps_in_turn(drawn, TRAININGS, "cpu")
    minutes = {name: speedrun.minutes(TRAININGS[name][1], best[name]) for name in TRAININGS}
    rows = []
    for training, (_, recipe) in TRAININGS.items():
        row = {
            "name": f"training, {training}",
            "ratio": round(minutes["airbench94"] / minutes[training], 2),
            "minutes": round(minutes[training], 1),
        }
        for size, _ in recipe.phases:
            row[f"pictures_per_second_{size}px"] = round(recipe.batch_size / best[training][size])
        rows.append(row)
    return rows


if __name__ == "__main__":
    print(*measure(), sep="\n")
