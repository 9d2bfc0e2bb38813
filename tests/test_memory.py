"""Memory: what happens when it runs out, and how much of it a notebook takes."""

import json
import os
import subprocess
import sys
import weakref

import nbformat
import pytest
import torch
import torture
from nbclient import NotebookClient
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torture import figures

import house
from cifar_utils.training import TrainingError, evaluate, fit
from freshness import PRACTICE

MOST = 1536  # MB: what a notebook's kernel may hold at budget smoke


# --- Out of memory ------------------------------------------------------------------------------

# In a process of its own, because limits stay: what is measured is printed as JSON.
STARVED = """
import json, resource
from pathlib import Path
import torch
from cifar_utils import data, models, training

SCALE = {"mean": data.CIFAR10_MEAN, "std": data.CIFAR10_STD}
ROOM = 150 * 2**20
torch.manual_seed(0)
pictures = torch.randint(256, (600, 3, 32, 32), dtype=torch.uint8)
split = data.Split(pictures, torch.arange(600) % 10)
model = models.ResNet(models.BasicBlock, [1, 1, 1], width=16)

def bytes_of(which):
    pages = Path("/proc/self/statm").read_text().split()
    return int(pages[["virtual", "resident"].index(which)]) * resource.getpagesize()

def train(n, fit=training.fit):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    batches = data.BatchLoader(split.subset(range(n)), n, **SCALE)
    fit(model, batches, epochs=1, optimizer=optimizer, precision="fp32", log=None)

def judge(n):
    batches = data.BatchLoader(split.subset(range(n)), n, **SCALE)
    training.evaluate(model, batches, precision="fp32")

def starve(work, room):
    before = bytes_of("resident")
    limit = bytes_of("virtual") + room
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
    try:
        work(600)
    except Exception as error:
        held = bytes_of("resident") - before  # beside the error
        said = {"kind": type(error).__name__, "says": str(error), "mb": held / 2**20}
        gradients = any(p.grad is not None for p in model.parameters())
        return said | {"gradients": gradients, "training": model.training}

train(16), judge(16)
found = {"unguarded": starve(lambda n: train(n, training.fit.__wrapped__), ROOM)}
found["fit"] = starve(train, ROOM)
train(16)
found["evaluate"] = starve(judge, ROOM // 5)
train(16), judge(16)
print(json.dumps(found))
"""


def frees(found):
    """Whether nothing but the error was kept; some 40 MB may stay with the allocator."""
    return found["mb"] < 80 and not found["gradients"]


def test_memory_that_runs_out_is_told_and_freed_and_a_smaller_batch_trains():
    """Without the guard, activations and gradients live on in the error."""
    resource = pytest.importorskip("resource", reason="no limits on memory here")
    if not (hasattr(resource, "RLIMIT_AS") and os.path.exists("/proc/self/statm")):
        pytest.skip("only Linux both limits and shows a process's memory")
    command, env = [sys.executable, "-c", STARVED], os.environ | {"OMP_NUM_THREADS": "1"}
    out = subprocess.run(command, cwd=house.ROOT, env=env, capture_output=True, text=True)
    assert out.returncode == 0, out.stderr[-2000:]
    found = json.loads(out.stdout)
    assert None not in found.values(), "it had memory enough: this test sees nothing"
    for work in ("fit", "evaluate"):
        left = found[work]
        assert left["kind"] == "TrainingError" and frees(left) and left["training"], left
        for word in ("memory ran out", "batches of 600", work, "of 300", "bf16"):
            assert word in left["says"], left
    assert "chapter 13" in found["fit"]["says"]
    assert not frees(found["unguarded"]), found["unguarded"]
    held = {f"{work}_mb": round(left["mb"]) for work, left in found.items()}
    figures("memory", "held after memory ran out", **held)


class Greedy(nn.Module):
    """A network for which memory runs out at its second batch; it remembers what it held."""

    def __init__(self, error):
        super().__init__()
        self.layer, self.error, self.held = nn.Linear(12, 3), error, []

    def forward(self, images):
        activations = self.layer(images.flatten(1))
        self.held.append(weakref.ref(activations))
        if len(self.held) > 1:
            raise self.error
        return activations


def starve(work, error):
    """A network, and what `fit` or `evaluate` made of the error in it."""
    model, pairs = Greedy(error), TensorDataset(torch.zeros(8, 3, 2, 2), torch.arange(8) % 3)
    options = {"precision": "fp32"}
    if work is fit:
        options |= {"optimizer": torch.optim.SGD(model.parameters(), 0.1), "epochs": 1, "log": None}
    with pytest.raises((RuntimeError, MemoryError)) as caught:
        work(model, DataLoader(pairs, 4), **options)
    return model, caught.value


ERRORS = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."),
    RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)"),
    RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
    RuntimeError("std::bad_alloc"),
    MemoryError("Unable to allocate 1 GiB for an array"),
]


@pytest.mark.parametrize("error", ERRORS, ids="cuda mps cpu c++ python".split())
@pytest.mark.parametrize("work", [fit, evaluate])
def test_every_kind_of_running_out_is_known(work, error):
    model, caught = starve(work, error)
    assert type(caught) is TrainingError and caught.__cause__ is error
    assert "memory ran out: batches of 4 " in str(caught) and "of 2, say" in str(caught)
    assert all(held() is None for held in model.held)
    assert all(p.grad is None for p in model.parameters())
    assert model.training


@pytest.mark.parametrize("work", [fit, evaluate])
def test_other_errors_are_left_as_they_are(work):
    error = RuntimeError("mat1 and mat2 shapes cannot be multiplied")
    model, caught = starve(work, error)
    assert caught is error
    assert model.held[-1]() is not None  # a debugger wants to see it
    assert model.training


# --- Notebooks ----------------------------------------------------------------------------------

# On Linux ru_maxrss is no less than what the parent held when it started the process: so the kernel
# is asked for what the process itself held, and a child's figure is an upper bound.
ASK = """
import json, re, resource, sys
from pathlib import Path
KB = 2**10 if sys.platform == "darwin" else 1  # of ru_maxrss
kinds = {"kernel": resource.RUSAGE_SELF, "child": resource.RUSAGE_CHILDREN}
held = {kind: resource.getrusage(who).ru_maxrss / KB for kind, who in kinds.items()}
if (status := Path("/proc/self/status")).exists():
    held["kernel"] = int(re.search(r"VmHWM:\\s+(\\d+)", status.read_text())[1])
print(json.dumps({kind: round(kilobytes / 2**10) for kind, kilobytes in held.items()}))
"""


def peaks(path, record):
    """What a notebook's kernel, and the largest process that it started, held at most, in MB."""
    notebook = nbformat.read(path, as_version=4)
    notebook.cells = [cell for cell in notebook.cells if not PRACTICE & set(house.tags(cell))]
    notebook.cells.append(nbformat.v4.new_code_cell(ASK))
    place = {"metadata": {"path": str(path.parent)}}
    client = NotebookClient(notebook, timeout=600, kernel_name="python3", resources=place)
    client.execute(env=os.environ | {"CIFAR_BUDGET": "smoke", "CIFAR_RECORD": str(record)})
    return json.loads(notebook.cells[-1].outputs[0].text)


@pytest.mark.skipif(not torture.LONG, reason="in the long run: it executes every chapter")
@pytest.mark.parametrize("path", house.notebooks(), ids=lambda p: p.stem)
def test_a_notebook_at_smoke_keeps_to_its_memory(path, tmp_path):
    """Neither its kernel nor any process that it starts; both with all the libraries in them."""
    pytest.importorskip("resource", reason="nothing here says how much memory a process held")
    found = peaks(path, tmp_path / "record.json")
    figures("memory", path.stem, peak_mb=found["kernel"], largest_child_mb=found["child"])
    assert found["kernel"] > 100, "too little to be true"
    assert max(found.values()) < MOST, found


def test_memory_that_was_held_for_a_moment_is_seen():
    """Also in a process that has ended."""
    pytest.importorskip("resource", reason="nothing here says how much memory a process held")
    child = "[sys.executable, '-c', 'b\"x\" * 100 * 2**20']"
    code = f"import subprocess, sys\nsubprocess.run({child})\nb'x' * 200 * 2**20\n{ASK}"
    found = json.loads(subprocess.check_output([sys.executable, "-c", code]))
    assert 200 < found["kernel"] < 300 and 100 < found["child"] < 200


@pytest.mark.skipif(not torture.LONG, reason="a figure for the record: make torture")
def test_what_the_libraries_alone_take_is_on_record():
    pytest.importorskip("resource", reason="nothing here says how much memory a process held")
    taken = {}
    for name in ("json", "torch", "cifar_utils.runs"):
        code = f"import {name}\n{ASK}"
        out = subprocess.check_output([sys.executable, "-c", code], cwd=house.ROOT)
        taken[name] = json.loads(out)["kernel"]
    assert taken["json"] < taken["torch"] <= taken["cifar_utils.runs"] < MOST
    figures("memory", "importing alone", **{f"{n}_mb": mb for n, mb in taken.items()})
