"""The appendices: what they say is run.

Formulas: every block on the page is executed and held to the function that the book uses; a usual
slip in a block is told apart. Troubleshooting: error texts are provoked and must hold the words on
the page. Glossary: every term is used, in order, and linked.
"""

import ast
import math
import mmap
import os
import re
import subprocess
import sys
import textwrap
import warnings
from collections.abc import Callable, Iterable
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.distributed as dist
from PIL import Image
from sklearn.utils.class_weight import compute_class_weight
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, Adam, AdamW, lr_scheduler
from torch.testing import assert_close
from torch.utils.data import DataLoader, DistributedSampler
from torch.utils.flop_counter import FlopCounterMode
from torchvision.datasets import ImageFolder
from torchvision.ops import sigmoid_focal_loss
from torchvision.transforms import v2

import house
from apps import train as program
from cifar_utils import data, distributed, metrics, models, runs, training, transfer, weights

ROOT = house.ROOT
BOOK = ROOT / "book"
FORMULAS, TROUBLE, GLOSSARY = (
    BOOK / f"{n}.md" for n in ("formulas", "troubleshooting", "glossary")
)
APPENDICES = [FORMULAS, TROUBLE, GLOSSARY]


def text_of(path: Path) -> str:
    """A page, or the Markdown of a notebook."""
    if path.suffix != ".ipynb":
        return path.read_text(encoding="utf-8")
    cells = house.read(path)["cells"]
    return "\n\n".join(house.source(c) for c in cells if c["cell_type"] == "markdown")


FENCE = re.compile(r"^(```+)([^\n]*)\n(.*?)^\1[ ]*$", re.M | re.S)


def sections(text: str, level: int) -> dict[str, str]:
    """What stands under each heading of a level, by its title; deeper headings belong to it."""
    bare = FENCE.sub(lambda m: re.sub(r"[^\n]", " ", m[0]), text)  # no headings in code
    heads = list(re.finditer(rf"^#{{1,{level}}} (.+)$", bare, re.M))
    ends = [*(h.start() for h in heads[1:]), len(text)]
    return {
        h[1].strip(): text[h.end() : end]
        for h, end in zip(heads, ends, strict=True)
        if h[0].startswith("#" * level + " ")
    }


# --- Links --------------------------------------------------------------------------------------

LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def anchors(path: Path) -> set[str]:
    """What a link may name after `#`: headings as the book makes them, and glossary terms."""
    titles = re.findall(r"^#{1,3} (.+)$", FENCE.sub("", text_of(path)), re.M)
    slugs: set[str] = set()
    for title in titles:
        slug = re.sub(r"[^\w\- ]", "", title.strip().lower()).replace(" ", "-")
        slugs.add(slug if slug not in slugs else f"{slug}-1")
    return slugs | ({anchor_of(t) for t in terms()} if path == GLOSSARY else set())


def broken_links(text: str, page: Path) -> list[str]:
    """Links on a page, to itself or to other files of the house, that lead nowhere."""
    found = []
    for link in LINK.findall(FENCE.sub("", text)):
        if re.match(r"[a-z]+:", link):
            continue
        file, _, anchor = link.partition("#")
        path = (page.parent / file).resolve() if file else page
        if not path.exists() or (anchor and anchor not in anchors(path)):
            found.append(link)
    return found


@pytest.mark.parametrize("path", APPENDICES, ids=lambda path: path.stem)
def test_links_lead_somewhere(path):
    assert not broken_links(glossary_as_text(text_of(path)), path)


def glossary_as_text(text: str) -> str:
    """A page with the directive's fences taken off, so that what stands inside is looked at."""
    return re.sub(r"^```(?:\{glossary\})?$", "", text, flags=re.M) if "{glossary}" in text else text


@pytest.mark.parametrize(
    "bad",
    [
        "[a](nowhere.md)",
        "[a](#no-such-heading)",
        "[a](how_to_use.md#no-such-heading)",
        "[a](../notebooks/02_simple_cnn.ipynb#no-such-heading)",
        "[a](glossary.md#term-no-such-term)",
    ],
)
def test_a_broken_link_is_seen(bad):
    assert broken_links(bad, TROUBLE)
    good = "[a](how_to_use.md#two-commands) [b](#installing) [c](https://example.org/x)"
    assert not broken_links(good, TROUBLE)


# --- Formulas: the page as it stands ------------------------------------------------------------


def blocks(text: str) -> list[str]:
    """The Python blocks of a page, in order."""
    return [m[3] for m in FENCE.finditer(text) if m[2] == "python"]


def defined(block: str) -> list[str]:
    return [node.name for node in ast.parse(block).body if isinstance(node, ast.FunctionDef)]


def executed(parts: Iterable[str]) -> SimpleNamespace:
    """What a page's blocks define."""
    space: dict = {}
    for block in parts:
        exec(compile(block, str(FORMULAS), "exec"), space)
    return SimpleNamespace(**{k: v for k, v in space.items() if not k.startswith("__")})


def misshapen(section: str) -> list[str]:
    """What a formula's section lacks: words, a formula, one block of 3 to 10 lines, a place."""
    found = [] if section.strip()[:1].isupper() else ["a sentence in words comes first"]
    code = blocks(section)
    sizes = [len([line for line in block.splitlines() if line.strip()]) for block in code]
    if len(code) != 1 or not 3 <= sizes[0] <= 10 or not defined(code[0]):
        found.append("one block of 3 to 10 lines that defines a function")
    formula, block = section.find("$$"), section.find("```python")
    if not 0 < formula < block:
        found.append("the formula stands before the block")
    where = section.partition("**Where.**")[2]
    if not re.search(r"\]\(\.\./notebooks/", where) or "`" not in where:
        found.append("where: a chapter and a function")
    return found


@pytest.mark.parametrize(("title", "section"), sections(text_of(FORMULAS), 3).items())
def test_a_formula_has_words_code_and_a_place(title, section):
    assert not misshapen(section)


def test_a_misshapen_formula_is_seen():
    good = (
        "In words.\n\n$$a = b$$\n\n```python\ndef f(x):\n    y = x\n    return y\n```\n\n"
        "**Where.** [Chapter 2](../notebooks/02_simple_cnn.ipynb). `torch.f`.\n"
    )
    assert not misshapen(good)
    for old, new in [
        ("In words.", ""),
        ("$$a = b$$", ""),
        ("    y = x\n", ""),
        ("**Where.**", ""),
        ("    return y\n", "    return y\n" + "    # more\n" * 8),
    ]:
        assert good.count(old) == 1 and misshapen(good.replace(old, new))


PAGE = executed(blocks(text_of(FORMULAS)))
CHECKS: dict[str, Callable[[SimpleNamespace], None]] = {}
SLIPS: list[tuple[str, str, str]] = []


def holds(name: str, *slips: tuple[str, str]) -> Callable:
    """Register the check of a function on the page, and slips that it must tell apart.

    A check takes what the page defines; a slip is a piece of the function's block and what a
    usual mistake puts there.
    """

    def register(check: Callable[[SimpleNamespace], None]) -> Callable:
        CHECKS[name] = check
        SLIPS.extend((name, old, new) for old, new in slips)
        return check

    return register


def drawn(*shape: int, seed: int = 0) -> Tensor:
    """Normal numbers, in float64, so that only a wrong formula differs."""
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def picked(n: int, classes: int, seed: int = 0) -> Tensor:
    return torch.randint(classes, (n,), generator=torch.Generator().manual_seed(seed))


def weight_of(*shape: int) -> nn.Parameter:
    return nn.Parameter(drawn(*shape, seed=9))


def test_every_formula_is_held():
    functions = [name for block in blocks(text_of(FORMULAS)) for name in defined(block)]
    assert len(functions) == len(set(functions)) >= 30
    assert set(functions) == set(CHECKS), "each function on the page has a check, and no other"
    assert {name for name, _, _ in SLIPS} == set(functions), "and each check meets a slip"


@pytest.mark.parametrize("name", CHECKS)
def test_a_formula_computes_what_the_book_uses(name):
    CHECKS[name](PAGE)


@pytest.mark.parametrize(("name", "old", "new"), SLIPS)
def test_a_slip_is_told_apart(name, old, new):
    parts = blocks(text_of(FORMULAS))
    place = next(i for i, block in enumerate(parts) if name in defined(block))
    assert parts[place].count(old) == 1, f"{old!r} no longer stands in {name}"
    parts[place] = parts[place].replace(old, new)
    with pytest.raises(AssertionError):
        CHECKS[name](executed(parts))


# --- Formulas: losses ---------------------------------------------------------------------------


@holds(
    "softmax",
    (" - logits.max(dim=1, keepdim=True).values", ""),
    ("powers.sum(dim=1, keepdim=True)", "powers.sum(dim=0, keepdim=True)"),
)
def check_softmax(page):
    for size in (1, 1000):  # powers of large scores are infinite
        logits = size * drawn(6, 5)
        assert_close(page.softmax(logits), logits.softmax(dim=1))


@holds("cross_entropy", (".mean()", ".sum()"), ("logits - logits", "logits.softmax(1) - logits"))
def check_cross_entropy(page):
    logits, labels = drawn(6, 5).requires_grad_(), picked(6, 5)
    loss = page.cross_entropy(logits, labels)
    assert_close(loss, F.cross_entropy(logits, labels))
    (slope,) = torch.autograd.grad(loss, logits)
    assert_close(slope, (logits.softmax(1) - F.one_hot(labels, 5)).detach() / 6)
    assert_close(page.cross_entropy(torch.zeros(6, 5), labels), torch.tensor(math.log(5)))


@holds(
    "smoothed_cross_entropy",
    ("-log_p.mean(dim=1)", "-(log_p.sum(dim=1) + right) / (log_p.shape[1] - 1)"),  # the others only
    ("(1 - epsilon) * right", "right"),
)
def check_smoothed_cross_entropy(page):
    logits, labels = drawn(6, 5), picked(6, 5)
    expected = F.cross_entropy(logits, labels, label_smoothing=0.1)
    assert_close(page.smoothed_cross_entropy(logits, labels, 0.1), expected)


@holds("balanced", ("(len(counts) * counts)", "counts"))
def check_balanced(page):
    labels = torch.arange(4).repeat_interleave(torch.tensor([40, 20, 9, 1]))
    expected = compute_class_weight("balanced", classes=np.arange(4), y=labels.numpy())
    assert_close(
        page.balanced(labels.bincount()).double(), torch.tensor(expected), rtol=1e-6, atol=0
    )


@holds("weighted_cross_entropy", ("weight[labels].sum()", "len(labels)"))
def check_weighted_cross_entropy(page):
    logits, labels, weight = drawn(6, 5), picked(6, 5), drawn(5).abs()
    found = page.weighted_cross_entropy(logits, labels, weight)
    assert_close(found, F.cross_entropy(logits, labels, weight=weight))
    assert_close(found, page.weighted_cross_entropy(logits, labels, 10 * weight))


@holds("focal_loss", ("(1 - q) ** gamma", "q ** gamma"), ("** gamma", "* gamma"))
def check_focal_loss(page):
    logits, targets = drawn(6, 5), F.one_hot(picked(6, 5), 5).double()
    for gamma in (0.0, 2.0):
        expected = sigmoid_focal_loss(logits, targets, alpha=-1, gamma=gamma, reduction="sum") / 6
        assert_close(page.focal_loss(logits, targets, gamma), expected)
    plain = F.binary_cross_entropy_with_logits(logits, targets, reduction="sum") / 6
    assert_close(page.focal_loss(logits, targets, gamma=0.0), plain)


def mixed_by(transform: type, alpha: float, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A batch, and what a transform of torchvision makes of it."""
    images, labels = drawn(4, 3, 32, 32), torch.tensor([0, 1, 2, 3])
    torch.manual_seed(seed)
    mixed, answers = transform(alpha=alpha, num_classes=5)(images, labels)
    return images, F.one_hot(labels, 5).double(), mixed, answers


def share_of(alpha: float, seed: int) -> float:
    """The share that the transform drew first."""
    torch.manual_seed(seed)
    return torch.distributions.Beta(torch.tensor([alpha]), torch.tensor([alpha])).sample().item()


@holds("mixup", ("images.roll(1, 0)", "images.roll(-1, 0)"), ("share * targets", "targets"))
def check_mixup(page):
    images, targets, mixed, answers = mixed_by(v2.MixUp, 0.2, seed=6)
    share = share_of(0.2, seed=6)
    assert 0.01 < share < 0.99
    assert_close(
        page.mixup(images, targets, share), (mixed, answers.double()), rtol=1e-5, atol=1e-5
    )


@holds(
    "cutmix",
    ("1 - area / size**2", "share"),
    ("math.sqrt(1 - share)", "(1 - share)"),
    ("images.roll(1, 0)[..., rows, columns]", "0"),
)
def check_cutmix(page):
    images, targets, mixed, answers = mixed_by(v2.CutMix, 1.0, seed=1)
    share = share_of(1.0, seed=1)
    x, y = (torch.randint(32, (1,)).item() for _ in range(2))  # drawn next, as the transform does
    found = page.cutmix(images, targets, x, y, share)
    assert answers.max(1).values.min().item() != pytest.approx(share, abs=1e-3), "cut at the border"
    assert_close(found, (mixed, answers.double()), rtol=1e-5, atol=1e-5)


# --- Formulas: the rate -------------------------------------------------------------------------


def rates(make: Callable, steps: int, rate: float = 0.2) -> list[float]:
    """The rate at each step under one of torch's schedulers."""
    optimizer = SGD([nn.Parameter(torch.zeros(1))], lr=rate)
    scheduler, found = make(optimizer), []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


@holds("warm_up", ("step + 1", "step"))
def check_warm_up(page):
    expected = [distributed.warmup_cosine(step, 100, 20, 0.4) for step in range(20)]
    assert [page.warm_up(step, 20, 0.4) for step in range(20)] == pytest.approx(expected)
    assert page.warm_up(50, 20, 0.4) == 0.4


@holds("warm_up_from", ("(1 - start) *", "1.0 *"), ("min(step, warmup) / warmup", "step / warmup"))
def check_warm_up_from(page):
    expected = rates(lambda o: lr_scheduler.LinearLR(o, start_factor=0.1, total_iters=50), 60)
    assert [page.warm_up_from(i, 50, 0.2, 0.1) for i in range(60)] == pytest.approx(expected)


@holds("cosine", ("step / steps", "step / (steps - 1)"), (" / 2", ""))
def check_cosine(page):
    expected = rates(lambda o: lr_scheduler.CosineAnnealingLR(o, T_max=30), 30)
    assert [page.cosine(step, 30, 0.2) for step in range(30)] == pytest.approx(expected)
    assert page.cosine(30, 30, 0.2) == pytest.approx(0)


def one_cycle_of(**options) -> list[float]:
    return rates(lambda o: lr_scheduler.OneCycleLR(o, 0.2, total_steps=40, **options), 39)


@holds(
    "one_cycle",
    ("rise * steps - 1", "rise * steps"),
    ("peak / 25 / 10_000", "peak / 10_000"),
    ("(steps - 1 - top)", "(steps - top)"),
)
def check_one_cycle(page):
    for rise in (0.3, 0.25):
        found = [page.one_cycle(step, 40, 0.2, rise) for step in range(39)]
        assert found == pytest.approx(one_cycle_of(pct_start=rise))


def test_one_cycle_in_lines_is_what_the_page_says():
    parts = blocks(text_of(FORMULAS))
    place = next(i for i, block in enumerate(parts) if "one_cycle" in defined(block))
    parts[place] = parts[place].replace("(1 + math.cos(math.pi * u)) / 2", "(1 - u)")
    found = [executed(parts).one_cycle(step, 40, 0.2, 0.25) for step in range(39)]
    assert found == pytest.approx(one_cycle_of(pct_start=0.25, anneal_strategy="linear"))
    assert found != pytest.approx(one_cycle_of(pct_start=0.25))


@holds("step_batch", (" * passes", ""))
def check_step_batch(page):
    share = distributed.batch_share(128, distributed.World(rank=0, size=4), 2)
    assert page.step_batch(share, 4, 2) == 128


@holds("linear_rule", ("rate * batch / reference", "rate * (batch / reference) ** 0.5"))
def check_linear_rule(page):
    usual = program.settings(["--budget", "laptop"])
    larger = program.settings(["--budget", "laptop", "--batch", str(3 * usual.batch)])
    found = page.linear_rule(larger.batch, usual.rate, usual.batch)
    assert found == pytest.approx(larger.rate)
    assert page.linear_rule(8192) == pytest.approx(3.2)


# --- Formulas: steps ----------------------------------------------------------------------------

SCHEDULE = (0.1, 0.1, 0.4, 0.05, 0.05)
STEPS = range(len(SCHEDULE))


def by_torch(optimizer: torch.optim.Optimizer, weight: nn.Parameter, schedule=SCHEDULE) -> Tensor:
    """The weight after a step for each rate, each with its own gradient."""
    for step, rate in enumerate(schedule):
        optimizer.param_groups[0]["lr"] = rate
        weight.grad = drawn(*weight.shape, seed=step)
        optimizer.step()
    return weight.detach()


def by_page(step: Callable, schedule=SCHEDULE, momentum: float = 0.9) -> Tensor:
    weight, velocity = weight_of(4).detach(), torch.zeros(4, dtype=torch.float64)
    for i, rate in enumerate(schedule):
        weight, velocity = step(weight, drawn(4, seed=i), velocity, rate, momentum)
    return weight


@holds("sgd_step", ("+ gradient", "+ (1 - momentum) * gradient"), ("w - rate", "w + rate"))
def check_sgd_step(page):
    weight = weight_of(4)
    assert_close(by_page(page.sgd_step), by_torch(SGD([weight], lr=0.1, momentum=0.9), weight))


def test_a_momentum_of_one_is_a_loop_without_zero_grad():
    weight, total = weight_of(4).detach(), torch.zeros(4, dtype=torch.float64)
    for i in STEPS:
        total += drawn(4, seed=i)  # what `backward` does to a gradient that nobody cleared
        weight = weight - 0.1 * total
    assert torch.equal(by_page(PAGE.sgd_step, (0.1,) * len(STEPS), momentum=1.0), weight)


@holds("textbook_step", ("- rate * gradient", "- gradient"))
def check_textbook_step(page):
    constant, weight = (0.1,) * 5, weight_of(4)
    expected = by_torch(SGD([weight], lr=0.1, momentum=0.9), weight, constant)
    assert_close(by_page(page.textbook_step, constant), expected)


def test_the_two_forms_of_momentum_part_when_the_rate_changes():
    ours, textbook = by_page(PAGE.sgd_step), by_page(PAGE.textbook_step)
    assert (ours - textbook).abs().max() > 0.01


@holds("nesterov_step", ("(gradient + momentum * velocity)", "velocity"))
def check_nesterov_step(page):
    weight = weight_of(4)
    optimizer = SGD([weight], lr=0.1, momentum=0.9, nesterov=True)
    assert_close(by_page(page.nesterov_step), by_torch(optimizer, weight))


@holds("coupled_decay", ("gradient + pulled", "gradient"), ("decay * w", "decay"))
def check_coupled_decay(page):
    def step(w, gradient, velocity, rate, momentum):
        return page.sgd_step(w, page.coupled_decay(w, gradient, 0.1), velocity, rate, momentum)

    weight = weight_of(4)
    optimizer = SGD([weight], lr=0.1, momentum=0.9, weight_decay=0.1)
    assert_close(by_page(step), by_torch(optimizer, weight))


@holds("decoupled_decay", ("rate * decay", "decay"), ("1 - rate", "1 + rate"))
def check_decoupled_decay(page):
    plain, whole = weight_of(4), weight_of(4)
    adam, adamw = Adam([plain], lr=0.1), AdamW([whole], lr=0.1, weight_decay=0.2)
    for step, rate in enumerate(SCHEDULE):
        plain.data.copy_(page.decoupled_decay(plain.data, rate, 0.2))
        for weight, optimizer in ((plain, adam), (whole, adamw)):
            optimizer.param_groups[0]["lr"] = rate
            weight.grad = drawn(4, seed=step)
            optimizer.step()
    assert_close(plain.data, whole.data)


def test_the_two_decays_are_one_for_plain_sgd_and_two_for_adam():
    w, gradient = weight_of(4).detach(), drawn(4)
    pulled = w - 0.1 * PAGE.coupled_decay(w, gradient, 0.2)
    assert_close(PAGE.decoupled_decay(w, 0.1, 0.2) - 0.1 * gradient, pulled)
    ends = []
    for kind in (Adam, AdamW):
        weight = weight_of(4)
        ends.append(by_torch(kind([weight], lr=0.1, weight_decay=0.2), weight))
    assert (ends[0] - ends[1]).abs().max() > 0.01


@holds(
    "clip",
    (".clamp(max=1)", ""),
    ("torch.cat([g.flatten() for g in gradients]).norm()", "max(g.norm() for g in gradients)"),
)
def check_clip(page):
    for size in (0.01, 10.0):  # below the bound, and far above
        layer = nn.Linear(3, 2).double()
        for i, p in enumerate(layer.parameters()):
            p.grad = size * drawn(*p.shape, seed=i)
        found = page.clip([p.grad.clone() for p in layer.parameters()], 1.0)
        nn.utils.clip_grad_norm_(layer.parameters(), 1.0)
        assert_close(found, [p.grad for p in layer.parameters()])
    assert page.clip([torch.tensor([math.nan]), torch.ones(2)], 1.0)[1].isnan().all()


# --- Formulas: layers ---------------------------------------------------------------------------

WINDOWS = [(k, s, p) for k in (1, 3, 5, 7) for s in (1, 2, 3) for p in (0, 1, 3) if p <= k // 2]


@holds("output_size", ("2 * padding", "padding"), ("places // stride", "-(-places // stride)"))
def check_output_size(page):
    for kernel, stride, padding in WINDOWS:
        for size in (28, 31, 32):
            for layer in (
                nn.Conv2d(1, 1, kernel, stride, padding),
                nn.MaxPool2d(kernel, stride, padding),
            ):
                expected = layer(torch.zeros(1, 1, size, size)).shape[-1]
                assert page.output_size(size, kernel, stride, padding) == expected


@holds("conv_parameters", ("kernel**2 + bias", "kernel + bias"), (" + bias)", ")"))
def check_conv_parameters(page):
    for bias in (True, False):
        layer = nn.Conv2d(5, 7, 3, bias=bias)
        assert page.conv_parameters(5, 7, 3, bias) == sum(p.numel() for p in layer.parameters())


@holds("conv_multiply_adds", (" * height * width", ""), ("outputs * inputs * k", "outputs * k"))
def check_conv_multiply_adds(page):
    layer = nn.Conv2d(5, 7, 3, stride=2, padding=1, bias=False)
    with FlopCounterMode(display=False) as counter:
        out = layer(torch.zeros(1, 5, 31, 32))
    found = page.conv_multiply_adds(5, 7, 3, *out.shape[-2:])
    assert 2 * found == counter.get_total_flops()


@holds("receptive_field", ("(kernel - 1) * jump", "(kernel - 1) * jump * stride"), ("- 1", ""))
def check_receptive_field(page):
    for layers in ([(3, 1)], [(7, 2), (3, 2)], [(3, 1), (3, 2), (1, 1), (5, 2), (3, 1)]):
        row = torch.zeros(1, 1, 201, dtype=torch.float64, requires_grad=True)
        out = row
        for kernel, stride in layers:
            out = F.conv1d(out, torch.ones(1, 1, kernel, dtype=torch.float64), stride=stride)
        out[0, 0, out.shape[-1] // 2].backward()  # which pixels does one place depend on?
        assert page.receptive_field(layers) == (row.grad != 0).sum()


def batch_norm() -> tuple[nn.BatchNorm2d, Tensor]:
    """A layer with scales, shifts and averages of its own, and few numbers to normalize."""
    layer = nn.BatchNorm2d(3).double()
    for i, value in enumerate((layer.weight.data, layer.bias.data, layer.running_mean)):
        value.copy_(drawn(3, seed=i))
    layer.running_var.copy_(drawn(3, seed=7).abs() + 0.5)
    return layer, 2 * drawn(2, 3, 1, 2, seed=5) + 1


@holds(
    "batch_norm_train", ("correction=0", "correction=1"), ("(variance + eps).sqrt()", "variance")
)
def check_batch_norm_train(page):
    layer, x = batch_norm()
    assert_close(page.batch_norm_train(x, layer.weight, layer.bias), layer.train()(x))


@holds(
    "moved_averages",
    ("correction=1", "correction=0"),
    ("(1 - momentum) * running_mean + momentum", "momentum * running_mean + (1 - momentum)"),
)
def check_moved_averages(page):
    layer, x = batch_norm()
    before = layer.running_mean.clone(), layer.running_var.clone()
    layer.train()(x)
    assert_close(page.moved_averages(x, *before), (layer.running_mean, layer.running_var))


def test_the_two_variances_differ_by_two_for_two_numbers():
    x = drawn(2, 1, 1, 1)
    assert_close(x.var(correction=1), 2 * x.var(correction=0))


@holds("batch_norm_eval", ("scale / (running_var + eps).sqrt()", "scale"), ("- a *", "-"))
def check_batch_norm_eval(page):
    layer, x = batch_norm()
    averages = layer.running_mean, layer.running_var
    found = page.batch_norm_eval(x, *averages, layer.weight, layer.bias)
    assert_close(found, layer.eval()(x))
    other = page.batch_norm_train(x, layer.weight, layer.bias)
    assert (found - other).abs().max() > 0.1, "the two modes are told apart"


@holds("residual", ("torch.relu(z + shortcut(x))", "torch.relu(z) + shortcut(x)"))
def check_residual(page):
    torch.manual_seed(0)
    x = torch.randn(2, 8, 4, 4)
    plain = models.BasicBlock(8, 8)
    (halving,) = models.make_stage(models.BasicBlock, 8, 16, 1, 2, "projection")
    for block in (plain.eval(), halving.eval()):

        def branch(x, block=block):
            return block.bn2(block.conv2(F.relu(block.bn1(block.conv1(x)))))

        shortcut = block.downsample or nn.Identity()
        assert_close(page.residual(x, branch, shortcut), block(x))


@holds("he_normal", ("outputs * kernel**2", "inputs * kernel**2"), ("2 / fan_out", "1 / fan_out"))
def check_he_normal(page):
    layer = nn.Conv2d(8, 32, 3)
    torch.manual_seed(0)
    models.start_convolution(layer)
    torch.manual_seed(0)
    assert_close(page.he_normal(32, 8, 3), layer.weight.detach())


@holds("through_eight_bits", (".clamp(0, 255)", ""), ("(q - zero)", "q"), (".round()", ""))
def check_through_eight_bits(page):
    x = 4 * torch.randn(1000, generator=torch.Generator().manual_seed(0))
    expected = torch.fake_quantize_per_tensor_affine(x, 0.05, 120, 0, 255)
    assert_close(page.through_eight_bits(x, 0.05, 120), expected)


# --- Formulas: judging --------------------------------------------------------------------------


@holds("top_k_accuracy", (".any(dim=1)", ""), ("logits.topk", "(-logits).topk"))
def check_top_k_accuracy(page):
    logits, labels = drawn(200, 10), picked(200, 10)
    for k in (1, 3, 10):
        found = page.top_k_accuracy(logits, labels, k)
        assert found == pytest.approx(metrics.accuracy(logits, labels, top_k=k), abs=1e-6)


@holds("standard_error", ("p * (1 - p)", "p"), ("variance / n", "variance / (n - 1)"))
def check_standard_error(page):
    right = (drawn(50) > 0.3).double()
    expected = right.std(correction=0) / math.sqrt(50)
    assert page.standard_error(right.mean().item(), 50) == pytest.approx(expected.item())


@holds("wilson", ("middle - half, middle +", "share - half, share +"), ("/ 2 / total", "/ total"))
def check_wilson(page):
    for right, total in ((0, 5), (3, 7), (20, 20), (950, 1000)):
        found = page.wilson(right, total, 1.959963984540054)
        expected = metrics.wilson_interval(right, total)
        assert [min(1, max(0, end)) for end in found] == pytest.approx(expected, abs=1e-9)
    assert page.wilson(3, 7) == pytest.approx(metrics.wilson_interval(3, 7), abs=1e-4)


@holds("calibration_error", ("sums.abs().sum()", "sums.sum().abs()"), ("bins=15", "bins=5"))
def check_calibration_error(page):
    probabilities, labels = (2 * drawn(400, 4)).softmax(1), picked(400, 4)
    labels[::2] = probabilities[::2].argmax(1)  # too sure in high bins, not sure enough in low ones
    found = page.calibration_error(probabilities, labels)
    assert found == pytest.approx(metrics.calibration_error(probabilities, labels), abs=1e-6)


@holds("best_temperature", ("logits / T", "logits * T"), ("min(losses)", "max(losses)"))
def check_best_temperature(page):
    labels = picked(500, 5)
    for size in (0.5, 3.0):  # not sure enough, and too sure
        logits = size * (drawn(500, 5) + 1.5 * F.one_hot(labels, 5))
        expected = metrics.fit_temperature(logits, labels)
        assert page.best_temperature(logits, labels) == pytest.approx(expected, rel=0.012)


# --- Troubleshooting: the page ------------------------------------------------------------------

SECTIONS = (
    "Three looks before anything else;Installing;Data;Shapes and types;Training does not learn;"
    "Training explodes;Overfitting and odd accuracies;Frozen and transfer;Checkpoints and resume;"
    "GPU and precision;Speed;Notebooks and the book;Scale out;Deploying"
).split(";")
ENTRIES = sections(text_of(TROUBLE), 3)


def texts(entry: str) -> list[str]:
    """The wordings of an entry's error; blank lines divide those of other causes or versions."""
    found = [m[3] for m in FENCE.finditer(entry) if m[2] == "text"]
    return [
        " ".join(part.split()) for block in found for part in re.split(r"\n\s*\n", block.strip())
    ]


def unhelpful(entry: str) -> list[str]:
    """What an entry lacks: what one sees, a cause, a cure, a way into the book."""
    before, _, rest = entry.partition("**Cause.**")
    cause, _, cure = rest.partition("**Cure.**")
    found = [] if texts(before) or "**Looks like.**" in before else ["what one sees"]
    found += [name for name, part in (("cause", cause), ("cure", cure)) if len(part.split()) < 3]
    found += [] if re.search(r"\]\((?:\.\./notebooks/|how_to_use|#)", cure) else ["a way in"]
    found += [f"too vague: {t}" for t in texts(before) if len(t.replace("…", "")) < 20]
    return found


def test_troubleshooting_has_its_sections_and_entries():
    assert list(sections(text_of(TROUBLE), 2)) == SECTIONS
    assert len(ENTRIES) >= 30
    assert len(ENTRIES) == text_of(TROUBLE).count("\n### "), "no title stands twice"


@pytest.mark.parametrize(("title", "entry"), ENTRIES.items())
def test_an_entry_says_what_why_and_what_to_do(title, entry):
    assert not unhelpful(entry)


def test_an_unhelpful_entry_is_seen():
    good = (
        "**Looks like.** Flat.\n\n**Cause.** It was too low.\n\n"
        "**Cure.** Look at [it](how_to_use.md).\n"
    )
    assert not unhelpful(good)
    for old, new in [
        ("**Looks like.** Flat.", ""),
        ("**Looks like.** Flat.", "```text\nError: …\n```"),
        ("It was too low.", ""),
        ("[it](how_to_use.md)", "it, there"),
        ("Look at [it](how_to_use.md).", ""),
    ]:
        assert unhelpful(good.replace(old, new))


# --- Troubleshooting: the errors ----------------------------------------------------------------


def told(provoke: Callable[[Path], object], folder: Path) -> str:
    """What a mistake says: its exception, else its last warning, as Python prints it."""
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            provoke(folder)
        except Exception as error:
            return f"{type(error).__name__}: {error}"
    assert warned, "nothing was raised, and nobody was warned"
    return f"{type(warned[-1].message).__name__}: {warned[-1].message}"


def says(message: str, wording: str) -> bool:
    """Whether a message holds the words, in order; `…` stands for anything."""
    pieces = [re.escape(piece.strip()) for piece in wording.split("…")]
    return bool(re.search(".*?".join(pieces), " ".join(message.split())))


@pytest.mark.parametrize(
    ("wording", "expected"),
    [
        ("Error: … 3 of 4", True),
        ("Error: a file … …", True),
        ("of 4", True),
        ("Error: 3 of 4", False),
        ("3 of 5", False),
        ("of 4 … Error", False),
    ],
)
def test_words_are_found_in_order(wording, expected):
    assert says("Error: a file\n  has 3 of 4", wording) is expected


ERRORS: dict[str, list[Callable[[Path], object]]] = {}


def provokes(title: str, there: bool = True, without: str = "") -> Callable:
    """Register what provokes an entry's error; `there`: whether this machine can."""

    def register(provoke: Callable[[Path], object]) -> Callable:
        provoke.there, provoke.without = there, without
        ERRORS.setdefault(title, []).append(provoke)
        return provoke

    return register


NO_GPU = {"there": not torch.cuda.is_available(), "without": "there is a GPU here"}


def pictures(n: int = 4, side: int = 32) -> Tensor:
    return torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(0))


def narrow(classes: int = 10) -> models.ResNet:
    torch.manual_seed(0)
    return models.cifar_resnet(8, classes, width=4)


def one_weight_optimizer() -> SGD:
    return SGD([nn.Parameter(torch.zeros(1))], lr=0.1)


# Installing


@provokes("torchvision::nms does not exist")
def _(folder):
    try:  # what torchvision does on import, for an operator that the binaries do not bring
        torch.library.register_fake("elsewhere::nms")(lambda *boxes: None)
    except RuntimeError as error:
        raise RuntimeError(str(error).replace("elsewhere", "torchvision")) from None


@provokes("Another Python is asked for", sys.platform != "win32", "no make here")
def _(folder):
    for name in ("Makefile", "requirements.txt"):
        (folder / name).write_bytes((ROOT / name).read_bytes())
    command = ["make", "book", "PYTHON=no-such-python"]
    raise RuntimeError(subprocess.run(command, cwd=folder, capture_output=True, text=True).stderr)


@provokes("No driver, or no CUDA", **NO_GPU)
def _(folder):
    torch.zeros(1).cuda()


@provokes("The disk is full", os.path.exists("/dev/full"), "no /dev/full here")
def _(folder):
    with open("/dev/full", "w") as file:
        file.write("x")
        file.flush()


# Data


@provokes("The folder you named holds no CIFAR")
def _(folder):
    (folder / "cifar-10-batches-py").mkdir()
    data.load("cifar10", folder / "cifar-10-batches-py")


@provokes("Pictures of different sizes do not stack")
def _(folder):
    own = [torch.zeros(3, 32, 32), torch.zeros(3, 48, 32)]
    next(iter(DataLoader(own, batch_size=2)))


@provokes("The loader hands out pictures, not tensors")
def _(folder):
    next(iter(DataLoader([Image.new("RGB", (32, 32))], batch_size=1)))


@provokes("A class called .ipynb_checkpoints")
def _(folder):
    for name in ("cat", ".ipynb_checkpoints"):
        (folder / name).mkdir()
    Image.new("RGB", (8, 8)).save(folder / "cat" / "1.png")
    ImageFolder(folder)


@provokes("A script starts itself again")
def _(folder):
    script = """
        import multiprocessing
        def work():
            pass
        multiprocessing.get_context("spawn").Process(target=work).start()
    """
    (folder / "script.py").write_text(textwrap.dedent(script))
    command = [sys.executable, "script.py"]
    raise RuntimeError(subprocess.run(command, cwd=folder, capture_output=True, text=True).stderr)


# Shapes and types


@provokes("Shapes that cannot be multiplied")
def _(folder):
    models.SimpleCNN()(pictures(1, side=64))


@provokes("Channels in the wrong place")
def _(folder):
    models.SimpleCNN()(pictures().permute(0, 2, 3, 1))


@provokes("Bytes where floats belong")
def _(folder):
    models.SimpleCNN()(pictures().byte())


@provokes("Bytes where floats belong", torch.backends.mkldnn.is_available(), "other convolutions")
def _(folder):
    narrow()(pictures().byte())  # its convolutions have no bias


@provokes("Labels of the wrong type")
def _(folder):
    F.cross_entropy(torch.zeros(4, 10), torch.zeros(4))


@provokes("One-hot labels as whole numbers")
def _(folder):
    F.cross_entropy(torch.zeros(4, 10), F.one_hot(torch.arange(4), 10))


@provokes("A label the network has no output for")
def _(folder):
    F.cross_entropy(torch.zeros(1, 10), torch.tensor([97]))


@provokes("Sizes that do not match")
def _(folder):
    _ = pictures() * torch.ones(3)


@provokes("Every prediction is the same")
def _(folder):
    F.mse_loss(torch.zeros(200, 1), torch.zeros(200))


@provokes("A batch of one picture")
def _(folder):
    nn.BatchNorm2d(512)(torch.zeros(1, 512, 1, 1))


@provokes("Padding 'same' with a stride")
def _(folder):
    nn.Conv2d(3, 8, 3, stride=2, padding="same")


@provokes("A view that is not possible")
def _(folder):
    pictures().permute(0, 2, 3, 1).view(4, -1)


@provokes("A tensor that will not become an array")
def _(folder):
    narrow()(pictures()).numpy()


@provokes("A tensor that will not become an array")
def _(folder):
    pictures().bfloat16().numpy()


# Training does not learn


@provokes("Nothing requires a gradient")
def _(folder):
    model = narrow()
    transfer.replace_head(model, 100)
    transfer.freeze(model)  # in the wrong order: the new head too
    F.cross_entropy(model(pictures()), torch.arange(4)).backward()


@provokes("The optimizer has nothing to do")
def _(folder):
    transfer.freeze(model := narrow())
    SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)


@provokes("The optimizer has nothing to do")
def _(folder):
    transfer.freeze(model := narrow())
    transfer.parameter_groups(model, lr=0.1)


@provokes("Backward through a graph a second time")
def _(folder):
    model, total = narrow(), 0
    for _ in range(2):
        total = total + F.cross_entropy(model(pictures()), torch.arange(4))
        total.backward()


@provokes("The schedule has no steps left")
def _(folder):
    optimizer = one_weight_optimizer()
    scheduler = lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=10)
    for _ in range(11):
        optimizer.step()
        scheduler.step()


@provokes("The scheduler steps first")
def _(folder):
    lr_scheduler.StepLR(one_weight_optimizer(), 1).step()


# Training explodes


@provokes("The loss becomes NaN")
def _(folder):
    model = models.SimpleCNN()
    batches = [(pictures() / 0, torch.arange(4))]
    options = {"optimizer": SGD(model.parameters(), lr=0.1), "precision": "fp32", "log": None}
    training.fit(model, batches, epochs=1, **options)


@provokes("NaN out of nothing")
def _(folder):
    away = torch.zeros(3, requires_grad=True)
    with torch.autograd.detect_anomaly(check_nan=True):
        away.pow(2).sum().sqrt().backward()


# Frozen and transfer


@provokes("A bool that is not callable")
def _(folder):
    model = narrow()
    model.layer1.requires_grad_ = False
    assert all(p.requires_grad for p in model.parameters()), "it froze nothing"
    model.layer1.requires_grad_(False)


@provokes("A parameter in two groups")
def _(folder):
    model = narrow()
    SGD(model.parameters(), lr=0.1).add_param_group({"params": model.fc.parameters()})


@provokes("The head has other classes than the file")
def _(folder):
    models.resnet18(100).load_state_dict(models.resnet18(10).state_dict())


# Checkpoints and resume


@provokes("Every key is missing, and every key unexpected")
def _(folder):
    narrow().load_state_dict(nn.DataParallel(narrow()).state_dict())


@provokes("Weights only load failed")
def _(folder):
    torch.save(models.SimpleCNN(), folder / "whole.pt")
    torch.load(folder / "whole.pt")


@provokes("The checkpoint comes from another training")
def _(folder):
    for rate in (0.1, 0.05):
        model, batches = narrow(), [(pictures(), torch.arange(4))]
        options = {"checkpoint": folder / "final.pt", "precision": "fp32", "log": None}
        training.fit(model, batches, epochs=1, optimizer=SGD(model.parameters(), rate), **options)


@provokes("The file is cut off")
def _(folder):
    file = folder / "weights.pt"
    torch.save({"weight": torch.zeros(1000)}, file)
    file.write_bytes(file.read_bytes()[:2000])
    torch.load(file)


@provokes("Saved on a GPU, loaded without one", **NO_GPU)
def _(folder):
    torch.save(torch.zeros(3), folder / "tensor.pt")
    torch.load(folder / "tensor.pt", map_location="cuda")  # as a tensor saved there asks for


# Speed, notebooks


@provokes("More workers than cores")
def _(folder):
    DataLoader([1, 2, 3], num_workers=10_000)  # none of them starts before the first batch


@provokes("A name is not defined")
def _(folder):
    exec("model", {})


@provokes("A budget that does not exist")
def _(folder):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CIFAR_BUDGET", "lap")
        runs.start("00_warm_up")


# Scale out


@provokes("A batch that does not divide")
def _(folder):
    distributed.batch_share(100, distributed.World(rank=0, size=8))


@provokes("Many trainings in place of one")
def _(folder):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_STEP_NUM_TASKS", "16")
        distributed.find_world("cpu")


@provokes("Many trainings in place of one")
def _(folder):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RANK", "1")
        patch.setenv("WORLD_SIZE", "2")
        distributed.find_world("cpu")


@provokes("SyncBatchNorm wants a GPU")
def _(folder):
    layer = nn.SyncBatchNorm(3)
    layer(pictures())  # without a process group, silently a plain BatchNorm
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        layer(pictures())
    finally:
        dist.destroy_process_group()


# Deploying


@provokes("An exported network takes single pictures only")
def _(folder):
    batch = {0: torch.export.Dim("batch")}
    torch.export.export(nn.Linear(3, 3), (torch.zeros(1, 3),), dynamic_shapes=(batch,))


def ask_session(images: np.ndarray) -> None:
    """Give images to a session that takes (N, 3, 32, 32) floats."""
    onnx, onnxruntime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    helper, floats = onnx.helper, onnx.TensorProto.FLOAT
    ends = [
        helper.make_tensor_value_info(name, floats, ["N", 3, 32, 32]) for name in ("images", "same")
    ]
    graph = helper.make_graph(
        [helper.make_node("Identity", ["images"], ["same"])], "graph", ends[:1], ends[1:]
    )
    versions = {"opset_imports": [helper.make_opsetid("", 17)], "ir_version": 9}
    model = helper.make_model(graph, **versions).SerializeToString()
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    session.run(None, {"images": images})


@provokes("The session refuses the picture")
def _(folder):
    ask_session(np.zeros((1, 3, 64, 64), np.float32))


@provokes("The session refuses the picture")
def _(folder):
    ask_session(np.zeros((1, 3, 32, 32)))  # NumPy's own type


@provokes("The file is not the one described")
def _(folder):
    model, about = weights.load("resnet10_cifar10")
    path = weights.save("other", model, about, folder)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    weights.load("other", folder)


# Their words are looked up in PyTorch's own files, or not at all, for the reason given.
ELSEWHERE = {
    "Tensors on two devices": "needs a GPU; looked up below",
    "The GPU runs out of memory": "needs a GPU",
    "Apple's GPU refuses doubles": "needs a Mac",
}


def test_every_error_text_is_provoked():
    with_texts = {title for title, entry in ENTRIES.items() if texts(entry)}
    assert with_texts == set(ERRORS) | set(ELSEWHERE) and not set(ERRORS) & set(ELSEWHERE)
    assert len(ERRORS) >= 15


PROVOKED = [
    pytest.param(
        title,
        provoke,
        id=f"{title}-{i}",
        marks=pytest.mark.skipif(not provoke.there, reason=provoke.without),
    )
    for title, found in ERRORS.items()
    for i, provoke in enumerate(found)
]


@pytest.mark.parametrize(("title", "provoke"), PROVOKED)
def test_the_words_on_the_page_are_raised(title, provoke, tmp_path):
    message, wordings = told(provoke, tmp_path), texts(ENTRIES[title])
    assert any(says(message, wording) for wording in wordings), message


@pytest.mark.parametrize("title", [title for title, found in ERRORS.items() if len(found) > 1])
def test_each_of_several_wordings_has_its_own_cause(title, tmp_path):
    if not all(provoke.there for provoke in ERRORS[title]):
        pytest.skip("not all of them can be provoked here")
    hit = set()
    for i, provoke in enumerate(ERRORS[title]):
        (folder := tmp_path / str(i)).mkdir()
        message = told(provoke, folder)
        hit |= {wording for wording in texts(ENTRIES[title]) if says(message, wording)}
    assert hit == set(texts(ENTRIES[title]))


def test_what_needs_a_gpu_stands_in_torch_itself():
    entry = " ".join(texts(ENTRIES["Tensors on two devices"]))
    files = list((Path(torch.__file__).parent / "lib").glob("*torch_cpu*"))
    if not files:
        pytest.skip("this PyTorch keeps its words elsewhere")
    for words in (
        "Expected all tensors to be on the same device, but found at least two devices, ",
        ", different from other tensors on ",
        ") and weight type (",
    ):
        assert words in entry
        with (
            open(files[0], "rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as m,
        ):
            assert m.find(words.encode()) >= 0, f"torch no longer says {words!r}"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU here")
def test_tensors_on_two_devices_on_a_gpu(tmp_path):
    for layer, x in ((nn.Linear(3, 3), pictures(1, 3)), (nn.Conv2d(3, 3, 3), pictures())):
        message = told(lambda folder, layer=layer, x=x: layer.cuda()(x), tmp_path)
        assert any(says(message, w) for w in texts(ENTRIES["Tensors on two devices"])), message


# --- Troubleshooting: what raises nothing -------------------------------------------------------

SIGNS: dict[str, Callable[[str], None]] = {}


def sign(title: str) -> Callable:
    """Register a check of what an entry without an error says one sees; it is given the entry."""

    def register(check: Callable[[str], None]) -> Callable:
        SIGNS[title] = check
        return check

    return register


@sign("A whole batch is mirrored, or none of it")
def _(entry):
    torch.manual_seed(0)
    x, seen = pictures(8), set()
    for _ in range(20):
        mirrored = (v2.RandomHorizontalFlip()(x) != x).flatten(1).any(1)
        seen.add(int(mirrored.sum()))
    assert seen == {0, 8}


@sign("The loss stays at ln C")
def _(entry):
    for classes in (10, 100):
        loss = F.cross_entropy(torch.zeros(4, classes), picked(4, classes))
        assert f"{loss:.3f}" in entry


@sign("The first loss is far above ln C")
def _(entry):
    torch.manual_seed(0)
    x, labels = 255 * pictures(32), picked(32, 10)
    assert F.cross_entropy(narrow().eval()(x), labels) > 10  # in eval mode nothing divides it away


@sign("The first loss is ln 1000")
def _(entry):
    loss = F.cross_entropy(torch.zeros(4, 1000), picked(4, 10))
    assert f"{loss:.2f}" in entry


@sign("The loss ends on a floor: two softmaxes")
def _(entry):
    labels = torch.arange(10)
    logits = (100 * F.one_hot(labels, 10)).float()  # as right as can be
    floor = F.cross_entropy(logits.softmax(1), labels)
    assert f"{floor:.3f}" in entry and floor.item() == pytest.approx(math.log(math.e + 9) - 1)
    wrong = logits.roll(1, 0)[:3]  # sure, and wrong
    ten = F.cross_entropy(torch.cat([wrong, logits[3:]]).softmax(1), labels)
    assert (ten - floor).item() == pytest.approx(0.3, abs=1e-5)


@sign("Accuracy depends on batch size and order")
def _(entry):
    model, x = narrow(), pictures(8)
    other = torch.cat([x[:1], 3 * x[1:]])  # the first picture in other company
    with torch.no_grad():
        assert not torch.allclose(model.train()(x)[0], model(other)[0], atol=1e-2)
        assert torch.allclose(model.eval()(x)[0], model(other)[0], atol=1e-5)


@sign("Three accuracies for one network")
def _(entry):
    right = torch.tensor([1.0] * 100 + [0.0] * 10)
    assert torch.stack([part.mean() for part in right.split(100)]).mean() < right.mean() - 0.1


@sign("A ResNet stays behind what others report")
def _(entry):
    model, maps = models.resnet18(stem="imagenet"), []
    model.layer4.register_forward_hook(lambda layer, x, out: maps.append(out.shape[-1]))
    model.eval()(pictures(1))
    assert maps == [1]


@sign("Frozen layers change")
def _(entry):
    for freeze, moves in ((lambda m: m.requires_grad_(False), True), (transfer.freeze, False)):
        model = narrow()
        freeze(model)
        before = transfer.digests(model)["bn1"]
        model.train()(pictures())
        assert (transfer.digests(model)["bn1"] != before) is moves
        assert not any(p.requires_grad for p in model.parameters())


@sign("After unfreezing, only the head changes")
def _(entry):
    model = narrow()
    transfer.freeze(model)
    transfer.unfreeze(model.fc)
    optimizer = SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    transfer.unfreeze(model)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    F.cross_entropy(model(pictures()), torch.arange(4)).backward()
    optimizer.step()
    changed = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert changed == {"fc.weight", "fc.bias"}
    assert all(p.grad is not None for p in model.parameters()), "and all gradients are paid for"


@sign("All parts learn at one rate")
def _(entry):
    for peaks, left in ((0.1, 1), ([0.1, 0.01], 2)):
        groups = [{"params": [nn.Parameter(torch.zeros(1))], "lr": lr} for lr in (0.1, 0.01)]
        optimizer = SGD(groups, lr=0.1)
        lr_scheduler.OneCycleLR(optimizer, peaks, total_steps=10)
        assert len({group["max_lr"] for group in optimizer.param_groups}) == left


@sign("The rate begins anew at the restart")
def _(entry):
    optimizer = one_weight_optimizer()
    scheduler = lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=20)
    for _ in range(8):
        optimizer.step()
        scheduler.step()
    fresh = one_weight_optimizer()
    lr_scheduler.OneCycleLR(fresh, 0.1, total_steps=20)
    assert fresh.param_groups[0]["lr"] < 0.1 * optimizer.param_groups[0]["lr"]


@sign("Evaluation needs more memory than training")
def _(entry):
    model = narrow().eval()
    assert model(pictures()).grad_fn is not None
    with torch.inference_mode():
        assert model(pictures()).grad_fn is None


@sign("Weights stand still in fp16")
def _(entry):
    gradient = torch.tensor(2e-8)
    assert gradient.half() == 0 and gradient.bfloat16() != 0 and (2**16 * gradient).half() != 0


@sign("Every epoch has the same order")
def _(entry):
    sampler = DistributedSampler(range(12), num_replicas=2, rank=0)
    first, again = list(sampler), list(sampler)
    sampler.set_epoch(1)
    assert first == again != list(sampler)


@sign("Accuracy changes with the number of processes")
def _(entry):
    hands = [DistributedSampler(range(10), 4, rank, shuffle=False) for rank in range(4)]
    assert len([picture for hand in hands for picture in hand]) == 12
    assert sorted(i for rank in range(4) for i in range(rank, 10, 4)) == list(range(10))


@sign("A tiny probability is read as a large one")
def _(entry):
    assert f"{0.00926:.2e}" in entry and f"{100 * 0.926:.1f} %" in entry


@pytest.mark.parametrize("title", SIGNS)
def test_what_an_entry_says_one_sees_is_seen(title):
    assert "**Looks like.**" in ENTRIES[title]
    SIGNS[title](ENTRIES[title])


# --- Glossary -----------------------------------------------------------------------------------


def glossary() -> dict[str, str]:
    """The terms of the page, and what is said of each."""
    found = {}
    for match in FENCE.finditer(text_of(GLOSSARY)):
        if match[2] == "{glossary}":
            for entry in re.split(r"\n\s*\n", match[3].strip()):
                term, *lines = entry.splitlines()
                assert term not in found and all(line.startswith("  ") for line in lines)
                found[term] = " ".join(line.strip() for line in lines)
    return found


def terms() -> list[str]:
    return list(glossary())


def anchor_of(term: str) -> str:
    """The place of a term on the page, as Sphinx names it."""
    return "term-" + re.sub(r"[^a-zA-Z0-9._]+", "-", term).strip("-")


def disordered(names: list[str]) -> list[tuple[str, str]]:
    """Neighbors that stand in the wrong order; capitals and marks do not count."""
    keys = [re.sub(r"[^a-z0-9]", "", name.lower()) for name in names]
    return [pair for pair, (a, b) in zip(pairwise(names), pairwise(keys), strict=True) if a >= b]


def occurs(term: str, text: str) -> bool:
    """Whether a text uses a term, in the singular or plural, hyphens and marks aside."""
    flat, words = (
        " ".join(re.sub(r"[-*`]", " ", t.lower().replace("'s", "")).split()) for t in (text, term)
    )
    return bool(re.search(rf"(?<!\w){re.escape(words)}(?:e?s|d|ed|ing)?(?!\w)", flat))


def whole_text(path: Path) -> str:
    """A page, or all cells of a notebook."""
    if path.suffix != ".ipynb":
        return path.read_text(encoding="utf-8")
    return "\n\n".join(house.source(cell) for cell in house.read(path)["cells"])


def unsaid(term: str, definition: str) -> list[str]:
    """What a term's entry lacks: one or two sentences, a link, and that the place uses the term."""
    sentences = re.findall(r"[.?!](?= |$)", LINK.sub("link", definition))
    found = [] if 2 <= len(sentences) <= 3 else ["one or two sentences and where to see it"]
    places = [(BOOK / link.partition("#")[0]).resolve() for link in LINK.findall(definition)]
    if not places:
        found.append("no link")
    elif not any(occurs(term, whole_text(place)) for place in places if place.exists()):
        found.append(f"{term!r} does not occur there")
    return found


def test_the_glossary_is_in_order():
    assert 60 <= len(terms()) <= 100
    assert not disordered(terms())
    for letter, section in sections(text_of(GLOSSARY), 2).items():
        inside = re.findall(r"^([^\s`].*)$", section, re.M)
        assert inside and all(term[0].upper() == letter for term in inside)


def test_disorder_is_seen():
    assert disordered(["ReLU", "recall"]) and disordered(["a", "a"])
    assert not disordered(["recall", "ReLU", "re-split", "softmax"])


@pytest.mark.parametrize(("term", "definition"), glossary().items())
def test_a_term_is_explained_and_used(term, definition):
    assert not unsaid(term, definition)


def test_a_poor_entry_is_seen():
    link = "[chapter 2](../notebooks/02_simple_cnn.ipynb)"
    assert not unsaid("momentum", f"A running sum. See {link}.")
    assert unsaid("momentum", f"See {link}.")
    assert unsaid("momentum", "A running sum. It is one.")
    assert unsaid("gradual unfreezing", f"Part by part. See {link}.")


def lost_in_glossary(text: str) -> list[str]:
    """Links into the glossary that name no term."""
    links = [link for link in LINK.findall(text) if "glossary.md#" in link]
    known = {anchor_of(term) for term in terms()}
    return [link for link in links if link.partition("#")[2] not in known]


def test_links_into_the_glossary_name_a_term():
    pages = [*house.notebooks(), *sorted(BOOK.glob("*.md"))]
    assert not {p.name: lost for p in pages if (lost := lost_in_glossary(text_of(p)))}
    assert lost_in_glossary("[x](../book/glossary.md#term-x)")
    assert not lost_in_glossary("[logits](../book/glossary.md#term-logit)")


def test_terms_that_a_page_names_are_there():
    used = [r for p in BOOK.glob("*.md") for r in re.findall(r"\{term\}`([^`]+)`", text_of(p))]
    named = [(re.search(r"<(.+)>$", role) or re.match("(.*)", role))[1] for role in used]
    assert named and not set(named) - set(terms())


# Terms that the chapters have in code, in headings or as a link elsewhere only.
SILENT = "channels last;long tail;null control;ONNX;receptive field;stand-in;state_dict;tensor"


def test_first_uses_lead_into_the_glossary():
    linked = {
        link.partition("#")[2]
        for path in house.notebooks()
        for link in LINK.findall(text_of(path))
        if "glossary.md#" in link
    }
    assert {term for term in terms() if anchor_of(term) not in linked} == set(SILENT.split(";"))
