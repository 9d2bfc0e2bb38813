"""A new chapter: a notebook that runs, its strip, its line in the table of contents.

python book/tools/new_chapter.py 15 my_topic "My topic: what this page finds" [--lit stem classes]

The notebook has the form of every chapter, and small stand-ins for all that it needs: a question,
a broken thing with its cure, exercises whose checks judge. Replace them one by one.
"""

import argparse
import re
import sys
from pathlib import Path

import address
import exercises
import opening
from house import ROOT, dump, lines, notebooks, write, write_all

PARTS = "picture,stem,stage 1,stage 2,stage 3,stage 4,pool,classes".split(",")
LIT = 'fill="#fde9c9" stroke="#b45309" stroke-width="2.5"'
DIM = 'fill="#ffffff" stroke="#98a2b3" stroke-width="1.5"'
DEMAND = (
    "Write where the dots are, run the cell, then the check under it. The solution folds out below."
)

HEAD = """# {title}

Say in this sentence what the reader will be able to do after this page. Then say what the page \
finds, and what the reader needs: which chapters, which ideas.

![Eight boxes from left to right: picture, stem, four stages, pool, classes. Lit here: {lit}.]\
(../book/figures/strip/{stem}.svg)"""
BODY = [
    (
        "code",
        """import matplotlib.pyplot as plt

from cifar_utils import data, plots, runs

run = runs.start("{stem}", seed=0)""",
    ),
    (
        "code",
        """dataset = run.load("cifar10")
train, val = data.hold_out(dataset.train, n=len(dataset.train) // 10)
print(f"{{len(train):,}} to learn from, {{len(val):,}} to choose by")""",
    ),
    (
        "markdown",
        """## A question

Say what the next cell will show, before it runs: a sentence that can turn out wrong. Then a short \
cell, then its output.""",
    ),
    (
        "figure",
        """first = [int((train.labels == c).nonzero()[0]) for c in range(10)]
names = dataset.classes
plots.image_grid(train.images[first], titles=names, title="Ten pictures, one of each class")
plt.show()""",
    ),
    (
        "markdown",
        """Look back at the output: was the sentence above it right?

**Question.** Ask something that the page has not shown, and that a minute of thought answers.

<details>
<summary>Answer</summary>

One to three sentences.

</details>""",
    ),
    (
        "markdown",
        """## Broken on purpose: name the mistake here

Make one classic mistake. Before the cell runs, let the reader guess what it will look like.""",
    ),
    (
        "code",
        """try:
    train.images.mean()
except RuntimeError as error:
    message = str(error)
print(message)
assert "dtype" in message""",
    ),
    (
        "markdown",
        """**Signature:** what one sees from outside. **Cure:** what to do, and which line would \
have noticed.""",
    ),
    (
        "code",
        """brightness = train.images.float().mean().item() / 255
print(f"mean brightness {{brightness:.3f}}, from 0 to 1")
run.record(brightness=brightness)""",
    ),
    (
        "markdown",
        """## What to remember

- A sentence that is worth keeping, without a number that was measured.""",
    ),
]
# Task, solution, condition of the check, hint: each to be replaced by one that teaches.
PRACTICE = [
    (
        "Predict, then run.** How many numbers is one picture? Bind the count to `numbers`.",
        "numbers = 3 * 32 * 32  # yours",
        "numbers == train.images[0].numel()",
        "Three channels, each of how many rows and columns?",
    ),
    (
        "Find.** Which picture of `train` is the brightest? Bind its index to `brightest`.",
        "brightest = int(train.images.float().mean(dim=(1, 2, 3)).argmax())  # yours",
        "train.images[brightest].float().mean() == train.images.float().mean((1, 2, 3)).max()",
        "Over which axes is the mean of one picture?",
    ),
    (
        "Write a function.** `negative` turns dark to bright, for pictures of `uint8`.",
        'def negative(images):  # yours\n    """255 less each number: (N, 3, 32, 32) uint8."""\n'
        "    return 255 - images",
        "(negative(train.images[:9]).int() + train.images[:9].int() == 255).all()",
        "A number and its counterpart add up to what?",
    ),
    (
        "A small project.** Count the pictures of each class: bind the counts to `counts`, a list.",
        "counts = train.labels.bincount(minlength=10).tolist()  # yours",
        "counts == [int((train.labels == c).sum()) for c in range(10)]",
        "One count a class, in the order of the classes.",
    ),
]
CLOSING = """## Where to go

Name the chapters that go on from here.

## References

- A. Krizhevsky, [Learning Multiple Layers of Features from Tiny Images]\
(https://www.cs.toronto.edu/~kriz/learning-features-2009-TR.pdf), 2009: the pictures."""


def strip(drawing: str, lit: list[str]) -> str:
    """The strip of the residual network with only the parts in `lit` lit.

    drawing: one in which all are, such as chapter 4's. Raises ValueError for an unknown part.
    """
    if unknown := set(lit) - set(PARTS):
        raise ValueError(
            f"the strip has no {', '.join(sorted(unknown))}; it has {', '.join(PARTS)}"
        )
    out, boxes, words = [], iter(PARTS), iter([part for part in PARTS for _ in (0, 1)])
    for line in drawing.splitlines():
        if LIT in line and next(boxes) not in lit:
            line = line.replace(LIT, DIM)
        elif line.lstrip().startswith("<text") and next(words) not in lit:
            line = line.replace('fill="#1f2937"', 'fill="#596377"')
            line = line.replace(' font-weight="700"', "")
        out.append(line)
    said = "all of it" if len(lit) == len(PARTS) else " and ".join(lit)
    return re.sub(r"Lit here: [^<]*", f"Lit here: {said}.", "\n".join(out)) + "\n"


def cell(kind: str, text: str, name: str, *tags: str) -> dict:
    made = {"cell_type": kind, "id": name, "metadata": {}, "source": lines(text)}
    if tags:
        made["metadata"]["tags"] = list(tags)
    return made | ({"execution_count": None, "outputs": []} if kind == "code" else {})


def practice() -> list[dict]:
    """The section of exercises, four cells each, blanks still to be written."""
    cells = [cell("markdown", f"## Exercises\n\n{DEMAND}", "exercises")]
    cells.append(cell("code", exercises.IMPORT, "exercise-import", "exercise-import"))
    for n, (task, solution, condition, hint) in enumerate(PRACTICE, 1):
        name = f"exercise-{n}"
        check = f"@practice.check\ndef exercise_{n}():\n    assert {condition}, (\n"
        check += f'        "{hint}"\n    )'
        if len(line := f'    assert {condition}, "{hint}"') <= 100:
            check = f"@practice.check\ndef exercise_{n}():\n{line}"
        folded = f"<details>\n<summary>Solution</summary>\n\n```python\n{solution}\n```\n\n"
        folded += "Say how to read it, in a sentence or two.\n\n</details>"
        cells.append(cell("markdown", f"**{n}. {task}", name))
        cells.append(cell("code", solution, f"{name}-blank", "exercise"))
        cells.append(cell("code", check, f"{name}-check", "check"))
        cells.append(cell("markdown", folded, f"{name}-solution"))
    return cells


def skeleton(stem: str, title: str, lit: list[str], url: str) -> dict:
    """The notebook of the chapter `stem`, as JSON values."""
    said = "all of them" if len(lit) == len(PARTS) else " and ".join(lit)
    cells = [cell("markdown", HEAD.format(title=title, stem=stem, lit=said), "cell-000")]
    for n, (kind, text) in enumerate(BODY, 1):
        made = cell("code" if kind == "figure" else kind, text.format(stem=stem), f"cell-{n:03}")
        if kind == "figure":
            alt = "Ten small color pictures in a row, each labeled with its class name."
            made["metadata"]["mystnb"] = {"image": {"alt": alt}}
        cells.append(made)
    cells += [*practice(), cell("markdown", CLOSING, "closing")]
    about = {"display_name": "Python 3", "language": "python", "name": "python3"}
    metadata = {"kernelspec": about, "language_info": {"name": "python"}, "accelerator": "GPU"}
    metadata["colab"] = {"gpuType": "T4", "provenance": []}
    made = {"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}
    return exercises.filled(address.addressed(opening.opened(made, []), url, stem))


def listed(toc: str, stem: str) -> str:
    """The table of contents with one line more, after the last chapter of a smaller number."""
    rows = re.findall(r"^ *- file: notebooks/(\d\d)_.*\n", toc, re.M)
    before = max((number for number in rows if number < stem[:2]), default=rows[0])
    pattern = rf"^( *- file: notebooks/){before}_.*\n"
    return re.sub(pattern, lambda match: f"{match[0]}{match[1]}{stem}\n", toc, count=1, flags=re.M)


def create(number: str, name: str, title: str, lit: list[str], root: Path = ROOT) -> str:
    """Write all that a new chapter needs; its stem.

    Raises ValueError, and writes nothing, if a name is not of the form of the others or is taken.
    """
    stem = f"{number}_{name}"
    if not re.fullmatch(r"\d\d_[a-z][a-z0-9]*(?:_[a-z0-9]+)*", stem):
        raise ValueError(f"{stem!r}: a number of two digits, and a name like residual_blocks")
    if not title.strip() or "\n" in title:
        raise ValueError("a chapter needs a title, of one line")
    if taken := [path.name for path in notebooks(root) if path.name[:2] == number]:
        raise ValueError(f"the number {number} is taken: {taken[0]}")
    strips, toc = root / "book" / "figures" / "strip", root / "_toc.yml"
    drawing = strip((strips / "04_resnet_training.svg").read_text(encoding="utf-8"), lit)
    notebook = skeleton(stem, title.strip(), lit, address.address(root))
    write(strips / f"{stem}.svg", drawing)
    write(root / "notebooks" / f"{stem}.ipynb", dump(notebook))
    write(toc, listed(toc.read_text(encoding="utf-8"), stem))
    write_all(opening.expected(root), root)
    return stem


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("number", help="two digits, such as 15")
    parser.add_argument("name", help="as in a file name, such as my_topic")
    parser.add_argument("title")
    parser.add_argument("--lit", nargs="+", default=PARTS, help="parts of the strip; default: all")
    args = parser.parse_args()
    try:
        stem = create(args.number, args.name, args.title, args.lit)
    except ValueError as error:
        parser.error(str(error))
    print(f"notebooks/{stem}.ipynb stands, and its line in _toc.yml. Now: make lab")
    print(f"Then: make run CHAPTERS={stem[:2]}. CONTRIBUTING.md has the six steps.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
