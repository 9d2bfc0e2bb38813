"""`make bench`: run every comparison in this folder, print a table, write results/benchmarks.json.

A benchmark is a file beside this one with `measure() -> dict | list[dict]`. Each dict is one
comparison: `name`, `ratio` (of what to what, the file says) and whatever else it measured, with the
unit in the key ("ours_images_per_second").
"""

import importlib.util
import json
import os
import platform
import sys
from datetime import date
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).resolve().parent
RESULTS = HERE.parent / "results" / "benchmarks.json"
VERSIONED = ("torch", "torchvision", "numpy")


def measure(path: Path) -> list[dict]:
    """The comparisons of one benchmark file."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    rows = module.measure()
    rows = rows if isinstance(rows, list) else [rows]
    return [{"benchmark": path.stem, **row} for row in rows]


def machine() -> dict:
    """What the figures depend on: processor kind and count, accelerator, system, Python."""
    import torch

    accelerator = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return {
        "processor": platform.machine(),
        "cpus": os.cpu_count(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "accelerator": accelerator,
        "system": platform.system(),
        "python": platform.python_version(),
    }


def table(rows: list[dict]) -> str:
    """One line a comparison: its name, its ratio, what else it measured."""
    said = []
    for row in rows:
        rest = {k: v for k, v in row.items() if k not in ("benchmark", "name", "ratio")}
        detail = ", ".join(
            f"{k} {v:,.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in rest.items()
        )
        said.append(f"{row['name']:40} {row['ratio']:>7.1f} x   {detail}")
    return "\n".join(said)


def main() -> int:
    rows = []
    for path in sorted(HERE.glob("*.py")):
        if path != Path(__file__).resolve():
            print(f"{path.stem} …", file=sys.stderr, flush=True)
            rows += measure(path)
    print(table(rows))
    record = {
        "date": date.today().isoformat(),
        "machine": machine(),
        "versions": {name: version(name) for name in VERSIONED},
        "rows": rows,
    }
    RESULTS.parent.mkdir(exist_ok=True)
    part = RESULTS.with_suffix(".part")
    part.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    os.replace(part, RESULTS)
    return 0


if __name__ == "__main__":
    sys.exit(main())
