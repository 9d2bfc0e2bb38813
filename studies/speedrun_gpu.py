"""The long recipes on a GPU: twenty trainings each, from the pictures in memory (chapter 12).

Two trainings come first and are not counted: the first compiles the network, once for each size of
picture, and lets cuDNN choose its algorithms; the second finds both done. Claims: CIFAR-10 reaches
94 % with six views, CIFAR-100, re-split, 75 %, in seconds.
"""

import time

import airbench94
import torch

from cifar_utils import data, fast, runs

NAME = "speedrun_gpu"
ROWS = [
    {"dataset_name": name, "recipe": "long", "seed": seed}
    for name in ("cifar10", "cifar100")
    for seed in range(20)
]
READY: dict[str, tuple[data.Dataset, float]] = {}  # data sets whose recipe is compiled


def learned(dataset: data.Dataset, recipe: str, seed: int, run: runs.Run) -> fast.FastNet:
    """A network trained by the recipe, compiled where the device is a GPU."""
    options = {"compiled": run.device.type == "cuda", "log": lambda line: None}
    return fast.learn(dataset, fast.RECIPES[dataset.name, recipe], seed, run.device, **options)


def prepare(run: runs.Run, name: str, recipe: str) -> None:
    """Load the data set, compile, and note the seconds that compiling took."""
    torch.backends.cudnn.benchmark = True
    dataset = run.load(name)
    begun = time.perf_counter()
    for seed in (1000, 1001):
        learned(dataset, recipe, seed, run)
    READY[name] = dataset, round(time.perf_counter() - begun, 1)


def one(run: runs.Run, dataset_name: str, recipe: str, seed: int) -> dict:
    """Train once; what it took and what it reached."""
    if dataset_name not in READY:
        prepare(run, dataset_name, recipe)
    dataset, preparation = READY[dataset_name]
    found = airbench94.measured(lambda given: learned(given, recipe, seed, run), dataset)
    print(found["training_seconds"], found["test_accuracy_1"], found["test_accuracy_6"])
    return {"preparation_seconds": preparation} | found


if __name__ == "__main__":
    runs.run_study(NAME, ROWS, one)
