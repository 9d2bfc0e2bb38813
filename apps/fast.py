"""Train by the fast recipe and judge on the test pictures.

python -m apps.fast cifar10
python -m apps.fast cifar10 --recipe quick
python -m apps.fast cifar100 --seeds 3
"""

import argparse
import time

import torch

from cifar_utils import data, fast, metrics, runs


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m apps.fast",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("dataset", choices=sorted({name for name, _ in fast.RECIPES}))
    parser.add_argument("--recipe", default="full", help="full (the default) or quick")
    parser.add_argument("--seeds", type=int, default=1, help="how many trainings: seeds 0, 1, …")
    options = parser.parse_args()
    recipe = fast.RECIPES.get((options.dataset, options.recipe))
    if recipe is None:
        known = ", ".join(kind for name, kind in fast.RECIPES if name == options.dataset)
        parser.error(f"{options.dataset} has no recipe {options.recipe!r}, only: {known}")
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
