"""A chapter's exercises: blanks written from the solutions, and the proof that the checks judge.

python book/tools/exercises.py [NN …]           write the blanks of these chapters, or of all
python book/tools/exercises.py --check [NN …]   change nothing; exit 1, name what is out of step
python book/tools/exercises.py --prove [NN …]   run a chapter at budget smoke, then its exercises

An exercise is four cells: the task; a blank, tagged `exercise`; a check, tagged `check`; and the
solution, folded. A statement of the solution whose first line ends in `# yours` is the reader's to
write. The blank has dots in its place and is otherwise the solution.
"""

import argparse
import ast
import contextlib
import dis
import io
import linecache
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import types
from dataclasses import dataclass
from pathlib import Path

from freshness import PRACTICE, code_of
from house import ROOT, dump, lines, notebooks, read, source, tags, write

YOURS = "# yours"
DOTS = f"...  {YOURS}"
IMPORT = "from cifar_utils import practice"
FEWEST = 4
TASK = re.compile(r"\*\*(\d+)\. [^*\n]+[.?]\*\* \S")
SOLUTION = re.compile(
    r"<details>\n?<summary>Solution</summary>\n\n```python\n(.*?)\n```\n\n\S.*\n\n</details>", re.S
)
Defined = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


# --- Blanks -------------------------------------------------------------------------------------


def marked(node: ast.AST, text: list[str]) -> list[ast.stmt]:
    """The statements below `node` that are the reader's to write, outermost only."""
    found = []
    for child in ast.iter_child_nodes(node):
        mine = isinstance(child, ast.stmt) and text[child.lineno - 1].rstrip().endswith(YOURS)
        found += [child] if mine else marked(child, text)
    return found


def dotted(node: ast.stmt, solution: str) -> list[str]:
    """The lines that stand in the blank for a marked statement, without its indentation."""
    if isinstance(node, ast.Return):
        return [f"return {DOTS}"]
    if isinstance(node, ast.Assign | ast.AnnAssign):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        names = [ast.get_source_segment(solution, target) for target in targets]
        if isinstance(node, ast.AnnAssign):
            names = [f"{names[0]}: {ast.get_source_segment(solution, node.annotation)}"]
        several = len(targets[0].elts) if isinstance(targets[0], ast.Tuple | ast.List) else 1
        return [" = ".join([*names, ", ".join(["..."] * several)]) + f"  {YOURS}"]
    if not isinstance(node, Defined):
        return [DOTS]
    text, indent = solution.splitlines(), " " * node.col_offset
    header = text[node.lineno - 1 : node.body[0].lineno - 1]
    if not header:
        raise ValueError(f"{node.name}: its body begins on the line of its header")
    header = [line.removeprefix(indent) for line in header]
    header[0] = header[0].rstrip().removesuffix(YOURS).rstrip()
    while not header[-1].split("#")[0].strip():
        header.pop()
    if ast.get_docstring(node) is None:
        return [*header[:-1], f"{header[-1]} {DOTS}"]
    said = text[node.body[0].lineno - 1 : node.body[0].end_lineno]
    gap = [""] if isinstance(node, ast.ClassDef) else []
    return [*header, *(line.removeprefix(indent) for line in said), *gap, f"    {DOTS}"]


def blank(solution: str) -> str:
    """The starting cell for a solution: dots where its reader is to write.

    A marked assignment keeps its targets, a `return` its keyword, a function or class its header
    and docstring; of any other statement only dots remain, once for several in a row.
    Raises ValueError if nothing is marked, SyntaxError if the solution is not Python.
    """
    text, tree = solution.splitlines(), ast.parse(solution)
    found = marked(tree, text)
    if not found:
        raise ValueError(f"no statement of the solution ends its first line in {YOURS!r}")
    for node in reversed(found):
        indent = " " * node.col_offset
        new = [(indent + line).rstrip() for line in dotted(node, solution)]
        if new == [indent + DOTS] == text[node.end_lineno : node.end_lineno + 1]:
            new = []
        text[node.lineno - 1 : node.end_lineno] = new
    return "\n".join(text)


# --- The cells of a chapter ---------------------------------------------------------------------


@dataclass
class Exercise:
    """One exercise: its cells (as the notebook holds them) and its solution's code."""

    number: int
    task: dict
    blank: dict
    check: dict
    answer: dict

    @property
    def solution(self) -> str:
        """The code that the folded answer shows. Raises ValueError if it shows none."""
        if not (found := SOLUTION.fullmatch(source(self.answer).strip())):
            raise ValueError(
                f"exercise {self.number}: the solution is not <details>, <summary>Solution"
                "</summary>, a ```python block, a sentence, </details>"
            )
        return found[1]


def exercises(notebook: dict) -> list[Exercise]:
    """The exercises of a chapter: each cell tagged `exercise` with its neighbors, in order."""
    cells = notebook["cells"]
    at = [i for i, cell in enumerate(cells) if "exercise" in tags(cell)]
    return [
        Exercise(n, *cells[i - 1 : i + 3]) for n, i in enumerate(at, 1) if 0 < i < len(cells) - 2
    ]


def filled(notebook: dict) -> dict:
    """`notebook` with its blanks written from the solutions, and exercise cells without outputs."""
    blanks = {e.blank.get("id"): blank(e.solution) for e in exercises(notebook)}
    cells = []
    for cell in notebook["cells"]:
        if cell.get("id") in blanks:
            cell = cell | {"source": lines(blanks[cell.get("id")])}
        if PRACTICE & set(tags(cell)):
            cell = cell | {"execution_count": None, "outputs": []}
        cells.append(cell)
    return notebook | {"cells": cells}


def instructions(code: types.CodeType, inner: bool = False) -> list[dis.Instruction]:
    """The bytecode of some code; `inner`: that of its functions and comprehensions, too."""
    found = list(dis.get_instructions(code))
    for part in code.co_consts if inner else ():
        found += instructions(part, True) if isinstance(part, types.CodeType) else []
    return found


def bound(text: str) -> set[str]:
    """Names that a cell binds for those after it."""
    found = instructions(compile(text, "<cell>", "exec"))
    return {i.argval for i in found if i.opname == "STORE_NAME"}


def used(text: str) -> set[str]:
    """Names that a cell reads, its own among them; not those local to its functions."""
    found = instructions(compile(text, "<cell>", "exec"), inner=True)
    return {i.argval for i in found if i.opname in ("LOAD_NAME", "LOAD_GLOBAL")}


def faults(notebook: dict) -> list[str]:
    """What is wrong with the form of a chapter's exercises, as sentences."""
    found, cells, all_of_them = [], notebook["cells"], exercises(notebook)
    order = ["exercises", "exercise-import"]
    for n in range(1, sum("exercise" in tags(c) for c in cells) + 1):
        order += [f"exercise-{n}{part}" for part in ("", "-blank", "-check", "-solution")]
    names = [c.get("id") for c in cells]
    start = names.index("exercises") if "exercises" in names else len(names)
    if names[start : start + len(order)] != order:
        return [f"the cells from 'exercises' on are not {', '.join(order)}"]
    if len(all_of_them) < FEWEST:
        found.append(f"{len(all_of_them)} exercises, where {FEWEST} are the least")
    if not source(cells[start]).startswith("## Exercises\n\n"):
        found.append("no heading '## Exercises' with a sentence below it")
    if source(cells[start + 1]) != IMPORT or tags(cells[start + 1]) != ["exercise-import"]:
        found.append(f"exercise-import is not `{IMPORT}` under the tag exercise-import")
    if any(c["cell_type"] == "code" for c in cells[start + len(order) :]):
        found.append("code cells after the exercises")
    for e in all_of_them:
        number = TASK.match(source(e.task))
        if not number or int(number[1]) != e.number:
            found.append(f"exercise {e.number} does not begin with '**{e.number}. Title.** '")
        kinds = [c["cell_type"] for c in (e.task, e.blank, e.check, e.answer)]
        if kinds != ["markdown", "code", "code", "markdown"] or tags(e.check) != ["check"]:
            found.append(f"exercise {e.number} is not task, blank, check, solution")
        elif not source(e.check).startswith(f"@practice.check\ndef exercise_{e.number}():\n"):
            found.append(
                f"exercise {e.number}: its check is not @practice.check, exercise_{e.number}"
            )
        elif len(source(e.check).splitlines()) > 12 or " assert " not in source(e.check):
            found.append(f"exercise {e.number}: a check of over 12 lines, or without assert")
    return found or leaning(all_of_them)


def leaning(all_of_them: list[Exercise]) -> list[str]:
    """Exercises that read a name which another one binds: none may need another's solution."""
    found = []
    for one in all_of_them:
        text = f"{one.solution}\n{source(one.check)}"
        mine = used(text) - bound(text)
        for other in (e for e in all_of_them if e is not one):
            if shared := mine & bound(other.solution):
                found.append(
                    f"exercise {one.number} reads what exercise {other.number} binds: "
                    + ", ".join(sorted(shared))
                )
    return found


# --- The proof ----------------------------------------------------------------------------------


def run(code: str, name: str, space: dict) -> None:
    """Run a cell's code; a traceback, and `inspect`, find its lines under `name`."""
    linecache.cache[name] = (len(code), None, code.splitlines(keepends=True), name)
    exec(compile(code, name, "exec"), space)


def prove(notebook: dict) -> list[str]:
    """Run a chapter's cells here, then each exercise: its blank must fail, its solution pass.

    Returns what did not come out so, as sentences. Cells that raise are not caught.
    """
    found, say = [], sys.stdout
    main = sys.modules["__main__"] = types.ModuleType("__main__")  # cells are a program
    space = vars(main)
    begun = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        for i, code in enumerate([*code_of(notebook), IMPORT]):
            run(code, f"<cell {i}>", space)
    print(f"chapter: {time.perf_counter() - begun:.1f} s", file=say, flush=True)
    for e in exercises(notebook):
        begun = time.perf_counter()
        for code, wanted in ((source(e.blank), False), (e.solution, True)):
            with contextlib.redirect_stdout(io.StringIO()) as text:
                run(code, f"<exercise {e.number}>", space)
                run(source(e.check), f"<check {e.number}>", space)
            said = text.getvalue().strip().rpartition("\n")[2]
            name = f"exercise {e.number}, {'solution' if wanted else 'blank'}"
            print(f"{name}: {said}", file=say, flush=True)
            if space[f"exercise_{e.number}"] is not wanted:
                found.append(f"not so: {name}: {said}")
        print(f"exercise {e.number}: {time.perf_counter() - begun:.1f} s", file=say, flush=True)
    return found


def proof(path: Path, root: Path = ROOT) -> subprocess.CompletedProcess:
    """`prove` in a process of its own, at smoke, in a copy of what a chapter needs.

    In a copy, because the same chapter may be running elsewhere and write below runs/.
    Its return code is 0 if everything came out; what it says stands in stdout and stderr.
    """
    with tempfile.TemporaryDirectory() as folder:
        for room in ("cifar_utils", "apps", "studies", "results", "weights"):
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(root / room, Path(folder) / room, ignore=ignored)
        (Path(folder) / "notebooks").mkdir()
        env = os.environ | {"CIFAR_BUDGET": "smoke", "MPLBACKEND": "Agg", "PYTHONPATH": folder}
        env["PYTHONUTF8"] = "1"
        for name in ("CIFAR_DATA", "CIFAR_RECORD"):
            env.pop(name, None)
        command = [sys.executable, __file__, "--prove-here", path]
        place = {"cwd": Path(folder) / "notebooks", "env": env}
        return subprocess.run(command, capture_output=True, encoding="utf-8", **place)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("chapters", nargs="*", help="numbers or names; default: all")
    parser.add_argument(
        "--check", action="store_true", help="change nothing, exit 1 if anything would"
    )
    parser.add_argument("--prove", action="store_true", help="run chapters and their exercises")
    parser.add_argument("--prove-here", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.prove_here:
        problems = prove(read(args.prove_here))
        print(*problems, sep="\n", file=sys.stderr)
        return 1 if problems else 0
    chosen = [p for p in notebooks() if not args.chapters or p.stem.startswith((*args.chapters,))]
    if not chosen:
        parser.error(f"no chapter in notebooks/ begins with {' or '.join(args.chapters)}")
    wrong = False
    for path in chosen:
        notebook = read(path)
        if args.prove:
            done = proof(path)
            print(path.stem, done.stdout + done.stderr, sep="\n", flush=True)
            wrong |= done.returncode != 0
            continue
        try:
            found, text = faults(notebook), dump(filled(notebook))
        except (ValueError, SyntaxError) as error:
            found, text = [str(error)], dump(notebook)
        if args.check and path.read_text(encoding="utf-8") != text:
            found.append("blanks out of step with the solutions, or stored outputs of exercises")
        elif write(path, text):
            print(f"{path.stem}: written")
        for fault in found:
            print(f"{path.stem}: {fault}")
        wrong |= bool(found)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
