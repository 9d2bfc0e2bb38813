"""The book for every reader: by keyboard, by ear, in the dark, on a phone, without color vision.

What needs the built book runs with `pytest -m built`; what needs axe-core, with `make access`.
"""

import os
import re
import xml.etree.ElementTree as ET
from itertools import combinations
from pathlib import Path

import matplotlib as mpl
import pytest
import torch
from browser import chromium
from torch import nn

import book_pages
import house
from cifar_utils import models, plots

ROOT = house.ROOT
HTML = ROOT / "_build" / "html"
DRAWINGS = sorted((ROOT / "book" / "figures").rglob("*.svg"))
AXE = Path(os.environ.get("AXE") or ROOT / "_build/axe/node_modules/axe-core/axe.min.js")
each_drawing = pytest.mark.parametrize(
    "path", DRAWINGS, ids=lambda p: p.relative_to(ROOT / "book" / "figures").as_posix()
)


# --- Colors -------------------------------------------------------------------------------------


def linear(color: str, dimmed: float = 1.0) -> list[float]:
    """A color `#rrggbb` as light, red, green and blue in 0..1 (sRGB's curve undone).

    dimmed: the factor of CSS's `brightness`.
    """
    parts = [int(color[i : i + 2], 16) / 255 * dimmed for i in (1, 3, 5)]
    return [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]


def contrast(one: str, other: str, dimmed: float = 1.0) -> float:
    """The contrast ratio of two colors, 1 to 21 (WCAG 2.2)."""
    weights, pair = (0.2126, 0.7152, 0.0722), (linear(one, dimmed), linear(other, dimmed))
    a, b = (sum(w * c for w, c in zip(weights, light, strict=True)) for light in pair)
    return (max(a, b) + 0.05) / (min(a, b) + 0.05)


def test_contrast_is_measured_as_it_should():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


# What a reader without one kind of cone sees, in linear light: protan, deutan, tritan.
# Machado, Oliveira and Fernandes, 2009, severity 1.0.
WITHOUT = {
    "protan": "0.152286 1.052583 -0.204868 0.114503 0.786281 0.099216 -0.003882 -0.048116 1.051998",
    "deutan": "0.367322 0.860646 -0.227968 0.280085 0.672501 0.047413 -0.011820 0.042940 0.968881",
    "tritan": "1.255528 -0.076749 -0.178779 -0.078411 0.930809 0.147602 0.004733 0.691367 0.303900",
}


def lab(light: torch.Tensor) -> torch.Tensor:
    """Linear sRGB as CIE L*a*b* (D65), in which distances are differences that are seen."""
    matrix = "0.4124 0.3576 0.1805 0.2126 0.7152 0.0722 0.0193 0.1192 0.9505"
    white = torch.tensor([0.9505, 1.0, 1.089])
    xyz = torch.tensor([float(x) for x in matrix.split()]).view(3, 3) @ light.clamp(0, 1) / white
    f = torch.where(xyz > 0.008856, xyz ** (1 / 3), 7.787 * xyz + 16 / 116)
    return torch.stack([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def nearest(colors: list[str], eyes: str) -> float:
    """The smallest difference between two of the colors as such a reader sees them."""
    matrix = torch.tensor([float(x) for x in WITHOUT[eyes].split()]).view(3, 3)
    seen = [lab(matrix @ torch.tensor(linear(c))) for c in colors]
    return min((a - b).norm().item() for a, b in combinations(seen, 2))


@pytest.mark.parametrize("eyes", WITHOUT)
def test_lines_are_told_apart_without_color_vision(eyes):
    assert plots.curves  # importing the module sets the style
    cycle = mpl.rcParams["axes.prop_cycle"].by_key()["color"]
    assert nearest(cycle, eyes) > 10


def test_red_and_green_are_seen_to_be_alike():
    assert nearest(["#2ca02c", "#d62728"], "deutan") < nearest(["#0072B2", "#D55E00"], "deutan") / 2


# --- Drawings -----------------------------------------------------------------------------------

SVG = "{http://www.w3.org/2000/svg}"
CSS = (ROOT / "book" / "_static" / "custom.css").read_text(encoding="utf-8")
DIMMED = float(re.search(r"filter: brightness\(([\d.]+)\)", CSS)[1])  # on a dark page


def pale(path: Path) -> list[str]:
    """Words of a drawing whose contrast against what lies under them is below 4.5, dimmed, too."""
    boxes, found = [], []
    for node in ET.parse(path).getroot():
        if node.tag == f"{SVG}rect":
            x, y, w, h = (float(node.get(k, 0)) for k in ("x", "y", "width", "height"))
            boxes.append((x, y, x + w, y + h, node.get("fill")))
        elif node.tag == f"{SVG}circle":
            x, y, r = (float(node.get(k)) for k in ("cx", "cy", "r"))
            boxes.append((x - r, y - r, x + r, y + r, node.get("fill")))
        elif node.tag == f"{SVG}text":
            x, y = float(node.get("x")), float(node.get("y")) - float(node.get("font-size")) / 3
            under = [fill for a, b, c, d, fill in boxes if a <= x <= c and b <= y <= d]
            paper = next(fill for fill in reversed(under) if fill != "none")
            ratio = min(contrast(node.get("fill"), paper, by) for by in (1, DIMMED))
            found += [f"{node.text}: {ratio:.1f}"] if ratio < 4.5 else []
    return found


@each_drawing
def test_drawings_can_be_read_on_paper_of_their_own(path):
    """They bring light paper along, so that they read the same on a dark page."""
    root = ET.parse(path).getroot()
    paper = root.find(f"{SVG}rect")
    assert float(paper.get("width")) + 1 == float(root.get("width"))
    assert float(paper.get("height")) + 1 == float(root.get("height"))
    assert not pale(path)


@each_drawing
def test_drawings_have_a_title_and_a_description(path):
    root = ET.parse(path).getroot()
    assert root.get("role") == "img" and root.get("aria-labelledby") == "title desc"
    assert root.find(f"{SVG}title").text and len(root.find(f"{SVG}desc").text) > 60


def test_a_pale_word_is_seen(tmp_path):
    box = '<rect width="9" height="9" fill="#ffffff"/>'
    word = '<text x="4" y="4" font-size="3" fill="{}">x</text>'
    for fill, wrong in (("#98a2b3", 1), ("#1f2937", 0)):
        text = f'<svg xmlns="{SVG[1:-1]}">{box}{word.format(fill)}</svg>'
        (tmp_path / "a.svg").write_text(text, encoding="utf-8")
        assert len(pale(tmp_path / "a.svg")) == wrong


def drawn_shapes(path: Path) -> dict[str, str]:
    """What a strip says: part → shape, from its pairs of words."""
    words = [t.text for t in ET.parse(path).getroot().iter(f"{SVG}text")]
    return dict(zip(words[::2], words[1::2], strict=True))


def true_shapes(classes: int) -> dict[str, str]:
    """The shapes that a ResNet-18 with a CIFAR stem gives one picture, part by part."""
    model, x = models.resnet18(num_classes=classes).eval(), torch.zeros(1, 3, 32, 32)
    parts = {"picture": nn.Identity(), "stem": model.conv1}
    parts |= {f"stage {n}": model.get_submodule(f"layer{n}") for n in range(1, 5)}
    parts |= {"pool": nn.AdaptiveAvgPool2d(1), "classes": nn.Sequential(nn.Flatten(), model.fc)}
    found = {}
    with torch.no_grad():
        for name, part in parts.items():
            x = part(x)
            found[name] = "×".join(str(n) for n in x.shape[1:] if n > 1)
    return found


@pytest.mark.parametrize(
    "path", [p for p in DRAWINGS if p.parent.name == "strip"], ids=lambda path: path.stem
)
def test_the_strip_has_the_shapes_of_the_network(path):
    shown = drawn_shapes(path)
    classes = shown["classes"]
    assert classes in ("10", "100", "yours")
    true = true_shapes(int(classes) if classes.isdecimal() else 10)
    assert shown == true | {"classes": classes}


def test_the_stages_are_those_of_the_networks():
    path = ROOT / "book" / "figures" / "stages.svg"
    words = [t.text for t in ET.parse(path).getroot().iter(f"{SVG}text")]
    true = true_shapes(10)
    assert all(words[words.index(name) + 1] == true[name] for name in true if "stage" in name)
    for name, make in {
        "ResNet-18": models.resnet18,
        "ResNet-34 and 50": models.resnet34,
        "ResNet-101": models.resnet101,
        "ResNet-152": models.resnet152,
    }.items():
        network = make(stem="cifar")
        blocks = [len(network.get_submodule(stage)) for stage in network.stages]
        assert words[words.index(name) + 1] == " ".join(map(str, blocks))


# --- Alt text -----------------------------------------------------------------------------------

EMPTY_WORDS = re.compile(
    r"^(?:an? )?(?:image|picture|figure|plot|graph|chart|diagram|screenshot|output)\b(?: of)?"
    r"(?: \w+){0,2}\.?$|^(?:image|figure|plot) of\b|\.(?:png|svg|jpe?g)$",
    re.I,
)


def described(notebook: dict) -> list[str]:
    """The alt texts of a notebook: of its cells' figures, and of images in its Markdown."""
    found = []
    for cell in notebook["cells"]:
        alt = cell["metadata"].get("mystnb", {}).get("image", {}).get("alt")
        found += [alt] if alt else []
        if cell["cell_type"] == "markdown":
            found += re.findall(r"(?<!\[)!\[([^\]]*)\]\(", house.source(cell))
    return found


def empty(alt: str, title: str = "") -> bool:
    """Whether an alt text says nothing of what the figure shows."""
    return len(alt.split()) < 6 or bool(EMPTY_WORDS.search(alt.strip())) or alt == title


@pytest.mark.parametrize("path", house.notebooks(), ids=lambda path: path.stem)
def test_alt_text_says_what_is_to_be_seen(path):
    notebook = house.read(path)
    alts = described(notebook)
    code = "".join(house.source(c) for c in notebook["cells"] if c["cell_type"] == "code")
    assert not [alt for alt in alts if empty(alt) or f'"{alt}"' in code]
    assert len(alts) == len(set(alts)), "two figures cannot look the same"


@pytest.mark.parametrize("path", sorted((ROOT / "book").glob("*.md")), ids=lambda path: path.stem)
def test_alt_text_of_pages_says_what_is_to_be_seen(path):
    alts = re.findall(r":alt: (.*)", path.read_text(encoding="utf-8"))
    assert not [alt for alt in alts if empty(alt)]


@pytest.mark.parametrize(
    "bad", ["A plot of the loss.", "image of a network with eight boxes in a row", "strip.svg"]
)
def test_alt_text_that_says_nothing_is_seen(bad):
    assert empty(bad)
    assert not empty("Loss against step: a curve that starts at ln 10 and falls toward zero.")


# --- Languages ----------------------------------------------------------------------------------

EVERY = [{"code": "en", "name": "English"}, {"code": "zh_CN", "name": "简体中文"}]


def test_a_page_finds_itself_in_the_other_editions():
    hrefs = [e["href"] for e in book_pages.editions(EVERY, "en", "book/a.html")]
    assert hrefs == ["../book/a.html", "../zh_CN/book/a.html"]
    here = book_pages.editions(EVERY, "zh_CN", "book/a.html")
    assert [e["href"] for e in here] == ["../../book/a.html", "../../zh_CN/book/a.html"]
    assert [e["here"] for e in here] == [False, True]
    assert [e["tag"] for e in here] == ["en", "zh-CN"]
    assert book_pages.editions(EVERY, "en", "search.html")[1]["href"] == "zh_CN/search.html"


# --- The finished book --------------------------------------------------------------------------


def pages() -> list[Path]:
    """The pages of the built book, but for the one that only leads to the first."""
    return [
        p for p in sorted(HTML.rglob("*.html")) if "_static" not in p.parts and p.stem != "index"
    ]


@pytest.fixture(scope="module")
def browser():
    with chromium() as found:
        yield found


@pytest.fixture
def opened(browser):
    """Opens a page of the built book in a window of its own; what it throws fails the test."""
    contexts, thrown = [], []

    def open_page(path: Path, width: int = 1280, scheme: str = "light", **options):
        assert path.exists(), "no built book: run `make book` first"
        size = {"width": width, "height": 900}
        contexts.append(
            browser.new_context(
                viewport=size, color_scheme=scheme, reduced_motion="reduce", **options
            )
        )
        page = contexts[-1].new_page()
        page.set_default_timeout(60_000)
        page.on("pageerror", lambda error: thrown.append(str(error)))
        page.goto(path.as_uri(), wait_until="load")
        page.wait_for_function("!document.querySelector('i.fa-solid')")  # icons are drawn
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not thrown


def violations(page) -> list[str]:
    """What axe-core finds serious or critical on a page as it stands, with the first place."""
    if not page.evaluate("'axe' in window"):
        page.evaluate(AXE.read_text(encoding="utf-8"))
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")["violations"]
    return [
        f"{v['id']}, {v['impact']}, {len(v['nodes'])} ×: {v['nodes'][0]['html'][:160]}"
        for v in found
        if v["impact"] in ("serious", "critical")
    ]


needs_axe = pytest.mark.skipif(not AXE.exists(), reason="no axe-core here: `make access` brings it")
UNFOLD = "document.querySelectorAll('article details').forEach(d => { d.open = true; })"
SETTLED = 500  # ms: the theme measures what scrolls 300 ms after a change


@needs_axe
@pytest.mark.built
@pytest.mark.parametrize("path", pages(), ids=lambda path: path.stem)
@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (1280, "dark"), (390, "dark")])
def test_axe_finds_nothing_serious(opened, path, scheme, width):
    page = opened(path, width, scheme)
    assert page.evaluate("document.documentElement.dataset.theme") == scheme
    page.evaluate(UNFOLD)
    page.wait_for_timeout(SETTLED)
    assert not violations(page)


@needs_axe
@pytest.mark.built
def test_axe_finds_what_is_wrong(opened):
    page = opened(HTML / "book" / "part_one.html")
    page.evaluate("document.querySelector('article').innerHTML += '<img src=\"a.png\">'")
    assert "image-alt" in violations(page)[0]


@needs_axe
@pytest.mark.built
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious_in_what_opens(opened, scheme):
    page = opened(HTML / "notebooks" / "00_warm_up.html", scheme=scheme)
    page.keyboard.press("Control+k")
    page.wait_for_selector("#pst-search-dialog[open]")
    assert not violations(page)
    page.keyboard.press("Escape")
    page.click(".dropdown-download-buttons > button")
    page.wait_for_selector(".dropdown-download-buttons .dropdown-menu.show")
    assert not violations(page)
    phone = opened(HTML / "notebooks" / "00_warm_up.html", 390, scheme)
    phone.click(".primary-toggle")
    phone.wait_for_selector("#pst-primary-sidebar-modal[open] nav a")
    assert not violations(phone)


CUT = """() => [...document.querySelectorAll('article *, .bd-header-article *, footer *')]
  .filter(e => {
    const box = e.getBoundingClientRect();
    if (!box.width || !box.height || (box.right <= innerWidth + 1 && box.left >= -1)) return false;
    for (let up = e.parentElement; up && up !== document.body; up = up.parentElement)
      if (['auto', 'scroll'].includes(getComputedStyle(up).overflowX)
          && up.getBoundingClientRect().right <= innerWidth + 1) return false;
    return true;
  }).map(e => e.outerHTML.slice(0, 120))"""


@pytest.mark.built
@pytest.mark.parametrize("path", pages(), ids=lambda path: path.stem)
def test_a_phone_shows_all_without_scrolling_sideways(opened, path):
    """Tables, code and formulas scroll in a box of their own, which Tab reaches; nothing is cut."""
    page = opened(path, 390)
    page.evaluate(UNFOLD)
    page.wait_for_timeout(SETTLED)
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    assert not page.evaluate(CUT)
    boxes = "article pre, article .pst-scrollable-table-container, article .output"
    stuck = f"""[...document.querySelectorAll({boxes!r})].filter(e => e.tabIndex < 0
        && e.scrollWidth > e.clientWidth).map(e => e.outerHTML.slice(0, 120))"""
    assert not page.evaluate(stuck)


@pytest.mark.built
def test_what_is_too_wide_for_a_phone_is_seen(opened):
    page = opened(HTML / "book" / "references.html", 390)
    page.evaluate("document.querySelector('article').innerHTML = '<p style=width:500px>x</p>'")
    assert page.evaluate(CUT)


# --- By keyboard --------------------------------------------------------------------------------

HERE = "document.activeElement"


@pytest.mark.built
def test_the_first_tab_skips_to_the_text(opened):
    page = opened(HTML / "notebooks" / "00_warm_up.html")
    page.keyboard.press("Tab")
    assert page.evaluate(f"{HERE}.textContent") == "Skip to main content"
    page.wait_for_function(f"{HERE}.getBoundingClientRect().y >= 0")  # it slides into view
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    assert page.evaluate(f"{HERE}.closest('#main-content') !== null")


MARKED = f"""(style => style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 2
    || style.boxShadow.includes(' 3px'))(getComputedStyle({HERE}))"""


@pytest.mark.built
def test_who_goes_by_tab_sees_where_he_is(opened):
    page = opened(HTML / "notebooks" / "00_warm_up.html")
    stops = []
    for _ in range(60):
        page.keyboard.press("Tab")
        stops.append(page.evaluate(f"{HERE}.tagName + '.' + {HERE}.className"))
        assert page.evaluate(MARKED), stops[-1]
    assert any("theme-switch" in stop for stop in stops) and len(set(stops)) > 8
    page.evaluate("document.head.innerHTML += '<style>*:focus-visible {outline: 0 !important}'")
    assert not page.evaluate(MARKED)


@pytest.mark.built
def test_the_contents_open_by_keyboard_on_a_phone_and_fold_away_on_a_desk(opened):
    name = HTML / "notebooks" / "00_warm_up.html"
    phone, contents = opened(name, 390), "#pst-primary-sidebar-modal"
    phone.locator(".primary-toggle").focus()
    phone.keyboard.press("Enter")
    phone.wait_for_selector(f"{contents}[open] nav a")
    phone.keyboard.press("Escape")
    phone.wait_for_selector(contents, state="hidden")
    assert "primary-toggle" in phone.evaluate(f"{HERE}.className"), "and one is back where one was"
    phone.locator(".secondary-toggle").focus()
    phone.keyboard.press("Enter")
    phone.wait_for_selector("#pst-secondary-sidebar-modal[open] nav a")
    desk = opened(name)
    assert desk.is_visible("#pst-primary-sidebar")
    desk.locator(".primary-toggle").focus()
    desk.keyboard.press("Enter")
    desk.wait_for_function("document.querySelector('#pst-primary-sidebar').offsetLeft < -100")


@pytest.mark.built
def test_search_goes_by_keyboard(opened):
    page = opened(HTML / "book" / "preface.html")
    page.keyboard.press("Control+k")
    page.wait_for_selector("#pst-search-dialog[open]")
    assert page.evaluate(f"{HERE}.name") == "q"
    page.keyboard.type("momentum")
    page.keyboard.press("Enter")
    page.wait_for_selector("#search-results li a")
    assert "search.html?q=momentum" in page.url
    page.locator("#search-results li a").first.focus()
    with page.expect_navigation():
        page.keyboard.press("Enter")
    assert "momentum" in page.text_content("article").lower()


@pytest.mark.built
def test_light_and_dark_go_by_keyboard(opened):
    page = opened(HTML / "book" / "preface.html")
    page.locator(".theme-switch-button:visible").focus()
    seen = []
    for _ in range(3):
        page.keyboard.press("Enter")
        seen.append(page.evaluate("document.documentElement.dataset.mode"))
    assert sorted(seen) == ["auto", "dark", "light"]
    while page.evaluate("document.documentElement.dataset.theme") != "dark":
        page.keyboard.press("Enter")
    page.reload()
    assert page.evaluate("document.documentElement.dataset.theme") == "dark", "it is remembered"


@pytest.mark.built
def test_what_is_folded_unfolds_by_keyboard_and_its_code_scrolls(opened):
    page = opened(HTML / "notebooks" / "00_warm_up.html", 390)
    fold = page.locator("article details:has(pre)").last
    fold.locator("summary").focus()
    page.keyboard.press("Enter")
    assert fold.evaluate("d => d.open")
    page.wait_for_timeout(SETTLED)
    assert fold.locator("pre").first.evaluate("e => e.scrollWidth > e.clientWidth")
    for _ in range(3):  # the code comes next, or after the button that copies it
        page.keyboard.press("Tab")
        if page.evaluate(f"{HERE}.tagName") == "PRE":
            break
    assert page.evaluate(f"{HERE}.tagName") == "PRE"
    page.keyboard.press("ArrowRight")
    page.wait_for_function(f"{HERE}.scrollLeft > 0")
