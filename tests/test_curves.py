"""What a run leaves behind: event files, bands over seeds, and the learning-rate range test."""

import math
import warnings

import matplotlib.pyplot as plt
import pytest
import torch
from torch import nn
from torch.optim import SGD
from torch.utils.tensorboard import SummaryWriter

from cifar_utils import logs, models, plots, rates
from cifar_utils.logs import EventsError
from cifar_utils.training import History

HISTORY = History([2.0, 1.5, 1.0], [0.2, 0.4, 0.6], [2.1, 1.7, 1.6], [0.2, 0.3, 0.4], [0.1] * 3)


def seeds(n: int, epochs: int = 3) -> list[History]:
    """`n` histories whose validation accuracy in the first epoch is 0.1, 0.2, …"""
    return [
        History(val_loss=[1.0] * epochs, val_accuracy=[0.1 * (i + 1)] * epochs) for i in range(n)
    ]


# --- Event files --------------------------------------------------------------------------------


def test_what_is_written_comes_back(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a warning would stand in a chapter's output
        path = logs.write_events(HISTORY, tmp_path / "run")
        found = logs.read_events(tmp_path / "run")
    assert logs.event_files(tmp_path / "run") == [path]
    assert found.keys() == {tag for tag in logs.TAGS.values() if tag != "seconds"}  # it is empty
    for name, values in HISTORY.to_dict().items():
        if values:
            points = found[logs.TAGS[name]]
            assert list(points) == [1, 2, 3]
            assert list(points.values()) == pytest.approx(values, rel=1e-6)


def test_every_list_of_a_history_has_a_tag():
    assert logs.TAGS.keys() == HISTORY.to_dict().keys()
    assert len(set(logs.TAGS.values())) == len(logs.TAGS)


def test_values_are_float32(tmp_path):
    logs.write_events(History(lr=[0.1]), tmp_path)
    assert logs.read_events(tmp_path) == {"lr": {1: torch.tensor(0.1).item()}}


def test_what_is_not_a_number_comes_back_as_such(tmp_path):
    logs.write_events(History(train_loss=[1.0, math.nan, math.inf]), tmp_path)
    points = logs.read_events(tmp_path)["loss/train"]
    assert points[1] == 1.0 and math.isnan(points[2]) and points[3] == math.inf


def test_no_epoch_of_a_long_run_is_dropped(tmp_path):
    values = [float(i) for i in range(10_500)]  # by default the accumulator keeps 10,000
    logs.write_events(History(lr=values), tmp_path)
    assert list(logs.read_events(tmp_path)["lr"].values()) == values


def test_a_folder_takes_one_run(tmp_path):
    logs.write_events(HISTORY, tmp_path / "run")
    before = (tmp_path / "run").stat().st_mtime_ns
    with pytest.raises(EventsError, match=r"run already holds a run.*folder of its own"):
        logs.write_events(HISTORY, tmp_path / "run")
    assert (tmp_path / "run").stat().st_mtime_ns == before
    logs.write_events(HISTORY, tmp_path / "other")


def test_an_empty_history_leaves_no_file(tmp_path):
    with pytest.raises(EventsError, match="empty"):
        logs.write_events(History(), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_folder_without_events_is_an_error(tmp_path):
    (tmp_path / "notes.txt").write_text("no events")
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(EventsError, match=f"{folder.name} holds no event files"):
            logs.read_events(folder)
    assert not (tmp_path / "absent").exists()


def test_the_error_names_the_runs_below(tmp_path):
    logs.write_events(HISTORY, tmp_path / "first")
    logs.write_events(HISTORY, tmp_path / "second")
    with pytest.raises(EventsError, match="below it, in first, second"):
        logs.read_events(tmp_path)


def test_two_runs_in_one_folder_are_seen(tmp_path):
    for _ in range(2):  # as other programs do it
        with SummaryWriter(tmp_path, filename_suffix=f".{_}") as writer:
            writer.add_scalar("loss", 1.0, 1)
    with pytest.raises(EventsError, match=r"several values of 'loss' .*\(2 files\)"):
        logs.read_events(tmp_path)


def test_a_resumed_run_is_one_curve(tmp_path):
    for step in (1, 2):
        with SummaryWriter(tmp_path, filename_suffix=f".{step}") as writer:
            writer.add_scalar("loss", float(step), step)
    assert logs.read_events(tmp_path) == {"loss": {1: 1.0, 2: 2.0}}


# --- Bands --------------------------------------------------------------------------------------


def drawn() -> tuple[list[float], list[float], list[float]]:
    """Mean, lower and upper edge of the first panel's first group."""
    ax = plt.gcf().axes[0]
    edges = ax.collections[0].get_paths()[0].vertices
    xs = sorted(set(edges[:, 0]))
    low = [min(y for x, y in edges if x == at) for at in xs]
    high = [max(y for x, y in edges if x == at) for at in xs]
    return list(ax.lines[0].get_ydata()), low, high


@pytest.fixture(autouse=True)
def no_figures():
    yield
    plt.close("all")


def test_a_band_reaches_from_the_lowest_run_to_the_highest():
    plots.bands({"seeds": seeds(3)}, ["val_accuracy"], title="Three")
    mean, low, high = drawn()
    assert mean == pytest.approx([0.2] * 3)
    assert low == pytest.approx([0.1] * 3) and high == pytest.approx([0.3] * 3)
    assert plt.gcf().get_suptitle() == "Three"
    plt.gcf().canvas.draw()


def test_a_band_of_deviations():
    plots.bands({"seeds": seeds(3)}, ["val_accuracy"], spread="std")
    _, low, high = drawn()
    assert low == pytest.approx([0.1] * 3) and high == pytest.approx([0.3] * 3)  # std is 0.1
    plots.bands({"one": seeds(1)}, ["val_accuracy"], spread="std")
    mean, low, high = drawn()
    assert mean == low == high  # one run has no spread; nor is it NaN


def test_groups_and_panels():
    plots.bands({"a": seeds(2), "b": seeds(4)})
    axes = plt.gcf().axes
    assert [ax.get_ylabel() for ax in axes] == ["val loss", "val accuracy"]
    for ax in axes:
        assert [t.get_text() for t in ax.get_legend().get_texts()] == ["a (2)", "b (4)"]
        assert len(ax.collections) == 2


@pytest.mark.parametrize(
    ("group", "spread", "message"),
    [
        (seeds(2), "median", "spread is"),
        ([], "range", "seeds: one number of epochs"),
        ([History()], "range", "one number of epochs"),
        ([*seeds(1, 3), *seeds(1, 4)], "range", r"found \[3, 4\]"),
    ],
)
def test_what_makes_no_band_is_an_error(group, spread, message):
    with pytest.raises(ValueError, match=message):
        plots.bands({"seeds": group}, ["val_accuracy"], spread)


# --- The range test -----------------------------------------------------------------------------


def model_of(seed: int = 0) -> models.ResNet:
    torch.manual_seed(seed)
    return models.ResNet(models.BasicBlock, [1], 10, width=4)


def batches(n: int, size: int = 8) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [
        (
            torch.randn(size, 3, 8, 8, generator=generator),
            torch.randint(10, (size,), generator=generator),
        )
        for _ in range(n)
    ]


def state(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def test_rates_rise_exponentially_over_one_pass():
    model = model_of()
    found, losses = rates.range_test(
        model, batches(5), SGD(model.parameters(), 0.1), 1e-4, 1.0, math.inf
    )
    assert found == pytest.approx([1e-4, 1e-3, 1e-2, 1e-1, 1.0])
    assert len(losses) == 5
    with torch.no_grad():
        images, labels = batches(1)[0]
        first = nn.functional.cross_entropy(model.train()(images), labels).item()
    assert losses[0] == pytest.approx(first)  # the loss before its step


@pytest.mark.parametrize("mode", [True, False])
@pytest.mark.parametrize("trained", [True, False])
def test_model_and_optimizer_are_put_back(mode, trained):
    model = model_of()
    optimizer = SGD(
        [{"params": model.fc.parameters()}, {"params": model.conv1.parameters(), "lr": 0.02}],
        lr=0.01,
        momentum=0.9,
    )
    if trained:  # so that there are momentum buffers to put back
        images, labels = batches(1)[0]
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
    model.train(mode)
    before, momenta = state(model), [p.clone() for p in buffers(optimizer)]
    rates.range_test(model, batches(6), optimizer)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [group["lr"] for group in optimizer.param_groups] == [0.01, 0.02]
    after = buffers(optimizer)
    assert len(after) == len(momenta) == (3 if trained else 0)
    assert all(torch.equal(a, b) for a, b in zip(after, momenta, strict=True))
    assert model.training is mode
    assert all(p.grad is None for group in optimizer.param_groups for p in group["params"])


def buffers(optimizer: SGD) -> list[torch.Tensor]:
    return [state["momentum_buffer"] for state in optimizer.state.values()]


def test_training_after_the_test_is_training_without_it():
    ends = []
    for first in (True, False):
        model = model_of()
        optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9)
        if first:
            rates.range_test(model, batches(4), optimizer)
        for images, labels in batches(3):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images), labels).backward()
            optimizer.step()
        ends.append(state(model))
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_it_stops_where_the_loss_explodes():
    model = model_of()
    found, losses = rates.range_test(model, batches(40), SGD(model.parameters(), 0.1), 1e-3, 1e6)
    assert len(found) == len(losses) < 40
    *kept, last = losses
    assert not last <= 4 * sorted(losses)[len(losses) // 2 - 1]
    assert all(math.isfinite(loss) for loss in kept)


def test_it_stops_at_a_loss_that_is_not_a_number():
    bad = batches(6)
    bad[2][0][0] = math.nan
    model = model_of()
    _, losses = rates.range_test(model, bad, SGD(model.parameters(), 0.1))
    assert len(losses) == 3 and math.isnan(losses[-1])
    assert all(value.isfinite().all() for value in model.state_dict().values())


def test_all_is_put_back_when_a_batch_fails():
    model = model_of()
    optimizer = SGD(model.parameters(), lr=0.1)
    before = state(model)
    broken = batches(3)
    broken[2] = (torch.zeros(8, 5, 8, 8), broken[2][1])  # five channels
    with pytest.raises(RuntimeError):
        rates.range_test(model, broken, optimizer)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert optimizer.param_groups[0]["lr"] == 0.1


@pytest.mark.parametrize(("low", "high", "n"), [(0, 1, 5), (1, 1, 5), (2, 1, 5), (0.1, 1, 1)])
def test_rates_that_cannot_rise_are_an_error(low, high, n):
    model = model_of()
    with pytest.raises(ValueError, match=f"no rates from {low} to {high} in {n} batches"):
        rates.range_test(model, batches(n), SGD(model.parameters(), 0.1), low, high)
