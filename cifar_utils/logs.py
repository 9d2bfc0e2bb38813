"""TensorBoard's event files: a `History` written as one run, and such a run's curves read back.

TensorBoard shows a folder of such folders (`tensorboard --logdir runs`). Both directions are its
own libraries' work; what is added here is that two runs never end up in one curve.
"""

from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter

from cifar_utils.training import History

# TensorBoard puts tags that begin alike into one group of charts.
TAGS = {
    "train_loss": "loss/train",
    "val_loss": "loss/val",
    "train_accuracy": "accuracy/train",
    "val_accuracy": "accuracy/val",
    "lr": "lr",
    "seconds": "seconds",
}


class EventsError(ValueError):
    """A folder of events cannot be used; the message names it and says what to do."""


def event_files(folder: str | Path) -> list[Path]:
    """The event files that lie directly in `folder`, by name; none if there is no such folder."""
    return sorted(path for path in Path(folder).glob("*tfevents*") if path.is_file())


def write_events(history: History, folder: str | Path) -> Path:
    """Write what each epoch left into one event file in `folder`; the file's path.

    The tags are "loss/train", "loss/val", "accuracy/train", "accuracy/val" (fractions), "lr" and
    "seconds"; the step is the epoch, from 1. Lists that are empty get no tag. Values become
    float32, as TensorBoard keeps them. Raises EventsError if the folder already holds a run, there
    is nothing to write, or no space to write it.
    """
    folder = Path(folder)
    if event_files(folder):
        raise EventsError(
            f"{folder.name} already holds a run, and TensorBoard would draw both as one curve. "
            "Give each run a folder of its own, or delete this one first."
        )
    curves = {TAGS[name]: values for name, values in history.to_dict().items() if values}
    if not curves:
        raise EventsError("the history is empty: there is nothing to write")
    try:
        with SummaryWriter(folder) as writer:
            for tag, values in curves.items():
                for epoch, value in enumerate(values, start=1):
                    writer.add_scalar(tag, value, epoch)
    except OSError as error:
        for half in event_files(folder):  # else the folder would seem to hold a run
            half.unlink()
        raise EventsError(
            f"no events could be written into {folder}: {error.strerror}. Make room there, or name "
            "a folder elsewhere, and write them again."
        ) from error
    return event_files(folder)[0]


def read_events(folder: str | Path) -> dict[str, dict[int, float]]:
    """The scalar curves of one run as torch's `SummaryWriter` writes them.

    Returns tag → {step: value}, steps rising. TensorFlow 2 and Keras write scalars as tensors;
    these are not read, and a folder of them gives an empty dict.

    Values are float32, so a rate of 0.1 comes back as 0.10000000149. Raises EventsError if the
    folder holds no events, or two values of one tag for the same step: the mark of two runs.
    """
    folder = Path(folder)
    if not event_files(folder):
        below = sorted({path.parent.name for path in folder.glob("*/*tfevents*")})
        hint = f" There are some below it, in {', '.join(below[:3])}." if below else ""
        raise EventsError(f"{folder.name} holds no event files.{hint}")
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()  # 0: keep all
    found = {}
    for tag in events.Tags()["scalars"]:
        points = events.Scalars(tag)
        found[tag] = {point.step: point.value for point in sorted(points, key=lambda p: p.step)}
        if len(found[tag]) < len(points):
            raise EventsError(
                f"{folder.name} has several values of {tag!r} for one step: more than one run "
                f"wrote there ({len(event_files(folder))} files). Give each its own folder."
            )
    return found
