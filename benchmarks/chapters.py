"""Every chapter at budget smoke, one after the other: seconds, imports and kernel included."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LIMIT = 15  # seconds a chapter may take, by design


def seconds_of(path: Path) -> float:
    """Seconds in which pytest runs one notebook, as a reader's `pytest --nbval-lax` does."""
    command = [sys.executable, "-m", "pytest", "-q", "--nbval-lax", "-p", "no:cacheprovider", path]
    env = os.environ | {"CIFAR_BUDGET": "smoke"}
    begun = time.perf_counter()
    subprocess.run(command, cwd=ROOT, env=env, check=True, capture_output=True)
    return time.perf_counter() - begun


def measure() -> list[dict]:
    """One row a chapter: `ratio` is its seconds over the 15 that it may take; last, the sum."""
    found = {path.stem: seconds_of(path) for path in sorted((ROOT / "notebooks").glob("*.ipynb"))}
    rows = [
        {"name": f"smoke, {stem}", "ratio": round(t / LIMIT, 2), "seconds": round(t, 1)}
        for stem, t in found.items()
    ]
    total = sum(found.values())
    mean = total / len(found) / LIMIT
    return [*rows, {"name": "smoke, all", "ratio": round(mean, 2), "seconds": round(total, 1)}]


if __name__ == "__main__":
    print(*measure(), sep="\n")
