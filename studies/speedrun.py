"""The fast recipe, from start to finish: what accuracy, in how many minutes (chapter 12).

The recipes of cifar_utils.fast on all training pictures, judged once on the test pictures with
one, two and six views. Choices were made on 5,000 pictures held out of training. Claims: CIFAR-10
reaches 94.0 % with six views, in at most 0.7 times the time that `airbench94` takes on the same
machine; a short recipe reaches 82 % in three minutes; CIFAR-100, re-split, reaches 73 % in twenty.
"""

import time

from cifar_utils import data, fast, metrics, runs

NAME = "speedrun"
ROWS = [
    {"dataset_name": name, "recipe": recipe, "seed": seed}
    for seed in range(5)
    for name, recipe in fast.RECIPES
]


def one(run: runs.Run, dataset_name: str, recipe: str, seed: int) -> dict:
    """Train once; seconds of training, test accuracy by number of views."""
    dataset = run.load(dataset_name)
    begun, work = time.perf_counter(), time.process_time()
    model = fast.learn(dataset, fast.RECIPES[dataset_name, recipe], seed, run.device)
    seconds, work = time.perf_counter() - begun, time.process_time() - work
    test = data.normalize(dataset.test.images, **fast.SCALES[dataset_name]).to(run.device)
    return {"training_seconds": round(seconds, 1), "core_seconds": round(work, 1)} | {
        f"test_accuracy_{views}": metrics.accuracy(
            fast.answers(model, test, views).cpu(), dataset.test.labels
        )
        for views in (1, 2, 6)
    }


if __name__ == "__main__":
    runs.run_study(NAME, ROWS, one)
