"""The digest that says whether a notebook's outputs are older than what made them.

It covers the notebook's code cells, what they can reach of cifar_utils, the programs of apps/ that
they start, the studies and the shipped networks they load. Comments, docstrings, layout, Markdown
and exercises do not count. It is the same on every Python the book supports.
"""

import ast
import copy
import hashlib
import json
import re
import sys
from collections.abc import Iterable
from pathlib import Path

from house import ROOT, notebooks, read, source, tags

PACKAGE = "cifar_utils"
# Tags of the cells that judge a reader's work: nothing that follows needs them, and no output of
# theirs is kept.
PRACTICE = {"exercise", "check", "exercise-import", "check-result"}


def code_of(notebook: dict) -> list[str]:
    """The sources of the code cells that count: not the bootstrap cell, exercises, empty ones."""
    cells = (c for c in notebook["cells"] if c["cell_type"] == "code")
    aside = {"bootstrap"} | PRACTICE
    return [source(c) for c in cells if not aside & set(tags(c)) and source(c).strip()]


def docstring(node: ast.AST) -> bool:
    return ast.get_docstring(node) is not None


def plain(node: object) -> object:
    """A syntax tree as nested lists, without docstrings and what differs between Pythons."""
    if isinstance(node, list):
        return [plain(item) for item in node]
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = dict(ast.iter_fields(node))
    if isinstance(node, ast.Module | ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        fields["body"] = fields["body"][docstring(node) :]
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


def study_scripts(name: str, root: Path = ROOT) -> dict[str, ast.AST]:
    """A study's script, and those of other studies that it imports, by name."""
    found, waiting = {}, [name]
    while waiting:
        name = waiting.pop()
        path = root / "studies" / f"{name}.py"
        if name not in found and path.exists():
            found[name] = ast.parse(path.read_text(encoding="utf-8"))
            nodes = (n for n in ast.walk(found[name]) if isinstance(n, ast.ImportFrom))
            waiting += [node.module for node in nodes if node.module and not node.level]
    return found


def programs_in(tree: ast.AST) -> set[str]:
    """Names of the programs of apps/ that a piece of code imports, or names as `apps.name`."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "apps":
            found |= {alias.name for alias in node.names}
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [str(getattr(node, field, "")) for field in ("module", "value")]
        found |= {match for name in names for match in re.findall(r"\bapps\.(\w+)", name)}
    return found


def program_scripts(names: Iterable[str], root: Path = ROOT) -> dict[str, ast.AST]:
    """The modules of these programs, and of those that they use in turn, by path below apps/."""
    found, waiting, seen = {}, set(names), set()
    while waiting:
        name = waiting.pop()
        seen.add(name)
        for path in [root / "apps" / f"{name}.py", *sorted((root / "apps" / name).rglob("*.py"))]:
            if path.exists():
                tree = ast.parse(path.read_text(encoding="utf-8"))
                found[path.relative_to(root / "apps").as_posix()] = tree
                waiting |= programs_in(tree) - seen
    return found


def shipped_in(tree: ast.AST) -> set[str]:
    """Names of the shipped networks that a piece of code loads: `weights.load("name")`."""
    calls = (node for node in ast.walk(tree) if isinstance(node, ast.Call) and node.args)
    return {
        call.args[0].value
        for call in calls
        if ast.unparse(call.func) == "weights.load" and isinstance(call.args[0], ast.Constant)
    }


def words_in(tree: ast.AST) -> set[str]:
    """Every name that a piece of code could mean: variables, attributes, words inside strings."""
    found = set()
    documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    nodes = list(ast.walk(tree))
    kept_out = {id(n.body[0].value) for n in nodes if isinstance(n, documented) and docstring(n)}
    for node in (node for node in nodes if id(node) not in kept_out):
        for field in ("id", "attr", "arg", "name", "module"):
            found |= set(re.findall(r"\w+", str(getattr(node, field, ""))))
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            found |= set(re.findall(r"\w+", node.value))
    return found


def statements(tree: ast.Module) -> list[tuple[str | None, ast.stmt]]:
    """A module's statements, each with the one name it binds; None for what always counts."""
    found = []
    for node in tree.body[docstring(tree) :]:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.append((node.name, node))
        elif isinstance(node, ast.Import | ast.ImportFrom):
            for alias in node.names:
                one = copy.copy(node)
                one.names = [alias]
                found.append(((alias.asname or alias.name).partition(".")[0], one))
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            found.append((node.targets[0].id, node))
        else:
            found.append((None, node))
    return found


def only_for_its_module(node: ast.stmt) -> bool:
    """Whether a statement is an import that other modules are not meant to see."""
    alias = node.names[0] if isinstance(node, ast.Import | ast.ImportFrom) else None
    return alias is not None and alias.asname != alias.name


def reached(trees: Iterable[ast.AST], root: Path = ROOT) -> dict[str, list[ast.stmt]]:
    """By module of the package: the statements that `trees` can reach, in the module's order.

    A definition or a constant counts if its name stands anywhere in what is reached, an import if
    its name stands in what is reached of its own module (or is passed on, `import X as X`). So a
    new function makes no page old that does not use it. What looks the name up in some other way
    than by writing it is not seen; the package has nothing of the kind.
    """
    words, modules = set().union(*map(words_in, trees)), {"__init__"}
    modules = modules.union(*map(modules_in, trees))
    sources: dict[str, list[tuple[str | None, ast.stmt]]] = {}
    found: dict[str, dict[int, ast.stmt]] = {}
    before = None
    while before != (before := (len(words), len(modules), sum(map(len, found.values())))):
        for name in sorted(modules):
            path = root / PACKAGE / f"{name}.py"
            if name not in sources and path.exists():
                sources[name] = statements(ast.parse(path.read_text(encoding="utf-8")))
            kept = found.get(name, {}).values()
            own = set().union(*(words_in(n) for n in kept if not only_for_its_module(n)))
            for i, (bound, node) in enumerate(sources.get(name, ())):
                if bound is None or bound in (own if only_for_its_module(node) else words):
                    found.setdefault(name, {})[i] = node
                    words |= words_in(node)
                    modules |= modules_in(node)
    return {name: [node for _, node in sorted(nodes.items())] for name, nodes in found.items()}


def digest(notebook: dict, root: Path = ROOT) -> str:
    """SHA-256 over all that a notebook's outputs depend on, as a hexadecimal string.

    Raises SyntaxError if a code cell is not Python (a magic, for instance).
    """
    cells = [ast.parse(code) for code in code_of(notebook)]
    parts = {"cells": [plain(cell) for cell in cells]}
    programs = program_scripts(set().union(*map(programs_in, cells)), root)
    parts |= {f"apps/{name}": plain(tree) for name, tree in programs.items()}
    for name, nodes in reached([*cells, *programs.values()], root).items():
        parts[f"{PACKAGE}.{name}"] = [plain(node) for node in nodes]
    for name in set().union(*map(studies_in, cells)):
        scripts = study_scripts(name, root)
        rows = root / "results" / "studies" / f"{name}.jsonl"
        parts[f"study {name}"] = [
            plain(scripts.pop(name, None)),
            rows.read_text(encoding="utf-8") if rows.exists() else None,
        ]
        for other, script in scripts.items():
            parts[f"study {name} imports {other}"] = plain(script)
    for name in set().union(*map(shipped_in, cells)):
        about = root / "weights" / f"{name}.json"  # holds the digest of the tensors
        parts[f"weights {name}"] = about.read_text(encoding="utf-8") if about.exists() else None
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
