"""A reader's folder of pictures: what is read, what is skipped and why, and how it is divided."""

import os
import sys

import pytest
import torch
import torchvision
from PIL import Image
from torchvision.transforms import v2

from cifar_utils import folder, predict
from cifar_utils.folder import FolderError


def photo(number: int, size: tuple[int, int] = (40, 30), mode: str = "RGB") -> Image.Image:
    """A picture that differs from those of other numbers, whatever its size and mode."""
    draws = torch.Generator().manual_seed(number)
    pixels = torch.randint(256, (3, 8, 8), generator=draws).to(torch.uint8)
    small = v2.functional.to_pil_image(pixels)
    return small.resize(size, Image.Resampling.NEAREST).convert(mode)


@pytest.fixture
def fill(tmp_path):
    """Makes a folder with `counts` pictures a class, all different; returns it."""

    def make(**counts: int):
        number = 0
        for name, count in counts.items():
            (tmp_path / name).mkdir()
            for i in range(count):
                photo(number).save(tmp_path / name / f"{i:02}.png")
                number += 1
        return tmp_path

    return make


def skipped(found: folder.FolderPictures) -> dict[str, str]:
    assert len(dict(found.skipped)) == len(found.skipped)
    return dict(found.skipped)


# --- What is read -------------------------------------------------------------------------------


def test_a_folder_becomes_a_split(fill):
    root = fill(rose=3, ant=2)
    found = folder.read(root)
    assert found.classes == ("ant", "rose") and not found.skipped
    assert found.split.images.shape == (5, 3, 32, 32) and found.split.images.dtype == torch.uint8
    assert found.split.labels.tolist() == [0, 0, 1, 1, 1]
    assert found.files == ["ant/00.png", "ant/01.png", "rose/00.png", "rose/01.png", "rose/02.png"]
    for file, image in zip(found.files, found.split.images, strict=True):
        assert torch.equal(image, predict.prepare(predict.open_picture(root / file)))
    assert folder.read(str(root), size=20).split.images.shape == (5, 3, 20, 20)


def test_classes_are_in_the_order_of_torchvision(fill):
    root = fill(b=1, B=1, a10=1, a9=1, ä=1)
    theirs = torchvision.datasets.ImageFolder(root)
    found = folder.read(root)
    assert list(found.classes) == theirs.classes
    assert found.split.labels.tolist() == theirs.targets


def test_pictures_of_any_size_mode_and_format(fill):
    root = fill(plain=1)
    (root / "odd").mkdir()
    kinds = {"a.jpg": "L", "b.png": "RGBA", "c.gif": "P", "d.webp": "RGB", "e.tif": "CMYK"}
    for number, (name, mode) in enumerate(kinds.items()):
        photo(50 + number, (9 + 300 * number, 200), mode).save(root / "odd" / name)
    photo(60).save(root / "odd" / "no ending", "PNG")
    found = folder.read(root)
    assert len(found.split) == 7 and not found.skipped


def test_deeper_pictures_belong_to_the_class(fill):
    root = fill(a=1, b=1)
    (root / "b" / "2024" / "May").mkdir(parents=True)
    photo(9).save(root / "b" / "2024" / "May" / "x.png")
    found = folder.read(root)
    assert found.files[-1] == "b/2024/May/x.png" and found.split.labels.tolist() == [0, 1, 1]


def test_hidden_files_and_clutter_are_passed_over(fill):
    root = fill(a=2, b=2)
    for name in (".DS_Store", "a/.DS_Store", "a/Thumbs.db", "b/desktop.ini", "b/._00.png"):
        (root / name).write_bytes(b"clutter")
    for name in (".ipynb_checkpoints", "__MACOSX", "a/.ipynb_checkpoints"):
        (root / name).mkdir()
        photo(9).save(root / name / "x.png")
    found = folder.read(root)
    assert found.classes == ("a", "b") and len(found.split) == 4 and not found.skipped


# --- What is skipped ----------------------------------------------------------------------------


def test_unreadable_files_are_named_and_counted(fill):
    root = fill(a=2, b=2)
    whole = (root / "a" / "00.png").read_bytes()
    (root / "a" / "text.jpg").write_text("not a picture")
    (root / "a" / "cut.png").write_bytes(whole[:100])
    (root / "b" / "empty.png").write_bytes(b"")
    (root / "b" / "page.png").write_text("<!doctype html><title>A cat</title>")
    photo(9, (1, 1)).save(root / "b" / "dot.png")
    photo(9).save(root / "loose.png")
    found = folder.read(root)
    reasons = skipped(found)
    assert list(reasons) == sorted(reasons)
    assert set(reasons) == {
        "a/cut.png",
        "a/text.jpg",
        "b/dot.png",
        "b/empty.png",
        "b/page.png",
        "loose.png",
    }
    assert "damaged" in reasons["a/cut.png"] and "web page" in reasons["b/page.png"]
    assert "beside the classes" in reasons["loose.png"] and "zero bytes" in reasons["b/empty.png"]
    assert not any(str(root) in reason for reason in reasons.values())
    assert len(found.split) == len(found.files) == 4


@pytest.mark.skipif(sys.platform == "win32", reason="needs rights to make links and pipes")
def test_links_and_pipes_do_not_hang(fill):
    root = fill(a=1, b=1)
    (root / "a" / "round").symlink_to(root, target_is_directory=True)
    (root / "round").symlink_to(root, target_is_directory=True)
    (root / "up").symlink_to(root.parent, target_is_directory=True)
    (root / "b" / "itself.png").symlink_to("itself.png")
    (root / "b" / "nowhere.png").symlink_to("gone.png")
    os.mkfifo(root / "b" / "pipe.png")
    found = folder.read(root)
    assert found.classes == ("a", "b") and found.files == ["a/00.png", "b/00.png"]
    assert set(skipped(found)) == {"b/itself.png", "b/nowhere.png", "b/pipe.png"}


@pytest.mark.skipif(sys.platform == "win32", reason="needs rights to make links")
def test_a_class_and_its_pictures_may_be_links(fill, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    root = fill(a=1)
    (root / "b").mkdir()
    for name, place in (("x.png", elsewhere), ("y.png", elsewhere / "c")):
        place.mkdir(exist_ok=True)
        photo(len(str(place))).save(place / name)
    (root / "b" / "x.png").symlink_to(elsewhere / "x.png")
    (root / "c").symlink_to(elsewhere / "c", target_is_directory=True)
    assert folder.read(root).files == ["a/00.png", "b/x.png", "c/y.png"]


def test_copies_are_kept_once(fill):
    root = fill(a=2, b=2)
    for name in ("a/copy.png", "a/again.png"):
        photo(0).save(root / name)
    photo(1).save(root / "a" / "resaved.bmp")  # other bytes, the same pixels
    found = folder.read(root)
    assert found.files == ["a/00.png", "a/01.png", "b/00.png", "b/01.png"]
    assert skipped(found) == {
        "a/again.png": "is the same picture as a/00.png",
        "a/copy.png": "is the same picture as a/00.png",
        "a/resaved.bmp": "is the same picture as a/01.png",
    }


def test_a_picture_in_two_classes_is_in_neither(fill):
    root = fill(a=2, b=2, c=2)
    for name in ("b/perhaps.png", "c/perhaps.png", "a/copy.png"):
        photo(1).save(root / name)
    found = folder.read(root)
    assert found.files == ["a/00.png", "b/00.png", "b/01.png", "c/00.png", "c/01.png"]
    reasons = skipped(found)
    assert set(reasons) == {"a/01.png", "a/copy.png", "b/perhaps.png", "c/perhaps.png"}
    assert all("contradicts" in reason for reason in reasons.values())
    assert "b/perhaps.png" in reasons["a/01.png"] and "a/01.png" in reasons["b/perhaps.png"]


# --- What cannot be read ------------------------------------------------------------------------


def test_a_folder_that_makes_no_sense_is_refused(fill):
    root = fill(a=2)
    with pytest.raises(FolderError, match=r"single class, 'a'"):
        folder.read(root)
    with pytest.raises(FolderError, match="one subfolder a class"):
        folder.read(root / "a")  # pictures, no subfolders
    with pytest.raises(FolderError, match="is a file"):
        folder.read(root / "a" / "00.png")
    with pytest.raises(FolderError, match=r"none\b.* does not exist"):
        folder.read(root / "none")
    (root / "b").mkdir()
    with pytest.raises(FolderError, match="'b' has no picture"):
        folder.read(root)
    (root / "b" / "x.jpg").write_text("not a picture")
    with pytest.raises(FolderError, match=r"'b' has no picture.*1 files? skipped.*b/x\.jpg"):
        folder.read(root)
    (root / "nothing").mkdir()
    with pytest.raises(FolderError, match="nothing holds nothing"):
        folder.read(root / "nothing")


# --- Dividing -----------------------------------------------------------------------------------


def rows(split) -> set[bytes]:
    return {image.numpy().tobytes() for image in split.images}


def test_every_class_is_in_every_part(fill):
    found = folder.read(fill(few=3, some=10, many=60))
    parts = folder.divide(found)
    counts = torch.stack([part.labels.bincount(minlength=3) for part in parts])
    assert counts.min() >= 1 and counts.sum(0).tolist() == [3, 60, 10]
    assert counts[:, 1].tolist() == pytest.approx([36, 12, 12], abs=2)
    assert len(set.union(*map(rows, parts))) == 73  # none in two parts


def test_who_goes_where_depends_on_content_alone(fill):
    root = fill(a=12, b=9)
    before = [rows(part) for part in folder.divide(folder.read(root))]
    for i, file in enumerate(sorted((root / "a").iterdir())):
        file.rename(root / "a" / f"z{-i + 50}.png")
    (root / "b").rename(root / "0 first now")
    assert [rows(part) for part in folder.divide(folder.read(root))] == before


@pytest.mark.parametrize("sizes", [(3, 3), (3, 4), (4, 5, 200), (3, 7, 19), (3, 3, 3, 3, 90)])
@pytest.mark.parametrize("shares", [(0.2, 0.2), (0.1, 0.1), (0.05, 0.3)])
def test_small_classes_can_be_divided(sizes, shares):
    labels = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    draws = torch.Generator().manual_seed(0)
    images = torch.randint(256, (len(labels), 3, 8, 8), generator=draws).to(torch.uint8)
    names = tuple("abcdefgh"[: len(sizes)])
    found = folder.FolderPictures(folder.Split(images, labels), names, [""] * len(labels), [])
    train, val, test = folder.divide(found, *shares)
    assert len(train) + len(val) + len(test) == len(labels) and len(train) > 0
    for part in (train, val, test):
        assert part.labels.bincount(minlength=len(sizes)).min() >= 1


def test_a_class_too_small_to_divide_is_named(fill):
    found = folder.read(fill(many=20, two=2))
    with pytest.raises(FolderError, match=r"'two' has 2 .*too few"):
        folder.divide(found)
    for shares in ((0.5, 0.5), (0, 0.2), (0.2, -1)):
        with pytest.raises(ValueError, match="shares above 0"):
            folder.divide(found, *shares)
