"""Metrics agree with scikit-learn's, with hand-computed values and with published ones."""

import math

import matplotlib.pyplot as plt
import numpy as np
import pytest
import sklearn.metrics as theirs
import torch
from sklearn.calibration import calibration_curve
from torch.nn import functional as F

from cifar_utils import metrics, plots

CLOSE = {"rtol": 0, "atol": 1e-6}


def predictions(n: int, classes: int, strength: float, seed: int = 0):
    """Logits that know something of their labels, and are far too sure of it."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (n,), generator=generator)
    logits = 3 * torch.randn(n, classes, generator=generator)
    return logits + strength * F.one_hot(labels, classes), labels


SETS = {"ten": predictions(3000, 10, 5.0), "hundred": predictions(5000, 100, 8.0, seed=1)}
each = pytest.mark.parametrize(("logits", "labels"), SETS.values(), ids=SETS)


# --- Against scikit-learn, on the same predictions ----------------------------------------------


@each
def test_accuracy(logits, labels):
    answers = logits.argmax(1)
    assert 0.3 < metrics.accuracy(logits, labels) < 0.95  # a test on the way between the ends
    expected = theirs.accuracy_score(labels, answers)
    assert metrics.accuracy(logits, labels) == pytest.approx(expected, abs=1e-6)


@each
@pytest.mark.parametrize("k", [1, 2, 5])
def test_top_k(logits, labels, k):
    classes = range(logits.shape[1])
    expected = theirs.top_k_accuracy_score(labels, logits, k=k, labels=classes)
    assert metrics.accuracy(logits, labels, top_k=k) == pytest.approx(expected, abs=1e-6)


@each
def test_recall_of_each_class(logits, labels):
    expected = theirs.recall_score(labels, logits.argmax(1), average=None)
    np.testing.assert_allclose(metrics.per_class_accuracy(logits, labels), expected, **CLOSE)


@each
def test_confusion_matrix(logits, labels):
    counts = metrics.confusion_matrix(logits, labels)
    assert counts.dtype == torch.int64
    expected = theirs.confusion_matrix(labels, logits.argmax(1), labels=range(logits.shape[1]))
    np.testing.assert_array_equal(counts, expected)


@each
def test_recall_and_precision_stand_in_the_confusion_matrix(logits, labels):
    counts, answers = metrics.confusion_matrix(logits, labels), logits.argmax(1)
    precision = counts.diag() / counts.sum(0).clamp(min=1)
    expected = theirs.precision_score(labels, answers, average=None, zero_division=0)
    np.testing.assert_allclose(precision, expected, **CLOSE)
    recall = counts.diag() / counts.sum(1)
    np.testing.assert_allclose(recall, metrics.per_class_accuracy(logits, labels), **CLOSE)


def test_a_class_that_is_never_answered():
    logits, labels = torch.eye(3)[[0, 0, 1, 1]], torch.tensor([0, 2, 1, 1])
    assert metrics.confusion_matrix(logits, labels).tolist() == [[1, 0, 0], [0, 2, 0], [1, 0, 0]]
    assert metrics.per_class_accuracy(logits, labels).tolist() == [1, 1, 0]


@each
def test_log_loss(logits, labels):
    probabilities = logits.double().softmax(1).numpy()
    expected = theirs.log_loss(labels, probabilities, labels=range(logits.shape[1]))
    assert F.cross_entropy(logits, labels).item() == pytest.approx(expected, abs=1e-6)


# --- Calibration --------------------------------------------------------------------------------


@each
@pytest.mark.parametrize("bins", [5, 15, 200])
def test_calibration_error_in_plain_numpy(logits, labels, bins):
    probabilities = logits.softmax(1)
    confidence = probabilities.amax(1).double().numpy()
    right = (probabilities.argmax(1) == labels).numpy()
    place = np.digitize(confidence, np.linspace(0, 1, bins + 1))
    expected = 0.0
    for i in np.unique(place):
        inside = place == i
        expected += inside.mean() * abs(confidence[inside].mean() - right[inside].mean())
    found = metrics.calibration_error(probabilities, labels, bins)
    assert found > 0.02
    assert found == pytest.approx(expected, abs=1e-6)


@each
def test_calibration_error_from_the_curve_of_scikit_learn(logits, labels):
    probabilities = logits.softmax(1)
    confidence, right = probabilities.amax(1).double(), probabilities.argmax(1) == labels
    share, mean = calibration_curve(right, confidence, n_bins=15)
    filled = np.histogram(confidence, bins=15, range=(0, 1))[0]
    weight = filled[filled > 0] / len(right)
    expected = (weight * abs(share - mean)).sum()
    found = metrics.calibration_error(probabilities, labels)
    assert found == pytest.approx(expected, abs=1e-6)


def test_calibration_error_by_hand():
    probabilities = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.3, 0.7]])
    labels = torch.tensor([0, 1, 0, 1])  # bins of 0.1: one of two at 0.9, one of one at 0.6, at 0.7
    expected = 0.5 * abs(0.9 - 0.5) + 0.25 * 0.4 + 0.25 * 0.3
    found = metrics.calibration_error(probabilities.double(), labels, bins=20)
    assert found == pytest.approx(expected, abs=1e-6)


@each
def test_the_temperature_is_at_the_minimum(logits, labels):
    best = metrics.fit_temperature(logits, labels)
    assert best > 1.05  # these logits are too sure

    def loss(temperature):
        return F.cross_entropy(logits.double() / temperature, labels).item()

    grid = np.geomspace(best / 4, best * 4, 401)  # its middle is `best`
    assert np.argmin([loss(t) for t in grid]) == 200
    assert loss(best) < min(loss(best * 0.9999), loss(best * 1.0001))


def test_the_temperature_goes_with_the_scale_and_leaves_its_input_alone():
    logits, labels = SETS["ten"]
    before, best = logits.clone(), metrics.fit_temperature(logits, labels)
    assert torch.equal(logits, before)
    for scale in (0.1, 7.0):
        assert metrics.fit_temperature(scale * logits, labels) == pytest.approx(scale * best, 1e-5)


def test_the_temperature_of_honest_probabilities_is_one():
    generator = torch.Generator().manual_seed(3)
    logits = 2 * torch.randn(20_000, 10, generator=generator)
    labels = torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0]
    assert metrics.fit_temperature(logits, labels) == pytest.approx(1, abs=0.03)


def test_the_temperature_of_answers_given_without_gradients():
    with torch.inference_mode():
        logits, labels = (x.clone() for x in SETS["ten"])
    assert metrics.fit_temperature(logits, labels) == metrics.fit_temperature(*SETS["ten"])


# --- Wilson's interval --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("right", "total", "low", "high"),
    [  # Newcombe (1998), "Two-sided confidence intervals for the single proportion", table I
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_as_published(right, total, low, high):
    assert metrics.wilson_interval(right, total) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize(("right", "total"), [(0, 1), (3, 7), (7, 7), (820, 1000)])
def test_wilson_by_its_formula(right, total):
    z, share = 1.959963984540054, right / total
    middle = (share + z**2 / (2 * total)) / (1 + z**2 / total)
    half = z / (1 + z**2 / total) * math.sqrt(share * (1 - share) / total + (z / 2 / total) ** 2)
    found = metrics.wilson_interval(torch.tensor(right), torch.tensor(total))
    assert found == pytest.approx((max(0, middle - half), min(1, middle + half)), abs=1e-9)
    assert all(type(end) is float for end in found)


def test_wilson_is_wider_at_a_higher_level():
    (low, high), (lower, higher) = (metrics.wilson_interval(9, 10, level) for level in (0.5, 0.99))
    assert lower < low < 0.9 < high < higher < 1


@pytest.mark.parametrize(("right", "total"), [(3, 2), (-1, 2), (0, 0)])
def test_wilson_refuses_what_is_no_share(right, total):
    with pytest.raises(ValueError):
        metrics.wilson_interval(right, total)


# --- Refusing to answer -------------------------------------------------------------------------


def test_rejection_curve_by_hand():
    confidence = torch.tensor([0.9, 0.8, 0.6, 0.4])
    correct = torch.tensor([True, False, True, False])
    answered, right = metrics.rejection_curve(confidence, correct, [0.0, 0.5, 0.8, 0.85, 0.95])
    assert answered.tolist() == [1, 0.75, 0.5, 0.25, 0]
    np.testing.assert_allclose(right, [0.5, 2 / 3, 0.5, 1, math.nan], rtol=1e-6)


def test_without_a_threshold_all_is_answered():
    logits, labels = SETS["ten"]
    confidence, answers = logits.softmax(1).max(1)
    answered, right = metrics.rejection_curve(confidence, answers == labels, [0.0])
    assert answered.item() == 1
    assert right.item() == pytest.approx(metrics.accuracy(logits, labels), abs=1e-6)


# --- Their figures ------------------------------------------------------------------------------


@pytest.fixture
def figure():
    yield plt.gcf
    plt.gcf().canvas.draw()
    plt.close("all")


def test_a_confusion_map_colors_mistakes_only(figure):
    counts = torch.tensor([[8, 2, 0], [0, 5, 5], [0, 0, 0]])  # of the third class there is none
    plots.confusion_map(counts, ["a", "b", "c"], "Who is taken for whom")
    ax = figure().axes[0]
    shown = np.array(ax.images[0].get_array())
    np.testing.assert_allclose(shown, [[0, 0.2, 0], [0, 0, 0.5], [0, 0, 0]], rtol=1e-6)
    numbers = {t.get_position(): t.get_text() for t in ax.texts}
    assert numbers == {(0, 0): "80", (1, 0): "20", (1, 1): "50", (2, 1): "50"}
    assert [t.get_text() for t in ax.get_yticklabels()] == ["a", "b", "c"]


def test_a_confusion_map_sorts_by_group_and_draws_the_blocks(figure):
    groups = torch.arange(100) % 20
    counts = torch.eye(100, dtype=torch.int64) * 9
    counts[0, 20], counts[1, 0] = 1, 1  # within group 0, and from group 1 to group 0
    plots.confusion_map(counts, [f"group {i}" for i in range(20)], groups=groups)
    ax = figure().axes[0]
    rows, columns = np.nonzero(np.array(ax.images[0].get_array()))
    assert list(zip(rows, columns, strict=True)) == [(0, 1), (5, 0)]
    assert len(ax.lines) == 2 * 19 and not ax.texts
    assert len(ax.get_xticks()) == 20


def test_a_confusion_map_wants_a_name_for_each_row():
    with pytest.raises(ValueError, match="2 names for 3 rows"):
        plots.confusion_map(torch.eye(3), ["a", "b"])
    plt.close("all")


def test_a_reliability_diagram_shows_each_full_bin(figure):
    confidence = torch.tensor([0.55, 0.58, 0.95, 1.0])
    right = torch.tensor([True, False, True, True])
    plots.reliability({"one": (confidence, right)}, "Half right", bins=10)
    above, below = figure().axes
    line = above.containers[0].lines[0]
    np.testing.assert_allclose(line.get_xdata(), [0.565, 0.975], rtol=1e-6)
    np.testing.assert_allclose(line.get_ydata(), [0.5, 1.0])
    assert below.patches[0].get_data().values.tolist() == [0, 0, 0, 0, 0, 2, 0, 0, 0, 2]
