"""Numbers that lie: every figure is the same by every route, and none is better than it can be."""

import hashlib
from collections import Counter

import pytest
import sklearn.metrics
import torch
import torchmetrics
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.stats import binom
from torch import nn
from torch.utils.data import DataLoader, Subset
from torchvision.transforms import v2
from torture import figures, rounds

from cifar_utils import data, distributed, folder, metrics, models, weights
from cifar_utils.predict import predict
from cifar_utils.training import evaluate, fit

SCALE = {"mean": data.CIFAR10_MEAN, "std": data.CIFAR10_STD}
AUGMENT = {"shuffle": True, "crop": 4, "flip": True, "cutout": 8}
QUIET = {"precision": "fp32", "log": None}
NEAR = {"rtol": 0, "atol": 1e-5}
CASES = rounds(8, 100)
# The cases are drawn from the tests' own names: a failure repeats, and shows its smallest case.
some = settings(max_examples=CASES, deadline=None, derandomize=True, database=None)
seeds = st.integers(0, 2**32 - 1)


@pytest.fixture(scope="module")
def drawn():
    return data.load("cifar10", stand_in=(300, 100))


@pytest.fixture(scope="module")
def trained(drawn):
    """A network whose BatchNorm has seen pictures, so that its two modes differ."""
    torch.manual_seed(0)
    model = models.ResNet(models.BasicBlock, [1, 1, 1], width=4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    batches = data.BatchLoader(drawn.train, 50, **SCALE, **AUGMENT)
    fit(model, batches, epochs=2, optimizer=optimizer, **QUIET)
    return model.eval()


@pytest.fixture(scope="module")
def judged(trained, drawn):
    """All test pictures at once: what every other route has to agree with."""
    return evaluate(trained, data.BatchLoader(drawn.test, 100, **SCALE), precision="fp32")


def shares(logits):
    return logits.double().softmax(1)


# --- Predictions --------------------------------------------------------------------------------


@some
@given(size=st.integers(1, 100), seed=seeds)
def test_predictions_do_not_depend_on_batch_size_order_or_loader(
    trained, drawn, judged, size, seed
):
    order = torch.randperm(100, generator=torch.Generator().manual_seed(seed))
    to_tensor = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(**SCALE)]
    theirs = data.torchvision_dataset(drawn, train=False, transform=v2.Compose(to_tensor))
    for batches in (
        data.BatchLoader(drawn.test.subset(order), size, **SCALE),
        DataLoader(Subset(theirs, order.tolist()), size),
    ):
        found = evaluate(trained, batches, precision="fp32")
        torch.testing.assert_close(shares(found.logits), shares(judged.logits[order]), **NEAR)
        assert torch.equal(found.labels, judged.labels[order])
        assert found.accuracy == judged.accuracy
        assert found.loss == pytest.approx(judged.loss, abs=1e-5)


def test_predictions_do_depend_on_the_batch_while_training(trained, drawn):
    """The check above would see a network that was left in training mode."""
    images = data.normalize(drawn.test.images, **SCALE)
    forgotten = models.ResNet(models.BasicBlock, [1, 1, 1], width=4)
    forgotten.load_state_dict(trained.state_dict())
    with torch.inference_mode():
        whole, parts = forgotten(images), [forgotten(part) for part in images.split(10)]
    assert (shares(whole) - shares(torch.cat(parts))).abs().max() > 1e-3


def test_predictions_from_files_are_those_of_the_loader(trained, drawn, judged, tmp_path):
    """Lossless formats, all in one call and each in one of its own."""
    about = {"classes": drawn.classes, "input_size": 32, **SCALE}
    files = []
    for i, image in enumerate(drawn.test.images):
        files.append(tmp_path / f"{i:03}{('.png', '.bmp', '.webp')[i % 3]}")
        picture = Image.fromarray(image.permute(1, 2, 0).numpy())
        picture.save(files[-1], **({"lossless": True} if i % 3 == 2 else {}))
    together = predict(trained, about, files, top_k=10)
    for found in (together, [predict(trained, about, file, top_k=10)[0] for file in files]):
        logits = torch.stack([one.logits for one in found])
        torch.testing.assert_close(shares(logits), shares(judged.logits), **NEAR)
        named = [dict(zip(one.classes, one.probabilities, strict=True)) for one in found]
        named = torch.tensor([[n[name] for name in drawn.classes] for n in named])
        torch.testing.assert_close(named.double(), shares(judged.logits), **NEAR)


# --- No augmentation where pictures judge -------------------------------------------------------


@some
@given(size=st.integers(1, 100), seed=seeds)
def test_a_loader_that_judges_gives_the_pictures_as_they_are_in_each_pass(drawn, size, seed):
    plain = data.normalize(drawn.test.images, **SCALE)
    batches = data.BatchLoader(drawn.test, size, seed=seed, **SCALE)
    for _ in range(2):
        assert torch.equal(torch.cat([images for images, _ in batches]), plain)


def altered(seen, split):
    """How many of the normalized pictures in `seen` are not pictures of `split`."""
    own = {image.numpy().tobytes() for image in data.normalize(split.images, **SCALE)}
    return sum(image.numpy().tobytes() not in own for image in seen)


def watched(drawn, **augment):
    """A short training, judged each epoch; what the network saw in each of its modes."""
    model, seen = models.SimpleCNN(), {True: [], False: []}
    model.register_forward_pre_hook(lambda m, given: seen[m.training].extend(given[0].clone()))
    fit(
        model,
        data.BatchLoader(drawn.train, 50, **SCALE, **AUGMENT),
        epochs=2,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.01),
        val=data.BatchLoader(drawn.test, 50, **SCALE, **augment),
        channels_last=False,
        **QUIET,
    )
    return seen


def test_the_augmentation_of_training_is_off_when_fit_judges(drawn):
    seen = watched(drawn)
    assert len(seen[False]) == 2 * 100 and altered(seen[False], drawn.test) == 0
    assert len(seen[True]) == 2 * 300 and altered(seen[True], drawn.train) > 500
    assert altered(watched(drawn, crop=4)[False], drawn.test) > 100  # a mistake is seen


def test_judging_twice_gives_the_same_bits(trained, drawn, judged):
    again = evaluate(trained, data.BatchLoader(drawn.test, 100, **SCALE), precision="fp32")
    assert torch.equal(again.logits, judged.logits)
    torch.manual_seed(1)  # no draw of anybody's is in it
    dropped = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(3072, 10))
    pair = [evaluate(dropped, data.BatchLoader(drawn.test, 40, **SCALE)) for _ in range(2)]
    assert torch.equal(pair[0].logits, pair[1].logits)


# --- Accuracy by every route --------------------------------------------------------------------


def answers(n, classes, seed, ties):
    """Logits that know something of their labels; `ties` makes many of them equal."""
    draws = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (n,), generator=draws)
    logits = 2 * torch.randn(n, classes, generator=draws)
    logits += 2 * nn.functional.one_hot(labels, classes)
    return (logits.round() if ties else logits), labels


def batched(logits, labels, size):
    return list(zip(logits.split(size), labels.split(size), strict=True))


def by_every_route(logits, labels, size):
    """The same accuracy, counted in as many ways as the book and its libraries have."""
    n, classes = logits.shape
    table = metrics.confusion_matrix(logits, labels).double()
    recall = metrics.per_class_accuracy(logits, labels).double().nan_to_num()
    parts = batched(logits, labels, size)
    streamed = torchmetrics.classification.MulticlassAccuracy(classes, average="micro")
    for part in parts:
        streamed.update(*part)
    return {
        "hand": sum(max(range(classes), key=row.__getitem__) == label for row, label in
            zip(logits.tolist(), labels.tolist(), strict=True)) / n,
        "metrics": metrics.accuracy(logits, labels),
        "evaluate": evaluate(nn.Identity(), parts, device="cpu", precision="fp32").accuracy,
        "confusion matrix": (table.trace() / table.sum()).item(),
        "weighted recall": (recall * torch.bincount(labels, minlength=classes)).sum().item() / n,
        "torchmetrics": streamed.compute().item(),
        "scikit-learn": sklearn.metrics.accuracy_score(labels, logits.argmax(1)),
        "all ranks": distributed.count_right(lambda x: x, parts, distributed.World())["top1"],
    }  # fmt: skip


@some
@given(
    n=st.integers(1, 200),
    classes=st.integers(2, 12),
    size=st.integers(1, 70),
    seed=seeds,
    ties=st.booleans(),
)
def test_accuracy_is_one_number_by_every_route(n, classes, size, seed, ties):
    found = by_every_route(*answers(n, classes, seed, ties), size)
    assert all(value == pytest.approx(found["hand"], abs=2e-6) for value in found.values()), found


def test_two_means_that_are_not_the_accuracy_are_told_from_it():
    """Of batches, of which the last is smaller; of classes, of which some are rarer."""
    logits, labels = answers(110, 5, seed=0, ties=False)
    accuracy = by_every_route(logits, labels, 50)["hand"]
    of_batches = [metrics.accuracy(*part) for part in batched(logits, labels, 50)]
    assert abs(sum(of_batches) / 3 - accuracy) > 1e-4
    assert abs(metrics.per_class_accuracy(logits, labels).mean() - accuracy) > 1e-4


# --- Normalizing and back -----------------------------------------------------------------------

channel = st.tuples(*[st.floats(0, 1, width=32)] * 3)
spread = st.tuples(*[st.floats(0.0625, 1, width=32)] * 3)


@some
@given(mean=channel, std=spread, seed=seeds)
def test_normalizing_can_be_undone(mean, std, seed):
    """Within 1e-6 in 0..1, and exactly in 0..255; every value of a channel is tried."""
    draws = torch.Generator().manual_seed(seed)
    values = torch.stack([torch.randperm(256, generator=draws) for _ in range(3)])
    images = values.to(torch.uint8).view(1, 3, 16, 16)
    undone = data.normalize(images, mean, std) * torch.tensor(std).view(3, 1, 1)
    undone += torch.tensor(mean).view(3, 1, 1)
    torch.testing.assert_close(undone, images / 255, rtol=0, atol=1e-6)
    assert torch.equal((255 * undone).round().to(torch.uint8), images)


# --- One seed, one training; no knowledge of labels that mean nothing ---------------------------


def training(drawn, seed, train=None):
    """A short training with everything that draws: weights, order, augmentation, dropout."""
    torch.manual_seed(seed)
    model = nn.Sequential(models.SimpleCNN(), nn.Dropout(0.1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    batches = data.BatchLoader(train or drawn.train, 50, seed=seed, **SCALE, **AUGMENT)
    history = fit(model, batches, epochs=3, optimizer=optimizer, **QUIET)
    bits = b"".join(value.numpy().tobytes() for value in model.state_dict().values())
    return hashlib.sha256(bits).hexdigest(), (history.train_loss, history.train_accuracy)


def test_a_seed_is_a_training(drawn):
    runs = {seed: training(drawn, seed) for seed in range(rounds(2, 10))}
    for seed, found in runs.items():
        assert training(drawn, seed) == found, f"seed {seed} gave another training"
    assert len({weights for weights, _ in runs.values()}) == len(runs)
    figures("numbers", "trainings repeated bit for bit", tries=len(runs))


def right_of(drawn, seed, meaningless=True):
    """How many test pictures a small CNN gets right, learning from labels dealt out anew."""
    draws = torch.Generator().manual_seed(seed)
    split = drawn.train
    if meaningless:
        dealt = split.labels[torch.randperm(len(split), generator=draws)]
        split = data.Split(split.images, dealt)
    torch.manual_seed(seed)
    model = models.SimpleCNN()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    batches = data.BatchLoader(split, 50, shuffle=True, seed=seed, **SCALE)
    fit(model, batches, epochs=rounds(5, 20), optimizer=optimizer, **QUIET)
    judge = data.BatchLoader(drawn.test, 500, **SCALE)
    return round(evaluate(model, judge, precision="fp32").accuracy * len(drawn.test))


def test_labels_that_mean_nothing_teach_nothing_about_the_test_set():
    """Within what guessing gives in all but one of a million tries; labels that mean something
    lead out of it, so a leak of test labels would."""
    tries = rounds(1, 8)
    drawn = data.load("cifar10", stand_in=(1000, 1000))
    right = [right_of(drawn, seed) for seed in range(tries)]
    low, high = binom.interval(1 - 1e-6, 1000, 0.1)
    assert all(low <= n <= high for n in right), f"of seeds 0 to {tries - 1}: {right}"
    honest = right_of(drawn, 0, meaningless=False)
    assert honest > high, honest
    figures(
        "numbers",
        "labels dealt out anew, right of 1,000",
        tries=tries,
        lowest=min(right),
        highest=max(right),
        allowed_low=low,
        allowed_high=high,
        with_true_labels=honest,
    )


# --- No picture on both sides -------------------------------------------------------------------


def contents(split):
    """A digest of the pixels of each picture."""
    return [hashlib.sha256(image.numpy().tobytes()).digest() for image in split.images]


def duplicates(split):
    """Places of pictures that are there more than once, copy by copy together."""
    same = {}
    for place, content in enumerate(contents(split)):
        same.setdefault(content, []).append(place)
    return [places for places in same.values() if len(places) > 1]


def shared(*splits):
    """How many contents are in more than one of some splits."""
    return sum(n > 1 for n in Counter(c for split in splits for c in set(contents(split))).values())


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_the_stand_in_has_no_picture_twice_and_none_on_both_sides(name):
    drawn = data.load(name, stand_in=(rounds(1000, 20_000), rounds(300, 5000)))
    assert not duplicates(drawn.train) and not duplicates(drawn.test)
    assert shared(drawn.train, drawn.test) == 0


@some
@given(n=st.integers(2, 400), classes=st.integers(1, 12), seed=seeds, part=st.floats(0, 1))
def test_what_is_held_out_is_not_trained_on(n, classes, seed, part):
    """By place and by content: together the two parts are the whole, and they share nothing."""
    draws = torch.Generator().manual_seed(seed)
    numbers = torch.arange(n)  # so that all pictures differ
    images = torch.stack([numbers % 256, numbers // 256, 0 * numbers], 1).to(torch.uint8)
    split = data.Split(images.view(n, 3, 1, 1), torch.randint(classes, (n,), generator=draws))
    held = min(n - 1, max(1, round(part * n)))
    for train, val in (data.hold_out(split, held, seed=seed), weights.held_out(split, held)):
        assert shared(train, val) == 0
        assert sorted(contents(train) + contents(val)) == sorted(contents(split))


def test_the_parts_of_a_folder_share_no_picture(tmp_path, drawn):
    """Not even where the folder holds copies."""
    for i, (image, label) in enumerate(zip(drawn.train.images, drawn.train.labels, strict=True)):
        place = tmp_path / str(int(label) % 3)
        place.mkdir(exist_ok=True)
        picture = Image.fromarray(image.permute(1, 2, 0).numpy())
        for name in [f"{i}.png", f"{i} copy.bmp"][: 1 + (i % 5 == 0)]:
            picture.save(place / name)
    found = folder.read(tmp_path)
    assert len(found.split) == 300 and not duplicates(found.split)
    train, val, test = folder.divide(found)
    assert shared(train, val, test) == 0 and len(train) + len(val) + len(test) == 300


def test_copies_are_seen(drawn):
    train, test = drawn.train, drawn.test
    planted = data.Split(
        torch.cat([test.images, train.images[5:7], test.images[:1]]),
        torch.cat([test.labels, train.labels[5:7], test.labels[:1]]),
    )
    assert shared(train, planted) == 2 and duplicates(planted) == [[0, 102]]
