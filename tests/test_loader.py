"""Splits, augmentations and the batch loader: the same as torchvision's, picture by picture."""

import numpy as np
import pytest
import torch
from torchvision import datasets, transforms
from torchvision.transforms import functional

from cifar_utils import data

MEAN, STD = data.CIFAR10_MEAN, data.CIFAR10_STD


@pytest.fixture(scope="module")
def drawn():
    return data.load("cifar10", stand_in=(200, 40))


@pytest.fixture(scope="module")
def images(drawn):
    return drawn.train.images[:64]


def generator(seed=3):
    return torch.Generator().manual_seed(seed)


# Splits ------------------------------------------------------------------------------------------


def test_subset(drawn):
    part = drawn.train.subset([5, 2])
    assert len(part) == 2 and part.coarse_labels is None
    assert torch.equal(part.images[1], drawn.train.images[2])
    hundred = data.load("cifar100", stand_in=(200, 100)).train.subset(np.array([7]))
    assert hundred.coarse_labels.item() == hundred.labels.item() // 5


def test_hold_out_is_stratified_and_disjoint(drawn):
    train, val = data.hold_out(drawn.train, 50)
    assert torch.bincount(val.labels).tolist() == [5] * 10
    assert torch.bincount(train.labels).tolist() == [15] * 10
    rows = {picture.numpy().tobytes() for picture in drawn.train.images}
    parts = [{picture.numpy().tobytes() for picture in part.images} for part in (train, val)]
    assert parts[0] | parts[1] == rows and not parts[0] & parts[1]
    again, other = data.hold_out(drawn.train, 50)[1], data.hold_out(drawn.train, 50, seed=1)[1]
    assert torch.equal(again.images, val.images) and not torch.equal(other.images, val.images)


def test_hold_out_of_uneven_classes():
    labels = torch.tensor([0] * 70 + [1] * 20 + [2] * 10)
    split = data.Split(torch.arange(100, dtype=torch.uint8).view(-1, 1, 1, 1), labels)
    train, val = data.hold_out(split, 25)
    assert len(train) == 75 and len(val) == 25
    assert (torch.bincount(val.labels) - torch.tensor([17.5, 5, 2.5])).abs().max() <= 0.5
    # Which pictures is fixed for all machines and versions: raw generator bits choose them.
    assert val.images.flatten().tolist()[:6] == HELD


HELD = [2, 3, 11, 13, 15, 20]


@pytest.mark.parametrize("n", [0, 200, -1])
def test_hold_out_of_too_many(drawn, n):
    with pytest.raises(ValueError, match="between 1 and 199"):
        data.hold_out(drawn.train, n)


def test_channel_stats(images):
    mean, std = data.channel_stats(images)
    flat = images.permute(1, 0, 2, 3).flatten(1).double() / 255
    assert torch.allclose(mean.double(), flat.mean(1), atol=1e-6)
    assert torch.allclose(std.double(), flat.std(1, unbiased=False), atol=1e-6)


def test_torchvision_dataset(drawn):
    made = data.torchvision_dataset(drawn, train=False, transform=transforms.ToTensor())
    assert isinstance(made, datasets.CIFAR10) and len(made) == 40
    pixels, label = made[7]
    assert torch.equal(pixels, drawn.test.images[7] / 255) and label == drawn.test.labels[7]
    assert made.classes[made.class_to_idx[drawn.classes[3]]] == drawn.classes[3]
    hundred = data.torchvision_dataset(data.load("cifar100", stand_in=(100, 100)))
    assert isinstance(hundred, datasets.CIFAR100) and "CIFAR100" in repr(hundred)


# Augmentations, against torchvision's on one picture at a time -----------------------------------


@pytest.mark.parametrize("mode", ["reflect", "constant"])
@pytest.mark.parametrize("padding", [1, 4, 31])
def test_random_crop(images, mode, padding):
    out = data.random_crop(images, padding, generator(), mode)
    down, right = torch.randint(-padding, padding + 1, (2, len(images), 1), generator=generator())
    for i, picture in enumerate(images):
        padded = functional.pad(picture, [padding] * 4, padding_mode=mode)
        top, left = down[i].item() + padding, right[i].item() + padding
        assert torch.equal(out[i], functional.crop(padded, top, left, 32, 32))
    assert out.dtype == images.dtype
    as_float = data.random_crop(images.float(), padding, generator(), mode)
    assert torch.equal(as_float, out.float())


def test_crop_draws_for_every_picture(images):
    same = images[:1].expand(64, -1, -1, -1)
    assert len(torch.unique(data.random_crop(same, 4, generator()), dim=0)) > 30
    assert 20 < (data.random_flip(same, generator()) != same).flatten(1).any(1).sum() < 44
    assert len(torch.unique(data.cutout(same, 8, generator()), dim=0)) > 40


def test_crop_of_pictures_that_are_not_square(images):
    wide = images[:, :, 4:20]
    out = data.random_crop(wide, 3, generator())
    assert out.shape == wide.shape


def test_random_flip(images):
    out = data.random_flip(images, generator())
    flip = torch.rand(len(images), 1, 1, 1, generator=generator()).flatten() < 0.5
    for i, picture in enumerate(images):
        assert torch.equal(out[i], functional.hflip(picture) if flip[i] else picture)
    assert out.dtype == images.dtype


@pytest.mark.parametrize("size", [1, 8, 15])
def test_cutout(images, size):
    images = images.float() + 1
    out = data.cutout(images, size, generator())
    draws = generator()
    tops, lefts = (torch.randint(32, (len(images), 1), generator=draws) for _ in range(2))
    for i in range(len(images)):
        top, left = tops[i].item() - size // 2, lefts[i].item() - size // 2
        expected = images[i].clone()
        expected[:, max(top, 0) : top + size, max(left, 0) : left + size] = 0
        assert torch.equal(out[i], expected)


def test_normalize(images):
    out = data.normalize(images, MEAN, STD)
    assert out.dtype == torch.float32
    for i, picture in enumerate(images):
        assert torch.equal(out[i], functional.normalize(picture / 255, MEAN, STD))


# The loader --------------------------------------------------------------------------------------


def loader(split, **options):
    return data.BatchLoader(split, 64, mean=MEAN, std=STD, **options)


@pytest.mark.parametrize("mode", ["reflect", "constant"])
def test_loader_equals_torchvision_on_the_same_draws(drawn, mode):
    """A whole epoch, shuffled, cropped and flipped, against PIL transforms picture by picture."""
    batches = loader(drawn.train, shuffle=True, crop=4, padding_mode=mode, flip=True, seed=5)
    pictures, draws = data.torchvision_dataset(drawn), generator(5)
    order = torch.randperm(200, generator=draws).split(64)
    worst = 0.0
    for (images, labels), pick in zip(batches, order, strict=True):
        down, right = torch.randint(-4, 5, (2, len(pick), 1), generator=draws)
        flip = torch.rand(len(pick), 1, 1, 1, generator=draws).flatten() < 0.5
        for i, index in enumerate(pick.tolist()):
            picture, label = pictures[index]
            picture = functional.pad(picture, [4] * 4, padding_mode=mode)
            picture = functional.crop(picture, down[i].item() + 4, right[i].item() + 4, 32, 32)
            picture = functional.hflip(picture) if flip[i] else picture
            expected = functional.normalize(functional.to_tensor(picture), MEAN, STD)
            worst = max(worst, (images[i] - expected).abs().max().item())
            assert labels[i] == label
    assert worst <= 1e-6


def test_loader_lengths(drawn):
    whole, full = loader(drawn.train), loader(drawn.train, drop_last=True)
    assert len(whole) == len(list(whole)) == 4 and len(full) == len(list(full)) == 3
    assert [len(labels) for _, labels in whole] == [64, 64, 64, 8]
    assert torch.equal(torch.cat([labels for _, labels in whole]), drawn.train.labels)
    assert whole.batch_size == 64


def test_loader_shuffles_each_epoch_anew(drawn):
    batches = loader(drawn.train, shuffle=True)
    first, second = (torch.cat([labels for _, labels in batches]) for _ in range(2))
    assert not torch.equal(first, second)
    assert torch.equal(first.sort().values, second.sort().values)


def test_loader_state(drawn):
    """A loader that takes over another's state goes on with the same batches."""
    options = {"shuffle": True, "crop": 4, "flip": True, "cutout": 8}
    one, two = loader(drawn.train, **options), loader(drawn.train, **options, seed=99)
    list(one)
    two.load_state_dict(one.state_dict())
    for (left, _), (right, _) in zip(one, two, strict=True):
        assert torch.equal(left, right)


def test_loader_cutout_has_the_mean_color(drawn):
    batches = loader(drawn.train, cutout=8)
    images, _ = next(iter(batches))
    plain, _ = next(iter(loader(drawn.train)))
    hole = (images != plain).any(1)
    assert hole.flatten(1).any(1).all() and (images[:, 0][hole] == 0).all()


def test_loader_leaves_the_split_alone(drawn):
    before = drawn.train.images.clone()
    list(loader(drawn.train, crop=4, flip=True, cutout=8))
    assert torch.equal(before, drawn.train.images)


@pytest.mark.parametrize("wrong", [{"batch_size": 0}, {"padding_mode": "zeros"}])
def test_loader_refuses(drawn, wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        data.BatchLoader(drawn.train, mean=MEAN, std=STD, **wrong)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_loader_on_a_gpu_gives_the_same_batches(drawn):
    options = {"shuffle": True, "crop": 4, "flip": True, "cutout": 8}
    for mode in ("reflect", "constant"):
        here = loader(drawn.train, **options, padding_mode=mode)
        there = loader(drawn.train, **options, padding_mode=mode, device="cuda")
        for (left, _), (right, labels) in zip(here, there, strict=True):
            assert right.is_cuda and labels.is_cuda
            assert (left - right.cpu()).abs().max() <= 1e-6
