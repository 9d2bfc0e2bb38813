"""One run of a chapter or a study: its budget, seed, device and data, and what it leaves on record.

A reader's run writes below `runs/` alone; `results/` comes from `make run` and `make study`.
"""

import dataclasses
import datetime
import json
import os
import platform
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from filelock import FileLock

from cifar_utils import checkpoints, data, memory, models, plots, proofs
from cifar_utils.precision import autocast, choose_precision
from cifar_utils.training import History

ROOT = Path(__file__).parents[1]
BUDGETS = ("smoke", "laptop", "gpu")


class ClaimError(AssertionError):
    """A claim that recorded rows were said to support does not hold on them."""


@dataclasses.dataclass
class Run:
    """What a notebook knows of where and how it runs; made by `start`."""

    chapter: str
    budget: str
    device: torch.device
    seed: int
    stamp: dict[str, Any]

    @property
    def folder(self) -> Path:
        """Where this run may write: `runs/<chapter>/<budget>/`, ignored by git."""
        path = ROOT / "runs" / self.chapter / self.budget
        path.mkdir(parents=True, exist_ok=True)
        return path

    def pick(self, *, smoke: Any, laptop: Any, gpu: Any) -> Any:
        """The value for this run's budget."""
        return {"smoke": smoke, "laptop": laptop, "gpu": gpu}[self.budget]

    def load(self, name: str) -> data.Dataset:
        """CIFAR-10 ("cifar10") or CIFAR-100 ("cifar100"); at smoke a stand-in of 500 and 200.

        Prints where the pictures come from; on stand-in data every figure will say so.
        """
        dataset = data.load(name, stand_in=(500, 200) if self.budget == "smoke" else None)
        keys = ("name", "source", "stand_in", "split", "digest")
        self.stamp["dataset"] = {key: getattr(dataset, key) for key in keys}
        if dataset.stand_in:
            plots.stamp_stand_in()
        sizes = f"{len(dataset.train):,} training and {len(dataset.test):,} test pictures"
        print(f"{dataset.name} from {dataset.source}: {sizes}")
        self._write()
        return dataset

    def claim(
        self, text: str, a: float, b: float, margin: float = 0.0, study: str | None = None
    ) -> None:
        """Say that a > b + margin, show the evidence, and put it on record.

        study: the name of the recorded study that a and b come from. Such a claim is judged in
        every run and raises ClaimError if it fails. Other claims are about this run's own
        training, and are not judged on stand-in data.
        """
        a, b, margin = float(a), float(b), float(margin)
        evidence = f"{a:.4g} > {b:.4g}" + (f" + {margin:.2g}" if margin else "")
        if study is None and self.stamp.get("dataset", {}).get("stand_in"):
            print(f"Not judged on stand-in data: {text}.")
            return
        holds = a > b + margin
        if study is not None and not holds:
            raise ClaimError(f"{text}: not so in results/studies/{study}.jsonl, where {evidence}")
        print(f"{'Holds' if holds else 'DOES NOT HOLD'}: {text} ({evidence}).")
        claims = [c for c in self.stamp["claims"] if c["text"] != text]
        entry = {"text": text, "a": a, "b": b, "margin": margin, "holds": holds, "study": study}
        self.stamp["claims"] = [*claims, entry]
        self._write()

    def record(self, history: History | dict[str, History] | None = None, **metrics: float) -> None:
        """Put figures on record, fractions for accuracies; the headline is `test_accuracy`."""
        self.stamp["metrics"] |= {name: float(value) for name, value in metrics.items()}
        if isinstance(history, History):
            self.stamp["history"] = history.to_dict()
        elif history is not None:
            self.stamp["history"] = {name: h.to_dict() for name, h in history.items()}
        self._write()

    def _write(self) -> None:
        """Write the record to the file `make run` named, else below `runs/`."""
        self.stamp["peak_memory_bytes"] = memory.peak(self.device)
        file = os.environ.get("CIFAR_RECORD") or self.folder / "record.json"
        replace_text(Path(file), json.dumps(self.stamp, indent=1))


def start(chapter: str, seed: int = 0) -> Run:
    """Begin a chapter: take budget and device, seed every generator, print the head.

    The budget is the environment's CIFAR_BUDGET ("smoke", "laptop" or "gpu"), by default "laptop";
    ValueError for another. The device is CUDA, then Apple's MPS, then the CPU.
    """
    budget = os.environ.get("CIFAR_BUDGET", "laptop")
    if budget not in BUDGETS:
        raise ValueError(f"CIFAR_BUDGET is {budget!r}; it can be {', '.join(BUDGETS)}")
    device = pick_device()
    seed_everything(seed)
    torch.set_flush_denormal(True)  # numbers below 1e-38 slow a CPU down a hundredfold
    stamp = {"chapter": chapter, "budget": budget, "seed": seed} | environment(device)
    stamp |= {"metrics": {}, "history": {}, "claims": []}
    run = Run(chapter, budget, device, seed, stamp)
    print(f"budget {budget} · {stamp['device']} · {stamp['precision']} · seed {seed}")
    if budget != "smoke":
        stamp["speed"] = speed(device, stamp["precision"])
        print(expected_time(chapter, budget, stamp["speed"]))
    run._write()
    return run


def pick_device() -> torch.device:
    """CUDA if there is one, then Apple's MPS, then the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def seed_everything(seed: int) -> None:
    """Seed Python's, NumPy's and torch's global generators."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - what others' code draws from
    torch.manual_seed(seed)


def environment(device: torch.device) -> dict[str, Any]:
    """What a figure depends on besides code and data: device, precision, versions, date."""
    threads = torch.get_num_threads()
    name = torch.cuda.get_device_name() if device.type == "cuda" else device.type.upper()
    return {
        "device": f"{name}, {threads} threads" if device.type == "cpu" else name,
        "threads": threads,
        "precision": choose_precision(device),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "torchvision": torchvision.__version__,
        },
        "date": datetime.date.today().isoformat(),
    }


def speed(device: torch.device, precision: str, seconds: float = 4.0) -> float:
    """Pictures a second through a training step of a small ResNet: a yardstick of the machine."""
    with torch.random.fork_rng():
        model = models.cifar_resnet(8).to(device, memory_format=torch.channels_last)
        images = torch.randn(128, 3, 32, 32).to(device, memory_format=torch.channels_last)
        steps, begun = 0, None
        while begun is None or time.perf_counter() - begun < seconds:
            with autocast(device, precision):
                loss = model(images).square().mean()
            loss.backward()
            loss.item()  # waits for a GPU
            begun, steps = (time.perf_counter(), 0) if begun is None else (begun, steps + 1)
    return steps * len(images) / (time.perf_counter() - begun)


def expected_time(chapter: str, budget: str, here: float) -> str:
    """How long the chapter will take here, from its recorded run and both machines' speeds."""
    file = ROOT / "results" / f"{chapter}.{budget}.json"
    if os.environ.get("CIFAR_RECORD"):
        return "this run goes on record; yours will say here how long to expect it to take"
    if not file.exists():
        return "no run is on record at this budget"
    with proofs.record(file):
        recorded = json.loads(file.read_bytes())
        minutes = recorded["seconds"] / 60
        guess = max(1, round(minutes * recorded["speed"] / here))
        return f"recorded on {recorded['device']}: {minutes:.0f} min; here about {guess} min"


def study(name: str) -> list[dict[str, Any]]:
    """The rows of `results/studies/<name>.jsonl`, a dict a run; FileNotFoundError without it."""
    return read_rows(ROOT / "results" / "studies" / f"{name}.jsonl")


def read_rows(file: Path) -> list[dict[str, Any]]:
    """The rows of a JSON-lines file. Raises RecordError where a line is no row."""
    with proofs.record(file):
        return [{**json.loads(line)} for line in file.read_bytes().splitlines()]


def run_study(
    name: str, rows: Sequence[dict[str, Any]], one: Callable[..., dict[str, Any]]
) -> list[dict[str, Any]]:
    """Run the rows of a study that are not on record yet, each as `one(run, **row)`.

    Each row is a dict of plain values with a "seed"; `one` returns its figures. At budget smoke
    rows go below `runs/`. May be interrupted, or run twice at once. Returns all rows on record.
    """
    run = start(f"study {name}")
    file = ROOT / ("runs" if run.budget == "smoke" else "results") / f"studies/{name}.jsonl"
    for i, row in enumerate(rows):
        if _on_record(row, file):
            continue
        print(f"{name} {i + 1}/{len(rows)}: {row}", flush=True)
        seed_everything(row["seed"])
        begun = time.perf_counter()
        figures = one(run, **row)
        stamp = {"seconds": round(time.perf_counter() - begun, 1)} | environment(run.device)
        stamp |= {"dataset": run.stamp.get("dataset")} | figures | row  # the row says which it is
        with FileLock(run.folder / ".lock"):  # rows that another process recorded stay
            if not _on_record(row, file):
                before = file.read_text(encoding="utf-8") if file.exists() else ""
                replace_text(file, before + json.dumps(stamp) + "\n")
    return read_rows(file) if file.exists() else []


def _on_record(row: dict[str, Any], file: Path) -> bool:
    return file.exists() and any(row.items() <= old.items() for old in read_rows(file))


def replace_text(file: Path, text: str) -> None:
    """Write a text file so that it is never seen half-written; an OSError names it."""
    with checkpoints.replacing(file) as part:
        part.write_text(text, encoding="utf-8")
