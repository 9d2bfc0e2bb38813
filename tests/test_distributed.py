"""One training by several processes: the same result as alone, and what happens when things break.

Processes are real (`torchrun`, gloo, CPU). Starting them is what costs here, so the tests share
three starts: two processes; two nodes of one process each; two processes of which one is killed.
"""

import contextlib
import datetime
import json
import os
import shutil
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, DistributedSampler

from apps import pictures, train
from cifar_utils import checkpoints, data, distributed
from cifar_utils.distributed import DistributedError, World

ROOT = Path(__file__).resolve().parents[1]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]
SMALL = ["--budget", "smoke", "--device", "cpu", "--test-pictures", "199"]  # 199 do not divide
EXACT = [*SMALL, "--norm", "group", "--precision", "fp64"]
PLAIN = [*SMALL, "--precision", "fp32"]
PLACE = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "SLURM_STEP_NUM_TASKS")


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    for name in PLACE:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """As torchrun gives its processes, so that alone and together compute alike."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def start(*command: str) -> subprocess.Popen:
    """torchrun in the background, its output kept together."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    for name in PLACE:
        environment.pop(name, None)
    return subprocess.Popen(
        [*TORCHRUN, *command],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def end(process: subprocess.Popen, seconds: float = 600) -> str:
    """What it printed; a failure here if it failed or does not end."""
    try:
        out, _ = process.communicate(timeout=seconds)
    finally:
        process.kill()
    assert process.returncode == 0, out
    return out


def results(folder: Path) -> tuple[dict, dict]:
    """The final checkpoint and result.json."""
    report = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    return checkpoints.load(folder / "checkpoint.pt"), report


def largest_difference(a, b) -> float:
    """Between two nested states of equal form: of any two numbers in them."""
    if isinstance(a, torch.Tensor):
        assert a.shape == b.shape and a.dtype == b.dtype
        return (a.double() - b.double()).abs().max().item() if a.numel() else 0.0
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        return max((largest_difference(a[key], b[key]) for key in a), default=0.0)
    if isinstance(a, list | tuple):
        assert len(a) == len(b)
        return max((largest_difference(x, y) for x, y in zip(a, b, strict=True)), default=0.0)
    if isinstance(a, int | float) and not isinstance(a, bool):
        return abs(a - b)
    assert a == b
    return 0.0


# --- One process and two ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("two")
    end(
        start(
            "--standalone", "--nproc-per-node=2", "-m", "apps.train", *EXACT, "--out", str(folder)
        )
    )
    return folder


@pytest.fixture(scope="module")
def one(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("one")
    assert train.main([*EXACT, "--out", str(folder)]) == 0
    return folder


def test_two_processes_learn_what_one_learns(one, two):
    (alone, said_alone), (together, said_together) = results(one), results(two)
    assert said_together["processes"] == 2 and said_alone["processes"] == 1
    for part in ("model", "optimizer"):
        assert largest_difference(alone[part], together[part]) < 1e-9
    for name in ("train_loss", "train_accuracy", "lr"):
        assert len(alone["history"][name]) == 3
        assert largest_difference(alone["history"][name], together["history"][name]) < 1e-9
    assert alone["history"]["train_loss"][0] > alone["history"]["train_loss"][-1]  # it did learn


def test_an_odd_test_set_is_counted_once(one, two):
    alone, together = results(one)[1]["test"], results(two)[1]["test"]
    assert alone["pictures"] == together["pictures"] == 199
    assert largest_difference(alone, together) < 1e-9


def test_accumulated_passes_are_one_step(one, tmp_path):
    assert train.main([*EXACT, "--accumulate", "4", "--out", str(tmp_path)]) == 0
    a, b = results(one)[0], results(tmp_path)[0]
    assert largest_difference(a["model"], b["model"]) < 1e-9


def test_a_finished_training_is_not_repeated(two, tmp_path, capsys):
    """Also: what two processes began, one may read; it says what is not the same any more."""
    shutil.copytree(two, tmp_path / "out")
    assert train.main([*EXACT, "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert "3 of 3 epochs are done" in said and "2 processes began it, now there are 1" in said
    assert "epoch   1/3" not in said


# --- A rank killed, and two nodes ---------------------------------------------------------------

FAULTY = """
import os, signal, sys
from apps import pictures, train

read, seen = pictures.InMemory.__getitems__, []

def fail_once(self, indices):
    seen.append(self.epoch)
    if seen.count(1) == 2 and os.environ["RANK"] == "1":  # in the middle of the second epoch
        if os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
            os.kill(os.getpid(), signal.SIGKILL)
    return read(self, indices)

pictures.InMemory.__getitems__ = fail_once
sys.exit(train.main())
"""


@pytest.fixture(scope="module")
def two_nodes(tmp_path_factory) -> Path:
    """Two agents on the loopback interface, as two machines would run them."""
    folder = tmp_path_factory.mktemp("nodes")
    meeting = [f"--rdzv-endpoint=127.0.0.1:{free_port()}", "--rdzv-id=pair", "--rdzv-backend=c10d"]
    nodes = ["--nnodes=2", "--nproc-per-node=1", "--local-addr=127.0.0.1"]
    agents = [
        start(*nodes, *meeting, "-m", "apps.train", *PLAIN, "--out", str(folder)) for _ in range(2)
    ]
    said = [end(agent) for agent in agents]
    assert sum("epoch   3/3" in text for text in said) == 1  # rank 0 alone speaks
    return folder


@pytest.fixture(scope="module")
def restarted(tmp_path_factory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("restarted")
    script = folder / "faulty.py"
    script.write_text(FAULTY)
    options = ["--standalone", "--nproc-per-node=2", "--max-restarts=1"]
    return folder, end(start(*options, str(script), *PLAIN, "--out", str(folder)))


def test_two_nodes_are_one_training(two_nodes):
    state, said = results(two_nodes)
    assert said["processes"] == state["processes"] == 2
    assert said["test"]["pictures"] == 199


@pytest.mark.skipif(sys.platform == "win32", reason="a process cannot kill itself like that there")
def test_a_killed_rank_costs_an_epoch_and_nothing_else(two_nodes, restarted):
    """To the last bit, BatchNorm's averages too: the nodes' run was not disturbed."""
    folder, said = restarted
    assert "checkpoint.pt: 1 of 3 epochs are done" in said
    disturbed, undisturbed = results(folder)[0], results(two_nodes)[0]
    for part in ("model", "optimizer", "scaler"):
        assert largest_difference(disturbed[part], undisturbed[part]) == 0.0
    for name in ("train_loss", "train_accuracy", "lr"):
        assert disturbed["history"][name] == undisturbed["history"][name]
    assert results(folder)[1]["test"] == results(two_nodes)[1]["test"]


# --- A disk that is full ------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path):
    """A file system of one megabyte; skips where this user may not mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = shutil.which("mount")
    command = [str(mount), "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if not mount or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("no small file system can be mounted here (it takes root, on Linux)")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def two_of_three_epochs(folder: Path, monkeypatch) -> list[str]:
    """Begin the training of PLAIN and stop it after two epochs; returns its arguments."""
    arguments = [*PLAIN, "--out", str(folder)]
    spoken = World.say

    def stop(self, text):
        spoken(self, text)
        if text.startswith("epoch   3"):  # trained, not saved
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(World, "say", stop)
        train.main(arguments)
    assert len(checkpoints.load(folder / "checkpoint.pt")["history"]["lr"]) == 2
    return arguments


def check_that_the_second_epoch_is_whole(folder: Path, before: bytes) -> None:
    assert (folder / "checkpoint.pt").read_bytes() == before
    assert len(checkpoints.load(folder / "checkpoint.pt")["history"]["lr"]) == 2
    assert not list(folder.glob("*.part"))


def test_a_full_disk_leaves_the_checkpoint_before(small_disk, monkeypatch, capsys):
    arguments = two_of_three_epochs(small_disk, monkeypatch)
    before = (small_disk / "checkpoint.pt").read_bytes()
    with contextlib.suppress(OSError), open(small_disk / "filler", "wb", buffering=0) as filler:
        while True:
            filler.write(bytes(4096))
    assert train.main(arguments) == 1
    assert (
        "NOT written (No space left on device): the one before is whole" in capsys.readouterr().out
    )
    check_that_the_second_epoch_is_whole(small_disk, before)
    (small_disk / "filler").unlink()  # room again: the job is started once more
    assert train.main(arguments) == 0
    assert len(checkpoints.load(small_disk / "checkpoint.pt")["history"]["lr"]) == 3


def test_a_read_only_disk_leaves_the_checkpoint_before(small_disk, monkeypatch, capsys):
    arguments = two_of_three_epochs(small_disk, monkeypatch)
    before = (small_disk / "checkpoint.pt").read_bytes()
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    assert train.main(arguments) == 1
    assert "NOT written (Read-only file system)" in capsys.readouterr().out
    check_that_the_second_epoch_is_whole(small_disk, before)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write")
def test_a_folder_that_is_not_ours_leaves_the_checkpoint_before(tmp_path, monkeypatch, capsys):
    """For those who may not mount a disk: the read-only disk above is root's."""
    arguments = two_of_three_epochs(tmp_path, monkeypatch)
    before = (tmp_path / "checkpoint.pt").read_bytes()
    tmp_path.chmod(0o555)
    assert train.main(arguments) == 1
    assert "NOT written (Permission denied)" in capsys.readouterr().out
    check_that_the_second_epoch_is_whole(tmp_path, before)
    tmp_path.chmod(0o755)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full, always full, is Linux's")
def test_no_space_while_writing_leaves_the_checkpoint_before(tmp_path, monkeypatch, capsys):
    """For everyone, root or not: the kernel itself says that there is no space."""
    arguments = two_of_three_epochs(tmp_path, monkeypatch)
    before = (tmp_path / "checkpoint.pt").read_bytes()
    build = train.build

    def then_fill(*args):  # after the start has tidied up
        (tmp_path / f"checkpoint.pt.{os.getpid()}.part").symlink_to("/dev/full")
        return build(*args)

    monkeypatch.setattr(train, "build", then_fill)
    assert train.main(arguments) == 1
    assert (
        "NOT written (No space left on device): the one before is whole" in capsys.readouterr().out
    )
    check_that_the_second_epoch_is_whole(tmp_path, before)


def test_what_a_killed_writer_left_is_cleared_away(one, tmp_path):
    shutil.copytree(one, tmp_path / "out")
    (tmp_path / "out" / "checkpoint.pt.12345.part").write_bytes(b"half")
    assert train.main([*EXACT, "--out", str(tmp_path / "out")]) == 0
    assert not list((tmp_path / "out").glob("*.part"))


# --- What must be said clearly ------------------------------------------------------------------


def place(monkeypatch, **values) -> None:
    for name, value in values.items():
        monkeypatch.setenv(name, str(value))


TWO = {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1"}


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        (TWO, "no MASTER_PORT"),
        ({"RANK": 1}, "no LOCAL_RANK and no WORLD_SIZE"),
        ({"WORLD_SIZE": 2}, "no RANK"),
        (TWO | {"MASTER_PORT": 29500, "RANK": "first"}, "whole numbers"),
        (TWO | {"MASTER_PORT": 29500, "RANK": 2}, "no rank 2 .* of 2"),
        ({"SLURM_STEP_NUM_TASKS": 4}, "srun started 4 tasks"),
    ],
)
def test_an_environment_that_cannot_be_says_why(monkeypatch, environment, words):
    place(monkeypatch, **environment)
    with pytest.raises(DistributedError, match=words):
        distributed.find_world("cpu")


def test_no_environment_is_a_world_of_one():
    assert distributed.find_world("cpu") == World(0, 1, 0, torch.device("cpu"))


def test_a_rank_that_never_comes_is_missed(monkeypatch):
    place(monkeypatch, **TWO, MASTER_PORT=free_port())
    words = r"rank 0 of 2 did not meet the others at 127.0.0.1:\d+: "
    with pytest.raises(DistributedError, match=words), distributed.world("cpu", timeout=1.0):
        pass


def test_a_restart_does_not_read_what_the_dead_left(monkeypatch):
    """torchrun keeps its store: there the second start finds the first one's greetings."""
    torchrun_s = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    place(monkeypatch, MASTER_ADDR="127.0.0.1", MASTER_PORT=torchrun_s.port)
    limit = datetime.timedelta(seconds=30)
    for start in ("first", "second"):
        with ThreadPoolExecutor() as pool:
            joins = [
                pool.submit(distributed._fresh_store, World(rank, 3), limit) for rank in range(3)
            ]
            stores = [join.result() for join in joins]
        assert not stores[0].check(["address"])
        stores[1].set("address", start)
        assert [store.get("address").decode() for store in stores] == [start] * 3


def test_more_processes_than_gpus_are_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    place(monkeypatch, **TWO | {"RANK": 1, "LOCAL_RANK": 1}, MASTER_PORT=29500)
    with pytest.raises(DistributedError, match="process 1 of this machine has no GPU: there are 1"):
        distributed.find_world("cuda")


@pytest.mark.parametrize(
    ("batch", "size", "accumulate", "near"),
    [(100, 3, 1, "99 or 102"), (128, 2, 3, "126 or 132"), (1, 2, 1, "2 or 4")],
)
def test_a_batch_that_does_not_divide_says_what_would(batch, size, accumulate, near):
    with pytest.raises(DistributedError, match=f"a batch of {batch} does not divide.*{near}"):
        distributed.batch_share(batch, World(0, size), accumulate)


@pytest.mark.parametrize("size", [1, 2, 4])
def test_a_batch_that_divides_is_shared(size):
    assert distributed.batch_share(64, World(0, size), 2) * 2 * size == 64


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--batch", "101", "--accumulate", "2"], "a batch of 101 does not divide"),
        (["--batch", "1000"], "500 pictures make no batch of 1000"),
        (["--epochs", "0"], "--epochs must be at least 1"),
        (["--norm", "sync"], "--norm sync works on GPUs only"),
        (["--dataset", "imagefolder"], "needs --data FOLDER"),
        (["--dataset", "imagefolder", "--data", "no-such"], "is not a folder of classes"),
        (["--rate", "1e30", "--epochs", "1", "--warmup", "0"], "the loss became"),
    ],
)
def test_what_cannot_be_trained_says_why(arguments, words, tmp_path, capsys):
    assert train.main([*PLAIN, "--out", str(tmp_path), *arguments]) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "checkpoint.pt").exists()


def test_another_training_does_not_go_on_from_this_one(one, capsys):
    assert train.main([*EXACT, "--rate", "0.3", "--out", str(one)]) == 2
    assert "comes from another training: rate was" in capsys.readouterr().err


def test_processes_that_see_different_files_are_told(monkeypatch):
    def theirs(found, value):  # as if rank 1 had started from nothing
        found[:] = [value, {"epochs": 0}]

    monkeypatch.setattr(torch.distributed, "all_gather_object", theirs)
    with pytest.raises(
        DistributedError, match="do not agree on epochs: rank 0 has 3, rank 1 has 0"
    ):
        distributed.require_agreement(World(0, 2), epochs=3)
    distributed.require_agreement(World(), epochs=3)


# --- Pictures, and who reads them ---------------------------------------------------------------


def test_what_happens_to_a_picture_depends_on_picture_and_epoch_alone():
    draws = pictures.keyed_draws(3, 5, range(1000), 4)
    torch.testing.assert_close(pictures.keyed_draws(3, 5, [7, 999], 4), draws[[7, 999]])
    assert draws.shape == (1000, 4) and draws.min() >= 0 and draws.max() < 1
    for other in (
        pictures.keyed_draws(3, 6, range(1000), 4),
        pictures.keyed_draws(4, 5, range(1000), 4),
    ):
        assert not (other == draws).any()
    deciles = torch.histc(draws, 10, 0, 1) / draws.numel()
    assert (deciles - 0.1).abs().max() < 0.03
    assert torch.corrcoef(draws.T).fill_diagonal_(0).abs().max() < 0.15


def test_crop_and_flip_is_chapter_one_s():
    images = data.load("cifar10", stand_in=(20, 20)).train.images
    still = torch.tensor([[4.5 / 9, 4.5 / 9, 0.9]]).expand(20, 3)  # shift 0, no flip
    assert torch.equal(pictures.crop_and_flip(images, still, 4), images)
    assert torch.equal(
        pictures.crop_and_flip(images, still * torch.tensor([1, 1, 0]), 4), images.flip(3)
    )
    down = pictures.crop_and_flip(images, torch.tensor([[0.99, 4.5 / 9, 0.9]]).expand(20, 3), 4)
    assert torch.equal(down[:, :, :28], images[:, :, 4:])
    assert torch.equal(down[:, :, 28:], images[:, :, 27:31].flip(2))  # mirrored at the border


@pytest.mark.parametrize("size", [2, 3])
def test_processes_share_an_epoch_without_overlap(size):
    numbers = list(range(103))
    batch = 12
    alone = distributed.training_loader(numbers, batch, World(), seed=1)
    parts = [
        distributed.training_loader(numbers, batch // size, World(rank, size), seed=1)
        for rank in range(size)
    ]
    for epoch in (0, 1):
        for loader in (alone, *parts):
            loader.sampler.set_epoch(epoch)
        together = [torch.cat(step) for step in zip(*parts, strict=True)]
        assert len(together) == len(alone) == 103 // batch
        for whole, step in zip(alone, together, strict=True):
            assert sorted(whole.tolist()) == sorted(step.tolist())


@pytest.mark.parametrize("size", [1, 2, 7, 12])
def test_every_picture_is_judged_once(size):
    loaders = [
        distributed.judging_loader(list(range(10)), 2, World(rank, size)) for rank in range(size)
    ]
    seen = [int(x) for loader in loaders for batch in loader for x in batch]
    assert sorted(seen) == list(range(10))
    padded = [x for r in range(size) for x in DistributedSampler(range(10), size, r, shuffle=False)]
    assert len(padded) > 10 or 10 % size == 0  # what torch's sampler would do


def test_counting_is_that_of_one_process():
    torch.manual_seed(0)
    logits, labels = torch.randn(50, 10), torch.randint(10, (50,))
    batches = DataLoader(list(zip(logits, labels, strict=True)), 7)
    found = distributed.count_right(lambda x: x, batches, World())
    best = logits.topk(5).indices
    assert found["top1"] == (best[:, 0] == labels).float().mean()
    assert found["top5"] == pytest.approx((best == labels[:, None]).any(1).float().mean().item())
    assert found["loss"] == pytest.approx(torch.nn.functional.cross_entropy(logits, labels).item())
    assert found["pictures"] == 50
    few = distributed.count_right(lambda x: x[:, :3], [(logits, labels % 3)], World())
    assert few["top5"] == 1.0


def test_the_rate_rises_in_a_line_and_falls_to_nothing():
    rates = [distributed.warmup_cosine(step, 100, 10, 2.0) for step in range(100)]
    assert rates[:3] == pytest.approx([0.2, 0.4, 0.6])
    assert max(rates) == 2.0 and rates.index(2.0) == 9
    assert rates[9:] == sorted(rates[9:], reverse=True) and rates[-1] < 0.01
    assert distributed.warmup_cosine(0, 100, 0, 2.0) == 2.0


# --- ImageFolder, and number formats ------------------------------------------------------------


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    """An ImageFolder of drawn pictures in several sizes and modes."""
    root = tmp_path_factory.mktemp("tree")
    drawn = data.load("cifar10", stand_in=(200, 100))
    for part, split, n in (("train", drawn.train, 8), ("val", drawn.test, 3)):
        for label in range(3):
            folder = root / part / drawn.classes[label]
            folder.mkdir(parents=True)
            for i, image in enumerate(split.images[split.labels == label][:n]):
                picture = Image.fromarray(image.permute(1, 2, 0).numpy())
                picture = picture.resize((60 + 7 * i, 48)).convert("L" if i == 1 else "RGB")
                picture.save(folder / f"{i}.jpg")
    return root


def test_the_imagenet_recipe_runs_on_a_folder(tree, tmp_path, capsys):
    arguments = [
        "--dataset",
        "imagefolder",
        "--data",
        str(tree),
        "--budget",
        "smoke",
        "--device",
        "cpu",
    ]
    arguments += ["--precision", "bf16", "--accumulate", "2", "--out", str(tmp_path)]
    assert train.main(arguments) == 0
    state, said = results(tmp_path)
    assert "24 pictures of 3 classes" in capsys.readouterr().out
    assert state["precision"] == "bf16" and len(said["history"]["val_top5"]) == 2
    assert said["history"]["val_top5"] == [1.0, 1.0]  # of three classes, five are all
    assert state["model"]["conv1.weight"].shape[-1] == 7  # ImageNet's stem


def test_a_folder_gives_the_same_views_whoever_reads(tree):
    training, judging = pictures.imagenet_transforms(32)
    folder = pictures.ImageFolder(tree / "train")
    views = pictures.FromFolder(folder, training, seed=1)
    generator = torch.get_rng_state()
    first = [views[i][0] for i in range(6)]
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(torch.equal(views[i][0], first[i]) for i in reversed(range(6)))
    assert first[0].shape == (3, 32, 32) and first[0].dtype == torch.uint8
    views.epoch = 1
    assert not any(torch.equal(views[i][0], first[i]) for i in range(6))
    assert pictures.FromFolder(folder, judging)[0][0].shape == (3, 32, 32)


def test_a_damaged_file_is_named(tree, tmp_path, capsys):
    shutil.copytree(tree, tmp_path / "tree")
    bad = next((tmp_path / "tree" / "train").rglob("3.jpg"))
    bad.write_bytes(bad.read_bytes()[:200])
    arguments = ["--dataset", "imagefolder", "--data", str(tmp_path / "tree"), "--budget", "smoke"]
    assert train.main([*arguments, "--device", "cpu", "--out", str(tmp_path / "out")]) == 2
    assert f"{bad.parent.name}/3.jpg cannot be read" in capsys.readouterr().err


def test_classes_must_be_the_same_in_both_parts(tree, tmp_path, capsys):
    shutil.copytree(tree, tmp_path / "tree")
    gone = sorted((tmp_path / "tree" / "val").iterdir())[0]
    shutil.rmtree(gone)
    arguments = ["--dataset", "imagefolder", "--data", str(tmp_path / "tree"), "--budget", "smoke"]
    assert train.main([*arguments, "--out", str(tmp_path / "out")]) == 2
    assert f"different classes: {gone.name}" in capsys.readouterr().err


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_short_number_formats_train_and_resume(precision, tmp_path):
    few = ["--train-pictures", "32", "--test-pictures", "16", "--batch", "16", "--epochs", "1"]
    arguments = [*SMALL, *few, "--precision", precision]  # fp16 is slow on most CPUs
    assert train.main([*arguments, "--out", str(tmp_path)]) == 0
    state, said = results(tmp_path)
    assert bool(state["scaler"]) == (precision == "fp16")  # only fp16 needs its loss scaled
    assert state["model"]["conv1.weight"].dtype == torch.float32
    assert said["history"]["train_loss"][0] < 10
    assert train.main([*arguments, "--out", str(tmp_path)]) == 0


# --- Commands -----------------------------------------------------------------------------------


def test_help_is_worth_reading():
    text = train.parser().format_help()
    assert "torchrun --nproc-per-node=2 -m apps.train" in text and "one before stays whole" in text
    assert max(map(len, text.splitlines())) <= 100


@pytest.mark.skipif(not shutil.which("bash"), reason="no bash here")
def test_the_slurm_script_starts_one_torchrun_a_node():
    script = ROOT / "apps" / "slurm" / "train.sbatch"
    subprocess.run(["bash", "-n", str(script)], check=True)
    text = script.read_text(encoding="utf-8")
    assert "--ntasks-per-node=1" in text and "srun torchrun" in text
    command = text[text.index("-m apps.train") :].replace("\\\n", " ").split()[2:]
    given = train.settings([*(w.strip('"') for w in command if w != '"$@"'), "--data", "x"])
    assert given.batch == 4096 and given.rate == 1.6 and given.model == "resnet50"
