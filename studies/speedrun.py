"""The fast recipe, from start to finish: what accuracy, in how many minutes (chapter 12).

The recipes of cifar_utils.fast on all training pictures, judged once on the test pictures with
one, two and six views. Choices were made on 5,000 pictures held out of training. Before each
training, steps of it and of `airbench94` take turns, so that what a training takes of the other's
time is measured side by side. Claims: with six views CIFAR-10 reaches what airbench94 reaches, in
at most 0.75 times its time; a short recipe reaches 82 % in a seventh of it; CIFAR-100, re-split,
reaches 73 %.
"""

import dataclasses
import math
import time
from collections.abc import Callable
from functools import partial
from itertools import pairwise

import airbench94
import torch

from cifar_utils import data, fast, runs

NAME = "speedrun"
ROWS = [
    {"dataset_name": name, "recipe": recipe, "seed": seed}
    for seed in range(3)
    for name, recipe in fast.RECIPES
]
Trainings = dict[str, tuple[Callable, fast.Recipe]]  # a name → what learns, by which recipe
PEER = (airbench94.learn, airbench94.RECIPE)
OURS = partial(fast.learn, precision="fp32")  # as the peer has it


def note_time(times: list[float], line: str) -> None:
    """A log that keeps when each line came."""
    times.append(time.perf_counter())


def steps_in_turn(
    dataset: data.Dataset,
    trainings: Trainings,
    device: torch.device | str,
    rounds: int = 3,
    steps: int = 3,
) -> dict[str, dict[int, float]]:
    """For each training the seconds of its fastest step, by pixels a side; all kinds in turn.

    What else the machine does falls on all alike. The first step, which sets up, does not count.
    """
    best: dict[str, dict[int, float]] = {name: {} for name in trainings}
    for _ in range(rounds):
        for name, (learn, recipe) in trainings.items():
            few = dataset.train.subset(range(min(recipe.batch_size, len(dataset.train))))
            batch = dataclasses.replace(dataset, train=few)  # an epoch is one step
            for size, _ in recipe.phases:
                ends: list[float] = []
                short = dataclasses.replace(recipe, phases=((size, steps + 1),))
                learn(batch, short, 0, device, log=partial(note_time, ends))
                taken = [after - before for before, after in pairwise(ends)]
                best[name][size] = min([best[name].get(size, math.inf), *taken])
    return best


def minutes(recipe: fast.Recipe, seconds: dict[int, float]) -> float:
    """Of a training on 50,000 pictures, from the seconds of a step."""
    steps = 50_000 // recipe.batch_size
    return sum(epochs * steps * seconds[size] for size, epochs in recipe.phases) / 60


def one(run: runs.Run, dataset_name: str, recipe: str, seed: int) -> dict:
    """Train once; what it took, also as a share of airbench94's time, and what it reached."""
    chosen, dataset = fast.RECIPES[dataset_name, recipe], run.load(dataset_name)
    trainings = {"here": (OURS, chosen), "peer": PEER}
    rounds = run.pick(smoke=1, laptop=3, gpu=3)
    seconds = steps_in_turn(dataset, trainings, run.device, rounds)
    taken = {name: minutes(trainings[name][1], found) for name, found in seconds.items()}
    share = {"time_of_airbench94": round(taken["here"] / taken["peer"], 4)}
    return (
        {"precision": "fp32"}
        | share
        | airbench94.measured(lambda dataset: OURS(dataset, chosen, seed, run.device), dataset)
    )


if __name__ == "__main__":
    runs.run_study(NAME, ROWS, one)
