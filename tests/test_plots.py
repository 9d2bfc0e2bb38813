"""Figures: what is in them, and that stand-in data is said to be stand-in data."""

import warnings

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from cifar_utils import data, plots
from cifar_utils.training import History

HISTORY = History([2.0, 1.5, 1.0], [0.2, 0.4, 0.6], [2.1, 1.7, 1.6], [0.2, 0.3, 0.4], [0.1] * 3)


@pytest.fixture(autouse=True)
def clean():
    hooks = plt.rcParams["figure.hooks"]
    plt.rcParams["figure.hooks"] = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a warning would stand in a chapter's output
        yield
        for number in plt.get_fignums():
            plt.figure(number).canvas.draw()
    plt.rcParams["figure.hooks"] = hooks
    plt.close("all")


@pytest.fixture
def images() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (7, 3, 8, 8), dtype=torch.uint8, generator=generator)


def shown() -> list[np.ndarray]:
    """The pictures of the current figure."""
    return [ax.images[0].get_array() for ax in plt.gcf().axes if ax.images]


def title() -> str:
    return plt.gcf().get_suptitle()


# --- Pictures -----------------------------------------------------------------------------------


def test_every_color_of_a_line_is_seen_on_white():
    for color in plt.rcParams["axes.prop_cycle"].by_key()["color"]:
        red, green, blue = (
            c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4
            for c in matplotlib.colors.to_rgb(color)
        )  # in linear light, as WCAG defines contrast
        contrast = 1.05 / (0.2126 * red + 0.7152 * green + 0.0722 * blue + 0.05)
        assert contrast >= 3, f"{color} has only {contrast:.2f}:1"


@pytest.mark.parametrize(("columns", "panels"), [(3, 9), (7, 7), (10, 10), (1, 7)])
def test_a_grid_has_room_for_all_and_shows_each(columns, panels, images):
    plots.image_grid(images, columns=columns, title="Seven pictures")
    axes = plt.gcf().axes
    assert len(axes) == panels
    assert not any(ax.axison for ax in axes)
    assert title() == "Seven pictures"
    found = shown()
    assert len(found) == 7
    for picture, image in zip(found, images, strict=True):
        np.testing.assert_array_equal(picture, image.permute(1, 2, 0))


def test_titles_stand_over_their_pictures(images):
    names = [f"class {i}" for i in range(7)]
    plots.image_grid(images, names, columns=4)
    assert [ax.get_title() for ax in plt.gcf().axes] == [*names, ""]


def test_too_few_titles_are_an_error(images):
    with pytest.raises(ValueError, match="7 pictures, but 2 titles"):
        plots.image_grid(images, ["cat", "dog"])
    assert not plt.get_fignums()  # and no half a figure


@pytest.mark.parametrize("kind", [tuple, torch.tensor])
def test_normalized_pictures_are_shown_as_they_were(kind, images):
    mean, std = kind(data.CIFAR10_MEAN), kind(data.CIFAR10_STD)
    plots.image_grid(data.normalize(images, mean, std), mean=mean, std=std)
    for picture, image in zip(shown(), images, strict=True):
        np.testing.assert_allclose(picture, image.permute(1, 2, 0) / 255, atol=1e-6)


def test_floats_are_shown_from_0_to_1_and_need_no_detaching(images):
    floats = (images / 255 * 3 - 1).requires_grad_()
    plots.image_grid(floats)
    assert min(p.min() for p in shown()) == 0
    assert max(p.max() for p in shown()) == 1


# --- Curves -------------------------------------------------------------------------------------


def lines(ax) -> dict[str, list[float]]:
    return {line.get_label(): list(line.get_ydata()) for line in ax.lines}


def test_curves_show_training_and_validation_over_epochs():
    plots.curves(HISTORY, title="Both fall")
    loss, accuracy, lr = plt.gcf().axes
    assert title() == "Both fall"
    assert lines(loss) == {"training": HISTORY.train_loss, "validation": HISTORY.val_loss}
    assert lines(accuracy)["validation"] == HISTORY.val_accuracy
    assert list(lr.lines[0].get_ydata()) == HISTORY.lr
    assert list(loss.lines[0].get_xdata()) == [1, 2, 3]
    assert loss.get_ylabel() == "loss (nats)"
    assert {ax.get_xlabel() for ax in (loss, accuracy, lr)} == {"epoch"}


def test_several_histories_are_told_apart():
    plots.curves({"deep": HISTORY, "wide": HISTORY}, quantities=("loss", "lr"))
    loss, lr = plt.gcf().axes
    assert [t.get_text() for t in loss.get_legend().get_texts()] == [
        "deep training",
        "deep validation",
        "wide training",
        "wide validation",
    ]
    assert [t.get_text() for t in lr.get_legend().get_texts()] == ["deep", "wide"]
    colors = [line.get_color() for line in loss.lines]
    assert colors[0] == colors[1] != colors[2] == colors[3]
    assert loss.lines[0].get_linestyle() != loss.lines[1].get_linestyle()


def test_without_validation_no_curve_is_promised():
    plots.curves(History([2.0, 1.0], [0.1, 0.2], [], [], [0.1, 0.1], [1, 1]), ("loss",))
    (ax,) = plt.gcf().axes
    assert list(lines(ax)) == ["training"]


# --- Bars ---------------------------------------------------------------------------------------


def test_bars_stand_from_the_top_with_their_values():
    plots.bars(
        ["cat", "dog"], [0.25, 0.5], "Dogs are easier", [0.1, 0.1], "accuracy", 0.1, "{:.0%}"
    )
    (ax,) = plt.gcf().axes
    assert title() == "Dogs are easier"
    assert ax.get_xlabel() == "accuracy"
    assert [bar.get_width() for bar in ax.patches] == [0.25, 0.5]
    assert [t.get_text() for t in ax.get_yticklabels()] == ["cat", "dog"]
    assert ax.yaxis_inverted()
    assert {"25%", "50%"} <= {t.get_text() for t in ax.texts}
    assert [line.get_xdata()[0] for line in ax.lines if line.get_linestyle() == "--"] == [0.1]


@pytest.mark.parametrize("values", [torch.tensor([0.5, 1.0]), np.array([0.5, 1.0]), [0.5, 1]])
def test_bars_take_numbers_of_any_kind(values):
    plots.bars(["a", "b"], values)
    assert [t.get_text() for t in plt.gca().texts] == ["0.5", "1"]


# --- The stamp ----------------------------------------------------------------------------------


def draw_all(images):
    plots.image_grid(images)
    plots.curves(HISTORY)
    plots.bars(["a"], [1.0])
    plt.subplots()
    return [[t.get_text() for t in plt.figure(n).texts] for n in plt.get_fignums()]


def test_on_stand_in_data_every_figure_says_so(images):
    plots.stamp_stand_in()
    plots.stamp_stand_in()  # twice is once
    assert draw_all(images) == [["stand-in data"]] * 4


def test_on_real_images_no_figure_says_so(images):
    assert draw_all(images) == [[]] * 4


def test_colors_can_be_told_apart():
    colors = plt.rcParams["axes.prop_cycle"].by_key()["color"]
    assert len(set(colors)) == len(colors) >= 6
