"""The form of chapters and pages, and of the finished HTML. Each rule also meets a bad example."""

import ast
import re
import statistics
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml
from bs4 import BeautifulSoup

import address
import cells
import freshness
import house
import opening

ROOT = house.ROOT
HTML = ROOT / "_build" / "html"
CHAPTERS = house.notebooks()
PAGES = sorted((ROOT / "book").glob("*.md"))
names = {"ids": lambda path: path.stem}
each_chapter = pytest.mark.parametrize("path", CHAPTERS, **names)


def code_cells(notebook: dict) -> list[dict]:
    cells = [c for c in notebook["cells"] if c["cell_type"] == "code"]
    return [c for c in cells if "bootstrap" not in house.tags(c)]


def markdown(notebook: dict) -> list[str]:
    return [house.source(c) for c in notebook["cells"] if c["cell_type"] == "markdown"]


def code(*sources: str) -> dict:
    """A notebook of code cells: a bad example."""
    return {"cells": [{"cell_type": "code", "metadata": {}, "source": s} for s in sources]}


# --- Code cells ---------------------------------------------------------------------------------


def not_python(notebook: dict) -> list[str]:
    """Cells that are not plain Python (magics, shell lines, `name?`) or that ask for IPython."""
    found = []
    for cell in code_cells(notebook):
        text = house.source(cell)
        try:
            tree = ast.parse(text)
        except SyntaxError as error:
            found.append(f"line {error.lineno} of: {text}")
        else:
            if any(getattr(node, "id", "") == "get_ipython" for node in ast.walk(tree)):
                found.append(text)
    return found


@each_chapter
def test_code_is_plain_python(path):
    assert not not_python(house.read(path))


@pytest.mark.parametrize("bad", ["%time f()", "!ls", "f?", "%%bash\nls", "get_ipython().system()"])
def test_a_magic_is_seen(bad):
    assert not_python(code(bad))


def too_long(notebook: dict) -> str:
    """What is wrong with the sizes of code cells: median under 8 lines, none above 25.

    Exercises do not count in the median: blanks are short, and would hide long cells.
    """
    longest = max(len(house.source(c).splitlines()) for c in code_cells(notebook))
    if longest > 25:
        return f"a cell of {longest} lines"
    median = statistics.median(len(c.splitlines()) for c in freshness.code_of(notebook))
    return f"median cell of {median} lines" if median >= 8 else ""


@each_chapter
def test_cells_are_short(path):
    assert not too_long(house.read(path))


def test_long_cells_are_seen():
    assert too_long(code("x\n" * 26, "x", "x"))
    assert too_long(code("x\n" * 8, "x\n" * 9, "x"))
    assert not too_long(code("x\n" * 25, "x", "x"))
    lesson = code("x\n" * 8, "x", "x")
    for cell in lesson["cells"][1:]:
        cell["metadata"] = {"tags": ["exercise"]}
    assert too_long(lesson)


# --- Markdown -----------------------------------------------------------------------------------

FENCE = re.compile(r"^(```+|~~~+)(?!\{)[^\n]*\n.*?^\1[ ]*$", re.M | re.S)
SPAN = re.compile(r"(?<![`}])(`+)(?!`)[^\n]*?(?<!`)\1(?!`)")
MYST = re.compile(
    r"^[ ]*(?:```+|~~~+)\{|^[ ]*:::|\{[a-zA-Z][\w:.+-]*\}`|^\([\w-]+\)=[ ]*$|^%[ ]|\{\{[^}]*\}\}",
    re.M,
)


def myst_only(text: str) -> list[str]:
    """Syntax that only the book renders and Jupyter shows raw: directives, roles, targets."""
    return [m[0] for m in MYST.finditer(SPAN.sub("", FENCE.sub("", text)))]


@each_chapter
def test_markdown_is_plain(path):
    assert not [hit for text in markdown(house.read(path)) for hit in myst_only(text)]


@pytest.mark.parametrize(
    "bad",
    [
        "```{note}\nx\n```",
        ":::{tip}\nx\n:::",
        "see {ref}`there`",
        "(here)=\n# A",
        "% hidden",
        "{{ sum }}",
    ],
)
def test_myst_is_seen(bad):
    assert myst_only(bad)


@pytest.mark.parametrize(
    "good", ["```python\nd = {{1}}\n```", "`{x}` and `y`", "$\\{a\\}$", "50 % x"]
)
def test_plain_markdown_passes(good):
    assert not myst_only(good)


# --- Measured numbers in prose ------------------------------------------------------------------

NUMBER = r"(?<![\w.])\d[\d,]*(?:\.\d+)?"
UNIT = (
    r"(?:%|percent\b|per cent\b|(?:percentage )?points?\b|ms\b|s\b|sec(?:ond)?s?\b|min(?:ute)?s?\b|"
    r"h(?:ou)?rs?\b|(?:img|images?|pictures?|samples?)(?:/s| (?:a|per) second)|"
    r"[GT]FLOPs?/s|(?:times|x|×) (?:as fast|faster|slower|better|worse))"
)
QUANTITY = r"\b(?:accuracy|loss|error|norm)\b[^.:;!?\n]{0,24}?"
MEASURED = re.compile(rf"{NUMBER}[ -]?{UNIT}|{QUANTITY}{NUMBER}(?<=\.\d\d)\d*")
GIVEN = re.compile(
    r"\b(?:chance|guess\w*|by definition|budget|at most|probability|dropout|warm-?up|of (?:the )?"
    r"(?:steps|epochs|training)|hold|held|aside|split|suppose|imagine|reports?|published|"
    r"confidence|percentile|interval)\b|≤|\?$",
    re.I,
)
GENERATED = re.compile(r"<!-- (\w+) -->.*?<!-- /\1 -->", re.S)
TERM = re.compile(r"\]\([^)]*glossary\.md[^)]*\)")  # a link to a term is no source
QUIET = re.compile(r"<!--.*?-->|\$\$.*?\$\$|(?<!\\)\$[^$\n]+\$", re.S)


def measured(text: str) -> list[str]:
    """Sentences of prose that state a measured number: an accuracy, a time, a speed, a loss.

    Such numbers stand in outputs and generated tables, where a rerun changes them. Given numbers
    pass: in code and formulas, in a paragraph with a link or citation, in a question, or beside a
    word that says where they come from (chance, at most, held out, …).
    """
    text = QUIET.sub("", SPAN.sub("", FENCE.sub("", GENERATED.sub("", text))))
    text = TERM.sub("]", text)
    found = []
    for paragraph in re.split(r"\n\s*\n", text):
        if re.search(r"\]\(|\[@|\{cite|https?://", paragraph):
            continue
        for sentence in re.split(r"(?<=[.!?:;])\s+", " ".join(paragraph.split())):
            if MEASURED.search(sentence) and not GIVEN.search(sentence):
                found.append(sentence)
    return found


@pytest.mark.parametrize("path", [*CHAPTERS, *PAGES, ROOT / "README.md"], **names)
def test_prose_holds_no_measured_numbers(path):
    if path.suffix == ".ipynb":
        texts = markdown(house.read(path))
    else:
        texts = [path.read_text(encoding="utf-8")]
    assert not [sentence for text in texts for sentence in measured(text)]


@pytest.mark.parametrize(
    "bad",
    [
        "The network reaches 63.2 % on the test set.",
        "The [network](../book/glossary.md#term-network) reaches 63.2 % on the test set.",
        "It ends at 94%, as hoped.",
        "You just lost 9 points, and nothing warned you.",
        "An epoch takes 14 s here.",
        "All this took 12 minutes on two cores.",
        "It trains at 1,094 images/s.",
        "That is 4.4 times faster than DataLoader.",
        "The loss falls to 0.31 at once.",
        "Its accuracy is 0.8861.",
        "| ResNet-20 | 88.6 % |",
    ],
)
def test_a_measured_number_is_seen(bad):
    assert measured(bad)


@pytest.mark.parametrize(
    "good",
    [
        "Every picture is 32 pixels wide and has 3 channels.",
        "Guessing one class in ten is right 10 % of the time.",
        "He et al. report 91.25 % for [ResNet-20](https://arxiv.org/abs/1512.03385).",
        "Train with momentum 0.9 and a learning rate of 0.1.",
        "At the start the loss should be $\\ln 10 = 2.303$.",
        "Will it be above 60 %?",
        "The output of `print(loss)` stands above: `loss 0.31`.",
        "<!-- opening -->\n\n*As last run: 12 min, 90.1%.*\n\n<!-- /opening -->",
        "The 5,000 pictures kept for validation come from the training set.",
        "ResNet-18 has 11,173,962 parameters.",
    ],
)
def test_a_given_number_passes(good):
    assert not measured(good)


# --- Figures ------------------------------------------------------------------------------------


def undescribed(notebook: dict) -> list[str]:
    """Cells whose outputs show a picture without alt text, and Markdown images without it."""
    found = [m[0] for text in markdown(notebook) for m in re.finditer(r"!\[\s*\]\([^)]*\)", text)]
    for cell in code_cells(notebook):
        kinds = {kind for o in cell.get("outputs", []) for kind in o.get("data", {})}
        alt = cell["metadata"].get("mystnb", {}).get("image", {}).get("alt", "")
        if any(kind.startswith("image/") for kind in kinds) and len(alt.strip()) < 20:
            found.append(house.source(cell))
    return found


@each_chapter
def test_figures_are_described(path):
    assert not undescribed(house.read(path))


@pytest.mark.parametrize("alt", [{}, {"mystnb": {"image": {"alt": "a plot"}}}])
def test_a_figure_without_alt_text_is_seen(alt):
    shown = [{"output_type": "display_data", "data": {"image/png": ""}, "metadata": {}}]
    cell = {"cell_type": "code", "metadata": alt, "source": "draw()", "outputs": shown}
    assert undescribed({"cells": [cell]})
    assert undescribed({"cells": [{"cell_type": "markdown", "source": "![](a.svg)"}]})
    cell["metadata"] = {"mystnb": {"image": {"alt": "a plot of loss against epochs"}}}
    assert not undescribed({"cells": [cell]})


# --- Address, contents, generated text ----------------------------------------------------------


def test_the_address_is_in_step():
    stale = address.expected(ROOT, address.address())
    stale = [p.name for p, text in stale.items() if p.read_text(encoding="utf-8") != text]
    assert not stale, "run `make address`"


def test_a_changed_address_reaches_every_place(tmp_path):
    url = "https://github.com/someone/pictures"
    (tmp_path / "notebooks").mkdir()
    for name in ("_config.yml", "CITATION.cff"):
        (tmp_path / name).write_text((ROOT / name).read_text(encoding="utf-8"), encoding="utf-8")
    bare = {"cells": [{"cell_type": "markdown", "metadata": {}, "source": "# A\n\nB"}]}
    (tmp_path / "notebooks" / "00_a.ipynb").write_text(house.dump(bare), encoding="utf-8")
    for _ in range(2):  # the second time changes nothing
        new = address.expected(tmp_path, url)
        for path, text in new.items():
            path.write_text(text, encoding="utf-8")
    assert address.expected(tmp_path, url) == new
    assert address.address(tmp_path) == url
    assert all(url in text or "someone/pictures" in text for text in new.values())
    assert not any("OWNER" in text for text in new.values())
    cells = house.read(tmp_path / "notebooks" / "00_a.ipynb")["cells"]
    assert [c.get("id") for c in cells] == [None, "bootstrap"]
    assert house.source(cells[0]).count("[![") == 1


def test_bootstrap_does_nothing_here(monkeypatch):
    import subprocess

    monkeypatch.setattr(subprocess, "run", pytest.fail)
    exec(address.bootstrap("https://github.com/a/b", "01_data"), {})


def test_generated_text_is_in_step():
    stale = [p.name for p, t in opening.expected().items() if p.read_text(encoding="utf-8") != t]
    assert not stale, "run `python book/tools/opening.py`"


def test_what_others_report_stands_below_the_headline_it_is_beside():
    marked = [(r["beside"], r["accuracy"]) for r in cells.told()["published"] if "beside" in r]
    found, number = [], ""
    for row in opening.beside().strip().splitlines()[2:]:
        who, accuracy, _, _ = (cell.strip() for cell in row.strip("|").split("|"))
        if who.startswith("**"):
            number = re.search(r"notebooks/(\d\d)_\w+\.ipynb", who)[1]
            assert re.match(r"\d+\.\d( ± \d+\.\d)?%", accuracy)
        else:
            found.append((number, accuracy))
    assert sorted(found) == sorted(marked) and found


def test_the_table_of_contents_names_every_page_once():
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    listed = [toc["root"]] + [c["file"] for part in toc["parts"] for c in part["chapters"]]
    there = [p.relative_to(ROOT).with_suffix("").as_posix() for p in [*CHAPTERS, *PAGES]]
    assert sorted(listed) == sorted(there)


def test_this_is_jupyter_book_1():
    assert version("jupyter-book").split(".")[0] == "1"
    config = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    assert config["execute"]["execute_notebooks"] == "off"
    assert config["only_build_toc_files"] is True


# --- The finished HTML --------------------------------------------------------------------------

LOADED = {
    "script": ["src"],
    "img": ["src", "srcset"],
    "source": ["src", "srcset"],
    "video": ["src", "poster"],
    "audio": ["src"],
    "iframe": ["src"],
    "embed": ["src"],
    "object": ["data"],
    "image": ["href", "xlink:href"],
    "use": ["href", "xlink:href"],
    "link": ["href"],
}
LINKED_ONLY = {"canonical", "author", "license", "search", "next", "prev", "index", "alternate"}
OUTSIDE = re.compile(r"^\s*(?:https?:)?//")
CSS_OUTSIDE = re.compile(r"(?:@import\s+|url\()\s*[\"']?\s*(?:https?:)?//[^\"')\s]+")
SCRIPT_OUTSIDE = re.compile(r"(?:import\s*\(?|from|\.src\s*=)\s*[\"'](?:https?:)?//[^\"']+")


def loaded(soup: BeautifulSoup) -> list[str]:
    """Addresses of everything that a page loads by itself; what it only links to is left out."""
    found = []
    for tag in soup.find_all(list(LOADED)):
        if tag.name == "link" and LINKED_ONLY & set(tag.get("rel", [])):
            continue
        found += [tag[attribute] for attribute in LOADED[tag.name] if tag.get(attribute)]
    return found


def from_outside(html: str) -> list[str]:
    """What a page would fetch from the network when it is opened."""
    soup = BeautifulSoup(html, "html.parser")
    found = [source for source in loaded(soup) if OUTSIDE.match(source)]
    for tag in soup.find_all("script"):
        found += SCRIPT_OUTSIDE.findall(tag.get_text())
    for tag in soup.find_all("style"):
        found += CSS_OUTSIDE.findall(tag.get_text())
    for tag in soup.find_all(style=True):
        found += CSS_OUTSIDE.findall(tag["style"])
    return found


@pytest.mark.parametrize(
    "bad",
    [
        '<script src="https://cdn.example/x.js"></script>',
        '<link rel="stylesheet" href="//fonts.example/css">',
        '<link rel="preconnect" href="https://fonts.example">',
        '<img src="http://example.org/a.png">',
        "<style>@import url(https://example.org/a.css);</style>",
        '<p style="background: url(//example.org/a.png)">',
        '<script>import "https://cdn.example/m.mjs"</script>',
        '<iframe src="https://example.org"></iframe>',
    ],
)
def test_a_page_that_needs_the_network_is_seen(bad):
    assert from_outside(bad)


def test_links_may_lead_outside():
    good = '<a href="https://example.org">x</a><script src="_static/a.js"></script>'
    assert not from_outside(good + '<link rel="canonical" href="https://example.org/">')


def pages() -> list[Path]:
    found = sorted(HTML.rglob("*.html"))
    assert found, "no built book: run `make book` first"
    return [p for p in found if "_static" not in p.parts]


@pytest.mark.built
def test_built_pages_read_without_a_network():
    assert {p.name: hits for p in pages() if (hits := from_outside(p.read_text("utf-8")))} == {}
    sheets = (HTML / "_static").rglob("*.css")
    assert {p.name: h for p in sheets if (h := CSS_OUTSIDE.findall(p.read_text("utf-8")))} == {}


@pytest.mark.built
def test_built_pages_have_all_they_load_and_link():
    missing = []
    for page in pages():
        soup = BeautifulSoup(page.read_text("utf-8"), "html.parser")
        wanted = loaded(soup) + [a["href"] for a in soup.find_all("a", href=True)]
        for link in wanted:
            file = re.split(r"[?#]", link)[0]
            if file and not re.match(r"[a-z]+:|//|#", link) and not (page.parent / file).exists():
                missing.append(f"{page.name}: {link}")
    assert not missing


@pytest.mark.built
def test_built_images_are_described():
    for page in pages():
        soup = BeautifulSoup(page.read_text("utf-8"), "html.parser")
        article = soup.find("article")
        assert not [i["src"][:80] for i in (article or soup).find_all("img") if not i.get("alt")]


@pytest.mark.built
def test_built_book_is_whole():
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    listed = [toc["root"]] + [c["file"] for part in toc["parts"] for c in part["chapters"]]
    assert not [name for name in listed if not (HTML / f"{name}.html").exists()]
    assert (HTML / "index.html").exists() and (HTML / "searchindex.js").exists()
    assert (HTML / "_static" / "mathjax" / "tex-svg.js").exists()
    for path in CHAPTERS:
        page = (HTML / "notebooks" / f"{path.stem}.html").read_text("utf-8")
        link = address.badge(address.address(), path.stem).rpartition("(")[2].rstrip(")")
        assert page.count(link) >= 2, f"{path.stem}: Colab badge or launch button missing"
        assert "_static/mathjax/tex-svg.js" in page or "$" not in "".join(
            markdown(house.read(path))
        )
