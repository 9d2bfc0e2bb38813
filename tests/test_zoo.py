"""The zoo: its networks, its program, its tables, and the pages made from the same records."""

import argparse
import copy
import re
import shlex
import shutil
from pathlib import Path

import pytest
import torch
import torchvision
from PIL import Image
from torch import nn

import cells
import house
import tables
from apps import fast, train, zoo
from apps.pictures import TrainError
from cifar_utils import distributed, models

ROOT = house.ROOT
TOLD = cells.told()
PUBLISHED = [f"{row['who']}, {row['network'] or 'its own'}" for row in TOLD["published"]]
each_published = pytest.mark.parametrize("row", TOLD["published"], ids=PUBLISHED)


# --- Networks, counted ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", [n for n in zoo.NETWORKS if n.startswith("imagenet_")])
def test_torchvision_counts_its_networks_as_we_do(name):
    """Two independent counts: ours, and what the package says of its weights."""
    weights = torchvision.models.get_model_weights(name.removeprefix("imagenet_")).IMAGENET1K_V1
    parameters, multiply_adds = zoo.count(name)
    assert parameters == weights.meta["num_params"]
    assert round(multiply_adds / 1e9, 3) == pytest.approx(weights.meta["_ops"], abs=0.002)
    assert zoo.count(name, 10)[0] < parameters


@pytest.mark.parametrize(
    ("name", "classes", "parameters"),
    [
        ("simple_cnn", 10, 62_006),
        ("resnet18", 10, 11_173_962),
        ("resnet18", 100, 11_173_962 + 90 * 513),
        ("resnet50", 10, sum(p.numel() for p in models.resnet50().parameters())),
        ("resnet20", 10, sum(p.numel() for p in models.cifar_resnet(20).parameters())),
        ("resnet10_32", 10, 1_228_970),
        ("resnet10_32_pool", 10, 1_228_970),  # a pool has no weights
    ],
)
def test_networks_have_as_many_parameters_as_they_should(name, classes, parameters):
    assert zoo.count(name, classes)[0] == parameters


def test_multiply_adds_of_one_convolution_and_one_line_by_hand():
    class Small(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.fc = nn.Conv2d(3, 5, 3, padding=1), nn.Linear(5, 7)

        def forward(self, x):
            return self.fc(self.conv(x).mean((2, 3)))

    by_hand = 32 * 32 * 5 * 27 + 5 * 7
    small = zoo.Network("by hand", 32, lambda classes, size: Small())
    zoo.NETWORKS["by hand"] = small
    try:
        assert zoo.count("by hand") == (3 * 5 * 9 + 5 + 5 * 7 + 7, by_hand)
    finally:
        del zoo.NETWORKS["by hand"]


def test_the_page_says_what_the_networks_are():
    text = (ROOT / "book" / "zoo.md").read_text(encoding="utf-8")
    part = text.partition("<!-- networks -->")[2].partition("<!-- /networks -->")[0]
    rows = re.findall(r"^\| `(\w+)` \| .* \| ([\d,]+) \| ([\d.,]+) \|$", part, re.M)
    assert [row[0] for row in rows] == list(zoo.NETWORKS)
    for name, parameters, million in rows:
        size, work = zoo.count(name)
        assert int(parameters.replace(",", "")) == size
        assert float(million.replace(",", "")) == pytest.approx(work / 1e6, abs=0.06)


# --- The program ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["simple_cnn", "resnet8", "efficientnet_b0", "vit_lite"])
def test_a_step_is_checked(name):
    torch.manual_seed(0)
    model = zoo.NETWORKS[name].make(10, 32)
    before = copy.deepcopy(model.state_dict())
    loss = zoo.check_step(model, torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 2, 3]))
    assert 1 < loss < 10
    after = model.state_dict()
    assert all(torch.equal(value, after[key]) for key, value in before.items())


class Idle(nn.Module):
    """A network with a layer that nothing passes through."""

    def __init__(self):
        super().__init__()
        self.used, self.idle = nn.Linear(3, 10), nn.Linear(3, 10)

    def forward(self, x):
        return self.used(x.mean((2, 3)))


class Wild(Idle):
    """A network whose loss is not finite."""

    def forward(self, x):
        return super().forward(x) / 0


class Deaf(Idle):
    """A network that looks at nothing: its slopes are all zero."""

    def forward(self, x):
        return (self.used(x.mean((2, 3))) + self.idle(x.mean((2, 3)))) * 0.0


@pytest.mark.parametrize(
    ("network", "said"), [(Idle, "idle"), (Wild, "first loss"), (Deaf, "no weight")]
)
def test_a_step_that_is_wrong_is_seen(network, said):
    with pytest.raises(TrainError, match=said):
        zoo.check_step(network(), torch.rand(2, 3, 4, 4), torch.tensor([0, 1]))


def test_the_recipe_is_chapter_fours_where_there_is_batchnorm():
    optimizer, cycle = zoo.recipe(models.cifar_resnet(8), 20)
    assert isinstance(optimizer, torch.optim.SGD)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [5e-4, 0.0]
    rates = []
    for _ in range(20):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        cycle.step()
    assert max(rates) == pytest.approx(0.2) and rates.index(max(rates)) == 4
    assert rates[-1] < 1e-3


def test_a_network_without_batchnorm_gets_adamw():
    optimizer, _ = zoo.recipe(models.SimpleCNN(), 20)
    assert isinstance(optimizer, torch.optim.AdamW)
    gentle, _ = zoo.recipe(models.cifar_resnet(8), 20, pretrained=True)
    assert max(gentle.param_groups[0]["max_lr"] for _ in [0]) == pytest.approx(0.02)
    chosen, _ = zoo.recipe(models.cifar_resnet(8), 20, rate=0.3)
    assert chosen.param_groups[0]["max_lr"] == 0.3
    with pytest.raises(TrainError, match="4 steps"):
        zoo.recipe(models.SimpleCNN(), 4)


def start(*arguments: object) -> int:
    return zoo.main([str(argument) for argument in arguments])


def test_it_trains_on_drawn_pictures_and_goes_on(tmp_path, capsys):
    line = ("simple_cnn", "--budget", "smoke", "--device", "cpu", "--out", tmp_path)
    assert start(*line) == 0
    first = capsys.readouterr().out
    for part in ("62,006 parameters", "651,720 multiply-adds", "one step checked", "stand-in"):
        assert part in first
    assert first.count("epoch ") == 2
    assert start(*line) == 0
    again = capsys.readouterr().out
    assert "2 of 2 epochs are done" in again and again.count("\nepoch") == 0
    assert again.splitlines()[-1] == first.splitlines()[-1]  # the same answers, from the checkpoint


def test_a_network_for_larger_pictures_sees_them_enlarged(tmp_path, capsys):
    line = ("imagenet_resnet34", "--budget", "smoke", "--device", "cpu", "--out", tmp_path)
    assert start(*line, "--size", 40, "--batch", 4, "--train-pictures", 16) == 0
    assert "a picture of 224 pixels" in capsys.readouterr().out
    given = zoo.settings(["imagenet_resnet34", "--budget", "smoke"])
    assert given.size == 64
    model = zoo.build(given, 10)
    seen = []
    model[1].register_forward_pre_hook(lambda layer, inputs: seen.append(inputs[0].shape[-1]))
    model.eval()(torch.rand(1, 3, 32, 32))
    assert seen == [64]
    assert zoo.settings(["imagenet_efficientnet_b4", "--budget", "gpu"]).size == 380
    assert isinstance(zoo.build(zoo.settings(["resnet8", "--budget", "smoke"]), 10), models.ResNet)


def test_it_learns_from_a_folder_of_your_own(tmp_path, capsys):
    generator = torch.Generator().manual_seed(0)
    for part in ("train", "val"):
        for name, red in (("day", 200), ("night", 20)):
            (tmp_path / part / name).mkdir(parents=True)
            for n in range(6):
                pixels = torch.randint(0, red, (40, 40, 3), generator=generator).byte()
                Image.fromarray(pixels.numpy()).save(tmp_path / part / name / f"{n}.png")
    out = tmp_path / "out"
    line = ("resnet8", "--dataset", "imagefolder", "--data", tmp_path, "--device", "cpu")
    assert start(*line, "--out", out, "--budget", "smoke", "--batch", 4, "--size", 32) == 0
    said = capsys.readouterr().out
    assert "of 12 (" in said and "0.693 for a guess" in said
    assert (out / "checkpoint.pt").exists()
    few = [*map(str, line), "--budget", "smoke", "--train-pictures", "8", "--test-pictures", "7"]
    parts = zoo.load_pictures(zoo.settings(few))  # more than half, and still from both classes
    for part, n in ((parts.train, 8), (parts.val, 7)):
        of_class = [label for _, label in part.folder.samples].count(0)
        assert len(part.folder.samples) == n and of_class == (n + 1) // 2


def test_pretrained_weights_get_a_new_head_and_their_own_constants(tmp_path, monkeypatch):
    asked, seen = [], []

    def pretend(name: str):
        asked.append(name)
        return models.resnet18(1000), None

    monkeypatch.setattr(zoo.transfer, "imagenet", pretend)
    monkeypatch.setattr(zoo, "check_step", lambda model, images, labels: seen.append(images) or 0.0)
    monkeypatch.setattr(zoo.training, "fit", lambda model, batches, **how: seen.append(model))
    line = ["imagenet_resnet34", "--pretrained", "--budget", "smoke", "--out", str(tmp_path)]
    given = zoo.settings([*line, "--size", "32", "--train-pictures", "80", "--test-pictures", "8"])
    zoo.run(given)
    assert asked == ["resnet34"] and seen[1].fc.out_features == 10
    plain = zoo.load_pictures(given)
    assert plain.mean != zoo.IMAGENET_MEAN
    lowest = (0 - torch.tensor(zoo.IMAGENET_MEAN)) / torch.tensor(zoo.IMAGENET_STD)
    assert (seen[0].amin((0, 2, 3)) >= lowest - 1e-4).all()
    assert zoo.settings([*line]).size == 224  # theirs, even at smoke


def test_the_draws_of_an_epoch_are_kept_in_one_state():
    given = zoo.settings(["resnet8", "--budget", "smoke"])
    here = distributed.find_world("cpu")

    def epochs(batches, n):
        return [torch.cat([images for images, _ in batches]) for _ in range(n)]

    batches = zoo.Batches(zoo.load_pictures(given), 16, here)
    assert len(batches) == 4
    first = epochs(batches, 1)
    state = batches.generator.get_state()
    rest = epochs(batches, 2)
    assert not torch.equal(first[0], rest[0]) and not torch.equal(rest[0], rest[1])
    resumed = zoo.Batches(zoo.load_pictures(given), 16, here)
    resumed.generator.set_state(state)
    assert all(map(torch.equal, rest, epochs(resumed, 2)))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["resnet8", "--dataset", "imagefolder"], "needs --data"),
        (["resnet8", "--pretrained"], "no pretrained weights for resnet8"),
        (["resnet8", "--budget", "smoke", "--batch", "65"], "no batch of 65"),
        (["resnet8", "--budget", "smoke", "--epochs", "1"], "4 steps make no cycle"),
        (["resnet8", "--dataset", "imagefolder", "--data", "/nowhere"], "not a folder of classes"),
    ],
)
def test_what_cannot_be_is_said_in_a_line(arguments, said, tmp_path, capsys):
    assert start(*arguments, "--out", tmp_path, "--device", "cpu") == 2
    error = capsys.readouterr().err
    assert error.startswith("apps.zoo: ") and said in error and "Traceback" not in error


def test_a_budget_that_is_none_is_refused(monkeypatch, capsys):
    monkeypatch.setenv("CIFAR_BUDGET", "huge")
    assert start("resnet8") == 2 and "no budget 'huge'" in capsys.readouterr().err


def test_the_list_names_every_network(capsys):
    assert start() == 0
    said = capsys.readouterr().out
    assert all(f"\n{name} " in said for name in zoo.NETWORKS)


# --- What is told by hand -------------------------------------------------------------------------

# These chapters judge a network that a study trained and recorded: theirs is the same figure.
JUDGES = {"10_per_class", "11_own_pictures"}


def untold(records: set[str], studies: set[str], told: dict) -> set[str]:
    """Chapters with a test accuracy, and studies, that the zoo does not know."""
    known = {entry.get("record") for entry in told["trained"]} | JUDGES
    shown = {entry.get("study") for entry in told["trained"]}
    shown |= {entry["name"] for entry in told["study"]}
    return (records - known) | (studies - shown)


def test_everything_on_record_is_in_the_zoo():
    files = (ROOT / "results").glob("[0-9]*.json")
    records = {p.name.split(".")[0] for p in files if "test_accuracy" in house.read(p)["metrics"]}
    studies = {p.stem for p in (ROOT / "results" / "studies").glob("*.jsonl")}
    assert not untold(records, studies, TOLD), "say it in book/zoo.toml"
    assert untold({"99_new"}, {"new"}, TOLD) == {"99_new", "new"}
    planned = {p.stem for p in (ROOT / "studies").glob("*.py")}
    assert {entry["name"] for entry in TOLD["study"]} <= planned


def test_the_zoo_names_networks_that_there_are():
    named = [entry["network"] for entry in TOLD["trained"]]
    names = {n for x in named for n in (x.values() if isinstance(x, dict) else [x])}
    names |= {row["network"] for row in TOLD["published"]}
    assert names - {""} <= set(zoo.NETWORKS)


def unusable(command: str) -> str:
    """What is wrong with a command that a table offers; "" for one that can be given."""
    words = [word for word in shlex.split(command) if not re.match(r"[A-Z_]+=", word)]
    values = dict(word.split("=", 1) for word in shlex.split(command) if "=" in word)
    if words[:2] == ["make", "lab"]:
        return ""
    if words[:2] == ["make", "run"]:
        stems = [path.stem[:2] for path in house.notebooks()]
        return "" if values.get("CHAPTERS") in stems else f"no chapter: {command}"
    if words[:2] == ["make", "study"]:
        return (
            "" if (ROOT / "studies" / f"{values['NAME']}.py").exists() else f"no study: {command}"
        )
    programs = {"apps.zoo": zoo, "apps.train": train, "apps.fast": fast}
    program = programs.get(words[words.index("-m") + 1])
    if program is None:
        return f"no such program: {command}"
    try:
        program.settings(words[words.index("-m") + 2 :])
    except (SystemExit, TrainError):
        return f"not understood: {command}"
    return ""


@pytest.mark.parametrize(
    "command",
    sorted(
        {row["run"] for part in ("published", "choice") for row in TOLD[part] if row["run"]}
        | {entry["again"] for entry in TOLD["trained"] if "again" in entry}
    ),
)
def test_the_commands_that_tables_offer_can_be_given(command):
    assert not unusable(command)


@pytest.mark.parametrize(
    "bad",
    [
        "make run CHAPTERS=77",
        "make study NAME=nothing",
        "python -m apps.zoo resnet19",
        "python -m apps.zoo resnet18 --pretrained",
        "python -m apps.trains",
    ],
)
def test_a_command_that_cannot_be_given_is_seen(bad, capsys):
    assert unusable(bad)


# --- Published ------------------------------------------------------------------------------------


def unsourced(row: dict, book: Path = ROOT / "book") -> str:
    """What a published figure lacks: a link that leads somewhere, where it was read, a cost."""
    page = book / row["link"].partition("#")[0]
    if not re.match(r"https://[\w.-]+/\S+$", row["link"]) and not page.exists():
        return f"no such place: {row['link']}"
    return "" if row["seen"] and row["cost"] and row["accuracy"] else "no source, cost or accuracy"


@each_published
def test_published_figures_say_whose_they_are(row):
    assert not unsourced(row)


def test_a_figure_without_a_source_is_seen():
    good = TOLD["published"][0]
    assert not unsourced(good)
    for change in ({"link": "../notebooks/99_no.ipynb"}, {"link": "http://x"}, {"seen": ""}):
        assert unsourced(good | change)


def test_the_tutorials_and_the_model_tables_are_there():
    rows = {(row["who"], row["data"], row["network"]) for row in TOLD["published"]}
    for data, network in (
        ("CIFAR-10", "resnet18"),
        ("CIFAR-10", "resnet50"),
        ("CIFAR-10", "efficientnet_b0"),
        ("ImageNet", "imagenet_resnet50"),
        ("ImageNet", "imagenet_efficientnet_b4"),
        ("ImageNet", "imagenet_vit_b_16"),
    ):
        assert ("D", data, network) in rows
    assert {"A", "B", "C", "D", "E"} == {who[:1] for who, _, _ in rows if who[1:2] in ("", ",")}
    text = (ROOT / "book" / "zoo.md").read_text(encoding="utf-8")
    assert text.index("## Published, not measured here") < text.index("<!-- published -->")


def test_torchvisions_figures_are_those_of_its_weights():
    rows = [row for row in TOLD["published"] if "weights" in row]
    assert len(rows) >= 6
    for row in rows:
        network, name = row["weights"].split()
        assert row["network"] == f"imagenet_{network}"
        weights = torchvision.models.get_model_weights(network)[name]
        found = weights.meta["_metrics"]["ImageNet-1K"]["acc@1"]
        assert row["accuracy"] == f"{found:.3f} %"


def test_the_arithmetic_of_a_card_that_was_too_fast():
    """Tutorial D: ResNet-18, 200 epochs of 50,000 pictures in 25 minutes on one card."""
    (row,) = [r for r in TOLD["published"] if r["who"] == "D" and r["network"] == "resnet18"]
    operations = 2 * 3 * zoo.count("resnet18")[1] * 50_000 * 200
    needed = operations / (25 * 60) / 1e12
    assert f"{needed:.0f} TFLOP/s" in row["about"] and needed > 15.7


# --- Tables ---------------------------------------------------------------------------------------


def test_the_tables_are_in_step():
    stale = [p.name for p, t in tables.expected().items() if p.read_text(encoding="utf-8") != t]
    assert not stale, "run `python book/tools/tables.py`"


@pytest.fixture
def small_house(tmp_path):
    """What the tables are made from, where it may be changed."""
    for part in ("results", "book", "notebooks", "weights"):
        keep = shutil.ignore_patterns("*.svg", "_static", "tools", "*.bib")
        shutil.copytree(ROOT / part, tmp_path / part, ignore=keep)
    return tmp_path


def test_a_changed_record_changes_its_tables(small_house):
    before = tables.expected(small_house)
    file = small_house / "results" / "04_resnet_training.laptop.json"
    record = house.read(file)
    record["metrics"]["test_accuracy"], record["date"] = 0.1234, "2031-01-02"
    file.write_text(house.dump(record), encoding="utf-8")
    after = tables.expected(small_house)
    changed = {path.stem for path in after if after[path] != before[path]}
    assert changed == {"zoo", "which_recipe", "status"}
    assert "12.3%" in after[small_house / "book" / "zoo.md"]
    assert "2031-01-02" in after[small_house / "book" / "status.md"]


def test_a_record_at_budget_gpu_fills_its_row(small_house):
    page = small_house / "book" / "which_recipe.md"
    assert tables.expected(small_house)[page].count("not recorded yet") >= 1
    record = house.read(small_house / "results" / "04_resnet_training.laptop.json")
    record |= {"budget": "gpu", "device": "Some GPU", "precision": "bf16"}
    record["metrics"] = {"test_accuracy": 0.9412, "train_minutes": 3.0}
    file = small_house / "results" / "04_resnet_training.gpu.json"
    file.write_text(house.dump(record), encoding="utf-8")
    after = tables.expected(small_house)
    assert "94.1%, CIFAR-10; minutes: 3.0" in after[page]
    text = after[small_house / "book" / "zoo.md"]
    (row,) = [line for line in text.splitlines() if "Some GPU" in line]
    assert row.startswith("| `resnet18`<br>11,173,962 |") and "BUDGET=gpu" in row


def test_re_split_data_is_called_so():
    text = (ROOT / "book" / "zoo.md").read_text(encoding="utf-8")
    for line in text.splitlines():
        if line.startswith("| `") and "make run CHAPTERS=05" in line:
            assert "CIFAR-100 (re-split)" in line
    record = {"dataset": {"name": "cifar100", "split": "re-split", "stand_in": False}}
    assert cells.data_of(record) == "CIFAR-100 (re-split)"
    assert cells.data_of({"dataset": record["dataset"] | {"stand_in": True}}) == "stand-in"
    assert cells.data_of({"dataset": None}) == "stand-in"


def test_spread_is_the_standard_deviation_over_seeds():
    assert cells.spread([0.5, 0.6]) == "55.0 ± 7.1%"
    assert cells.spread([0.5]) == "50.0%"


def test_a_group_has_each_seed_once():
    rows = [{"seed": s, "rate": r, "acc": 0.5} for s in (0, 1) for r in (0.1, 0.2)]
    assert len(cells.groups(rows, "rate {rate}", "acc", {})) == 2
    with pytest.raises(ValueError, match="several runs of one seed"):
        cells.groups(rows, "all", "acc", {})


def test_minutes_are_the_trainings_own_where_they_are_known():
    chapter = {"chapter": "x", "seconds": 600, "metrics": {}}
    assert cells.minutes(chapter) == "10.0 (chapter)"
    assert cells.minutes(chapter | {"history": {"lr": [1], "seconds": [30, 60]}}) == "1.5"
    assert cells.minutes(chapter | {"metrics": {"train_minutes": 7.3}}) == "7.3"
    assert cells.minutes({"seconds": 90}) == "1.5"


def test_what_which_recipe_says_in_words_is_on_record():
    """Unfrozen is the best at every size; chapter 5 made four times as many passes."""
    rows = tables.few().splitlines()[2:]
    assert len(rows) == 4
    assert all(row.split(" | ")[2].startswith("**") for row in rows)
    best = [max(re.findall(r"([\d.]+) ±", row), key=float) for row in rows]
    assert all(
        row.split(" | ")[2].startswith(f"**{top}") for row, top in zip(rows, best, strict=True)
    )
    whole = [r for r in cells.rows_of("few_pictures") if r["per_class"] == 500 and "epochs" in r]
    record = house.read(ROOT / "results" / "05_cifar100_from_scratch.laptop.json")
    assert {4 * r["epochs"] for r in whole} == {len(cells.history(record)["lr"])}


# --- Beyond ---------------------------------------------------------------------------------------


def snippet(text: str) -> str:
    """The one Python block of a page."""
    found = re.findall(r"^```python\n(.*?)^```$", text, re.M | re.S)
    assert len(found) == 1, f"{len(found)} Python blocks, not one"
    return found[0]


def test_the_three_beyond_resnet_run_at_32_pixels(capsys):
    code = snippet((ROOT / "book" / "beyond.md").read_text(encoding="utf-8"))
    assert len(code.strip().splitlines()) <= 11 and "weights=None" in code
    names: dict = {}
    exec(code, names)
    assert names["pictures"].shape == (2, 3, 32, 32)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["ConvNeXt"] + ["VisionTransformer"] * 2
    assert ["(2, 10)" in line for line in lines] == [True, True, False]
    with torch.no_grad():
        assert names["convnext"].features(names["pictures"]).shape[2:] == (1, 1)  # one pixel
        assert names["eye_of_clip"]._process_input(names["pictures"]).shape[1] == 1  # one word


def test_a_page_with_two_blocks_is_seen():
    block = "```python\nx = 1\n```\n"
    assert snippet(block) == "x = 1\n"
    with pytest.raises(AssertionError, match="2 Python blocks"):
        snippet(block + block)


def test_vit_lite_is_about_what_was_published():
    """ViT-Lite-6/4 by its README: 3.191 million parameters, 0.205 billion multiply-adds."""
    parameters, work = zoo.count("vit_lite")
    assert parameters == pytest.approx(3.191e6, rel=0.01)
    assert work == pytest.approx(0.205e9, rel=0.1)


def test_settings_are_plain():
    given = zoo.settings(["resnet18", "--dataset", "cifar100", "--budget", "gpu", "--seed", "3"])
    assert isinstance(given, argparse.Namespace)
    assert (given.epochs, given.batch, given.train_pictures, given.size) == (30, 128, None, 32)
    assert given.out == ROOT / "runs" / "zoo" / "resnet18-cifar100-gpu-3"


def test_trainings_that_differ_in_size_or_start_have_folders_of_their_own():
    lines = ([], ["--size", "64"], ["--size", "128"], ["--pretrained"])
    assert len({zoo.settings(["imagenet_resnet34", *line]).out for line in lines}) == len(lines)


def test_a_table_with_two_data_sets_says_which_row_is_on_which():
    again = tables.repeated().partition("### The chapters' last trainings again")[2]
    rows = re.findall(r"^\| (\d\d)_\w+, ([^|]+) \|", again.partition("###")[0], re.M)
    assert {("02", "CIFAR-10"), ("07", "CIFAR-100 (re-split)")} <= set(rows)
