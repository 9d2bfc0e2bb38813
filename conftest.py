"""Tests run at budget `smoke`, on the stand-in, whatever the reader's own environment says."""

import os
import shutil
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent

os.environ["CIFAR_BUDGET"] = "smoke"
for name in ("CIFAR_DATA", "CIFAR_RECORD"):
    os.environ.pop(name, None)
if "PYTEST_XDIST_WORKER" in os.environ:  # workers share the cores: one thread each
    os.environ.setdefault("OMP_NUM_THREADS", "1")
else:  # no checkpoint of an earlier test run
    for folder in (ROOT / "runs").glob("*/smoke"):
        shutil.rmtree(folder, ignore_errors=True)

# Notebook kernels start in notebooks/: they find the package where it lies.
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
sys.path[:0] = [str(ROOT), str(ROOT / "book" / "tools")]


@pytest.fixture(autouse=True)
def floats_as_defined():
    """A run flushes denormal numbers to zero for good; Hypothesis, for one, refuses such floats."""
    yield
    if "torch" in sys.modules:
        sys.modules["torch"].set_flush_denormal(False)
