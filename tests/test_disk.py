"""No room, no permission, two at once: what was there stays whole, and the error names the file."""

import contextlib
import json
import os
import random
import shutil
import subprocess
import tempfile
import threading
import time
from pathlib import Path

import processes
import pytest
import test_data
import test_kill
import torch
from test_checkpoints import differences
from torture import figures, rounds

import house
from cifar_utils import catalog, checkpoints, data, fetch, logs, proofs, runs, sources, standin
from cifar_utils.checkpoints import CheckpointError
from cifar_utils.logs import EventsError
from cifar_utils.training import History

small, hub = test_data.small, test_data.hub  # fixtures
PAGE, FILLER = 4096, ".filler"

# --- What the book writes: each writer puts about `n` kilobytes below a folder --------------------


def checkpoint(folder: Path, n: int) -> None:
    checkpoints.save(folder / "training.pt", {"weights": torch.full((256 * n,), float(n))})


def record(folder: Path, n: int) -> None:
    runs.replace_text(folder / "record.json", json.dumps("x" * 1024 * n))


def study(folder: Path, n: int) -> None:
    """A row of it; the record of its run lies elsewhere."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "ROOT", folder)
        patch.setattr(runs.Run, "_write", lambda run: None)
        runs.run_study("rates", [{"seed": n}], lambda run, seed: {"curve": "x" * 1024 * n})


def chapter(folder: Path, n: int) -> None:
    house.write(folder / "00_small.ipynb", json.dumps("x" * 1024 * n))


def events(folder: Path, n: int) -> None:
    logs.write_events(History(*[[0.1] * (4 * n)] * 6), folder / f"events-{n}")


def cache(folder: Path, n: int) -> None:
    train, test = standin.make(n // 4, n // 8, 10)
    found = proofs.Found("drawn", "stand-in", "0", ("a",), None, train, test)
    proofs.keep(folder / "cifar10-place-key.npz", found)


# Who writes, what is raised where it cannot be, the file that the message names.
WRITERS = [
    (checkpoint, CheckpointError, "training.pt"),
    (record, OSError, "record.json"),
    (study, OSError, "rates.jsonl"),
    (chapter, OSError, ""),
    (events, EventsError, "events-200"),
    (cache, None, ""),
]


def files_in(folder: Path) -> dict[str, bytes]:
    """What every file of a folder holds, but for locks and what fills the disk."""
    files = (path for path in folder.rglob("*") if path.is_file())
    left_out = (".lock", ".fetching.lock", FILLER)
    return {str(path): path.read_bytes() for path in files if path.name not in left_out}


def require_refusal(write, kind, name: str, folder: Path) -> None:
    """Writing fails with an error that names the file (a cache is done without), and harms none."""
    before = files_in(folder)
    with pytest.raises(kind) if kind else contextlib.nullcontext() as error:
        write(folder, 200)
    if name:
        assert name in str(error.value) and "Make room" in str(error.value)
    assert files_in(folder) == before


# --- A full disk --------------------------------------------------------------------------------


class Disk:
    """A folder that can be made full: a file system of two megabytes, or a limit on sizes."""

    def __init__(self, folder: Path):
        self.folder, mount = folder, shutil.which("mount")
        command = [str(mount), "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
        folder.mkdir()
        self.mounted = bool(mount) and not subprocess.run(command, capture_output=True).returncode

    @contextlib.contextmanager
    def full(self, room: int):
        """Meanwhile there is room for so many bytes (without a mount: in each file)."""
        if self.mounted:
            filler = self.folder / FILLER
            with open(filler, "wb", buffering=0) as file, contextlib.suppress(OSError):
                while True:
                    file.write(bytes(PAGE))
            os.truncate(filler, filler.stat().st_size - room)
            yield
            filler.unlink()
        else:
            import resource

            limits = resource.getrlimit(resource.RLIMIT_FSIZE)
            least = 16 * PAGE  # what the test says goes into a file, too
            resource.setrlimit(resource.RLIMIT_FSIZE, (max(room, least), limits[1]))
            yield
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.fixture
def disk(tmp_path):
    if os.name == "nt":
        pytest.skip("neither small disks nor limits on files can be had here")
    made = Disk(tmp_path / "disk")
    yield made
    if made.mounted:
        subprocess.run(["umount", "-l", str(made.folder)], check=True)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # TensorBoard's
@pytest.mark.parametrize(
    ("write", "kind", "name"), WRITERS, ids=[w.__name__ for w, _, _ in WRITERS]
)
def test_a_full_disk_harms_no_file(write, kind, name, disk):
    """Whether the room ends at once or in the middle; and with room again, all is well."""
    draw, tries = random.Random(8), rounds(2, 60)
    write(disk.folder, 20)
    for i in range(tries):
        with disk.full(room=draw.randrange(20) * PAGE if i else 0):
            require_refusal(write, kind, name, disk.folder)
    before = files_in(disk.folder)
    write(disk.folder, 200)
    assert files_in(disk.folder) != before
    figures("disk", f"full: {write.__name__}", tries=tries)


def test_a_writer_without_care_is_found_out(disk):
    path = disk.folder / "record.json"
    path.write_text("whole")
    with disk.full(0), pytest.raises(OSError):
        path.write_text("x" * 100_000)
    assert path.read_text() != "whole"


def test_a_training_on_a_full_disk_says_so_and_goes_on_when_there_is_room(disk):
    job, path = test_kill.Job(data.load("cifar10", stand_in=(80, 40))), disk.folder / "a.pt"
    lines = []
    with disk.full(0), pytest.raises(CheckpointError, match=r"a\.pt could not be written: .* Make"):
        job.run(path, log=lines.append)
    assert len(lines) == 1 and not path.exists()
    again = test_kill.Job(data.load("cifar10", stand_in=(80, 40)))
    assert len(again.run(path).lr) == test_kill.EPOCHS


def test_a_download_that_finds_no_room_leaves_none_of_it(hub, small, disk, monkeypatch, capsys):
    if not disk.mounted:
        pytest.skip("no file system can be mounted here (it takes root, on Linux)")
    monkeypatch.setattr(sources, "DATA", disk.folder)
    for i in range(rounds(1, 6)):
        with disk.full(i * 4 * PAGE):
            assert data.load("cifar10").stand_in
        said = capsys.readouterr().out
        assert "no cifar10 from the Hub mirror" in said and "WARNING" in said
        if i == 0:
            assert "No space left on device" in said
        assert not (disk.folder / "cifar10").exists()
    test_data.same(data.load("cifar10"), small["cifar10"])
    figures("disk", "full: download", tries=rounds(1, 6))


@pytest.mark.skipif(not rounds(0, 1), reason="in the long run: it exports, for seconds")
def test_an_export_that_finds_no_room_leaves_none_of_it(disk, tmp_path, monkeypatch, capsys):
    from apps import export as program
    from cifar_utils import export, models, weights

    about = dict.fromkeys("results sha256".split(), "") | {"input_size": 32}
    about |= {"mean": [0.5] * 3, "std": [0.25] * 3, "classes": list("abcdefghij")}
    shape = {"block": "BasicBlock", "layers": [1, 1], "width": 16, "num_classes": 10}
    model = models.ResNet(models.BasicBlock, [1, 1], 10, 16)
    weights.save("tiny", model, about | {"architecture": shape}, tmp_path / "weights")
    load = weights.load
    monkeypatch.setattr(weights, "load", lambda name: load(name, tmp_path / "weights"))
    arguments = ["tiny", "--out", str(disk.folder)]
    assert program.main(arguments) == 0
    before = files_in(disk.folder)
    needed = (disk.folder / "tiny.onnx").stat().st_size
    for i in range(rounds(0, 5)):
        with disk.full(i * needed // 5):
            assert program.main(arguments) == 2, i
        said = capsys.readouterr().err
        assert str(disk.folder) in said and "Make room" in said
        assert files_in(disk.folder) == before, i
        export.session(disk.folder / "tiny.onnx")
    figures("disk", "full: export", tries=5)


# --- No permission ------------------------------------------------------------------------------


@pytest.fixture
def common():
    """A folder that every user may look into, unlike pytest's."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


def refusals(say, folder: Path, warm: Path, place: Path, spec) -> None:
    """Try every writer in a folder that is another's; as root, become nobody first."""
    for write, _, _ in WRITERS:
        write(warm, 20)  # imports what it needs, which nobody may not
    catalog.SPECS["cifar10"] = spec
    os.environ |= {"XDG_CACHE_HOME": str(warm / "cache"), "CIFAR_DATA": str(place)}
    digest = data.load("cifar10").digest
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
    for write, kind, name in WRITERS:
        require_refusal(write, kind, name if write is not study else "", folder)
        say.send(("refused", write.__name__))
    for where in (folder, folder / "closed", folder / "training.pt"):  # the last is no folder
        os.environ["XDG_CACHE_HOME"] = str(where)
        say.send(("same", data.load("cifar10").digest == digest))


@pytest.mark.skipif(not hasattr(os, "setuid"), reason="no users of this kind here")
def test_a_folder_of_another_user_is_left_as_it_is(small, common):
    """The data is loaded all the same, where neither its folder nor a cache may be written to."""
    folder, warm, place = common / "locked", common / "warm", common / "data"
    for made in (folder, warm):
        made.mkdir()
    for write, _, _ in WRITERS:
        write(folder, 20)
    (folder / "closed").mkdir()
    test_data.parquet_folder(place, "cifar10", small)
    before = files_in(folder) | files_in(place)
    locked = (folder / "closed", 0o000), (folder, 0o555), (place, 0o555)
    for path, mode in locked:
        path.chmod(mode)
    try:
        spec = catalog.SPECS["cifar10"]
        said = processes.run(refusals, folder, warm, place, spec)
    finally:
        for path, _ in reversed(locked):
            path.chmod(0o755)
    assert [words for words in said if words[0] == "same"] == [("same", True)] * 3
    assert len(said) == len(WRITERS) + 3
    assert files_in(folder) | files_in(place) == before
    figures("disk", "no permission", tries=len(said))


def test_a_read_only_disk_is_left_as_it_is(disk):
    if not disk.mounted:
        pytest.skip("no file system can be mounted here (it takes root, on Linux)")
    for write, _, _ in WRITERS:
        write(disk.folder, 20)
    (disk.folder / "studies").mkdir()
    subprocess.run(["mount", "-o", "remount,ro", str(disk.folder)], check=True)
    for write, kind, name in WRITERS:
        require_refusal(write, kind, name if write is not study else "", disk.folder)
    figures("disk", "read-only", tries=len(WRITERS))


# --- Two at once --------------------------------------------------------------------------------


def both(function, *arguments, meanwhile=lambda: None) -> None:
    """Two processes at once, which both must end well; `meanwhile` is called again and again."""
    begun = [processes.start(function, *arguments, i) for i in range(2)]
    ears = [threading.Thread(target=processes.listen, args=one) for one in begun]
    for ear in ears:
        ear.start()
    while any(ear.is_alive() for ear in ears):
        meanwhile()
        time.sleep(0.01)
    assert [process.exitcode for process, _ in begun] == [0, 0]


def load(say, environment: dict, place: Path, spec, i: int) -> None:
    """Load what has to be fetched, decoded and kept; not the stand-in."""
    os.environ |= environment
    sources.DATA, catalog.SPECS["cifar10"] = place, spec
    fetch.from_archive = test_kill.no_route
    found = data.load("cifar10")
    assert not found.stand_in and found.digest == data.load("cifar10").digest


def test_two_that_load_the_same_data_fetch_it_once(hub, small, tmp_path, monkeypatch):
    """One waits for the other; then both decode and keep it, and all they kept is whole."""
    names = ("HF_ENDPOINT", "HF_HOME", "NO_PROXY", "XDG_CACHE_HOME")
    environment, spec = {name: os.environ[name] for name in names}, catalog.SPECS["cifar10"]
    tries = rounds(1, 20)
    for i in range(tries):
        place, asked = tmp_path / str(i), len(hub.log)
        both(load, environment, place, spec)
        got = [path for command, path, _ in hub.log[asked:] if command == "GET" and "cdn" in path]
        assert len(got) == len(set(got)) == 2, i
        monkeypatch.setattr(sources, "DATA", place)
        test_data.same(data.load("cifar10"), small["cifar10"])
        assert set(json.loads((place / proofs.MEMORY).read_text()).values())
        assert [path.name for path in place.iterdir() if path.is_dir()] == ["cifar10"]
        cached = list(proofs.cache_folder().iterdir())
        assert len(cached) <= 1 and all(proofs.recall(path) for path in cached), i
        shutil.rmtree(proofs.cache_folder())
    figures("together", "data", tries=tries)


def train(say, folder: Path, i: int) -> None:
    test_kill.train(say, folder)


@pytest.mark.skipif(not rounds(0, 1), reason="in the long run: it trains three times")
def test_two_trainings_of_one_checkpoint_end_in_the_same_bits(tmp_path):
    alone, tries = tmp_path / "alone", rounds(1, 25)
    alone.mkdir()
    processes.run(test_kill.train, alone)
    want = torch.load(alone / "final.pt", weights_only=True)
    for i in range(tries):
        folder = tmp_path / str(i)
        folder.mkdir()
        path = folder / "training.pt"
        both(train, folder, meanwhile=lambda path=path: test_kill.epochs_in(path))
        assert differences(want, torch.load(folder / "final.pt", weights_only=True)) == [], i
        assert {path.name for path in folder.iterdir()} == {"training.pt", "final.pt"}, i
    figures("together", "checkpoint", tries=tries)


def rows(say, folder: Path, i: int) -> None:
    """A study of which another process runs other rows, and some of the same."""
    os.environ["CIFAR_BUDGET"], runs.ROOT = "smoke", folder
    shared = [{"rate": 0.5, "seed": seed} for seed in range(3)]
    own = [{"rate": float(i + 1), "seed": seed} for seed in range(6)]
    runs.run_study("rates", own + shared, lambda run, rate, seed: {"by": i})


def test_two_at_one_study_lose_no_row(tmp_path):
    tries = rounds(1, 25)
    for i in range(tries):
        both(rows, tmp_path / str(i))
        found = runs.read_rows(tmp_path / str(i) / "runs" / "studies" / "rates.jsonl")
        assert len(found) == 15, i
        assert len({(row["rate"], row["seed"]) for row in found}) == 15, i
    figures("together", "study", tries=tries)


def rewrite(say, how: str, folder: Path, i: int) -> None:
    """Write the same file again and again, from end to end in one letter."""
    text = "ab"[i] * 100_000
    for _ in range(100):
        if how == "record":
            runs.replace_text(folder / how, text)
        elif how == "chapter":
            house.write(folder / how, text)
        else:
            with open(folder / how, "w") as file:
                file.write(text[:-9])
                file.flush()
                time.sleep(0.002)
                file.write(text[-9:])


def halves_seen(how: str, folder: Path) -> int:
    """How often a reader finds a file that is not whole while two processes rewrite it."""
    halves = []

    def look():
        with contextlib.suppress(FileNotFoundError):
            text = (folder / how).read_text()
            halves.extend([text] if text not in ("a" * 100_000, "b" * 100_000) else [])

    both(rewrite, how, folder, meanwhile=look)
    assert [path.name for path in folder.iterdir()] == [how]
    return len(halves)


@pytest.mark.skipif(os.name == "nt", reason="Windows replaces no file that is being read")
@pytest.mark.parametrize("how", ["record", "chapter"])
def test_two_writers_of_one_file_are_never_seen_half_done(how, tmp_path):
    for _ in range(rounds(1, 20)):
        assert halves_seen(how, tmp_path) == 0
    figures("together", how, tries=rounds(1, 20), writes=200 * rounds(1, 20))


@pytest.mark.skipif(os.name == "nt", reason="Windows replaces no file that is being read")
def test_writers_in_place_are_seen_half_done(tmp_path):
    assert halves_seen("in place", tmp_path) > 0


# --- What killed processes leave ----------------------------------------------------------------


def test_what_killed_processes_left_is_removed_in_time(tmp_path):
    """A younger one may be a living process's: it stays."""
    old, young = tmp_path / "training.pt.1.part", tmp_path / "training.pt.2.part"
    for part in (old, young):
        part.write_bytes(b"half")
    os.utime(old, (0, 0))
    checkpoint(tmp_path, 20)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["training.pt", young.name]
