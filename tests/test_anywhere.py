"""Wherever the book is opened: Colab, JupyterLab, a container, a zip on disk, another language."""

import io
import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
import zipfile
from pathlib import Path

import nbformat
import pytest
import test_book
import yaml
from babel.messages.pofile import read_po, write_po
from browser import chromium
from packaging.specifiers import SpecifierSet
from test_access import AXE, violations

import address
import dist
import editions
import exercises
import house
import new_chapter
import opening

ROOT = house.ROOT
HTML = ROOT / "_build" / "html"
CHAPTERS = house.notebooks()
IGNORED = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints")
each_chapter = pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)


def copied(folder: Path, *rooms: str) -> Path:
    """A copy of some files and folders of the repository."""
    for room in rooms:
        target = folder / room
        target.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / room).is_dir():
            shutil.copytree(ROOT / room, target, ignore=IGNORED)
        else:
            shutil.copy(ROOT / room, target)
    return folder


@pytest.fixture(scope="module")
def browser():
    with chromium() as found:
        yield found


# --- What every program asks of a notebook file ---------------------------------------------------


def strange(notebook: dict) -> list[str]:
    """What Jupyter, VS Code or Colab would stumble over when it opens a notebook."""
    about = notebook["metadata"]
    found = []
    try:
        nbformat.validate(nbformat.from_dict(notebook))
    except nbformat.ValidationError as error:
        found.append(str(error).splitlines()[0])
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    if about.get("kernelspec") != kernel:
        found.append("another kernel than python3: one is asked to choose")
    if about.get("language_info", {}).get("name") != "python":
        found.append("no language: the code is not colored")
    if about.get("accelerator") != "GPU" or "colab" not in about:
        found.append("no GPU asked of Colab")
    names = [cell.get("id") for cell in notebook["cells"]]
    if len(set(names)) != len(names) or None in names:
        found.append("cells without names of their own")
    return found


@each_chapter
def test_notebooks_open_without_a_question(path):
    assert not strange(house.read(path))


@pytest.mark.filterwarnings("ignore:Non-unique cell id")
def test_a_strange_notebook_is_seen():
    good = house.read(CHAPTERS[0])
    kernel = {"display_name": "venv", "language": "python", "name": "venv"}
    for change in ({"kernelspec": kernel}, {"language_info": {"name": "R"}}, {"accelerator": ""}):
        assert len(strange(good | {"metadata": good["metadata"] | change})) == 1
    assert len(strange(good | {"cells": [*good["cells"], good["cells"][0]]})) >= 1


# --- Colab --------------------------------------------------------------------------------------

# Plays Colab: its module is there. git is let through, pip is only noted.
SESSION = """
import importlib.util, json, subprocess, sys, types
sys.modules["google"], sys.modules["google.colab"] = types.ModuleType("google"), object()
cell, absent, then = json.load(sys.stdin)
really, find, ran = subprocess.run, importlib.util.find_spec, []


def run(command, **options):
    ran.append([str(part) for part in command])
    return None if "pip" in command else really(command, **options)


subprocess.run = run
importlib.util.find_spec = lambda name: None if name in absent else find(name)
for _ in range(2):  # a reader runs it again
    exec(cell, {})
importlib.util.find_spec = find
exec(then, {})
import cifar_utils
print(json.dumps({"ran": ran, "package": cifar_utils.__file__}))
"""


@pytest.fixture(scope="module")
def public(tmp_path_factory):
    """The public repository, played by one on this disk; git finds it under the book's address."""
    folder = copied(tmp_path_factory.mktemp("public"), "cifar_utils", "apps", "weights", "LICENSE")
    who = ["-c", "user.name=A", "-c", "user.email=a@example.org"]
    try:
        for command in (["init", "-q"], ["add", "."], [*who, "commit", "-q", "-m", "The book"]):
            subprocess.run(["git", *command], cwd=folder, check=True)
    except FileNotFoundError:
        pytest.skip("no git here")
    return {
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"url.{folder.as_uri()}.insteadOf",
        "GIT_CONFIG_VALUE_0": address.address(),
        "CIFAR_BUDGET": "smoke",
    }


def colab(path: Path, content: Path, env: dict, absent: tuple = (), then: str = "") -> dict:
    """Run a chapter's first code cell as Colab would, with `content` in place of /content."""
    first = next(c for c in house.read(path)["cells"] if c["cell_type"] == "code")
    cell = house.source(first)
    assert '"/content/' in cell
    cell = cell.replace('"/content/', f'"{content.as_posix()}/')
    ways = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-P", "-c", SESSION],
        input=json.dumps([cell, absent, then]),
        env=ways | env,
        cwd=content,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@each_chapter
def test_colab_fetches_the_package_once_and_installs_nothing_that_is_there(path, public, tmp_path):
    found = colab(path, tmp_path, public)
    clone = tmp_path / address.address().rpartition("/")[2]
    assert Path(found["package"]) == clone / "cifar_utils" / "__init__.py"
    assert [command[:3] for command in found["ran"]] == [["git", "clone", "--depth=1"]]
    assert (clone / "weights").is_dir()


def test_colab_installs_just_what_is_absent(public, tmp_path):
    path = next(p for p in CHAPTERS if p.stem == "14_deploy")
    found = colab(path, tmp_path, public, absent=("torchinfo", "onnx"))
    installs = [command for command in found["ran"] if "pip" in command]
    asked = [command[command.index("-q") + 1 :] for command in installs]
    assert asked == [["torchinfo", "onnx"]] * 2


def test_a_chapter_begins_in_colab(public, tmp_path):
    """Its imports and its first cells run from the clone."""
    cells = [c for c in house.read(CHAPTERS[0])["cells"] if c["cell_type"] == "code"]
    then = "\n".join(house.source(c) for c in cells[1:3])
    (tmp_path / "notebooks").mkdir()
    assert colab(CHAPTERS[0], tmp_path, public, then=then)["ran"]


# --- JupyterLab ---------------------------------------------------------------------------------

MODEL = "jupyterapp.shell.currentWidget.context.model.toJSON().cells"
DONE = f"""() => {{
  const cells = {MODEL}.filter(cell => cell.cell_type === 'code');
  return cells.every(cell => cell.execution_count)
    || cells.some(cell => cell.outputs.some(output => output.output_type === 'error'));
}}"""


@pytest.fixture
def lab(tmp_path):
    """A JupyterLab of its own over a copy of the first chapter; its address."""
    root = copied(tmp_path / "book", "cifar_utils", "weights")
    (root / "notebooks").mkdir()
    shutil.copy(CHAPTERS[0], root / "notebooks")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    own = "JUPYTER_CONFIG_DIR JUPYTER_DATA_DIR JUPYTER_RUNTIME_DIR IPYTHONDIR"
    own += " JUPYTERLAB_SETTINGS_DIR JUPYTERLAB_WORKSPACES_DIR"
    env = os.environ | {name: str(tmp_path / name) for name in own.split()}
    env["PYTHONPATH"] = str(root)
    token = secrets.token_hex(8)
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"]
    command += [
        f"--ServerApp.port={port}",
        "--ServerApp.port_retries=0",
        "--ServerApp.ip=127.0.0.1",
    ]
    command += [f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={root}"]
    command += ["--LabApp.expose_app_in_browser=True", "--LabApp.news_url="]
    command += ["--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"]
    with open(tmp_path / "log", "w") as log:
        server = subprocess.Popen(command, env=env, stdout=log, stderr=log)
        try:
            for _ in range(240):
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/api?token={token}", timeout=5)
                    break
                except OSError:
                    assert server.poll() is None, (tmp_path / "log").read_text()
                    time.sleep(0.5)
            name = f"notebooks/{CHAPTERS[0].name}"
            yield f"http://127.0.0.1:{port}/lab/tree/{name}?token={token}"
        finally:
            server.terminate()
            server.wait(60)


@pytest.mark.skipif(sys.platform == "win32", reason="the server ends by a signal")
def test_a_chapter_runs_in_jupyterlab(browser, lab):
    page = browser.new_context(viewport={"width": 1280, "height": 900}).new_page()
    page.set_default_timeout(180_000)
    page.goto(lab)
    fold = page.locator(".jp-Notebook .jp-RenderedMarkdown details").first
    fold.locator("summary").click()
    assert fold.evaluate("d => d.open") and fold.inner_text().strip()
    page.wait_for_selector(".jp-Notebook-ExecutionIndicator[data-status=idle]")
    page.locator(".lm-MenuBar-itemLabel", has_text="Run").first.click()
    page.locator(".lm-Menu-itemLabel", has_text=re.compile(r"^Run All Cells$")).click()
    page.wait_for_function(DONE)
    cells = [cell for cell in page.evaluate(MODEL) if cell["cell_type"] == "code"]
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert not [o for o in outputs if o["output_type"] == "error" or o.get("name") == "stderr"]
    assert sum("image/png" in o.get("data", {}) for o in outputs) >= 5
    judged = [o["text"] for o in outputs if "not yet" in "".join(o.get("text", ""))]
    assert len(judged) == len(exercises.exercises(house.read(CHAPTERS[0])))
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))


# --- A container --------------------------------------------------------------------------------


def test_the_container_is_set_up_by_the_makefile():
    text = (ROOT / ".devcontainer" / "devcontainer.json").read_text(encoding="utf-8")
    container = json.loads(text)
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    python = re.fullmatch(r"python:(3\.\d+)-bookworm", container["image"])[1]
    assert SpecifierSet(re.search(r'requires-python = "(.*)"', project)[1]).contains(python)
    target = container["postCreateCommand"].removeprefix("make ")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert f"READY := {target}\n" in makefile
    chosen = container["customizations"]["vscode"]["settings"]["python.defaultInterpreterPath"]
    assert chosen == "${containerWorkspaceFolder}/.venv/bin/python"


# --- One zip ------------------------------------------------------------------------------------


def test_the_same_book_makes_the_same_zip(tmp_path):
    html = tmp_path / "html"
    (html / "_static" / "locales" / "pl").mkdir(parents=True)
    for name in ("index.html", "objects.inv", "_static/a.js", "_static/a.js.map"):
        (html / name).write_text(name)
    (html / "_static" / "locales" / "pl" / "x.json").write_text("{}")
    one, two = (dist.pack(html, tmp_path / "d" / f"{n}.zip") for n in "ab")
    assert one.read_bytes() == two.read_bytes()
    names = {name.removeprefix(f"{dist.NAME}/") for name in zipfile.ZipFile(one).namelist()}
    assert names == {"README.txt", "LICENSE", "LICENSE-TEXT", "index.html", "_static/a.js"}
    assert sorted(p.name for p in one.parent.iterdir()) == ["a.zip", "b.zip"]
    with pytest.raises(FileNotFoundError, match="make book"):
        dist.pack(tmp_path, tmp_path / "c.zip")


@pytest.mark.built
def test_the_zip_is_read_without_a_network(browser, tmp_path):
    zipfile.ZipFile(dist.pack(HTML, tmp_path / "book.zip")).extractall(tmp_path)
    folder = tmp_path / dist.NAME
    assert "index.html" in (folder / "README.txt").read_text()
    asked, thrown = [], []
    context = browser.new_context(offline=True)
    context.on("request", lambda request: asked.append(request.url))
    page = context.new_page()
    page.on("pageerror", lambda error: thrown.append(str(error)))
    page.set_default_timeout(60_000)
    page.goto((folder / "index.html").as_uri())
    page.wait_for_url("**/book/preface.html")
    page.goto((folder / "notebooks" / "00_warm_up.html").as_uri())
    page.wait_for_selector("mjx-container svg")
    broken = "[...document.images].filter(i => i.complete && !i.naturalWidth).map(i => i.src)"
    assert not page.evaluate(broken)
    page.keyboard.press("Control+k")
    page.keyboard.type("broadcasting")
    page.keyboard.press("Enter")
    page.wait_for_selector("#search-results li a")
    found = page.locator("#search-results li a").evaluate_all("links => links.map(a => a.href)")
    page.wait_for_function("!document.querySelector('#search-progress')?.textContent.trim()")
    assert any("00_warm_up.html" in link for link in found)
    assert page.locator("#search-results p.context").count() == 0
    assert not thrown and len(asked) > 20
    assert not [url for url in asked if not url.startswith(("file:", "data:", "blob:"))]
    sizes = [p.stat().st_size for p in folder.rglob("*")]
    assert max(sizes) < 25 * 2**20, "a file that is too large to send"
    context.close()


# --- Another language ---------------------------------------------------------------------------

PAGE = """# A small page

Read [the warm-up](../notebooks/00_warm_up.ipynb) first.

Nobody translated this.
"""
ALT = (
    "Ten small color pictures in a row, each labeled with its class name; no two of the same class."
)
LINK = "[{}](../notebooks/00_warm_up.ipynb)"
CHINESE = {
    "A small page": "一个小页面",
    f"Read {LINK.format('the warm-up')} first.": f"先读{LINK.format('热身')}。",
    "A picture is a tensor": "图片是张量",
    "Answers": "答案",
    ALT: "一行十张彩色小图，每张标有类名；没有两张同类。",
}


@pytest.fixture
def two_editions(tmp_path):
    """A small book of one page and one notebook, with a Chinese edition on its list."""
    book = copied(tmp_path / "book", "book/_static", "book/_templates", "book/tools")
    copied(book, "book/references.bib", "notebooks/00_warm_up.ipynb", "_config.yml")
    (book / "book" / "a.md").write_text(PAGE, encoding="utf-8")
    notebook = book / "notebooks" / "00_warm_up.ipynb"  # without links to pages that are not here
    away = r"\[([^\[\]]*)\]\((?:\.\./book/[^_)][^)]*|\d\d_[^)]*)\)"
    text = re.sub(away, r"\1", notebook.read_text(encoding="utf-8"))
    notebook.write_text(text, encoding="utf-8")
    toc = "format: jb-book\nroot: book/a\nchapters:\n  - file: notebooks/00_warm_up\n"
    (book / "_toc.yml").write_text(toc, encoding="utf-8")
    config = (book / "_config.yml").read_text(encoding="utf-8")
    first = "        - {code: en, name: English}\n"
    assert first in config
    config = config.replace(first, f"{first}        - {{code: zh_CN, name: 简体中文}}\n")
    (book / "_config.yml").write_text(config, encoding="utf-8")
    return book


def tool(book: Path, name: str, *arguments: str) -> str:
    command = [sys.executable, f"book/tools/{name}.py", *arguments]
    env = os.environ | {"PYTHONUTF8": "1"}
    done = subprocess.run(command, cwd=book, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.built
def test_a_page_and_a_notebook_appear_in_chinese(two_editions, browser):
    book, untouched = two_editions, 0
    said = tool(book, "editions", "text", "zh_CN")
    assert "book/a.po: 0 of 3" in said
    catalogs = book / "book" / "locales" / "zh_CN" / "LC_MESSAGES"
    for po in (catalogs / "book" / "a.po", catalogs / "notebooks" / "00_warm_up.po"):
        found = read_po(io.BytesIO(po.read_bytes()))
        for message in found:
            message.string = CHINESE.get(message.id, message.string)
            untouched += message.id not in CHINESE
        assert any(message.string in CHINESE.values() for message in found)
        with po.open("wb") as out:
            write_po(out, found)
    assert untouched > 50
    said = tool(book, "editions", "text", "zh_CN")  # what is translated stays
    assert "book/a.po: 2 of 3" in said and "notebooks/00_warm_up.po: 3 of" in said
    html = book / "_build" / "html"
    command = "build --all -W -n --keep-going .".split()
    jupyter_book = Path(sys.executable).with_name("jupyter-book")
    subprocess.run([jupyter_book, *command], cwd=book, check=True, capture_output=True)
    tool(book, "editions", "build")
    assert not list(book.joinpath("book").rglob("*.mo")), "the tree stays as it is"
    for name in ("book/a.html", "notebooks/00_warm_up.html", "search.html"):
        first, second = ((html / at / name).read_text("utf-8") for at in ("", "zh_CN"))
        assert '<html lang="en"' in first and '<html lang="zh-CN"' in second
        for at, text in (("", first), ("zh_CN", second)):
            links = re.findall(r'dropdown-item" href="([^"]*)" lang="([^"]*)"', text)
            assert [tag for _, tag in links] == ["en", "zh-CN"]
            ends = [(html / at / name).parent.joinpath(link).resolve() for link, _ in links]
            assert ends == [(html / name).resolve(), (html / "zh_CN" / name).resolve()]
        assert not any(word in first for word in CHINESE.values())
    page = (html / "zh_CN" / "book" / "a.html").read_text("utf-8")
    assert "一个小页面" in page and "热身" in page and "Nobody translated this." in page
    page = (html / "zh_CN" / "notebooks" / "00_warm_up.html").read_text("utf-8")
    assert "图片是张量" in page and 'alt="一行十张彩色小图' in page
    assert page.count("<details>") == page.count("</details>") >= 3
    assert "<summary>答案</summary>" in page and "<summary>Answers</summary>" not in page
    context = browser.new_context(viewport={"width": 1280, "height": 700})
    page = context.new_page()
    page.goto((html / "notebooks" / "00_warm_up.html").as_uri())
    menu = page.locator(".dropdown-languages")
    assert menu.locator("button").get_attribute("aria-label") == "English, 简体中文"
    menu.locator("button").focus()
    page.keyboard.press("Enter")
    menu.locator(".dropdown-menu.show").wait_for()
    if AXE.exists():
        assert not violations(page)
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    page.wait_for_url("**/zh_CN/notebooks/00_warm_up.html")
    context.close()


def test_a_sentence_that_changed_keeps_its_translation_aside(tmp_path):
    template, po = tmp_path / "a.pot", tmp_path / "a.po"
    head = 'msgid ""\nmsgstr "Content-Type: text/plain; charset=utf-8\\n"\n\n'
    entry = '#: ../a.md:{}\nmsgid "{}"\nmsgstr ""\n\n'
    old, new = "A residual block adds its input.", "A residual block adds its own input."
    template.write_text(head + entry.format(7, old) + entry.format(9, "Kept."), encoding="utf-8")
    text, messages, done = editions.catalog(template, po, "zh_CN")
    assert (messages, done) == (2, 0) and "#: a.md\n" in text
    text = text.replace(f'msgid "{old}"\nmsgstr ""', f'msgid "{old}"\nmsgstr "残差块"')
    po.write_text(text.replace('"Kept."\nmsgstr ""', '"Kept."\nmsgstr "留"'), encoding="utf-8")
    assert editions.catalog(template, po, "zh_CN")[1:] == (2, 2)
    template.write_text(head + entry.format(8, new) + entry.format(9, "Kept."), encoding="utf-8")
    text, messages, done = editions.catalog(template, po, "zh_CN")
    assert (messages, done) == (2, 1) and "#, fuzzy" in text and "残差块" in text


def test_one_edition_needs_no_menu():
    config = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))["sphinx"]["config"]
    listed = [edition["code"] for edition in config["html_context"]["editions"]]
    assert listed[0] == config["language"]
    locales = ROOT / editions.LOCALES
    assert all((locales / code / "LC_MESSAGES").is_dir() for code in listed[1:])


# --- A new chapter ------------------------------------------------------------------------------


NUMBER = "99"  # of a chapter that there will never be


@pytest.fixture
def house_copy(tmp_path):
    rooms = "_config.yml _toc.yml README.md book notebooks results studies weights cifar_utils apps"
    return copied(tmp_path, *rooms.split())


def test_a_new_chapter_has_the_form_of_all_chapters(house_copy):
    title = "A topic: what it finds"
    stem = new_chapter.create(NUMBER, "my_topic", title, ["stem", "classes"], house_copy)
    path = house_copy / "notebooks" / f"{stem}.ipynb"
    notebook = house.read(path)
    assert house.title(notebook) == title and not strange(notebook)
    assert path.read_text(encoding="utf-8") == house.dump(notebook)
    assert not test_book.not_python(notebook) and not test_book.too_long(notebook)
    texts = test_book.markdown(notebook)
    assert not [hit for text in texts for hit in test_book.myst_only(text)]
    assert not [sentence for text in texts for sentence in test_book.measured(text)]
    assert not exercises.faults(notebook) and exercises.filled(notebook) == notebook
    made = address.expected(house_copy, address.address()) | opening.expected(house_copy)
    assert not [p.name for p, text in made.items() if p.read_text(encoding="utf-8") != text]
    toc = yaml.safe_load((house_copy / "_toc.yml").read_text(encoding="utf-8"))
    listed = [c["file"] for part in toc["parts"] for c in part["chapters"]]
    place = listed.index(f"notebooks/{stem}")
    assert listed[place - 1] == f"notebooks/{CHAPTERS[-1].stem}"
    assert listed.count(f"notebooks/{stem}") == 1
    for link in re.findall(r"\]\((\.\./book/[^)]*)\)", "".join(texts)):
        assert (path.parent / link).exists()
    drawn = (house_copy / "book" / "figures" / "strip" / f"{stem}.svg").read_text(encoding="utf-8")
    assert drawn.count(new_chapter.LIT) == 2 and drawn.count(new_chapter.DIM) == 6
    assert drawn.count('font-weight="700"') == 2 and "Lit here: stem and classes." in drawn


def test_a_new_chapter_runs_and_its_checks_judge(house_copy):
    stem = new_chapter.create(NUMBER, "my_topic", "A topic", new_chapter.PARTS, house_copy)
    path = house_copy / "notebooks" / f"{stem}.ipynb"
    done = exercises.proof(path, house_copy)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(": right.") == exercises.FEWEST


def test_a_chapter_in_between_finds_its_place():
    toc = "  - file: notebooks/03_a\n  - file: book/b\n  - file: notebooks/14_c\n"
    new = new_chapter.listed(toc, "12_fast").splitlines()
    assert new[1] == "  - file: notebooks/12_fast" and len(new) == 4


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("5", "my_topic", "A", []), "two digits"),
        ((NUMBER, "My-Topic", "A", []), "two digits"),
        ((NUMBER, "my_topic", " ", []), "title"),
        (("04", "my_topic", "A", []), "is taken: 04_resnet_training.ipynb"),
        ((NUMBER, "my_topic", "A", ["roof"]), "no roof"),
    ],
)
def test_a_chapter_that_cannot_be_is_refused(house_copy, arguments, said):
    before = sorted(house_copy.rglob("*"))
    with pytest.raises(ValueError, match=said):
        new_chapter.create(*arguments, house_copy)
    assert sorted(house_copy.rglob("*")) == before


# --- For the next maintainer --------------------------------------------------------------------


def test_hooks_use_the_pinned_ruff_and_know_the_large_files():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    revisions = {repo["repo"].rpartition("/")[2]: repo["rev"] for repo in hooks["repos"]}
    pin = re.search(r"^ruff==(\S+)", (ROOT / "requirements.txt").read_text(), re.M)[1]
    assert revisions["ruff-pre-commit"] == f"v{pin}"
    rules = {hook["id"]: hook for repo in hooks["repos"] for hook in repo["hooks"]}
    assert {"ruff-check", "ruff-format", "end-of-file-fixer"} <= rules.keys()
    large = rules["check-added-large-files"]
    limit = int(large["args"][0].removeprefix("--maxkb=")) * 1024
    known = re.compile(large["exclude"])
    rooms = ("book", "notebooks", "results", "weights")
    files = [p for room in rooms for p in (ROOT / room).rglob("*") if p.is_file()]
    there = {p.relative_to(ROOT).as_posix(): p.stat().st_size for p in files}
    assert not [name for name, size in there.items() if size > limit and not known.search(name)]
    assert any(known.search(name) for name in there)


def test_the_citation_has_what_the_format_asks_for():
    """The fields that Citation File Format 1.2.0 requires, and those given here in its form."""
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert cited["cff-version"] == "1.2.0" and cited["type"] in ("software", "dataset")
    assert cited["message"] and cited["title"] and cited["authors"]
    config = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    assert cited["title"] == config["title"] and cited["authors"] == [{"name": config["author"]}]
    assert cited["license"] == ["MIT", "CC-BY-4.0"]
    assert cited["repository-code"] == address.address()
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert f'version = "{cited["version"]}"' in project
    preferred = cited["preferred-citation"]
    assert preferred["type"] == "book" and preferred["title"] == cited["title"]
    assert str(preferred["year"]) == config["copyright"]


def test_contributing_names_only_what_there_is():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.M))
    assert set(re.findall(r"(?:^|`)make ([a-z-]+)\b", text, re.M)) <= targets
    names = re.findall(r"`([\w./-]+/[\w.-]+\.(?:py|yml|yaml|md|cff|toml|css))`", text)
    assert len(names) > 5 and not [name for name in names if not (ROOT / name).exists()]
    assert len(re.findall(r"^\d\. ", text.split("six steps")[1].split("\n## ")[0], re.M)) == 6
