"""Figures from arrays and from `History`; importing this module sets the book's style.

Each function draws a figure of pyplot's, which a notebook shows at the cell's end; `plt.gcf()`
is it, to change or save.
"""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure
from torch import Tensor

from cifar_utils.training import History

plt.rcParams.update(
    {
        "figure.dpi": 110,
        "figure.facecolor": "white",
        "figure.constrained_layout.use": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titlelocation": "left",
        "axes.titlesize": "large",
        "axes.prop_cycle": plt.cycler(  # Okabe and Ito's colors, told apart by color-blind readers
            color=["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"]
        ),
        "legend.frameon": False,
        "lines.linewidth": 1.8,
    }
)


def stamp_stand_in() -> None:
    """From now on every figure says that its data is the stand-in."""
    plt.rcParams["figure.hooks"] = ["cifar_utils.plots:_stamp"]


def _stamp(figure: Figure) -> None:
    figure.text(0.995, 0.005, "stand-in data", ha="right", va="bottom", fontsize=7, color="#B00020")


def image_grid(
    images: Tensor,
    titles: Sequence[str] | None = None,
    columns: int = 10,
    title: str | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    scale: float = 0.9,
) -> None:
    """Pictures side by side: (N, 3, H, W), uint8 in 0..255 or float in 0..1.

    With `mean` and `std` (of each channel, for floats in 0..1) the pictures are taken as
    normalized, and shown as they were before. `scale` is the width of one picture in inches.
    Raises ValueError for too few titles.
    """
    if titles is not None and len(titles) < len(images):
        raise ValueError(f"{len(images)} pictures, but {len(titles)} titles")
    if mean is not None:
        shape = (1, 3, 1, 1)
        images = images.float().cpu() * torch.as_tensor(std).view(shape)
        images = images + torch.as_tensor(mean).view(shape)
    if images.dtype.is_floating_point:
        images = images.detach().cpu().float().clamp(0, 1)
    rows = -(-len(images) // columns)
    height = scale * (1.22 if titles is not None else 1.0)
    figure, axes = plt.subplots(
        rows, columns, figsize=(scale * columns, height * rows + 0.35), squeeze=False
    )
    for ax in axes.flat:
        ax.axis("off")
    for i, (ax, image) in enumerate(zip(axes.flat, images, strict=False)):
        ax.imshow(image.permute(1, 2, 0).cpu().numpy(), interpolation="nearest")
        if titles is not None:
            ax.set_title(titles[i], fontsize=8, loc="center", pad=2)
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize="large")


def curves(
    histories: History | dict[str, History],
    quantities: Sequence[str] = ("loss", "accuracy", "lr"),
    title: str | None = None,
) -> None:
    """One panel a quantity over epochs: training dashed, validation solid, one color a history."""
    if isinstance(histories, History):
        histories = {"": histories}
    figure, axes = plt.subplots(
        1, len(quantities), figsize=(3.4 * len(quantities), 3), squeeze=False
    )
    names = {"loss": "loss (nats)", "accuracy": "accuracy", "lr": "learning rate"}
    for ax, quantity in zip(axes[0], quantities, strict=True):
        for i, (name, history) in enumerate(histories.items()):
            lines = {"": history.lr} if quantity == "lr" else {}
            if not lines:
                lines["training"] = getattr(history, f"train_{quantity}")
                lines["validation"] = getattr(history, f"val_{quantity}")
            for part, values in lines.items():
                if not values:  # trained without a validation set
                    continue
                label = " ".join(filter(None, (name, part)))
                epochs = range(1, len(values) + 1)
                style = "--" if part == "training" else "-"
                ax.plot(epochs, values, style, color=f"C{i}", label=label, marker=".")
        ax.set(xlabel="epoch", ylabel=names.get(quantity, quantity))
        ax.xaxis.get_major_locator().set_params(integer=True)
        if quantity == "lr" and len(histories) == 1:
            continue
        ax.legend(fontsize=8, handlelength=3)
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize="large")


def bars(
    names: Sequence[str],
    values: Sequence[float],
    title: str | None = None,
    errors: Sequence[float] | None = None,
    xlabel: str | None = None,
    reference: float | None = None,
    style: str = "{:.3g}",
) -> None:
    """Horizontal bars from the top down, each with its value at the end.

    `errors` are half-widths of an interval; `reference` draws a dashed line to beat; `style`
    formats the values ("{:.1%}" for fractions).
    """
    values = [float(value) for value in values]  # of a tensor's too
    figure, ax = plt.subplots(figsize=(6.5, 0.34 * len(names) + 0.9))
    drawn = ax.barh(list(names), values, xerr=errors, color="C0", height=0.7)
    ax.bar_label(drawn, [style.format(value) for value in values], padding=4, fontsize=9)
    ax.invert_yaxis()
    ax.margins(x=0.12)
    ax.set(xlabel=xlabel)
    if reference is not None:
        ax.axvline(reference, color="0.4", linestyle="--", linewidth=1)
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize="large")
