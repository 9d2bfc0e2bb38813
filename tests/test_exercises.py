"""Exercises: blanks come from solutions, and a check tells one from the other."""

import copy
import re
import sys

import pytest

import exercises
import freshness
import house
from cifar_utils import practice

each_chapter = pytest.mark.parametrize("path", house.notebooks(), ids=lambda path: path.stem)


# --- Blanks -------------------------------------------------------------------------------------

SOLUTION = '''import torch

names = ["a", "b"]  # yours too
shape = (3, 32, 32)  # yours
rows, columns = divmod(  # yours
    7,
    2,
)
total: int = 0  # yours
for n in names:
    total += 1  # yours
    total += 2  # yours
    print(n)


def twice(x, by=2):  # yours
    """Twice as much."""
    return x * by


def once(x):  # yours
    # A comment goes, too.
    if x:
        return x
    return -x


def half(x):
    """Half as much."""
    # Keep the sign.
    return x / 2  # yours


class Net(torch.nn.Module):
    def forward(self, x):  # yours
        return x


class Small(  # yours
    Net,
):
    """A net."""

    size = 2


if total:
    with torch.no_grad():  # yours
        print("ö", total)
    print(shape)
'''
BLANK = '''import torch

names = ["a", "b"]  # yours too
shape = ...  # yours
rows, columns = ..., ...  # yours
total: int = ...  # yours
for n in names:
    ...  # yours
    print(n)


def twice(x, by=2):
    """Twice as much."""
    ...  # yours


def once(x): ...  # yours


def half(x):
    """Half as much."""
    # Keep the sign.
    return ...  # yours


class Net(torch.nn.Module):
    def forward(self, x): ...  # yours


class Small(
    Net,
):
    """A net."""

    ...  # yours


if total:
    ...  # yours
    print(shape)'''


def test_a_blank_keeps_all_but_what_is_the_readers():
    assert exercises.blank(SOLUTION) == BLANK


@pytest.mark.parametrize(
    ("solution", "error"),
    [
        ("x = 1", "yours"),
        ("x = '# yours'\ny = 2", "yours"),
        ("def f(x): return x  # yours", "line of its header"),
        ("x = = 1  # yours", "invalid syntax"),
    ],
)
def test_a_solution_without_a_blank_is_refused(solution, error):
    with pytest.raises((ValueError, SyntaxError), match=error):
        exercises.blank(solution)


# --- What a check says --------------------------------------------------------------------------


def half(x):
    return ...


def nothing(x):
    """Nothing yet."""
    ...


def first(x):
    return x[..., 0]


def whole(x):
    x[...] = 0
    return x


class Blank:
    def forward(self, x): ...


dots, holds, fine = ..., {"a": 1, "b": ...}, [1, 2]


def exercise_1():
    assert fine == [1, 2]


def exercise_2():
    assert fine == [2, 1], "Look at the order.\nAnd more."


def exercise_3():
    assert fine["a"]


def exercise_4():
    assert dots is ... and all(half(x) is ... for x in fine), "not read"


def exercise_5():
    assert "a" in holds and nothing(1) is None and Blank, "not read"


def exercise_6():
    assert whole({}) and first([1]) and missing, "not read"  # noqa: F821


@pytest.mark.parametrize(
    ("judge", "right", "said"),
    [
        (exercise_1, True, "right."),
        (exercise_2, False, "not yet. Look at the order."),
        (exercise_3, False, "not yet. TypeError: list indices must be integers or slices, not str"),
        (exercise_4, False, "not yet. The cell above still holds its dots (`dots`, `half`)."),
        (
            exercise_5,
            False,
            "not yet. The cell above still holds its dots (`Blank`, `holds`, `nothing`).",
        ),
        (
            exercise_6,
            False,
            "not yet. TypeError: list indices must be integers or slices, not tuple",
        ),
    ],
)
def test_a_check_says_how_an_exercise_stands(judge, right, said, capsys):
    assert practice.check(judge) is right
    assert capsys.readouterr().out == f"Exercise {judge.__name__[-1]}: {said}\n"


# --- The form of a chapter's exercises ----------------------------------------------------------


@each_chapter
def test_exercises_are_whole_and_blanks_are_what_solutions_generate(path):
    notebook = house.read(path)
    assert not exercises.faults(notebook)
    assert notebook == exercises.filled(notebook), "run `python book/tools/exercises.py`"


def cell(kind: str, name: str, text: str, *tags: str) -> dict:
    made = {"cell_type": kind, "id": name, "metadata": {"tags": [*tags]}, "source": text}
    return made | ({"execution_count": None, "outputs": []} if kind == "code" else {})


def small(solution: str = "answer_{n} = start + {n}  # yours", count: int = 4) -> dict:
    """A chapter of one line, with `count` exercises that have one solution."""
    cells = [cell("code", "a", "start = 40")]
    cells.append(cell("markdown", "exercises", "## Exercises\n\nWrite where the dots are."))
    cells.append(cell("code", "exercise-import", exercises.IMPORT, "exercise-import"))
    for n in range(1, count + 1):
        text, name = solution.replace("{n}", str(n)), f"exercise-{n}"
        judge = f"@practice.check\ndef exercise_{n}():\n    assert answer_{n} == {40 + n}, 'Add.'"
        folded = "<details>\n<summary>Solution</summary>\n\n```python\n{}\n```\n\nSo.\n\n</details>"
        cells.append(cell("markdown", name, f"**{n}. Add.** Add {n}."))
        cells.append(cell("code", f"{name}-blank", exercises.blank(text), "exercise"))
        cells.append(cell("code", f"{name}-check", judge, "check"))
        cells.append(cell("markdown", f"{name}-solution", folded.format(text)))
    return {"cells": [*cells, cell("markdown", "closing", "## Where to go\n\nOn.")]}


def change(n: int, **parts) -> dict:
    notebook = small()
    notebook["cells"][n] |= parts
    return notebook


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (small(count=3), "are the least"),
        ({"cells": [cell("markdown", "a", "# A")]}, "the cells from 'exercises' on"),
        ({"cells": small()["cells"][:-2]}, "the cells from 'exercises' on"),
        ({"cells": small()["cells"] + [cell("code", "b", "x = 1")]}, "code cells after"),
        (change(1, source="## Exercises"), "with a sentence below"),
        (change(2, source="from cifar_utils import runs"), "exercise-import"),
        (change(3, source="**2. Add.** Add 1."), "does not begin with"),
        (change(5, metadata={}), "is not task, blank, check, solution"),
        (
            change(5, source="@practice.check\ndef exercise_2():\n    assert x"),
            "its check is not @practice.check, exercise_1",
        ),
        (change(5, source="@practice.check\ndef exercise_1():\n    print()"), "without assert"),
        (small("common = start  # yours\nanswer_{n} = common + {n}"), ""),
        (
            small("answer_{n} = answer_1 + {n} - 1  # yours"),
            "reads what exercise 1 binds: answer_1",
        ),
    ],
)
def test_exercises_out_of_form_are_seen(bad, said):
    found = exercises.faults(bad)
    assert said in " ".join(found) if said else not found


def test_a_name_of_a_loop_or_a_function_is_no_dependence():
    text = "parts = [x for x in range(3)]\nf = lambda y: y + z\ndef g(v):\n    w = v + u"
    assert exercises.bound(text) == {"parts", "f", "g"}
    assert exercises.used(text) == {"range", "z", "u"}


def test_blanks_out_of_step_and_stored_outputs_are_brought_in_order():
    good = small()
    spoiled = copy.deepcopy(good)
    spoiled["cells"][4] |= {"source": ["answer_1 = 41"], "execution_count": 3}
    spoiled["cells"][5]["outputs"] = [{"output_type": "stream"}]
    assert [house.source(c) for c in exercises.filled(spoiled)["cells"]] == [
        house.source(c) for c in good["cells"]
    ]
    assert not any(c.get("outputs") for c in exercises.filled(spoiled)["cells"])
    bare = change(6, source="<details>\n\n```python\nx = 1  # yours\n```\n\n</details>")
    with pytest.raises(ValueError, match="exercise 1"):
        exercises.filled(bare)


def test_the_command_writes_blanks_and_tells_what_is_out_of_step(tmp_path, monkeypatch, capsys):
    path = tmp_path / "00_small.ipynb"
    path.write_text(house.dump(change(4, source=["answer_1 = 41"])), encoding="utf-8")
    monkeypatch.setattr(exercises, "notebooks", lambda: [path])

    def run(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["exercises.py", *arguments])
        return exercises.main(), capsys.readouterr().out

    spoiled = path.read_text("utf-8")
    code, said = run("--check")
    assert code == 1 and "out of step" in said and path.read_text("utf-8") == spoiled
    assert run("00") == (0, "00_small: written\n")
    assert run("--check") == (0, "")
    assert house.read(path)["cells"][4]["source"] == ["answer_1 = ...  # yours"]
    path.write_text(house.dump(small(count=3)), encoding="utf-8")
    code, said = run()
    assert code == 1 and "are the least" in said


def test_exercises_are_no_part_of_what_a_page_shows():
    whole, lesson = small(), {"cells": small()["cells"][:1]}
    assert freshness.code_of(whole) == freshness.code_of(lesson) == ["start = 40"]
    assert freshness.digest(whole) == freshness.digest(lesson)


# --- Questions ----------------------------------------------------------------------------------

ASKED = re.compile(r"^\*\*Question\.\*\*", re.M)
ANSWERED = re.compile(
    r"^\*\*Question\.\*\* \S[^\n]+\n\n<details>\n<summary>Answer</summary>\n\n"
    r"\S(?:(?!<details>).)*?\n\n</details>$",
    re.M | re.S,
)


def unquestioned(notebook: dict) -> list[str]:
    """What is wrong with a chapter's questions: 8 to 16, one or two a section, answers folded."""
    cells = [c for c in notebook["cells"] if c["cell_type"] == "markdown"]
    text = "\n\n".join(house.source(c) for c in cells)
    asked, answered = len(ASKED.findall(text)), len(ANSWERED.findall(text))
    found = [] if asked == answered else [f"{asked} questions, {answered} with a folded answer"]
    found += [] if 8 <= asked <= 16 else [f"{asked} questions"]
    for section in re.split(r"^## ", text, flags=re.M):
        if len(ASKED.findall(section)) > 2:
            found.append(f"more than two questions: {section.splitlines()[0]}")
    return found


@each_chapter
def test_a_chapter_asks(path):
    assert not unquestioned(house.read(path))


def test_questions_out_of_form_are_seen():
    one = "**Question.** Why?\n\n<details>\n<summary>Answer</summary>\n\nSo.\n\n</details>"
    four = [cell("markdown", "a", f"## A\n\n{one}\n\n{one}") for _ in range(4)]
    assert not unquestioned({"cells": four})
    assert unquestioned({"cells": four[:3]})
    assert unquestioned({"cells": four * 3})
    assert unquestioned({"cells": [*four, cell("markdown", "b", one)]})
    assert unquestioned({"cells": [*four, cell("markdown", "b", "## B\n\n**Question.** Why?")]})


# --- The proof ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("judge", "said"),
    [
        ("assert answer_1 == 41", []),
        ("assert answer_1 == 42, 'No.'", ["exercise 1, solution: Exercise 1: not yet. No."]),
        ("assert start == 40", ["exercise 1, blank: Exercise 1: right."]),
    ],
)
def test_a_check_that_judges_wrongly_is_seen(judge, said, monkeypatch):
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])
    text = f"@practice.check\ndef exercise_1():\n    {judge}"
    assert exercises.prove(change(5, source=text)) == [f"not so: {line}" for line in said]


def test_the_proof_fails_where_a_chapter_does(tmp_path):
    wrong = change(5, source="@practice.check\ndef exercise_1():\n    assert start")
    path = tmp_path / "00_small.ipynb"
    for notebook, code, end in (
        (small(), 0, ""),
        (wrong, 1, "right."),
        (change(0, source="1 / 0"), 1, "by zero"),
    ):
        path.write_text(house.dump(notebook), encoding="utf-8")
        done = exercises.proof(path)
        assert (done.returncode, done.stderr.strip().endswith(end)) == (code, True)


@each_chapter
def test_every_solution_passes_and_every_blank_fails(path):
    done = exercises.proof(path)
    assert done.returncode == 0, done.stdout + done.stderr
    count = len(exercises.exercises(house.read(path)))
    assert len(re.findall(r"solution: Exercise \d+: right\.", done.stdout)) == count
