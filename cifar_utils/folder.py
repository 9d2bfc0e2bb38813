"""A reader's own folder of pictures, one subfolder a class, as a `Split` to learn from.

What cannot be used is left out, named and given a reason; it never ends the reading.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from cifar_utils import predict, weights
from cifar_utils.data import Split

CLUTTER = {"thumbs.db", "desktop.ini", "__macosx"}  # left by file managers, beside hidden files


class FolderError(ValueError):
    """A folder cannot be learned from; the message names it, what was found and what to do."""


@dataclass(frozen=True)
class FolderPictures:
    """What `read` found.

    split: images `(N, 3, size, size) uint8` and labels `(N,) int64`, indices into `classes`;
    files: the N names, relative to the folder, in the split's order;
    skipped: a relative name and a reason for each file that is not in it.
    """

    split: Split
    classes: tuple[str, ...]
    files: list[str]
    skipped: list[tuple[str, str]]


def read(path: str | Path, size: int = 32) -> FolderPictures:
    """Every picture below `path`, opened by `predict.open_picture` and prepared to `size`.

    Each subfolder is a class, in sorted order as torchvision's `ImageFolder` has them; pictures may
    lie deeper inside. Hidden files and clutter of file managers are passed over. Unreadable files
    are skipped, and so are copies: of pictures that are equal once prepared the first is kept, and
    none if they lie in different classes. Links to folders are followed only where they are classes
    themselves, so that a loop ends.
    Raises FolderError for a folder that is missing or none, that has no subfolders or only one,
    and for a class without a picture that can be used.
    """
    root = Path(path)
    if not root.is_dir():
        found = "is a file, not a folder" if root.exists() else "does not exist"
        raise FolderError(f"{root.absolute()} {found}. Name the folder that holds the classes.")
    classes, loose = _classes(root)
    skipped = [(name, "lies beside the classes, in none of them") for name in loose]
    images, labels, files = [], [], []
    for label, name in enumerate(classes):
        for file in _files(root / name):
            relative = file.relative_to(root).as_posix()
            try:
                image = predict.prepare(predict.open_picture(file, name="the file"), size)
            except predict.PictureError as error:
                skipped.append((relative, str(error)))
            else:
                images.append(image)
                labels.append(label)
                files.append(relative)
    kept = _without_copies(images, labels, files, skipped)
    counts = torch.bincount(torch.tensor([labels[i] for i in kept]).long(), minlength=len(classes))
    if not counts.all():
        name = classes[int(counts.argmin())]
        left_out = [entry for entry in skipped if entry[0].startswith(f"{name}/")]
        why = f"; {left_out[0][0]}: {left_out[0][1]}" if left_out else ""
        raise FolderError(
            f"class {name!r} has no picture that can be used ({len(left_out)} files skipped{why}). "
            "Add pictures to its folder, or take the folder away."
        )
    split = Split(torch.stack(images), torch.tensor(labels)).subset(kept)
    return FolderPictures(split, classes, [files[i] for i in kept], sorted(skipped))


def divide(
    pictures: FolderPictures, val: float = 0.2, test: float = 0.2
) -> tuple[Split, Split, Split]:
    """Pictures to learn from, to choose by and to judge by, each with all classes.

    val, test: shares of all pictures, rounded up in each class. Who goes where depends on content
    alone (`weights.held_out`): the same on every machine, whatever the files are called, and hardly
    changed by pictures that are added later. Returns (train, val, test). Raises FolderError for a
    class too small to be in all three, ValueError for shares that leave nothing to learn from.
    """
    n = len(pictures.split)
    if not (val > 0 and test > 0 and val + test < 1):
        raise ValueError(f"val and test are shares above 0, below 1 together; got {val}, {test}")
    counts = torch.bincount(pictures.split.labels)
    if counts.min() < 3:
        name = pictures.classes[int(counts.argmin())]
        raise FolderError(
            f"class {name!r} has {int(counts.min())} of {n} pictures, too few for one each to "
            "learn from, to choose by and to judge by. Add some, or take the class away."
        )
    rest, judge = weights.held_out(pictures.split, max(1, round(test * n)))
    train, choose = weights.held_out(rest, max(1, round(val * n)))
    for part, share in ((train, 1 - val - test), (choose, val), (judge, test)):
        counts = torch.bincount(part.labels, minlength=len(pictures.classes))
        if not counts.all():
            name = pictures.classes[int(counts.argmin())]
            raise FolderError(f"class {name!r} is too small to give a share of {share:.2g}")
    return train, choose, judge


def _classes(root: Path) -> tuple[tuple[str, ...], list[str]]:
    """Names of the class folders, sorted, and of files beside them. Raises FolderError."""
    entries = [entry for entry in sorted(root.iterdir()) if not _passed_over(entry.name)]
    # A link back to the folder itself, or to what it lies in, is no class but a loop.
    above = {root.resolve(), *root.resolve().parents}
    classes = tuple(e.name for e in entries if e.is_dir() and e.resolve() not in above)
    loose = [e.name for e in entries if not e.is_dir()]
    if not classes:
        found = f"{len(loose)} files and no subfolder" if loose else "nothing"
        raise FolderError(f"{root.name} holds {found}. Sort pictures into one subfolder a class.")
    if len(classes) == 1:
        raise FolderError(
            f"{root.name} has a single class, {classes[0]!r}: there is nothing to tell apart. Add "
            "a subfolder of something else, or name the folder one level up."
        )
    return classes, loose


def _files(folder: Path) -> Iterator[Path]:
    """The files of a class, deeper ones too, in sorted order, without hidden ones and clutter."""
    for place, folders, names in os.walk(folder):  # does not follow links to folders
        folders[:] = sorted(name for name in folders if not _passed_over(name))
        yield from (Path(place, name) for name in sorted(names) if not _passed_over(name))


def _passed_over(name: str) -> bool:
    return name.startswith(".") or name.lower() in CLUTTER


def _without_copies(
    images: list[torch.Tensor],
    labels: list[int],
    files: list[str],
    skipped: list[tuple[str, str]],
) -> list[int]:
    """Indices of the pictures to keep; the others are added to `skipped`."""
    same: dict[bytes, list[int]] = {}
    for i, image in enumerate(images):
        same.setdefault(image.numpy().tobytes(), []).append(i)
    kept = []
    for group in same.values():
        if len({labels[i] for i in group}) == 1:
            kept.append(group[0])
            skipped += [(files[i], f"is the same picture as {files[group[0]]}") for i in group[1:]]
        else:
            for i in group:
                other = next(files[j] for j in group if labels[j] != labels[i])
                skipped.append((files[i], f"contradicts {other}: the same picture, another class"))
    return sorted(kept)
