"""Execute chapters at a budget; store their outputs, and in results/ the record of the run.

python book/tools/execute.py --budget laptop 01 04     these chapters; all of them if none is named

What a chapter records (runs.start, load, record and claim) arrives through a file that the variable
CIFAR_RECORD names. A chapter whose outputs and record are fresh is skipped; one that fails keeps
what it had, and the command goes on with the others and exits 1. Exercises are not run.
"""

import argparse
import base64
import io
import json
import os
import re
import shutil
import sys
import tempfile
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError
from PIL import Image

import opening
import tables
from freshness import PRACTICE, digest
from house import ROOT, notebooks, read, source, tags, write, write_all

ABSOLUTE = r"(?<![\w.:/<~)\]-])/\w[\w.-]*/[\w.-]+|\b[A-Z]:\\\w"


class Refused(Exception):
    """The run ended, but what it shows must not be stored."""


class Client(NotebookClient):
    """Executes a notebook, printing each cell's first line and its text as it comes."""

    def output(self, outs, msg, display_id, cell_index):
        if msg["msg_type"] == "stream":
            print("    " + msg["content"]["text"].rstrip("\n").replace("\n", "\n    "), flush=True)
        return super().output(outs, msg, display_id, cell_index)


def show(cell: dict, cell_index: int) -> None:
    first = source(cell).strip().splitlines()
    if cell["cell_type"] == "code" and first:
        print(f"  [{cell_index}] {first[0]}", flush=True)


def machine_paths(text: str, root: Path = ROOT) -> list[str]:
    """Absolute paths in `text`, this repository's own and any other."""
    return sorted({m[0] for m in re.finditer(f"{re.escape(str(root))}|{ABSOLUTE}", text)})


def outputs_text(notebook: dict) -> str:
    """All that a notebook's outputs say as text (pictures left out)."""
    parts = []
    for output in (o for c in notebook["cells"] for o in c.get("outputs", [])):
        parts.append("".join(output.get("text", "")))
        parts += output.get("traceback", [])
        data = output.get("data", {})
        parts += [
            "".join(v) for k, v in data.items() if k.startswith("text/") or k.endswith("+xml")
        ]
    return "\n".join(parts)


def slim(png: str) -> str:
    """The same figure, base64, in the 256 colors that fit it best: a third of the bytes."""
    found = io.BytesIO()
    picture = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB")
    few = picture.quantize(256, Image.Quantize.MEDIANCUT, kmeans=2, dither=Image.Dither.NONE)
    few.save(found, "PNG", optimize=True)
    return base64.b64encode(found.getvalue()).decode() if found.tell() < 0.7 * len(png) else png


def is_fresh(path: Path, budget: str, record_only: bool = False) -> bool:
    """Whether the outputs stored in a chapter and its record for `budget` fit the code of today."""
    notebook, result = read(path), ROOT / "results" / f"{path.stem}.{budget}.json"
    now = digest(notebook, ROOT)
    stored = notebook["metadata"].get("cifar", {})
    shown = record_only or (stored.get("digest"), stored.get("budget")) == (now, budget)
    return shown and result.exists() and read(result).get("digest") == now


def execute(
    path: Path, budget: str, allow_stand_in: bool = False
) -> tuple[nbformat.NotebookNode, dict]:
    """Run one chapter in a fresh kernel; its notebook with outputs, and its record.

    Raises CellExecutionError or DeadKernelError if it fails, Refused if it may not be stored.
    """
    notebook = nbformat.read(path, as_version=4)
    before = digest(notebook, ROOT)
    notebook.cells = [cell for cell in notebook.cells if not PRACTICE & set(tags(cell))]
    # One whole run, from the start: no checkpoint of an earlier one.
    shutil.rmtree(ROOT / "runs" / path.stem / budget, ignore_errors=True)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "record.json"
        paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        env = os.environ | {
            "CIFAR_BUDGET": budget,
            "CIFAR_RECORD": str(file),
            "PYTHONPATH": paths,
        }
        client = Client(
            notebook,
            timeout=None,
            kernel_name="python3",
            record_timing=False,
            resources={"metadata": {"path": str(path.parent)}},
            on_cell_execute=show,
        )
        begun = time.perf_counter()
        client.execute(env=env)
        seconds = time.perf_counter() - begun
        if not file.exists():
            raise Refused("it recorded nothing: it needs runs.start(…) and run.record(…)")
        record = json.loads(file.read_text(encoding="utf-8"))
    if paths := machine_paths(outputs_text(notebook)):
        raise Refused(f"its outputs hold paths of this machine: {', '.join(paths)}")
    if (record.get("dataset") or {}).get("stand_in") and not allow_stand_in:
        raise Refused("it ran on the stand-in, not on CIFAR (--allow-stand-in stores it anyway)")
    current = nbformat.read(path, as_version=4)  # its prose may have been edited meanwhile
    if digest(current, ROOT) != before:
        raise Refused("its code, or code that it uses, was changed while it ran")
    ran = {cell.id: cell for cell in notebook.cells if cell.cell_type == "code"}
    for cell in (c for c in current.cells if c.cell_type == "code"):
        done = ran.get(cell.id)  # None for exercises: they are the reader's to run
        cell.outputs = done.outputs if done else []
        cell.execution_count = done.execution_count if done else None
        for shown in (output.get("data", {}) for output in cell.outputs):
            if "image/png" in shown:
                shown["image/png"] = slim(shown["image/png"])
    made = {key: record.get(key) for key in ("device", "date")}
    current.metadata.cifar = {"digest": before, "budget": budget} | made
    about = {"chapter": path.stem, "budget": budget, "seconds": round(seconds, 1)}
    return current, {"dataset": None} | record | about | {"digest": before}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("chapters", nargs="*", help="numbers or names; default: all")
    parser.add_argument("--budget", default="laptop", choices=("smoke", "laptop", "gpu"))
    parser.add_argument("--force", action="store_true", help="run chapters that are fresh, too")
    parser.add_argument("--keep-outputs", action="store_true", help="write the record only")
    parser.add_argument("--allow-stand-in", action="store_true", help="store stand-in outputs")
    args = parser.parse_args()
    chosen = [p for p in notebooks() if not args.chapters or p.stem.startswith((*args.chapters,))]
    if not chosen:
        parser.error(f"no chapter in notebooks/ begins with {' or '.join(args.chapters)}")
    failed = []
    for path in chosen:
        if is_fresh(path, args.budget, args.keep_outputs) and not args.force:
            print(f"{path.stem}: fresh, skipped")
            continue
        print(f"{path.stem}: running at {args.budget}", flush=True)
        try:
            notebook, record = execute(path, args.budget, args.allow_stand_in)
        except (CellExecutionError, DeadKernelError, Refused) as error:
            print(f"{path.stem}: FAILED, stored outputs unchanged\n{error}", file=sys.stderr)
            failed.append(path.stem)
            continue
        result = json.dumps(record, indent=1, sort_keys=True) + "\n"
        write(ROOT / "results" / f"{path.stem}.{args.budget}.json", result)
        if not args.keep_outputs:
            write(path, nbformat.writes(notebook) + "\n")
        print(f"{path.stem}: stored, {record['seconds']:.0f} s", flush=True)
    write_all(opening.expected() | tables.expected())
    if failed:
        print("Failed:", *failed, file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
