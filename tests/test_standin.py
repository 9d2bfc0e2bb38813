"""The stand-in: the same bytes everywhere, balanced, and readable by torchvision's own code."""

import hashlib

import numpy as np
import pytest
from torchvision import datasets

from cifar_utils import data, standin

# Whoever changes a picture of the stand-in changes these, and every figure measured on it.
DIGESTS = {
    10: "c612e16218443d35a6b79516496bc47be3e93c9a2ed272c8fd510c9fbcae8d38",
    100: "e5ec3a03c8b3cf722e048855cdb878943318790f0bc69447b1dba9f7873ed433",
}


def digest(*parts):
    total = hashlib.sha256()
    for images, labels, coarse in parts:
        for array in (images, labels) + (() if coarse is None else (coarse,)):
            total.update(
                np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<")).tobytes()
            )
    return total.hexdigest()


@pytest.mark.parametrize("classes", [10, 100])
def test_same_bytes_everywhere(classes):
    assert digest(*standin.make(600, 200, classes)) == DIGESTS[classes]


@pytest.mark.parametrize("classes", [10, 100])
def test_shapes_and_labels(classes):
    for (images, labels, coarse), n in zip(
        standin.make(400, 200, classes), (400, 200), strict=True
    ):
        assert images.shape == (n, 3, 32, 32) and images.dtype == np.uint8
        assert images.flags.c_contiguous
        assert labels.dtype == np.int64 and np.bincount(labels).tolist() == [n // classes] * classes
        if classes == 100:
            assert np.array_equal(coarse, labels // 5)  # 20 superclasses of 5
        else:
            assert coarse is None
        assert len({image.tobytes() for image in images}) == n  # no picture twice


def test_names():
    for classes in (10, 100):
        names = standin.class_names(classes)
        assert len(set(names)) == classes
    supers = standin.superclass_names(100)
    assert len(set(supers)) == 20 and standin.superclass_names(10) is None
    for label, name in enumerate(standin.class_names(100)):
        assert name.startswith(supers[label // 5] + "-")


def test_seed_and_size():
    one, two = standin.make(300, 50, seed=0), standin.make(300, 50, seed=1)
    assert digest(*one) != digest(*two) and digest(*one) == digest(*standin.make(300, 50))
    assert len(standin.make(0, 30)[0][0]) == 0
    with pytest.raises(ValueError, match="10 or 100 classes, not 7"):
        standin.make(10, 10, 7)


def test_color_and_place_say_nothing_about_the_class():
    images, labels, _ = standin.make(4000, 1)[0]
    means = np.stack([images[labels == k].mean((0, 2, 3)) for k in range(10)])
    assert np.ptp(means, 0).max() < 20  # of 255, between all classes


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_torchvision_reads_the_official_layout(tmp_path, name):
    folder = standin.write_official(tmp_path, name, 500, 200)
    kind = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]
    assert folder.name == kind.base_folder

    class Unchecked(kind):
        """torchvision's own loading code, for files with other digests than the real ones."""

        train_list = [[file, None] for file, _ in kind.train_list]  # noqa: RUF012
        test_list = [[file, None] for file, _ in kind.test_list]  # noqa: RUF012
        meta = kind.meta | {"md5": None}

    drawn = data.load(name, stand_in=(500, 200))
    for train, split in ((True, drawn.train), (False, drawn.test)):
        read = Unchecked(tmp_path, train=train)
        assert np.array_equal(read.data.transpose(0, 3, 1, 2), split.images)
        assert read.targets == split.labels.tolist()
        assert tuple(read.classes) == drawn.classes
        picture, label = read[3]
        assert np.array_equal(np.asarray(picture), split.images[3].permute(1, 2, 0))
        assert label == split.labels[3]
    with pytest.raises(RuntimeError, match="corrupted"):
        kind(tmp_path)  # and as real CIFAR it does not pass


def test_no_floating_point_draws_a_picture(monkeypatch):
    """Integers all the way: a float in a table or a draw would differ between machines."""
    assert standin.SINE.dtype == np.int32 and standin.SINE[64] == 1024
    u = v = np.arange(-90, 90, dtype=np.int32)
    for shape in standin.SHAPES.values():
        assert shape(u, v).dtype == bool
    for texture in standin.TEXTURES.values():
        assert texture(u, v).dtype == np.int32
