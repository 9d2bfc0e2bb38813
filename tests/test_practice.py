"""A chapter's headline, judged against the runs on record."""

import json
from types import SimpleNamespace

import pytest

from cifar_utils import practice, runs

CHAPTER = "04_resnet_training"


@pytest.fixture
def on_record(tmp_path, monkeypatch):
    """Three runs on record: 90.0, 90.2 and 90.4 %; mean 90.2, standard deviation 0.2."""
    studies = tmp_path / "results" / "studies"
    studies.mkdir(parents=True)
    record = {"metrics": {"test_accuracy": 0.902}}
    (tmp_path / "results" / f"{CHAPTER}.laptop.json").write_text(json.dumps(record))
    rows = [{"chapter": CHAPTER, "seed": 1, "test_accuracy": 0.900}]
    rows += [{"chapter": CHAPTER, "seed": 2, "test_accuracy": 0.904}]
    rows += [{"chapter": "another", "seed": 1, "test_accuracy": 0.1}]
    (studies / "headlines.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    monkeypatch.setattr(runs, "ROOT", tmp_path)


def a_run(accuracy=None, stand_in=False, budget="laptop", chapter=CHAPTER):
    metrics = {} if accuracy is None else {"test_accuracy": accuracy}
    stamp = {"metrics": metrics, "dataset": {"stand_in": stand_in}}
    return SimpleNamespace(chapter=chapter, budget=budget, stamp=stamp)


@pytest.mark.parametrize(
    ("accuracy", "verdict", "words"),
    [(0.9, True, "inside the range"), (0.87, False, "below"), (0.95, False, "above")],
)
def test_a_result_is_inside_below_or_above(on_record, capsys, accuracy, verdict, words):
    assert practice.check_result(a_run(accuracy)) is verdict
    said = capsys.readouterr().out
    assert words in said and "89.6% to 90.8% (3 runs on record)" in said
    assert ("troubleshooting" in said) == (words == "below")


@pytest.mark.parametrize("run", [a_run(0.9, stand_in=True), a_run(0.9, budget="gpu")])
def test_nothing_is_judged_without_a_record_or_on_drawn_pictures(on_record, capsys, run):
    assert practice.check_result(run) is None
    assert "not judged" in capsys.readouterr().out


def test_a_missing_result_is_named(on_record):
    with pytest.raises(ValueError, match=r"run\.record"):
        practice.check_result(a_run())


def test_one_run_on_record_leaves_room_for_rounding():
    low, high = practice.expected_range([0.9])
    assert (low, high) == (pytest.approx(0.895), pytest.approx(0.905))
    low, high = practice.expected_range([0.90, 0.92])
    assert high - low == pytest.approx(6 * 0.0141421, rel=1e-4)
