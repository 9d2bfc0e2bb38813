"""Killed at any moment, whatever runs goes on from whole files; interrupted, it stays usable."""

import collections
import itertools
import os
import random
import threading
import types
from pathlib import Path

import pytest
import torch

import processes
from cifar_utils import checkpoints, data, runs
from cifar_utils.checkpoints import CheckpointError
from processes import KILL, Voice
from test_checkpoints import EPOCHS, Job, differences, untimed
from torture import figures, rounds

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
