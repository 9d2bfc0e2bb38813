"""Figures from arrays and from `History`; importing this module sets the book's style.

Each function draws a figure of pyplot's, which a notebook shows at the cell's end; `plt.gcf()`
is it, to change or save.
"""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure
from torch import Tensor

from cifar_utils import metrics
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
        "axes.prop_cycle": plt.cycler(  # Okabe and Ito's colors, told apart by color-blind readers;
            # brown and violet for two that a line on white hardly shows
            color=["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#783C1E", "#965AFF", "#000000"]
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


def bands(
    groups: dict[str, Sequence[History]],
    quantities: Sequence[str] = ("val_loss", "val_accuracy"),
    spread: str = "range",
    title: str | None = None,
) -> None:
    """One panel a quantity over epochs: of each group of runs the mean, in a band of its spread.

    quantities: names of `History`'s lists. spread: "range", from the lowest run to the highest, or
    "std", one standard deviation to either side (of a single run: no band). Raises ValueError for
    another spread, for a group without runs, and for runs of different lengths.
    """
    if spread not in ("range", "std"):
        raise ValueError(f"spread is 'range' or 'std', not {spread!r}")
    _, axes = plt.subplots(1, len(quantities), figsize=(4.2 * len(quantities), 3), squeeze=False)
    for ax, quantity in zip(axes[0], quantities, strict=True):
        for name, histories in groups.items():
            lists = [getattr(history, quantity) for history in histories]
            if not lists or not lists[0] or len({len(values) for values in lists}) > 1:
                lengths = sorted({len(values) for values in lists})
                raise ValueError(f"{name}: one number of epochs is needed, found {lengths}")
            runs = torch.tensor(lists, dtype=torch.float64)  # (runs, epochs)
            mean, epochs = runs.mean(0), range(1, runs.shape[1] + 1)
            low, high = runs.aminmax(dim=0)
            if spread == "std":
                deviation = runs.std(0, correction=1 if len(runs) > 1 else 0)
                low, high = mean - deviation, mean + deviation
            line = ax.plot(epochs, mean, marker=".", label=f"{name} ({len(runs)})")[0]
            ax.fill_between(epochs, low, high, color=line.get_color(), alpha=0.25, linewidth=0)
        ax.set(xlabel="epoch", ylabel=quantity.replace("_", " "))
        ax.xaxis.get_major_locator().set_params(integer=True)
        ax.legend(fontsize=8)
    if title:
        plt.gcf().suptitle(title, x=0.01, ha="left", fontsize="large")


def confusion_map(
    counts: Tensor,
    names: Sequence[str],
    title: str | None = None,
    groups: Sequence[int] | Tensor | None = None,
) -> None:
    """A confusion matrix: a row for each true class, a column for each answer, shares of the row.

    counts: (C, C), as `metrics.confusion_matrix` gives them. Color shows mistakes only: right
    answers, on the diagonal, stand as numbers in white cells, or they would outshine everything.
    groups: (C,) number of each class's group; the classes are then sorted by group, with lines
    between the blocks, and `names` are those of the groups. Cells hold numbers up to 20 classes.
    """
    shares, classes = counts / counts.sum(1, keepdim=True).clamp(min=1), len(counts)
    sizes = torch.ones(classes, dtype=torch.int64)
    if groups is not None:
        groups = torch.as_tensor(groups)
        order, sizes = groups.argsort(stable=True), groups.bincount(minlength=len(names))
        shares = shares[order][:, order]
    if len(names) != len(sizes):
        raise ValueError(f"{len(names)} names for {len(sizes)} rows")
    mistakes = shares.masked_fill(torch.eye(classes, dtype=torch.bool), 0)
    figure, ax = plt.subplots(figsize=(6.4, 5.6))
    limit = mistakes.max().clamp(min=1e-6).item()
    drawn = ax.imshow(mistakes.numpy(), cmap="Blues", vmin=0, vmax=limit)
    figure.colorbar(drawn, label="share of the true class", shrink=0.8)
    if classes <= 20:
        for i, j in ((100 * shares).round() >= 1).nonzero().tolist():
            dark = mistakes[i, j] > 0.6 * limit
            style = {"color": "white" if dark else "black", "ha": "center", "va": "center"}
            ax.text(j, i, f"{100 * shares[i, j]:.0f}", fontsize=8, **style)
    ends = sizes.cumsum(0)
    places, small = (ends - sizes / 2 - 0.5).tolist(), 9 if len(names) <= 12 else 7
    if groups is not None:
        for edge in (ends[:-1] - 0.5).tolist():
            ax.axhline(edge, color="0.75", linewidth=0.5)
            ax.axvline(edge, color="0.75", linewidth=0.5)
    ax.set_xticks(places, names, rotation=90, fontsize=small)
    ax.set_yticks(places, names, fontsize=small)
    ax.set(xlabel="answer", ylabel="true class")
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize="large")


def reliability(
    answers: dict[str, tuple[Tensor, Tensor]], title: str | None = None, bins: int = 15
) -> None:
    """Accuracy over confidence, bin by bin with 95 % Wilson intervals, and how full the bins are.

    answers: for each line its confidences (N,) in 0..1 and which answers were right, (N,) bool.
    Below the dashed line the network is too sure, above it not sure enough.
    """
    figure, (ax, below) = plt.subplots(2, 1, figsize=(5.4, 5.2), sharex=True, height_ratios=(3, 1))
    ax.plot([0, 1], [0, 1], "--", color="0.5", linewidth=1)
    for i, (name, (confidence, right)) in enumerate(answers.items()):
        place = (confidence * bins).long().clamp(max=bins - 1)  # the bins of calibration_error
        total, hits = place.bincount(minlength=bins), place[right].bincount(minlength=bins)
        full = total.nonzero().flatten()
        middle = torch.stack([confidence[place == b].mean() for b in full])
        share = hits[full] / total[full]
        ends = [metrics.wilson_interval(h, n) for h, n in zip(hits[full], total[full], strict=True)]
        error = (torch.tensor(ends) - share[:, None]).abs().T
        points = (x.numpy() for x in (middle, share, error))
        ax.errorbar(*points, color=f"C{i}", marker="o", ms=4, capsize=2, label=name)
        edges = torch.linspace(0, 1, bins + 1).numpy()
        below.stairs(total.numpy(), edges, color=f"C{i}", linewidth=1.6)
    ax.set(ylabel="accuracy", ylim=(0, 1.02))
    below.set(xlabel="confidence", ylabel="pictures", yscale="log")
    ax.legend(fontsize=9)
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize="large")
