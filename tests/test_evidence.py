"""Outputs, records and verdicts: nothing a page shows may be older or better than its run."""

import base64
import copy
import io
import json
import math

import matplotlib.pyplot as plt
import numpy as np
import pytest
from PIL import Image

import execute
import freshness
import house

ROOT = house.ROOT
CHAPTERS = house.notebooks()
RESULTS = sorted((ROOT / "results").glob("*.json"))
RECORDS = [path for path in RESULTS if path.name[:2].isdigit()]  # of chapters
STUDIES = sorted((ROOT / "results" / "studies").glob("*.jsonl"))
each_chapter = pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
each_record = pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
each_study = pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)


def notebook(*cells: str, **metadata) -> dict:
    """A small notebook as it looks after a run."""
    made = [
        {"cell_type": "code", "metadata": {}, "source": s, "execution_count": n + 1, "outputs": []}
        for n, s in enumerate(cells)
    ]
    return {"cells": made, "metadata": metadata}


# --- Outputs ------------------------------------------------------------------------------------


def unsound(notebook: dict) -> list[str]:
    """Code cells that never ran, ran out of order, or show an error or a warning.

    Exercises are the reader's to run, and hold nothing.
    """
    found, last = [], 0
    for cell in (c for c in notebook["cells"] if c["cell_type"] == "code"):
        text = house.source(cell)
        count = cell["execution_count"]
        if not text.strip():
            found.append("an empty cell")
        elif freshness.PRACTICE & set(house.tags(cell)):
            if count is not None or cell["outputs"]:
                found.append(f"an exercise that holds outputs: {text}")
        elif count is None or count <= last:
            found.append(f"not run, or not in order: {text}")
        last = count or last
        for output in cell["outputs"]:
            if output["output_type"] == "error" or output.get("name") == "stderr":
                found.append(f"shows an error or a warning: {text}")
    return found


def test_a_stored_figure_is_lighter_and_looks_the_same():
    figure, ax = plt.subplots()
    ax.imshow(np.random.default_rng(0).normal(size=(32, 32)), cmap="RdBu")
    ax.set_title("Noise")
    before = io.BytesIO()
    figure.savefig(before)
    plt.close(figure)
    drawn = base64.b64encode(before.getvalue()).decode()
    stored = execute.slim(drawn)
    assert len(stored) < 0.6 * len(drawn) and execute.slim(stored) == stored
    was, now = (
        np.asarray(Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB"), dtype=float)
        for png in (drawn, stored)
    )
    assert was.shape == now.shape and np.abs(was - now).mean() < 2


@each_chapter
def test_every_cell_ran_in_order_without_error(path):
    assert not unsound(house.read(path))


def test_unsound_outputs_are_seen():
    good = notebook("x = 1", "x")
    assert not unsound(good)
    for change in (
        {"execution_count": None},
        {"source": " "},
        {"outputs": [{"output_type": "error", "traceback": []}]},
        {"outputs": [{"output_type": "stream", "name": "stderr", "text": "Warning"}]},
    ):
        bad = copy.deepcopy(good)
        bad["cells"][1] |= change
        assert unsound(bad)
    asked = {"metadata": {"tags": ["exercise"]}}
    assert unsound({"cells": [good["cells"][0], good["cells"][1] | asked]})
    assert not unsound({"cells": [good["cells"][0] | asked | {"execution_count": None}]})


@each_chapter
def test_outputs_are_as_new_as_their_code(path):
    found = house.read(path)
    stored = found["metadata"].get("cifar")
    assert stored, f"{path.stem} never ran: make run CHAPTERS={path.stem[:2]}"
    assert stored["digest"] == freshness.digest(found), (
        f"{path.stem} changed since its outputs were made: make run CHAPTERS={path.stem[:2]}"
    )
    assert (ROOT / "results" / f"{path.stem}.{stored['budget']}.json").exists()
    assert stored["budget"] != "smoke"


@pytest.fixture
def house_of_one(tmp_path):
    """A small repository: one package of three modules, one study."""
    for name, text in {
        "cifar_utils/__init__.py": '"""A."""\n',
        "cifar_utils/data.py": "def load():\n    '''Load.'''\n    return 1  # one\n",
        "cifar_utils/runs.py": "from . import data\nN = 1\ndef study(n):\n  return data.load(N)\n",
        "cifar_utils/plots.py": "x = 1\n",
        "studies/depth.py": "from width import rows\n",
        "studies/width.py": "rows = [1]\n",
        "results/studies/depth.jsonl": '{"row": 1}\n',
        "weights/small.json": '{"sha256": "1"}\n',
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path


LESSON = (
    "from cifar_utils import runs, weights",
    "rows = runs.study('depth')  # all\nx = f'{rows}: {1:.2f}'",
    "model, about = weights.load('small')",
)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("cifar_utils/data.py", "def load():\n    return 2\n"),
        (
            "cifar_utils/runs.py",
            "from . import data\nN = 2\n\ndef study(n):\n    return data.load(N)\n",
        ),
        (
            "cifar_utils/runs.py",
            "from . import plots as data\n\ndef study(n):\n    return data.load()\n",
        ),
        (
            "cifar_utils/runs.py",
            "from . import data\nprint(1)\n\ndef study(name):\n    return data.load(N)\n",
        ),
        ("cifar_utils/__init__.py", "print(1)\n"),
        ("studies/depth.py", "rows = [2]\n"),
        ("studies/width.py", "rows = [2]\n"),
        ("results/studies/depth.jsonl", '{"row": 1}\n{"row": 2}\n'),
        ("weights/small.json", '{"sha256": "2"}\n'),
    ],
)
def test_what_a_page_depends_on_makes_it_old(house_of_one, name, text):
    before = freshness.digest(notebook(*LESSON), house_of_one)
    (house_of_one / name).write_text(text, encoding="utf-8")
    assert freshness.digest(notebook(*LESSON), house_of_one) != before


def test_code_makes_a_page_old_but_prose_does_not(house_of_one):
    before = freshness.digest(notebook(*LESSON), house_of_one)
    assert freshness.digest(notebook(LESSON[0], LESSON[1] + "\nx"), house_of_one) != before
    (house_of_one / "cifar_utils/data.py").write_text(
        "import weights as rows\n\n"  # a name that the page writes, but nothing here does
        'def load():\n    """Load it all, unused too."""\n    # so\n    return (1)\n\n\n'
        "def unused():\n    return load()\n",
        encoding="utf-8",
    )
    (house_of_one / "cifar_utils/plots.py").write_text("x = 2\n", encoding="utf-8")
    said = notebook(*LESSON)
    said["cells"][1]["source"] = "# Why\n" + LESSON[1].replace("  # all", "")
    said["cells"].append({"cell_type": "markdown", "metadata": {}, "source": "New words."})
    assert freshness.digest(said, house_of_one) == before


def test_an_import_counts_where_it_is_used_or_passed_on(house_of_one):
    lesson = notebook("from cifar_utils import runs", "runs.study(runs.Error)")
    runs = house_of_one / "cifar_utils/runs.py"
    body = "from . import data\n{}\nN = 1\n\ndef study(n):\n    return data.load(N)\n"
    seen = []
    for line in ("", "from data import Error", "from data import Error as Error"):
        runs.write_text(body.format(line), encoding="utf-8")
        seen.append(freshness.digest(lesson, house_of_one))
    assert seen[0] == seen[1] != seen[2]


@pytest.mark.parametrize("code", ["from apps import one", "run('-m', 'apps.one')"])
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("apps/one.py", "from apps.two import x\nprint(1)\n"),
        ("apps/two/x.py", "x = 2\n"),
        ("cifar_utils/data.py", "def load():\n    return 2\n"),
    ],
)
def test_a_program_that_a_page_starts_makes_it_old(house_of_one, code, name, text):
    (house_of_one / "apps/two").mkdir(parents=True)
    (house_of_one / "apps/one.py").write_text("from apps.two import x\n", encoding="utf-8")
    (house_of_one / "apps/two/x.py").write_text(
        "from cifar_utils import data\nx = data.load()\n", encoding="utf-8"
    )
    before = freshness.digest(notebook(code), house_of_one)
    (house_of_one / name).write_text(text, encoding="utf-8")
    assert freshness.digest(notebook(code), house_of_one) != before


def test_the_digest_is_the_same_on_every_python(house_of_one):
    known = "5ddf49d1796bd6b6b2f25a037af8f6f04aec729257f466f6d8aff70699144743"
    assert freshness.digest(notebook(*LESSON), house_of_one) == known


# --- Paths of a machine -------------------------------------------------------------------------


@each_chapter
def test_outputs_hold_no_absolute_path(path):
    assert not execute.machine_paths(execute.outputs_text(house.read(path)))


@pytest.mark.parametrize("path", [*RESULTS, *STUDIES], ids=lambda path: path.name)
def test_results_hold_no_absolute_path(path):
    assert not execute.machine_paths(path.read_text(encoding="utf-8").replace("\\\\", "\\"))


@pytest.mark.parametrize(
    "bad",
    [
        f"saved to {ROOT}",
        "read /home/ada/data/cifar",
        "File '/home/me/x.py'",
        '"/Users/ada/x"',
        "C:\\Users\\ada",
        "UserWarning in /tmp/ipykernel_7/12.py:3",
    ],
)
def test_an_absolute_path_is_seen(bad):
    output = {"output_type": "stream", "name": "stdout", "text": [bad]}
    shown = notebook("f()")
    shown["cells"][0]["outputs"] = [output]
    assert execute.machine_paths(execute.outputs_text(shown))


@pytest.mark.parametrize(
    "good", ["1/2 and 3/4", "runs/04/best.pt", "https://a.org/b/c", "images/s", "<b>x</b></td>"]
)
def test_other_slashes_pass(good):
    assert not execute.machine_paths(good)


# --- Records and claims -------------------------------------------------------------------------

FIELDS = (
    "chapter",
    "budget",
    "dataset",
    "seed",
    "device",
    "threads",
    "precision",
    "versions",
    "date",
    "seconds",
    "peak_memory_bytes",
    "metrics",
    "history",
    "claims",
    "digest",
)


def incomplete(record: dict) -> list[str]:
    """Fields that a record lacks, and metrics that are no fractions of one."""
    found = [name for name in FIELDS if name not in record]
    if dataset := record.get("dataset"):
        found += [n for n in ("name", "source", "stand_in", "split", "digest") if n not in dataset]
    accuracies = {k: v for k, v in record.get("metrics", {}).items() if k.endswith("accuracy")}
    return found + [
        k for k, v in accuracies.items() if isinstance(v, int | float) and not 0 <= v <= 1
    ]


def broken_claims(record: dict) -> list[str]:
    """Claims of a record that its own numbers do not bear out: `a` must exceed `b` + `margin`."""
    found = []
    for claim in record.get("claims", []):
        a, b, margin = (float(claim[key]) for key in ("a", "b", "margin"))
        if not (math.isfinite(a) and math.isfinite(b) and a > b + margin):
            found.append(f"{claim['text']}: {a} > {b} + {margin}")
    return found


@each_record
def test_a_record_is_complete_and_as_new_as_its_code(path):
    record = house.read(path)
    assert not incomplete(record)
    assert path.stem == f"{record['chapter']}.{record['budget']}"
    found = house.read(ROOT / "notebooks" / f"{record['chapter']}.ipynb")
    assert record["digest"] == freshness.digest(found), (
        f"older than its code: make run CHAPTERS={path.stem[:2]} BUDGET={record['budget']}"
    )


@each_record
def test_a_record_comes_from_real_images(path):
    assert not (house.read(path)["dataset"] or {}).get("stand_in")


@each_record
def test_every_claim_holds(path):
    assert not broken_claims(house.read(path))


@pytest.mark.parametrize(
    "bad", [(0.5, 0.6, 0.0), (0.6, 0.5, 0.2), (0.5, 0.5, 0.0), (float("nan"), 0.1, 0.0)]
)
def test_a_broken_claim_is_seen(bad):
    claim = dict(zip(("a", "b", "margin"), bad, strict=True), text="more is more")
    assert broken_claims({"claims": [claim]})
    assert not broken_claims({"claims": [claim | {"a": 0.9, "b": 0.1, "margin": 0.1}]})


def test_an_incomplete_record_is_seen():
    whole = dict.fromkeys(FIELDS) | {"metrics": {"test_accuracy": 0.9}}
    assert not incomplete(whole)
    assert incomplete(whole | {"metrics": {"test_accuracy": 90.2}})
    assert incomplete({k: v for k, v in whole.items() if k != "date"})
    assert incomplete(whole | {"dataset": {"name": "cifar10"}})


@each_study
def test_a_study_holds_whole_rows_and_stands_in_the_list(path):
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert rows and all({"seed", "seconds"} <= set(row) for row in rows)
    assert (ROOT / "studies" / f"{path.stem}.py").exists()
    assert f"`{path.stem}`" in (ROOT / "studies" / "README.md").read_text(encoding="utf-8")


# --- Executing ----------------------------------------------------------------------------------

SMALL = """import json, os
record = {"dataset": {"stand_in": STAND_IN}, "metrics": {}, "device": "cpu", "date": "2026-01-01"}
with open(os.environ["CIFAR_RECORD"], "w") as file:
    json.dump(record, file)
print(os.environ["CIFAR_BUDGET"])"""


@pytest.fixture
def small_house(tmp_path, monkeypatch):
    """A repository whose only chapter takes a moment; the executor and its tools look there."""
    monkeypatch.setattr(execute, "ROOT", tmp_path)
    monkeypatch.setattr(execute.opening, "expected", dict)
    monkeypatch.setattr(execute.tables, "expected", dict)
    path = tmp_path / "notebooks" / "00_small.ipynb"
    monkeypatch.setattr(execute, "notebooks", lambda: [path])

    def put(code: str, stand_in: bool = False) -> None:
        cells = [{"cell_type": "markdown", "metadata": {}, "source": "# Small", "id": "a"}]
        text = SMALL.replace("STAND_IN", str(stand_in)) + "\n" + code
        cells.append(notebook(text)["cells"][0] | {"id": "b", "execution_count": None})
        kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
        whole = {"cells": cells, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}
        house.write(path, house.dump(whole))

    def run(*arguments: str) -> int:
        monkeypatch.setattr("sys.argv", ["execute.py", "--budget", "laptop", *arguments])
        return execute.main()

    return path, put, run


def test_a_chapter_is_run_stored_and_then_left_alone(small_house, capsys):
    path, put, run = small_house
    put("")
    assert run("00") == 0
    found = house.read(path)
    record = house.read(path.parents[1] / "results" / "00_small.laptop.json")
    assert not unsound(found) and found["cells"][1]["outputs"][0]["text"] == ["laptop\n"]
    digest = freshness.digest(found, execute.ROOT)
    assert record["digest"] == found["metadata"]["cifar"]["digest"] == digest
    assert record["chapter"] == "00_small" and record["seconds"] > 0
    assert "language_info" not in found["metadata"]
    stored = path.read_text("utf-8")
    assert stored == house.dump(found), "laid out as the other tools lay it out"
    assert run() == 0 and "skipped" in capsys.readouterr().out
    assert path.read_text("utf-8") == stored


def test_exercises_are_neither_run_nor_stored(small_house):
    path, put, run = small_house
    put("")
    found = house.read(path)
    for tag in sorted(freshness.PRACTICE):
        (cell,) = notebook("1 / 0")["cells"]
        cell |= {"id": tag, "metadata": {"tags": [tag]}, "execution_count": 7}
        cell["outputs"] = [{"output_type": "stream", "name": "stdout", "text": "mine"}]
        found["cells"].append(cell)
    house.write(path, house.dump(found))
    assert run("00") == 0
    stored = house.read(path)
    assert [c["id"] for c in stored["cells"]] == [c["id"] for c in found["cells"]]
    assert not unsound(stored)


@pytest.mark.parametrize(
    ("code", "stand_in"),
    [("1 / 0", False), ("print('/home/ada/data')", False), ("", True)],
)
def test_a_failed_chapter_keeps_what_it_had(small_house, code, stand_in):
    path, put, run = small_house
    put(code, stand_in)
    before = path.read_text("utf-8")
    assert run() == 1
    assert path.read_text("utf-8") == before
    assert not (path.parents[1] / "results").exists()
    if stand_in:
        assert run("--allow-stand-in") == 0
