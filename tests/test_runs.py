"""A run's budget, seed and record; claims; studies that can be stopped and gone on with."""

import json
import os
import random
import signal
import subprocess
import sys
import textwrap

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

import conftest
from cifar_utils import runs
from cifar_utils.training import History

CHAPTER = "99_a_chapter"
KILL = getattr(signal, "SIGKILL", signal.SIGTERM)  # Windows ends a process at once with either


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Runs and results go to a folder of the test; no figure is stamped afterwards."""
    monkeypatch.setattr(runs, "ROOT", tmp_path)
    monkeypatch.setattr(runs, "speed", lambda device, precision: 1000.0)  # takes seconds
    monkeypatch.delenv("CIFAR_RECORD", raising=False)
    monkeypatch.setenv("CIFAR_BUDGET", "smoke")
    hooks = plt.rcParams["figure.hooks"]
    flush = torch.ones(1).mul(1e-40).item() == 0
    state = torch.get_rng_state()
    yield
    plt.rcParams["figure.hooks"] = hooks
    torch.set_flush_denormal(flush)
    torch.set_rng_state(state)


@pytest.fixture
def record(tmp_path):
    """What is on record after the last change."""
    file = tmp_path / "runs" / CHAPTER / "smoke" / "record.json"
    return lambda: json.loads(file.read_text(encoding="utf-8"))


# --- Starting -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("budget", "value"), [("smoke", 1), ("laptop", 6), ("gpu", 26)])
def test_the_budget_picks(budget, value, monkeypatch):
    monkeypatch.setenv("CIFAR_BUDGET", budget)
    run = runs.start(CHAPTER)
    assert run.budget == budget
    assert run.pick(smoke=1, laptop=6, gpu=26) == value


def test_the_budget_is_laptop_where_nothing_is_said(monkeypatch):
    monkeypatch.delenv("CIFAR_BUDGET")
    assert runs.start(CHAPTER).budget == "laptop"


def test_another_budget_is_refused(monkeypatch):
    monkeypatch.setenv("CIFAR_BUDGET", "huge")
    with pytest.raises(ValueError, match="'huge'; it can be smoke, laptop, gpu"):
        runs.start(CHAPTER)


def test_every_budget_must_have_its_value():
    with pytest.raises(TypeError):
        runs.start(CHAPTER).pick(smoke=1, laptop=6)


def test_a_run_begins_with_the_same_draws(capsys):
    def draws():
        return random.random(), np.random.rand(), torch.rand(1).item()  # noqa: NPY002

    runs.start(CHAPTER, seed=3)
    first = draws()
    runs.start(CHAPTER, seed=3)
    assert draws() == first
    runs.start(CHAPTER, seed=4)
    assert all(a != b for a, b in zip(draws(), first, strict=True))
    assert "budget smoke" in capsys.readouterr().out


def test_the_yardstick_spends_no_randomness(monkeypatch):
    monkeypatch.undo()
    before = torch.get_rng_state()
    assert runs.speed(torch.device("cpu"), "fp32", seconds=0.01) > 0
    assert torch.equal(torch.get_rng_state(), before)


def test_the_head_says_how_long_it_will_take(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CIFAR_BUDGET", "laptop")
    runs.start(CHAPTER)
    assert "on record at this budget" in capsys.readouterr().out
    (tmp_path / "results").mkdir()
    recorded = {"seconds": 600, "speed": 2000.0, "device": "a machine twice as fast"}
    (tmp_path / "results" / f"{CHAPTER}.laptop.json").write_text(json.dumps(recorded))
    runs.start(CHAPTER)
    assert "a machine twice as fast: 10 min; here about 20 min" in capsys.readouterr().out


def test_a_run_writes_below_runs_alone(tmp_path):
    run = runs.start(CHAPTER)
    run.record(test_accuracy=0.5)
    assert run.folder == tmp_path / "runs" / CHAPTER / "smoke"
    files = [p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()]
    assert files == [f"runs/{CHAPTER}/smoke/record.json"]


# --- The record ---------------------------------------------------------------------------------


def test_a_record_says_where_its_figures_come_from(record):
    run = runs.start(CHAPTER, seed=7)
    run.load("cifar10")
    found = record()
    assert (found["chapter"], found["budget"], found["seed"]) == (CHAPTER, "smoke", 7)
    assert found["threads"] == torch.get_num_threads()
    assert found["precision"] in ("fp32", "bf16", "fp16")
    assert found["versions"]["torch"] == torch.__version__
    assert set(found["versions"]) == {"python", "torch", "torchvision"}
    assert len(found["date"]) == len("2026-01-31")
    assert found["peak_memory_bytes"] is None or found["peak_memory_bytes"] > 1e7
    assert set(found["dataset"]) == {"name", "source", "stand_in", "split", "digest"}
    assert found["dataset"]["stand_in"] is True
    assert found["dataset"]["split"] == "stand-in"
    assert found["metrics"] == {} and found["history"] == {} and found["claims"] == []
    assert found["device"]


def test_a_record_grows(record):
    run = runs.start(CHAPTER)
    run.record(test_accuracy=torch.tensor(0.25), seconds=np.float32(2.0))
    history = History([2.0], [0.2], [], [], [0.1], [1.0])
    run.record(history, test_accuracy=0.5)
    assert record()["metrics"] == {"test_accuracy": 0.5, "seconds": 2.0}
    assert History(**record()["history"]) == history
    run.record(history={"a": history, "b": history})
    assert set(record()["history"]) == {"a", "b"}
    assert record()["metrics"]["test_accuracy"] == 0.5


def test_a_record_goes_where_it_is_told(tmp_path, monkeypatch):
    told = tmp_path / "told" / "record.json"
    monkeypatch.setenv("CIFAR_RECORD", str(told))
    runs.start(CHAPTER).record(test_accuracy=0.5)
    assert json.loads(told.read_text())["metrics"] == {"test_accuracy": 0.5}
    assert not (tmp_path / "runs").exists()


def test_at_smoke_the_stand_in_is_loaded_and_said_to_be_one(capsys):
    run = runs.start(CHAPTER)
    for name, classes in [("cifar10", 10), ("cifar100", 100)]:
        dataset = run.load(name)
        assert (len(dataset.train), len(dataset.test)) == (500, 200)
        assert len(dataset.classes) == classes
        said = capsys.readouterr().out.splitlines()[-1]
        assert "stand-in" in said
        assert "500 training and 200 test pictures" in said
    figure = plt.figure()
    assert [t.get_text() for t in figure.texts] == ["stand-in data"]
    plt.close(figure)


# --- Claims -------------------------------------------------------------------------------------


def on_real_images(run: runs.Run) -> runs.Run:
    run.stamp["dataset"] = {"stand_in": False}
    return run


def test_a_claim_that_holds_shows_its_evidence(record, capsys):
    run = on_real_images(runs.start(CHAPTER))
    run.claim("deeper is better", torch.tensor(0.91), 0.9, margin=0.005)
    assert capsys.readouterr().out.endswith("Holds: deeper is better (0.91 > 0.9 + 0.005).\n")
    (claim,) = record()["claims"]
    assert claim["text"] == "deeper is better"
    assert (claim["b"], claim["margin"], claim["holds"]) == (0.9, 0.005, True)
    assert claim["a"] == pytest.approx(0.91)


@pytest.mark.parametrize(
    ("a", "b", "margin"), [(0.9, 0.91, 0), (0.91, 0.9, 0.02), (0.9, 0.9, 0), (float("nan"), 0, 0)]
)
def test_a_claim_that_does_not_hold_says_so_and_is_on_record(a, b, margin, record, capsys):
    run = on_real_images(runs.start(CHAPTER))
    run.claim("deeper is better", a, b, margin)
    assert "DOES NOT HOLD: deeper is better" in capsys.readouterr().out
    assert record()["claims"][0]["holds"] is False


@pytest.mark.parametrize(("a", "b"), [(0.9, 0.1), (0.1, 0.9)])
def test_on_stand_in_data_a_claim_is_not_judged(a, b, record, capsys):
    run = runs.start(CHAPTER)
    run.load("cifar10")
    run.claim("deeper is better", a, b)
    out = capsys.readouterr().out
    assert "Not judged on stand-in data: deeper is better." in out
    assert "olds" not in out and "HOLD" not in out
    assert record()["claims"] == []


def test_a_claim_about_a_study_is_judged_everywhere(record, capsys):
    run = runs.start(CHAPTER)
    run.load("cifar10")  # the stand-in
    run.claim("deeper is better", 0.9, 0.8, study="depth")
    assert "Holds: deeper is better (0.9 > 0.8)." in capsys.readouterr().out
    assert record()["claims"][0]["study"] == "depth"
    with pytest.raises(runs.ClaimError, match=r"depth\.jsonl, where 0.8 > 0.9") as error:
        run.claim("wider is better", 0.8, 0.9, study="depth")
    assert isinstance(error.value, AssertionError)
    with pytest.raises(runs.ClaimError):
        run.claim("wider is better", float("nan"), 0.9, study="depth")
    assert len(record()["claims"]) == 1


def test_a_claim_made_again_replaces_the_first(record):
    run = on_real_images(runs.start(CHAPTER))
    run.claim("deeper is better", 0.9, 0.8)
    run.claim("wider is better", 0.9, 0.8)
    run.claim("deeper is better", 0.7, 0.8)
    assert [(c["text"], c["holds"]) for c in record()["claims"]] == [
        ("wider is better", True),
        ("deeper is better", False),
    ]


# --- Studies ------------------------------------------------------------------------------------

ROWS = [{"rate": rate, "seed": seed} for rate in (0.1, 0.2) for seed in (0, 1)]


def test_a_study_runs_each_row_once(tmp_path, capsys):
    ran = []

    def one(run, rate, seed):
        ran.append((rate, seed))
        return {"val_accuracy": rate + seed, "draw": torch.rand(1).item()}

    rows = runs.run_study("rates", ROWS, one)
    assert len(ran) == len(rows) == 4
    assert "rates 4/4: {'rate': 0.2, 'seed': 1}" in capsys.readouterr().out
    assert runs.run_study("rates", ROWS, one) == rows
    more = runs.run_study("rates", [*ROWS, {"rate": 0.3, "seed": 0}], one)
    assert ran[4:] == [(0.3, 0)]
    file = tmp_path / "runs" / "studies" / "rates.jsonl"
    assert runs.read_rows(file) == more
    assert not (tmp_path / "results").exists()  # at smoke nothing is published
    by_seed = {seed: {r["draw"] for r in more if r["seed"] == seed} for seed in (0, 1)}
    assert [len(draws) for draws in by_seed.values()] == [1, 1]  # a row draws as its seed says


def test_a_row_has_its_recipe_figures_and_circumstances(monkeypatch):
    monkeypatch.setenv("CIFAR_BUDGET", "laptop")
    runs.run_study("rates", ROWS[:1], lambda run, rate, seed: {"val_accuracy": 0.5})
    (row,) = runs.study("rates")
    assert (row["rate"], row["seed"], row["val_accuracy"]) == (0.1, 0, 0.5)
    circumstances = {"seconds", "device", "threads", "precision", "versions", "date", "dataset"}
    assert circumstances < set(row)


def test_a_row_may_be_about_precision_or_threads():
    """Words that the machine's own description uses too."""
    ran = []
    rows = [{"precision": p, "threads": 64, "seed": 0} for p in ("int4", "int2")]

    def one(run, **row):
        ran.append(row)
        return {}

    for _ in range(2):
        found = runs.run_study("precisions", rows, one)
        assert [(r["precision"], r["threads"]) for r in found] == [("int4", 64), ("int2", 64)]
    assert ran == rows


def test_a_study_that_fails_keeps_its_rows():
    def one(run, rate, seed):
        if rate == 0.2 and fails:
            raise RuntimeError("out of memory")
        return {"val_accuracy": rate}

    fails = True
    with pytest.raises(RuntimeError, match="out of memory"):
        runs.run_study("rates", ROWS, one)
    fails = False
    rows = runs.run_study("rates", ROWS, one)
    assert [(r["rate"], r["seed"]) for r in rows] == [(0.1, 0), (0.1, 1), (0.2, 0), (0.2, 1)]


def test_a_study_killed_while_it_writes_a_row_goes_on(tmp_path):
    script = f"""
        import os, pathlib
        from cifar_utils import runs
        runs.ROOT = pathlib.Path({str(tmp_path)!r})
        def one(run, rate, seed):
            if (rate, seed) == (0.2, 0):
                os.replace = lambda *_: os.kill(os.getpid(), {KILL:d})
            return {{"pid": os.getpid()}}
        runs.run_study("rates", {ROWS!r}, one)
        """
    environment = os.environ | {"PYTHONPATH": str(conftest.ROOT)}
    command = [sys.executable, "-c", textwrap.dedent(script)]
    ended = subprocess.run(command, env=environment, capture_output=True, timeout=120)
    assert ended.returncode != 0
    file = tmp_path / "runs" / "studies" / "rates.jsonl"
    assert [row["rate"] for row in runs.read_rows(file)] == [0.1, 0.1], ended.stderr.decode()
    rows = runs.run_study("rates", ROWS, lambda run, rate, seed: {"pid": os.getpid()})
    assert [{key: row[key] for key in ("rate", "seed")} for row in rows] == ROWS
    mine = [row["pid"] == os.getpid() for row in rows]
    assert mine == [False, False, True, True]  # what was done is not done again


def test_a_study_that_never_ran_is_not_there():
    with pytest.raises(FileNotFoundError, match="never"):
        runs.study("never")


# --- Writing text -------------------------------------------------------------------------------


def test_text_is_replaced_whole(tmp_path):
    file = tmp_path / "new" / "a.json"
    runs.replace_text(file, "one – µ")
    assert file.read_text(encoding="utf-8") == "one – µ"
    runs.replace_text(file, "two")
    assert file.read_text(encoding="utf-8") == "two"
    assert [p.name for p in file.parent.iterdir()] == ["a.json"]


@pytest.mark.parametrize("at", ["write", "replace"])
def test_a_failed_write_leaves_the_old_text(at, tmp_path, monkeypatch):
    file = tmp_path / "a.json"
    runs.replace_text(file, "old")

    def fails(*_):
        raise OSError("disk full")

    if at == "replace":
        monkeypatch.setattr(os, "replace", fails)
    with pytest.raises((OSError, UnicodeEncodeError)):
        runs.replace_text(file, "new" if at == "replace" else "half \ud800")
    assert file.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]
