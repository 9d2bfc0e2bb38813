"""The digest that says whether a notebook's outputs are older than what made them.

It covers the notebook's code cells, the modules of cifar_utils that they import (and those that
these import), and the studies they load. Comments, docstrings, layout and Markdown do not count.
It is the same on every Python the book supports.
"""

import ast
import hashlib
import json
import sys
from collections.abc import Iterable
from pathlib import Path

from house import ROOT, notebooks, read, source, tags

PACKAGE = "cifar_utils"


def code_of(notebook: dict) -> list[str]:
    """The sources of the code cells that count: all but the bootstrap cell and empty ones."""
    cells = (c for c in notebook["cells"] if c["cell_type"] == "code")
    return [source(c) for c in cells if "bootstrap" not in tags(c) and source(c).strip()]


def plain(node: object) -> object:
    """A syntax tree as nested lists, without docstrings and what differs between Pythons."""
    if isinstance(node, list):
        return [plain(item) for item in node]
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = dict(ast.iter_fields(node))
    if isinstance(node, ast.Module | ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        fields["body"] = fields["body"][ast.get_docstring(node) is not None :]
    kept = [(name, plain(value)) for name, value in fields.items() if value not in (None, [])]
    return [type(node).__name__, *(pair for pair in kept if pair[0] not in ("kind", "ctx"))]


def modules_in(tree: ast.AST) -> set[str]:
    """Names of the package's modules that a piece of code imports, in whatever spelling."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = f"{PACKAGE}.{node.module or ''}".rstrip(".") if node.level else node.module
            names = [base] + [f"{base}.{alias.name}" for alias in node.names]
        else:
            continue
        found |= {name.split(".")[1] for name in names if name.startswith(f"{PACKAGE}.")}
    return found


def studies_in(tree: ast.AST) -> set[str]:
    """Names of the studies that a piece of code loads: `runs.study("name")`."""
    calls = (node for node in ast.walk(tree) if isinstance(node, ast.Call) and node.args)
    return {
        call.args[0].value
        for call in calls
        if getattr(call.func, "attr", getattr(call.func, "id", "")) == "study"
        and isinstance(call.args[0], ast.Constant)
    }


def package_modules(trees: Iterable[ast.AST], root: Path = ROOT) -> dict[str, ast.AST]:
    """The package's modules that `trees` import, and those that these import, by name."""
    found, waiting = {}, {"__init__"}.union(*map(modules_in, trees))
    while waiting:
        name = waiting.pop()
        path = root / PACKAGE / f"{name}.py"
        if name not in found and path.exists():
            found[name] = ast.parse(path.read_text(encoding="utf-8"))
            waiting |= modules_in(found[name])
    return found


def digest(notebook: dict, root: Path = ROOT) -> str:
    """SHA-256 over all that a notebook's outputs depend on, as a hexadecimal string.

    Raises SyntaxError if a code cell is not Python (a magic, for instance).
    """
    cells = [ast.parse(code) for code in code_of(notebook)]
    parts = {"cells": [plain(cell) for cell in cells]}
    for name, tree in package_modules(cells, root).items():
        parts[f"{PACKAGE}.{name}"] = plain(tree)
    for name in set().union(*map(studies_in, cells)):
        script = root / "studies" / f"{name}.py"
        rows = root / "results" / "studies" / f"{name}.jsonl"
        parts[f"study {name}"] = [
            plain(ast.parse(script.read_text(encoding="utf-8"))) if script.exists() else None,
            rows.read_text(encoding="utf-8") if rows.exists() else None,
        ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def main() -> int:
    stale = 0
    for path in notebooks():
        notebook = read(path)
        stored = notebook["metadata"].get("cifar", {})
        fresh = stored.get("digest") == digest(notebook)
        state = "fresh" if fresh else "older than its code" if stored else "never run"
        print(f"{path.stem:24} {state:20} {stored.get('budget', '')} {stored.get('date', '')}")
        stale += not fresh
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
