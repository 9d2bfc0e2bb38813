"""The house itself: what stands where, what leans on what, which versions belong together."""

import ast
import importlib.metadata
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

import freshness
import house

ROOT = house.ROOT
PACKAGE = {p.stem: p for p in sorted((ROOT / "cifar_utils").glob("*.py"))}
CHAPTERS = house.notebooks()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
each_module = pytest.mark.parametrize("path", PACKAGE.values(), ids=PACKAGE)


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


# --- The tree -----------------------------------------------------------------------------------

TOP = set(
    "README.md Makefile pyproject.toml conftest.py requirements.txt environment.yml _config.yml "
    "_toc.yml book notebooks cifar_utils studies results weights apps tests benchmarks "
    "LICENSE LICENSE-TEXT CITATION.cff CONTRIBUTING.md".split()
)
OWN = {"_build", "data", "runs", "__pycache__"}  # a reader's own, ignored by git


def out_of_place(names: list[str]) -> set[str]:
    """Names at the top that the plan of the house does not know."""
    visible = {n for n in names if not n.startswith(".") and not n.endswith(".egg-info")}
    return visible - TOP - OWN


def test_only_what_the_plan_names_stands_at_the_top():
    assert not out_of_place([path.name for path in ROOT.iterdir()])
    assert out_of_place(["README.md", "utils.py"]) == {"utils.py"}


def tracked_texts() -> list[Path]:
    """Text files under version control; all of the house where there is no git."""
    try:
        out = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
        paths = [ROOT / name for name in out.stdout.splitlines()]
    except FileNotFoundError:
        paths = []
    paths = paths or [p for name in TOP for p in [ROOT / name, *(ROOT / name).rglob("*")]]
    kinds = {".py", ".ipynb", ".md", ".toml", ".txt", ".yml", ".json", ".jsonl", ".cff", ".css", ""}
    return [p for p in paths if p.is_file() and p.suffix in kinds and "mathjax" not in p.parts]


def test_no_file_names_a_place_on_the_machine_it_was_made_on():
    places = {str(ROOT), str(Path.home())} - {"/", "/root", "C:\\"}
    found = [
        f"{path.relative_to(ROOT)}: {place}"
        for path in tracked_texts()
        for place in places
        if place in path.read_text(encoding="utf-8")
    ]
    assert not found


# --- The package --------------------------------------------------------------------------------

# Each module may import those before it, and none after it.
ORDER = (
    "catalog formats standin proofs fetch sources data metrics models weights transfer features "
    "pictures predict folder export memory precision muon fast checkpoints training rates logs "
    "distributed plots runs practice".split()
)
ROOMS = {"notebooks", "studies", "apps", "tests", "benchmarks", "book"}


def wrong_way(name: str, tree: ast.AST) -> set[str]:
    """Imports of module `name` that lead up: to a later module, or out into the house."""
    found = freshness.modules_in(tree) & set(ORDER[ORDER.index(name) :])
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.split(".")[0] in ROOMS}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found |= {node.module} if node.module.split(".")[0] in ROOMS else set()
    return found


@pytest.mark.parametrize("name", sorted(set(PACKAGE) - {"__init__"}))
def test_the_package_leans_one_way(name):
    assert name in ORDER, f"{name} has no place in the order yet"
    assert not wrong_way(name, parse(PACKAGE[name]))


@pytest.mark.parametrize(
    "bad",
    [
        "from cifar_utils import runs",
        "from cifar_utils.training import fit",
        "import cifar_utils.plots as p",
        "from . import runs",
        "from .training import fit",
        "import studies.depth",
        "from tests import x",
    ],
)
def test_a_way_back_is_seen(bad):
    assert wrong_way("models", ast.parse(bad))
    assert not wrong_way("runs", ast.parse("from cifar_utils import data, plots, training"))


@each_module
def test_modules_are_short(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 250


def undocumented(tree: ast.Module) -> list[str]:
    """Public functions and classes without a docstring, or with parameters that have no type."""
    found = []
    for node in tree.body:
        if not isinstance(node, ast.FunctionDef | ast.ClassDef) or node.name.startswith("_"):
            continue
        bare = []
        if isinstance(node, ast.FunctionDef):
            arguments = node.args.posonlyargs + node.args.args + node.args.kwonlyargs
            bare = [a.arg for a in arguments if a.annotation is None]
        if bare or not ast.get_docstring(node):
            found.append(f"{node.name} {bare}")
    return found


@each_module
def test_what_is_public_is_documented_and_typed(path):
    assert not undocumented(parse(path))


def test_what_is_undocumented_is_seen():
    assert undocumented(ast.parse("def f(x: int): return x"))
    assert undocumented(ast.parse("def f(x):\n    'F.'"))
    assert not undocumented(ast.parse("def f(x: int):\n    'F.'"))


# --- Built in a chapter -------------------------------------------------------------------------

BUILT = re.compile(r"Built in chapter (\d+)\.?\s*$")


class Bare(ast.NodeTransformer):
    """Takes annotations off, so that a chapter may show code without them."""

    def visit_arg(self, node: ast.arg) -> ast.arg:
        node.annotation = None
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        node.returns = None
        return self.generic_visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        return ast.Assign([node.target], node.value) if node.value else ast.Pass()


def definitions(trees: list[ast.Module]) -> dict[str, ast.AST]:
    """Functions and classes defined at the top of some code, by name; the last of a name wins."""
    kinds = ast.FunctionDef | ast.ClassDef
    return {n.name: n for tree in trees for n in tree.body if isinstance(n, kinds)}


def same(a: ast.AST, b: ast.AST) -> bool:
    """Whether two definitions are the same code, docstrings, comments and annotations aside."""
    return freshness.plain(Bare().visit(a)) == freshness.plain(Bare().visit(b))


def differing(package: list[ast.Module], chapters: dict[int, list[ast.Module]]) -> list[str]:
    """Where package and chapters do not agree on what was built in which chapter."""
    found = []
    ours = definitions(package)
    built = {n: BUILT.search(ast.get_docstring(d) or "") for n, d in ours.items()}
    built = {name: int(match[1]) for name, match in built.items() if match}
    theirs = {chapter: definitions(trees) for chapter, trees in chapters.items()}
    for name, chapter in built.items():
        if name not in theirs.get(chapter, {}):
            found.append(f"{name} is said to be built in chapter {chapter}, which has none")
    for chapter, defined in theirs.items():
        for name in defined.keys() & ours.keys():
            equal = same(ours[name], defined[name])
            if equal and name not in built:
                found.append(f"{name} is in chapter {chapter}, but the package does not say so")
            elif name in built and not equal:
                found.append(f"{name} differs between the package and chapter {chapter}")
    return found


def test_the_package_is_what_the_chapters_built():
    package = [parse(path) for path in PACKAGE.values()]
    chapters = {
        int(path.stem[:2]): [ast.parse(code) for code in freshness.code_of(house.read(path))]
        for path in CHAPTERS
    }
    assert not differing(package, chapters)


PIECE = "def flip(x: int) -> int:\n    '''Flip. Built in chapter 1.'''\n    return -x\n"


@pytest.mark.parametrize(
    ("package", "chapter"),
    [
        (PIECE, "y = 1"),
        (PIECE, "def flip(x):\n    return x"),
        ("def flip(x):\n    '''Flip.'''\n    return -x", "def flip(x):\n    return -x"),
    ],
)
def test_a_piece_that_differs_is_seen(package, chapter):
    assert differing([ast.parse(package)], {1: [ast.parse(chapter)]})


def test_a_piece_without_annotations_is_the_same():
    shown = "def flip(x):\n    # the other way\n    return (-x)"
    assert not differing([ast.parse(PIECE)], {1: [ast.parse(shown)]})


# --- Versions -----------------------------------------------------------------------------------

DECLARED = [Requirement(text) for text in PROJECT["dependencies"]]
EXTRAS = [Requirement(t) for texts in PROJECT["optional-dependencies"].values() for t in texts]
IMPORTED_AS = {"pillow": "PIL", "huggingface-hub": "huggingface_hub", "scikit-image": "skimage"}


def pins() -> dict[str, list[Requirement]]:
    """The lock: name → requirements, several where Python versions differ."""
    found: dict[str, list[Requirement]] = {}
    for line in (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines():
        if line and line[0] not in " #-":
            pin = Requirement(line)
            found.setdefault(normal(pin.name), []).append(pin)
    return found


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_the_lock_pins_everything_and_ends_with_the_package():
    text = (ROOT / "requirements.txt").read_text(encoding="utf-8")
    assert text.splitlines()[-1] == "-e ."
    assert not re.search(r"://|--index|--find-links|--extra-index", text)
    locked = pins()
    assert all(str(pin.specifier).startswith("==") for found in locked.values() for pin in found)
    for wanted in DECLARED + EXTRAS:
        for pin in locked[normal(wanted.name)]:
            assert wanted.specifier.contains(str(pin.specifier).removeprefix("=="))
    assert str(locked["jupyter-book"][0].specifier).startswith("==1.")


def test_what_is_installed_is_new_enough():
    for wanted in DECLARED + EXTRAS:
        found = importlib.metadata.version(wanted.name)
        assert wanted.specifier.contains(found, prereleases=True), f"{wanted.name} {found}"


def test_every_dependency_is_used():
    files = [p for room in ("cifar_utils", "tests") for p in (ROOT / room).glob("*.py")]
    texts = [p.read_text(encoding="utf-8") for p in files]
    texts += [code for path in CHAPTERS for code in freshness.code_of(house.read(path))]
    # By pattern: some imports stand in code that is handed to another process.
    used = {name for text in texts for name in re.findall(r"^\s*(?:import|from) (\w+)", text, re.M)}
    names = {IMPORTED_AS.get(normal(r.name), r.name) for r in DECLARED}
    assert not names - used


def test_conda_takes_the_same_pins():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    python, _, pip = environment["dependencies"]
    assert pip == {"pip": ["-r requirements.txt"]}
    assert SpecifierSet(PROJECT["requires-python"]).contains(python.removeprefix("python="))


def test_workflows_run_what_the_house_runs():
    workflow = (ROOT / ".github" / "workflows" / "book.yml").read_text(encoding="utf-8")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    build = "jupyter-book build --all -W -n --keep-going ."
    assert build in makefile and build in workflow
    floors = {r.name: str(r.specifier).removeprefix(">=") for r in DECLARED if r.specifier}
    assert f"torch=={floors['torch']}." in workflow
    assert f"torchvision=={floors['torchvision']}." in workflow
    assert yaml.safe_load(workflow)["jobs"].keys() == {"check", "floors", "publish"}
    run = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert run.index("make test") < run.index("make book") < run.index("ruff check")


def test_make_offers_what_the_readme_names():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z]+):", makefile, re.M))
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    named = set(re.findall(r"(?:^|`)make ([a-z]+)\b", readme, re.M))
    assert {"book", "test"} <= named <= targets
    assert {"lab", "run", "study", "bench", "address", "lock", "clean"} <= targets


@pytest.mark.skipif(sys.platform == "win32", reason="make is for Linux and macOS")
def test_make_says_so_when_there_is_no_python(tmp_path):
    for name in ("Makefile", "requirements.txt"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    command = ["make", "book", "PYTHON=no-such-python"]
    try:
        out = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("no make here")
    assert out.returncode and "No Python 3.11, 3.12 or 3.13 found" in out.stderr
    assert not (tmp_path / ".venv").exists()
