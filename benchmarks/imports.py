"""What `import cifar_utils` costs beside torch and torchvision: fresh interpreters, in turn."""

from __future__ import annotations

import subprocess
import sys
import time

ALONE = "import torch, torchvision"
OURS = "from cifar_utils import data, metrics, models, plots, runs, training"


def measure(rounds: int = 5) -> dict:
    """Seconds of both, the best of `rounds`, and ours over the other."""
    best: dict[str, float] = {}
    for _ in range(rounds):
        for code in (ALONE, OURS):
            begun = time.perf_counter()
            subprocess.run([sys.executable, "-c", code], check=True)
            seconds = time.perf_counter() - begun
            best[code] = min(best.get(code, seconds), seconds)
    return {
        "name": "import, cifar_utils over torch alone",
        "ratio": round(best[OURS] / best[ALONE], 2),
        "ours_seconds": round(best[OURS], 2),
        "torch_seconds": round(best[ALONE], 2),
    }


if __name__ == "__main__":
    print(measure())
