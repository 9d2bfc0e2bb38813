"""Killed at any moment, whatever runs goes on from whole files; interrupted, it stays usable."""

import collections
import contextlib
import itertools
import json
import os
import random
import shutil
import subprocess
import sys
import threading
import time
import types
from pathlib import Path

import processes
import psutil
import pytest
import test_data
import test_evidence
import torch
from processes import KILL, Voice
from test_checkpoints import EPOCHS, Job, differences, untimed
from torture import figures, rounds

from cifar_utils import catalog, checkpoints, data, fetch, runs, sources
from cifar_utils.checkpoints import CheckpointError

small, hub = test_data.small, test_data.hub  # fixtures

# --- A training ---------------------------------------------------------------------------------


class Loud:
    """Batches, each said before it is given."""

    def __init__(self, batches: data.BatchLoader, word: str, voice: Voice):
        self.batches, self.word, self.voice = batches, word, voice
        self.generator = batches.generator

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        for batch in self.batches:
            self.voice(self.word)
            yield batch


def in_place(path, state):
    """A checkpoint as one would write it without care."""
    with open(path, "wb") as file:
        torch.save(state, file)


def train(say, folder: Path, aim=None, broken=None):
    """One start of a training that says what it is at; at the end all that it learned is kept."""
    torch.set_num_threads(1)
    torch.manual_seed(os.getpid())  # a new process begins with other draws
    voice, save, path = Voice(say, aim), torch.save, folder / "training.pt"
    if broken == "in place":
        checkpoints.save = in_place
    elif broken == "forgets draws":
        checkpoints.set_rng_state = lambda state, train: None

    def piece_by_piece(state, file):
        pieces = types.SimpleNamespace(write=voice.before("write", file.write), flush=file.flush)
        save(state, pieces)

    whole = checkpoints.save

    def saved(path, state):
        whole(path, state)
        voice("written", len(state["history"]["lr"]))

    job = Job(data.load("cifar10", stand_in=(80, 40)))
    job.train, job.val = Loud(job.train, "step", voice), Loud(job.val, "evaluate", voice)
    torch.save, checkpoints.save = piece_by_piece, saved
    os.fsync, os.replace = voice.before("sync", os.fsync), voice.before("move", os.replace)
    voice("begun")
    history = job.run(path, keep_best=True, log=lambda line: voice("log", line))
    save(job.state() | {"history": untimed(history)}, folder / "final.pt")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """All that the training learns if nobody stops it, and what it says meanwhile."""
    folder = tmp_path_factory.mktemp("undisturbed")
    said = processes.run(train, folder)
    return torch.load(folder / "final.pt", weights_only=False), said


def epochs_in(path: Path) -> int:
    return len(checkpoints.load(path)["history"]["lr"]) if path.exists() else 0


def killed_again_and_again(folder: Path, aims, broken=None) -> collections.Counter:
    """Start the training once for each aim, and hold every death to the promise.

    An aim is a moment, (phase, how many times it is said), or seconds after which it is killed
    from outside. Returns how often death came in which phase; ends early if a start survives.
    """
    hit, written, path = collections.Counter(), 0, folder / "training.pt"
    for aim in aims:
        before = epochs_in(path)
        aimed = isinstance(aim, tuple)
        process, heard = processes.start(train, folder, aim if aimed else None, broken)
        first = heard.recv() if heard.poll(120) else None
        assert first == ("begun",)
        killer = threading.Timer(0 if aimed else aim, process.kill)
        if not aimed:
            killer.start()
        said = processes.listen(process, heard)
        killer.cancel()
        logged = [words[1] for words in said if words[0] == "log"]
        if before and logged:
            assert logged[0] == f"training.pt: {before} of {EPOCHS} epochs are done", aim
        written = max([written, *(words[1] for words in said if words[0] == "written")])
        assert written <= epochs_in(path) <= written + 1, f"{aim}: more than an epoch is lost"
        if process.exitcode == 0:
            return hit
        assert process.exitcode in (-KILL, KILL), f"{aim}: ended with {process.exitcode}"
        hit[said[-1][0] if said else "begun"] += 1
    processes.run(train, folder, None, broken)
    return hit


def require_same_end(folder: Path, undisturbed) -> None:
    found = torch.load(folder / "final.pt", weights_only=False)
    assert differences(undisturbed[0], found) == []


def draw_aims(seed: int, said: list[tuple]):
    """Moments of every kind, drawn for ever: half of them aimed at, half by the clock."""
    draw = random.Random(seed)
    often = collections.Counter(words[0] for words in said)
    phases = ("step", "evaluate", "write", "sync", "move", "written")
    for phase in itertools.cycle(phases):
        yield phase, draw.randint(1, max(1, often[phase] // 2))
        yield draw.uniform(0, 0.3)


def test_a_training_killed_anywhere_ends_in_the_same_bits(undisturbed, tmp_path):
    """Never a checkpoint that cannot be read; never more than the current epoch lost."""
    aims, hit, trainings = draw_aims(8, undisturbed[1]), collections.Counter(), 0
    if rounds(1, 0):
        aims = iter([("step", 5), ("write", 50), ("evaluate", 2)])
    while hit.total() < rounds(3, 150):
        folder = tmp_path / str(trainings)
        folder.mkdir()
        hit += killed_again_and_again(folder, itertools.islice(aims, 8))
        require_same_end(folder, undisturbed)
        trainings += 1
    assert {"step", "evaluate", "write"} <= set(hit), "not every kind of moment was hit"
    figures("kill", "training", tries=hit.total(), trainings=trainings, lost=0, **hit)


def test_a_careless_checkpoint_does_not_survive_this(tmp_path):
    with pytest.raises(CheckpointError, match="cannot be read"):
        killed_again_and_again(tmp_path, [("written", 1), ("write", 20)], "in place")


def test_a_resume_that_forgets_its_draws_does_not_survive_this(undisturbed, tmp_path):
    killed_again_and_again(tmp_path, [("written", 2)], "forgets draws")
    with pytest.raises(AssertionError):
        require_same_end(tmp_path, undisturbed)


# --- A study ------------------------------------------------------------------------------------

ROWS = [{"rate": rate, "seed": seed} for rate in (0.1, 0.2)[: rounds(1, 2)] for seed in (0, 1)]


def study(say, folder: Path, aim=None, broken=None):
    """One start of a study whose rows take a moment each."""
    voice = Voice(say, aim)
    runs.ROOT, os.environ["CIFAR_BUDGET"] = folder, "smoke"
    if broken:
        runs.replace_text = lambda file, text: [
            file.parent.mkdir(parents=True, exist_ok=True),
            file.write_text(text[:-9]),
            voice("half"),
            file.write_text(text),
        ]

    def one(run, rate, seed):
        voice("row", rate, seed)
        return {"draw": torch.rand(1).item()}

    Path.write_text = voice.before("write", Path.write_text)
    os.replace = voice.before("move", os.replace)
    runs.run_study("rates", ROWS, one)


def recorded(folder: Path) -> list[dict]:
    """Each row on record: what it is, and what it drew."""
    file = folder / "runs" / "studies" / "rates.jsonl"
    names = ("rate", "seed", "draw")
    return [{n: row[n] for n in names} for row in runs.read_rows(file)] if file.exists() else []


def test_a_study_killed_between_and_within_rows_repeats_none(tmp_path):
    draw, hit, studies = random.Random(8), collections.Counter(), 0
    processes.run(study, tmp_path / "whole")
    whole = recorded(tmp_path / "whole")
    assert len(whole) == len(ROWS)
    while hit.total() < rounds(1, 60):
        folder, done = tmp_path / str(studies), []
        while len(done) < len(ROWS):
            phase = "row" if rounds(1, 0) else draw.choice(["row", "write", "move"])
            aim = (phase, draw.choice([1, 2, 3]))
            process, heard = processes.start(study, folder, aim)
            said = processes.listen(process, heard)
            ran = [words[1:] for words in said if words[0] == "row"]
            assert not set(ran) & {(row["rate"], row["seed"]) for row in done}, "done again"
            hit += collections.Counter([phase] if process.exitcode else [])
            done = recorded(folder)
            assert done == whole[: len(done)], aim
        studies += 1
    figures("kill", "study", tries=hit.total(), studies=studies, **hit)


def test_rows_written_in_place_do_not_survive_this(tmp_path):
    process, heard = processes.start(study, tmp_path, ("half", 2), "in place")
    processes.listen(process, heard)
    with pytest.raises(ValueError, match=r"delimiter|Unterminated"):
        recorded(tmp_path)


# --- Downloads ----------------------------------------------------------------------------------


def no_route(spec, folder):
    raise fetch.NotHad("not in this test")


def download(say, aim, place: Path, environment: dict, spec, official: dict | None):
    """Load a data set that has to be fetched first; `official` describes the archive, if it is."""
    voice = Voice(say, aim)
    os.environ |= environment
    sources.DATA = place
    if official:
        spec.official = type(spec.official.__name__, (spec.official,), official)
    catalog.SPECS["cifar10"] = spec
    setattr(fetch, "from_hub" if official else "from_archive", no_route)
    begin = subprocess.Popen

    def begun(*arguments, **options):
        child = begin(*arguments, **options)
        voice("child", child.pid)
        return child

    subprocess.Popen = begun
    os.replace = voice.before("move", os.replace)
    shutil.rmtree = voice.before("clear", shutil.rmtree)
    data.load("cifar10")


def alive(pid: int) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


def test_a_download_killed_anywhere_leaves_nothing_or_all(hub, small, tmp_path, monkeypatch):
    """A later call completes it; the process that fetched does not outlive who asked for it."""
    draw, hit = random.Random(8), collections.Counter()
    names = ("HF_ENDPOINT", "HF_HOME", "NO_PROXY", "XDG_CACHE_HOME")
    environment = {name: os.environ[name] for name in names}
    for i in range(rounds(1, 16)):
        place = tmp_path / str(i)
        aim = draw.choice([None, ("child", 1), ("move", 1), ("clear", 1), ("move", 2)])
        aim = aim if rounds(0, 1) else None
        hub.pause, asked = 60 if aim in (None, ("child", 1)) else 0, len(hub.log)
        arguments = (aim, place, environment, catalog.SPECS["cifar10"], None)
        process, heard = processes.start(download, *arguments)
        while not aim and not [call for call in hub.log[asked:] if "/cdn/" in call[1]]:
            time.sleep(0.05)
        killer = threading.Timer(draw.uniform(0, 1.5), process.kill)
        if not aim:
            killer.start()
        said = processes.listen(process, heard)
        killer.cancel()
        hit[said[-1][0] if process.exitcode else "too late"] += 1
        (child,) = [words[1] for words in said if words[0] == "child"]
        patience = time.monotonic() + 20
        while alive(child) and time.monotonic() < patience:
            time.sleep(0.05)
        assert not alive(child), "the download goes on for nobody"
        there = sorted(path.name for path in (place / "cifar10").rglob("*.parquet"))
        assert there in ([], test_data.SHARDS), aim
        hub.pause = 0
        monkeypatch.setattr(sources, "DATA", place)
        test_data.same(data.load("cifar10"), small["cifar10"])
        # Killed while it cleared what is left, it leaves its folder, but nothing of the data in it.
        beside = [path for path in place.iterdir() if path.is_dir() and path.name != "cifar10"]
        assert not beside or aim == ("clear", 1), aim
        assert not [path for folder in beside for path in folder.rglob("*.parquet")]
        shutil.rmtree(os.environ["XDG_CACHE_HOME"])
    figures("kill", "download", tries=hit.total(), **hit)


# --- Programs -----------------------------------------------------------------------------------

OPTIONS = "--budget smoke --train-pictures 300 --test-pictures 100 --hold-out 100 --device cpu"


def train_program(say, folder: Path, aim=None):
    """`python -m apps.train`, its output heard line by line."""
    from apps import train

    voice = Voice(say, aim)
    torch.set_num_threads(1)

    def write(text):
        voice("epoch" if text.startswith("epoch") else "said", text)

    sys.stdout = types.SimpleNamespace(write=write, flush=lambda: None)
    if code := train.main([*OPTIONS.split(), "--out", str(folder)]):
        sys.exit(code)


def learned(folder: Path):
    """What a program left: its state, and its result without the times."""
    state = checkpoints.load(folder / "checkpoint.pt")
    result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    for part in (state["history"], result["history"]):
        del part["seconds"]
    del result["seconds"]
    return state, result


@pytest.mark.skipif(not rounds(0, 1), reason="in the long run: it trains three times")
def test_the_program_killed_goes_on_to_the_same_bits(tmp_path):
    """In the long run the first is the real command; else processes that start at once."""
    processes.run(train_program, tmp_path / "whole")
    whole, draw, kills = learned(tmp_path / "whole"), random.Random(8), 1
    folder = tmp_path / "killed"
    if rounds(0, 1):
        command = [sys.executable, "-m", "apps.train", *OPTIONS.split(), "--out", str(folder)]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
        with subprocess.Popen(
            command, cwd=runs.ROOT, env=environment, stdout=subprocess.PIPE, text=True
        ) as program:
            for line in program.stdout:
                if line.startswith("epoch   2"):
                    program.kill()
                    break
    else:
        processes.listen(*processes.start(train_program, folder, ("epoch", 2)))
    assert epochs_in(folder / "checkpoint.pt") in (1, 2)
    said = "".join(words[1] for words in processes.run(train_program, folder))
    assert "of 3 epochs are done" in said and "epoch   1/3" not in said
    assert differences(whole, learned(folder)) == []
    for i in range(rounds(0, 10)):
        folder, process = tmp_path / str(i), None
        while process is None or process.exitcode:
            process, heard = processes.start(train_program, folder)
            killer = threading.Timer(draw.uniform(0.2, 3), process.kill)
            killer.start()
            processes.listen(process, heard)
            killer.cancel()
            kills += process.exitcode != 0
            epochs_in(folder / "checkpoint.pt")  # raises if it cannot be read
        assert differences(whole, learned(folder)) == [], i
        assert not list(folder.glob("*.part"))
    figures("kill", "apps.train", tries=kills)


def run_chapter(say, house: Path, aim=None):
    """`make run` in a house of one small chapter."""
    import execute

    voice = Voice(say, aim)
    execute.ROOT, execute.notebooks = house, lambda: [house / "notebooks" / "00_small.ipynb"]
    execute.opening.expected = execute.tables.expected = dict
    sys.argv = ["execute.py", "--budget", "laptop"]
    os.replace = voice.before("move", os.replace)
    sys.stdout = types.SimpleNamespace(
        write=lambda text: voice("cell") if "[1]" in text else None, flush=lambda: None
    )
    if code := execute.main():
        sys.exit(code)


@pytest.mark.skipif(sys.platform != "linux", reason="a kernel takes long to start anew")
def test_make_run_killed_keeps_the_stored_chapter(tmp_path):
    """Old or new, the notebook and its record are whole; a later call completes them."""
    text = test_evidence.SMALL.replace("STAND_IN", "False")
    cells = [{"cell_type": "markdown", "metadata": {}, "source": "# Small", "id": "a"}]
    cells += [test_evidence.notebook(text)["cells"][0] | {"id": "b", "execution_count": None}]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    whole = {"cells": cells, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}
    path = tmp_path / "notebooks" / "00_small.ipynb"
    record = tmp_path / "results" / "00_small.laptop.json"
    path.parent.mkdir()
    old = json.dumps(whole)
    tries = [("cell", 1), ("move", 1), ("move", 2)][: rounds(1, 3)]
    for aim in tries:
        path.write_text(old, encoding="utf-8")
        record.unlink(missing_ok=True)
        process, heard = processes.start(run_chapter, tmp_path, aim)
        said = processes.listen(process, heard)
        assert said[-1] == aim[:1]
        assert path.read_text(encoding="utf-8") == old
        assert record.exists() == (aim == ("move", 2)), "the record comes first"
        if rounds(0, 1):
            for left in tmp_path.rglob("*.part"):
                os.utime(left, (0, 0))  # as if the later call came much later
            processes.run(run_chapter, tmp_path)
            stored, digest = json.loads(path.read_text()), json.loads(record.read_text())["digest"]
            assert stored["metadata"]["cifar"]["digest"] == digest
            assert not list(tmp_path.rglob("*.part")), aim
    figures("kill", "make run", tries=len(tries))


# --- An interrupt in a notebook -----------------------------------------------------------------

SETTING = """
import time, torch
from pathlib import Path
from cifar_utils import checkpoints, data
from cifar_utils.training import evaluate, fit
from test_checkpoints import EPOCHS, Job, differences, untimed
torch.set_num_threads(1)
pictures = data.load("cifar10", stand_in=(80, 40))

class Slow:  # batches that leave time to press Ctrl-C
    def __init__(self, batches):
        self.batches, self.generator = batches, batches.generator
    def __len__(self):
        return len(self.batches)
    def __iter__(self):
        for batch in self.batches:
            time.sleep(0.02)
            yield batch

whole = Job(pictures)
want = untimed(whole.run())
"""
MAKING = "job = Job(pictures, seed=0)"
AGAIN = "history = job.run({path!r}, Slow(job.train), log=print)"
TRAINING = f"print('begun', flush=True)\n{AGAIN}"
USABLE = """
assert all(value.isfinite().all() for value in job.model.state_dict().values())
assert 0 <= evaluate(job.model, job.val).accuracy <= 1
done = checkpoints.load({path!r})["history"]["lr"] if Path({path!r}).exists() else []
assert len(done) <= EPOCHS
print("usable", len(done))
"""
SAME = """
assert differences(whole.state(), job.state()) == [] and untimed(history) == want
print("same")
"""


class Kernel:
    """A notebook's kernel, one cell after the other."""

    def __init__(self, folder: Path):
        from jupyter_client.manager import start_new_kernel

        places = [str(runs.ROOT), str(runs.ROOT / "tests")]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(places)}
        self.manager, self.client = start_new_kernel(cwd=str(folder), env=environment)

    def run(self, code: str, after: str = "", delay: float = 0.0) -> tuple[str, str]:
        """Text and error of a cell; it is interrupted `delay` seconds after it said `after`."""
        said, stop = [], threading.Timer(delay, self.manager.interrupt_kernel)

        def hear(message):
            if message["msg_type"] == "stream":
                said.append(message["content"]["text"])
                if after and after in said[-1] and not stop.ident:
                    stop.start()

        reply = self.client.execute_interactive(code, timeout=300, output_hook=hear)
        stop.cancel()
        if after:  # an interrupt that came too late hits this, and not the next cell
            self.client.execute_interactive("", output_hook=hear)
        return "".join(said), reply["content"].get("ename", "")

    def end(self) -> None:
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)


@pytest.fixture
def kernel(tmp_path):
    made = Kernel(tmp_path)
    yield made
    made.end()


def test_an_interrupted_cell_leaves_a_network_to_use_and_goes_on_when_run_again(kernel, tmp_path):
    """The history up to the last epoch is in the checkpoint; run again, the cell has all of it."""
    assert kernel.run(SETTING) == ("", "")
    draw, cut = random.Random(8), 0
    for i in range(rounds(1, 15)):
        path = str(tmp_path / f"{i}.pt")
        training, usable = TRAINING.format(path=path), USABLE.format(path=path)
        for _ in range(rounds(1, 3)):
            after = (
                "epoch   2" if rounds(1, 0) else draw.choice(["begun", "epoch   1", "epoch   2"])
            )
            said, error = kernel.run(f"{MAKING}\n{training}", after, draw.uniform(0, 0.15))
            cut += error == "KeyboardInterrupt"
            assert error in ("KeyboardInterrupt", ""), f"{i}: {error} {said}"
            said, error = kernel.run(usable)
            assert not error and said.startswith("usable"), f"{i}: {error} {said}"
            done = int(said.split()[1])
        if 0 < done < EPOCHS:  # the training's cell alone: its optimizer is no longer fresh
            assert kernel.run(AGAIN.format(path=path))[1] == "CheckpointError"  # says: anew
        said, error = kernel.run(f"{MAKING}\n{training}")
        assert not error and (not done or f"{done} of {EPOCHS} epochs are done" in said), i
        assert kernel.run(SAME) == ("same\n", ""), f"interrupted training {i}"
    assert cut
    figures("interrupt", "a cell that trains", tries=cut, lost=0)
