"""The fast recipe, from start to finish: what accuracy, in how many minutes (chapter 12).

The recipes of cifar_utils.fast on all training pictures, judged once on the test pictures with
one, two and six views. Choices were made on 5,000 pictures held out of training. Claims: CIFAR-10
reaches 94.0 % with six views, in at most 0.7 times the time that `airbench94` takes on the same
machine; a short recipe reaches 82 % in three minutes; CIFAR-100, re-split, reaches 73 % in twenty.
"""

import airbench94

from cifar_utils import fast, runs

NAME = "speedrun"
ROWS = [
    {"dataset_name": name, "recipe": recipe, "seed": seed}
    for seed in range(5)
    for name, recipe in fast.RECIPES
]


def one(run: runs.Run, dataset_name: str, recipe: str, seed: int) -> dict:
    """Train once; what it took and what it reached."""
    chosen = fast.RECIPES[dataset_name, recipe]
    return airbench94.measured(
        lambda dataset: fast.learn(dataset, chosen, seed, run.device), run.load(dataset_name)
    )


if __name__ == "__main__":
    runs.run_study(NAME, ROWS, one)
