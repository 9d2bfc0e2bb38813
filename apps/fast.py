"""Train by the fast recipe and judge on the test pictures.

python -m apps.fast cifar10
python -m apps.fast cifar10 --recipe quick
python -m apps.fast cifar100 --seeds 3
"""

import argparse
import time
from collections.abc import Sequence

import torch

from cifar_utils import data, fast, metrics, runs


def settings(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; a recipe that the data set does not have ends the program."""
    parser = argparse.ArgumentParser(
        prog="python -m apps.fast",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("dataset", choices=sorted({name for name, _ in fast.RECIPES}))
    parser.add_argument("--recipe", default="full", help="full (the default) or quick")
    parser.add_argument("--seeds", type=int, default=1, help="how many trainings: seeds 0, 1, …")
    given = parser.parse_args(arguments)
    if (given.dataset, given.recipe) not in fast.RECIPES:
        known = ", ".join(kind for name, kind in fast.RECIPES if name == given.dataset)
        parser.error(f"{given.dataset} has no recipe {given.recipe!r}, only: {known}")
    return given


def main() -> None:
    options = settings()
    recipe = fast.RECIPES[options.dataset, options.recipe]
    torch.set_flush_denormal(True)
    dataset = data.load(options.dataset)
    print(f"{dataset.name}: {dataset.source}")
    device = runs.pick_device()
    test = data.normalize(dataset.test.images, **fast.SCALES[dataset.name]).to(device)
    for seed in range(options.seeds):
        begun = time.perf_counter()
        model = fast.learn(dataset, recipe, seed, device)
        print(f"seed {seed}: {time.perf_counter() - begun:.0f} s")
        for views in (1, 2, 6):
            right = metrics.accuracy(fast.answers(model, test, views).cpu(), dataset.test.labels)
            print(f"  {views} view{'s' * (views > 1)}: test accuracy {right:.2%}")


if __name__ == "__main__":
    main()
