"""The convolution that a reader moves by hand (book/convolution.md), in a real browser.

The page is made from its source, without Sphinx, so that it is never older than what it tests;
`pytest -m built` looks at the one in the finished book as well.
"""

import re
import shutil

import pytest
import torch
from browser import chromium
from docutils.core import publish_string
from myst_parser.docutils_ import Parser
from torch import Tensor
from torch.nn import functional as F

import house

STATIC = house.ROOT / "book" / "_static"
PAGE = house.ROOT / "book" / "convolution.md"
BUILT = house.ROOT / "_build" / "html" / "book" / "convolution.html"
FILES = ("convolution.js", "convolution.css")
IDENTITY, BLUR, EDGE, SHARPEN = range(4)
KERNELS = {
    IDENTITY: [0, 0, 0, 0, 1, 0, 0, 0, 0],
    BLUR: [x / 16 for x in (1, 2, 1, 2, 4, 2, 1, 2, 1)],
    EDGE: [-1, 0, 1, -1, 0, 1, -1, 0, 1],
    SHARPEN: [0, -1, 0, -1, 5, -1, 0, -1, 0],
}


@pytest.fixture(scope="module")
def browser():
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """The page as a file, with what it loads beside it, as in the book."""
    folder = tmp_path_factory.mktemp("html")
    (folder / "_static").mkdir()
    (folder / "book").mkdir()
    for name in FILES:
        shutil.copy(STATIC / name, folder / "_static")
    options = {"myst_enable_extensions": ["dollarmath"], "embed_stylesheet": False}
    text = publish_string(
        PAGE.read_text(encoding="utf-8"),
        parser=Parser(),
        writer_name="html5",
        settings_overrides=options | {"stylesheet_path": "", "math_output": "MathML"},
    )
    path = folder / "book" / "convolution.html"
    path.write_bytes(text)
    return path


@pytest.fixture
def opened(browser, source):
    """Opens the page; what it throws, and what it asks of a network, fails the test."""
    contexts, wrong = [], []

    def open_page(path=source, width=1280, **options):
        size = {"width": width, "height": 844}
        contexts.append(browser.new_context(viewport=size, **options))
        page = contexts[-1].new_page()
        page.set_default_timeout(60_000)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("request", lambda r: r.url.startswith(("file:", "data:")) or wrong.append(r.url))
        page.goto(path.as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not wrong


def picture(page) -> Tensor:
    """The gray levels that the page shows: (1, 1, 16, 16) float64."""
    texts = page.locator("#convolution [role=application] span").all_text_contents()
    return torch.tensor([float(x) for x in texts], dtype=torch.float64).view(1, 1, 16, 16)


def true_map(page, kernel: list[float]) -> Tensor:
    """The map that torch makes of the picture on the page: (14, 14) float64."""
    weights = torch.tensor(kernel, dtype=torch.float64).view(1, 1, 3, 3)
    return F.conv2d(picture(page), weights)[0, 0]


def said(page) -> tuple[int, int, float]:
    """Row, column and sum, as the page says them aloud."""
    text = page.locator("#convolution [role=status]").text_content().replace("−", "-")
    row, column, total = re.findall(r"-?\d+(?:\.\d+)?", text)
    return int(row), int(column), float(total)


def numbers(page, place: str) -> list[float]:
    texts = page.locator(f"#convolution .conv-kernel {place}").all_text_contents()
    return [float(text.strip("=× ").replace("−", "-")) for text in texts]


def type_kernel(page, kernel: list[float]) -> None:
    for field, weight in zip(page.locator("#convolution input").all(), kernel, strict=True):
        field.fill(str(weight))


def judge(page, kernel: list[float]) -> None:
    """All that the page shows of a kernel at the place where it stands is what torch computes."""
    row, column, total = said(page)
    wanted = true_map(page, kernel)
    assert total == pytest.approx(wanted[row, column].item(), abs=1e-4)
    window = picture(page)[0, 0, row : row + 3, column : column + 3].flatten().tolist()
    assert numbers(page, "span") == window
    assert sum(numbers(page, "b")) == pytest.approx(total, abs=1e-3)
    cells = page.locator("#convolution .conv-map span")
    shown = cells.evaluate_all("cells => cells.map(cell => Number(cell.dataset.value))")
    torch.testing.assert_close(torch.tensor(shown, dtype=torch.float64).view(14, 14), wanted)
    lowest, highest = re.findall(r"−?\d+(?:\.\d+)?", page.text_content("#conv-map"))[-2:]
    assert float(lowest.replace("−", "-")) == pytest.approx(wanted.min().item(), abs=1e-4)
    assert float(highest.replace("−", "-")) == pytest.approx(wanted.max().item(), abs=1e-4)


ODD = [1, -2.5, 0, 3, 0.125, -7, 0, 0, 11]


def test_every_sum_is_the_convolution_that_torch_computes(opened):
    page = opened()
    judge(page, KERNELS[EDGE])  # what it begins with
    for place, kernel in KERNELS.items():
        page.locator("#convolution button").nth(place).click()
        for row, column in ((0, 0), (13, 13), (5, 11)):
            page.locator("#convolution .conv-map span").nth(14 * row + column).click(force=True)
            assert said(page)[:2] == (row, column)
            judge(page, kernel)
    type_kernel(page, ODD)
    judge(page, ODD)
    assert page.locator("#convolution button[aria-pressed=true]").count() == 0


def test_torch_would_notice_a_kernel_that_is_turned(opened):
    page = opened()
    type_kernel(page, ODD)
    page.locator("#convolution [role=application] span").nth(16 * 4 + 12).click(force=True)
    with pytest.raises(AssertionError):
        judge(page, ODD[::-1])
    judge(page, ODD)


def test_it_works_by_keyboard_alone(opened):
    page = opened()
    here = "document.activeElement"
    for _ in range(20):  # links and folded answers come before and after
        page.keyboard.press("Tab")
        if page.evaluate(f"{here}.getAttribute('role')") == "application":
            break
    outline = page.evaluate(f"getComputedStyle({here}).outlineWidth")
    assert float(outline.removesuffix("px")) >= 2, "who comes by Tab sees where he is"
    page.keyboard.press("Home")
    row, column, _ = said(page)
    assert column == 0
    moves = "ArrowDown ArrowDown ArrowRight ArrowUp ArrowLeft ArrowLeft".split()
    expected = [(1, 0), (2, 0), (2, 1), (1, 1), (1, 0), (1, 0)]  # and it stays inside
    for key, (down, right) in zip(moves, expected, strict=True):
        page.keyboard.press(key)
        assert said(page)[:2] == (row + down, right)
        judge(page, KERNELS[EDGE])
    page.keyboard.press("End")
    assert said(page)[1] == 13
    page.keyboard.press("Tab")
    page.keyboard.type("5")  # the first weight is selected whole
    judge(page, [5, *KERNELS[EDGE][1:]])
    page.keyboard.press("Backspace")
    judge(page, [0, *KERNELS[EDGE][1:]])  # an empty field counts as 0
    for _ in range(9):
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    judge(page, KERNELS[IDENTITY])
    pressed = page.locator("#convolution button[aria-pressed=true]")
    assert pressed.all_text_contents() == ["identity"]


def test_a_finger_moves_the_window(opened):
    page = opened(width=390, has_touch=True, is_mobile=True)
    box = page.locator("#convolution [role=application]").bounding_box()
    page.touchscreen.tap(box["x"] + box["width"] * 9.5 / 16, box["y"] + box["height"] * 2.5 / 16)
    assert said(page)[:2] == (1, 8)
    judge(page, KERNELS[EDGE])


NAMED = """() => [...document.querySelectorAll('#convolution :is(input, button, [role])')]
  .filter(e => e.getAttribute('role') !== 'status')
  .map(e => e.getAttribute('aria-label') || e.textContent.trim()
    || document.getElementById(e.getAttribute('aria-labelledby'))?.textContent || '')"""


def test_everything_has_a_name_and_no_word_is_left_open(opened):
    page = opened()
    names = page.evaluate(NAMED)
    assert len(names) == 16 and all(len(name) > 3 for name in names)
    assert len(set(names)) == 16
    assert "{" not in page.text_content("#convolution")


@pytest.mark.parametrize("width", [390, 320])
def test_a_phone_needs_no_scrolling_sideways(opened, width):
    page = opened(width=width)
    type_kernel(page, [-1234.5678] * 9)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    wide = """[...document.querySelectorAll('#convolution *')]
        .filter(e => e.getBoundingClientRect().right > innerWidth).length"""
    assert page.evaluate(wide) == 0


def test_without_scripts_it_says_something_useful(opened):
    page = opened(java_script_enabled=False)
    assert page.is_hidden("#convolution")
    assert "give 21" in page.inner_text("noscript")
    with_scripts = opened()
    assert with_scripts.is_visible("#convolution")
    assert "JavaScript" not in with_scripts.inner_text("body")


def test_the_answers_on_the_page_are_true(opened):
    page = opened()
    type_kernel(page, [-4, -3, -2, -1, 0, 1, 2, 3, 4])
    around = true_map(page, [-4, -3, -2, -1, 0, 1, 2, 3, 4])[1:4, 10:13]
    assert around.tolist() == [[32, 24, 16], [8, 0, -8], [-16, -24, -32]]  # turned by half a turn
    edge = true_map(page, KERNELS[EDGE])
    assert edge[4, 1] == 21 and edge[4, 2] == 0
    turned = true_map(page, [-1, -1, -1, 0, 0, 0, 1, 1, 1])
    assert not turned[3:6, :8].any() and turned[1, 3] == 21 and 0 < turned[1, 0] < 21
    assert edge[12, 9] > 0 and turned[12, 9] > 0, "the slanted edge is seen by both"


def test_it_is_small_and_needs_nothing_else():
    texts = [(STATIC / name).read_text(encoding="utf-8") for name in FILES]
    assert sum(len(text.encode()) for text in texts) < 12_000
    assert not re.search(r"\bimport\b|\bfetch\(|https?:|@import|url\(", "".join(texts))


# --- In the finished book -----------------------------------------------------------------------

CONTRAST = """() => {
  const parse = text => (text.match(/[\\d.]+/g) || [0, 0, 0, 0]).map(Number);
  const light = rgb => rgb.slice(0, 3).map(x => x / 255)
    .map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const under = e => {
    const paper = parse(getComputedStyle(e).backgroundColor);
    return !e.parentElement || paper.length < 4 || paper[3] === 1 ? paper : under(e.parentElement);
  };
  return Math.min(...[...document.querySelectorAll('#convolution *')]
    .filter(e => e.tagName === 'INPUT' || [...e.childNodes].some(n => n.nodeType === 3))
    .map(e => [light(parse(getComputedStyle(e).color)), light(under(e))])
    .map(([a, b]) => (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05)));
}"""


@pytest.mark.built
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_the_built_page_computes_and_can_be_read(opened, scheme, width):
    assert BUILT.exists(), "no built book: run `make book` first"
    page = opened(BUILT, width, color_scheme=scheme)
    assert page.evaluate("document.documentElement.dataset.theme") == scheme
    judge(page, KERNELS[EDGE])
    page.locator("#convolution [role=application]").press("ArrowRight")
    assert said(page)[:2] == (4, 2)
    judge(page, KERNELS[EDGE])
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate(CONTRAST) >= 4.5
    page.evaluate("document.querySelector('#convolution .conv-sum').style.color = '#777'")
    assert page.evaluate(CONTRAST) < 4.5
