"""Checkpoints: everything training needs to go on, in one file that is whole or not there.

They hold tensors and plain values only, so that `torch.load` reads them with `weights_only=True`.
"""

import contextlib
import glob
import os
import pickle
import time
import warnings
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

# What every checkpoint holds; with a scheduler, "scheduler" too.
KEYS = frozenset("model optimizer scaler recipe generators history best precision threads".split())


class CheckpointError(RuntimeError):
    """A checkpoint cannot be used; the message names the file, what is in it and what to do."""


def save(path: str | Path, state: dict[str, Any]) -> None:
    """Write `state` to `path`; whoever looks finds the old file whole or the new one whole.

    Raises CheckpointError where there is no space, or nothing may be written.
    """
    try:
        with replacing(Path(path)) as part, open(part, "wb") as file:
            torch.save(_native(state), file)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise CheckpointError(
            f"{path} could not be written: {error.strerror}. Training goes on from what is there."
        ) from error


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file to write, which in the end takes the place of `path`, in one step or not at all.

    What killed processes left of such files is removed. An OSError names `path`, and what to do.
    """
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for left in path.parent.glob(f"{glob.escape(path.name)}.*.part"):
            with contextlib.suppress(OSError):  # gone by now, or not ours to remove
                if time.time() - left.lstat().st_mtime > 60:  # a younger one may be being written
                    left.unlink()
        yield part
        os.replace(part, path)
    except (OSError, RuntimeError) as error:  # torch makes RuntimeErrors of the former
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, OSError):
            cause = cause.__context__
        if cause is None:
            raise
        what = f"{cause.strerror or cause}; what was there is whole. Make room, and run this again"
        raise OSError(cause.errno, what, str(path)) from error
    finally:
        with contextlib.suppress(OSError):  # on a read-only disk even for a file that is not there
            part.unlink(missing_ok=True)


def _native(value: Any) -> Any:
    """NumPy's numbers as Python's: a rate from np.interp is one, and `load` would refuse it."""
    if isinstance(value, np.generic):
        return value.item()
    if type(value) is dict:
        return {key: _native(entry) for key, entry in value.items()}
    return type(value)(map(_native, value)) if type(value) in (list, tuple) else value


def load(path: str | Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """What `fit` saved. Raises CheckpointError for a file that is not such a checkpoint, whole."""
    with open(path, "rb") as file:
        try:
            archive = zipfile.ZipFile(file)
            unpacked = sum(entry.file_size for entry in archive.infolist())
            if unpacked > os.fstat(file.fileno()).st_size:  # torch packs nothing, and unpacks all
                raise zipfile.BadZipFile(f"packed, it would become {unpacked:,} bytes")
            if broken := archive.testzip():  # torch does not look at the checksums
                raise zipfile.BadZipFile(f"wrong checksum in {broken}")
            file.seek(0)
            state = torch.load(file, map_location=device, weights_only=True)
        except Exception as error:  # what is damaged may fail in any way
            why = str(error).partition("\n")[0] or type(error).__name__
            if isinstance(error, pickle.UnpicklingError):  # torch's own words advise to trust it
                why = "it holds more than tensors and plain values"
            raise CheckpointError(
                f"{path} cannot be read as a checkpoint: {why}. "
                "It is damaged, or not made by this book. Move it away to begin anew."
            ) from error
    missing = KEYS - set(state) if isinstance(state, dict) else KEYS
    if missing:
        raise CheckpointError(
            f"{path} holds no training state: {', '.join(sorted(missing))} missing. "
            "Give this training another checkpoint file, or move that one away."
        )
    return state


@contextlib.contextmanager
def restoring(path: str | Path) -> Iterator[None]:
    """Raise CheckpointError for whatever a state from elsewhere causes while it is put in place."""
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:  # parts of another kind may fail in any way
        raise CheckpointError(
            f"{path} cannot be gone on from: {type(error).__name__}: {error}. It is not what this "
            "book's training leaves. Move it away to begin anew."
        ) from error


def rng_state(train: Any) -> dict[str, Any]:
    """The states of torch's random generators (CPU and CUDA) and of the loader's own.

    Not those of NumPy, Python, a Mac's GPU or a sampler.
    """
    state = {"torch": torch.get_rng_state(), "cuda": []}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    if getattr(train, "generator", None) is not None:  # BatchLoader's, or a DataLoader's
        state["train"] = train.generator.get_state()
    return state


def set_rng_state(state: dict[str, Any], train: Any) -> None:
    """The way back from `rng_state`."""
    torch.set_rng_state(state["torch"].cpu())
    if state["cuda"] and torch.cuda.device_count() == len(state["cuda"]):
        torch.cuda.set_rng_state_all([s.cpu() for s in state["cuda"]])
    if "train" in state:
        train.generator.set_state(state["train"].cpu())


def recipe(
    model: nn.Module, optimizer: torch.optim.Optimizer, scheduler: Any, loss_fn: Any, **options: Any
) -> dict[str, Any]:
    """What must be equal for a checkpoint to be continued.

    Shapes, the plain settings of optimizer, scheduler and loss, and the options given; not the
    pictures, nor how they are drawn.
    """
    rates = {
        f"{i}: {name}": value
        for i, group in enumerate(optimizer.param_groups)
        for name, value in _plain(group).items()
    }
    return {
        "shapes": {name: list(value.shape) for name, value in model.state_dict().items()},
        "optimizer": {"type": type(optimizer).__name__, **rates},
        "scheduler": {
            "type": type(scheduler).__name__,
            **_plain(scheduler.state_dict() if scheduler else {}),
        },
        "loss": {"type": type(loss_fn).__name__, **_plain(getattr(loss_fn, "__dict__", {}))},
        "options": options,
    }


def _plain(settings: dict[str, Any]) -> dict[str, Any]:
    """The numbers, words and tuples among some settings, and milestones, which are counted."""
    kinds = int | float | bool | str | tuple | Counter
    return {name: value for name, value in settings.items() if isinstance(value, kinds)}


def require_same(saved: dict[str, Any], now: dict[str, Any], path: str | Path) -> None:
    """Raise CheckpointError where the recipe in a checkpoint is not the one of this training."""
    for key in now:
        if saved.get(key) != now[key]:
            was, is_now = saved.get(key), now[key]
            if isinstance(is_now, dict) and isinstance(was, dict):  # name one differing entry
                name = next(n for n in {**was, **is_now} if was.get(n) != is_now.get(n))
                key, was, is_now = f"{key}[{name}]", was.get(name), is_now.get(name)
            raise CheckpointError(
                f"{path} comes from another training: {key} was {was}, now {is_now}. If it is "
                "this one, interrupted: make network, optimizer and scheduler anew (run their "
                "cells again), and it goes on. Else give this training another checkpoint file, or "
                "move that one away."
            )


def warn_if_not_exact(saved_threads: int) -> None:
    """Say so where a resumed run cannot repeat an undisturbed one bit for bit."""
    if saved_threads != torch.get_num_threads():
        warnings.warn(
            f"resuming with {torch.get_num_threads()} threads what began with {saved_threads}: "
            "sums round differently, so the weights will not be the same to the last bit",
            stacklevel=4,  # whoever called `fit`, which has one around it
        )
