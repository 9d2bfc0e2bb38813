"""Interrupted training goes on to the same bit; a file that is not whole is never believed."""

import os
import pickle
import random
import signal
import subprocess
import sys
import warnings
import zipfile

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim import SGD, AdamW, lr_scheduler
from torch.utils.data import DataLoader, Dataset

import conftest
from cifar_utils import checkpoints, data, models
from cifar_utils.checkpoints import CheckpointError
from cifar_utils.training import History, TrainingError, fit

EPOCHS = 4
SCALE = {"mean": data.CIFAR10_MEAN, "std": data.CIFAR10_STD}


@pytest.fixture(scope="module")
def pictures() -> data.Dataset:
    return data.load("cifar10", stand_in=(80, 40))


class Interrupted(Exception):
    pass


class Augmented(Dataset):
    """Pictures one at a time, shifted in brightness by torch's global generator."""

    def __init__(self, split: data.Split):
        self.images, self.labels = data.normalize(split.images, **SCALE), split.labels

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, i):
        return self.images[i] + 0.1 * torch.randn(1), self.labels[i]


class Stopping:
    """Batches that end in an exception in the middle of epoch `at` (from 0)."""

    def __init__(self, batches, at: int):
        self.batches, self.at, self.generator = batches, at, batches.generator
        self.epoch = 0

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        for i, batch in enumerate(self.batches):
            if self.epoch == self.at and i == 1:
                raise Interrupted
            yield batch
        self.epoch += 1


class Job:
    """One training, from nothing: everything is made anew, as after a restart."""

    def __init__(self, pictures, kind="batchloader", precision="fp32", optimizer="sgd", seed=0):
        torch.manual_seed(seed)
        self.model = nn.Sequential(
            models.ResNet(models.BasicBlock, [1, 1, 1], width=4), nn.Dropout(0.1)
        )
        if kind == "batchloader":
            self.train = data.BatchLoader(
                pictures.train, 32, shuffle=True, crop=4, flip=True, cutout=8, seed=seed, **SCALE
            )
        else:
            own = torch.Generator().manual_seed(seed) if kind == "own generator" else None
            self.train = DataLoader(Augmented(pictures.train), 32, shuffle=True, generator=own)
        self.val = data.BatchLoader(pictures.test, 64, **SCALE)
        parameters = self.model.parameters()
        if optimizer == "sgd":
            self.optimizer = SGD(parameters, lr=0.1, momentum=0.9, nesterov=True)
        else:
            self.optimizer = AdamW(parameters, lr=1e-3)
        steps = EPOCHS * len(self.train)
        self.scheduler = lr_scheduler.OneCycleLR(self.optimizer, 0.1, total_steps=steps)
        self.precision = precision

    def run(self, path=None, train=None, **options) -> History:
        options = {"epochs": EPOCHS, "log": None, "clip_norm": 2.0} | options
        return fit(
            self.model,
            train or self.train,
            optimizer=self.optimizer,
            scheduler=options.pop("scheduler", self.scheduler),
            val=self.val,
            precision=self.precision,
            checkpoint=path,
            **options,
        )

    def state(self) -> dict:
        """All that must be equal after a resumed training."""
        parts = {"model": self.model, "optimizer": self.optimizer, "scheduler": self.scheduler}
        state = {name: part.state_dict() for name, part in parts.items()}
        return state | {"generators": checkpoints.rng_state(self.train)}


def differences(a, b, where="") -> list[str]:
    """Where two nested states are not equal to the last bit."""
    if isinstance(a, torch.Tensor):
        equal = a.dtype == b.dtype and torch.equal(a, b)
        return [] if equal else [where]
    if isinstance(a, dict):
        if a.keys() != b.keys():
            return [f"{where}: {a.keys() ^ b.keys()}"]
        return [d for k in a for d in differences(a[k], b[k], f"{where}/{k}")]
    if isinstance(a, list | tuple):
        if len(a) != len(b):
            return [f"{where}: length"]
        return [d for i, (x, y) in enumerate(zip(a, b, strict=True)) for d in differences(x, y, i)]
    return [] if a == b or (callable(a) and callable(b)) else [f"{where}: {a} {b}"]


def untimed(history: History) -> dict:
    return {name: values for name, values in history.to_dict().items() if name != "seconds"}


def interrupt(job: Job, path, at: int, middle=False, **options) -> None:
    """Run until `at` epochs are saved, then stop as an exception does."""
    lines = []

    def log(line):
        lines.append(line)
        if not middle and len(lines) > at:  # said before the epoch is saved
            raise Interrupted

    train = Stopping(job.train, at) if middle else None
    with pytest.raises(Interrupted):
        job.run(path, train, log=log, **options)


# --- Resuming -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def undisturbed(pictures):
    """The same trainings without an interruption, each run once."""
    done = {}

    def run(*kind):
        if kind not in done:
            job = Job(pictures, *kind)
            done[kind] = (job, job.run())
        return done[kind]

    return run


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("at", [1, 2, 3])
@pytest.mark.parametrize("kind", ["batchloader", "own generator"])
def test_a_resumed_training_ends_in_the_same_bits(
    kind, at, precision, undisturbed, pictures, tmp_path
):
    whole, history = undisturbed(kind, precision)
    path = tmp_path / "training.pt"
    interrupt(Job(pictures, kind, precision), path, at)
    assert len(checkpoints.load(path)["history"]["lr"]) == at
    torch.manual_seed(12345)  # a new process begins with other draws
    job = Job(pictures, kind, precision, "sgd", 99)  # nor do its weights begin the same
    resumed = job.run(path)
    assert differences(whole.state(), job.state()) == []
    assert untimed(resumed) == untimed(history)
    assert len(resumed.seconds) == EPOCHS


@pytest.mark.parametrize(
    ("kind", "optimizer"), [("global generator", "sgd"), ("batchloader", "adamw")]
)
def test_so_does_one_stopped_twice_in_the_middle_of_an_epoch(
    kind, optimizer, undisturbed, pictures, tmp_path
):
    setting = (kind, "fp32", optimizer)
    whole, history = undisturbed(*setting)
    path = tmp_path / "training.pt"
    interrupt(Job(pictures, *setting), path, 1, middle=True)
    interrupt(Job(pictures, *setting), path, 1, middle=True)  # one epoch further
    job = Job(pictures, *setting)
    resumed = job.run(path)
    assert differences(whole.state(), job.state()) == []
    assert untimed(resumed) == untimed(history)


def test_another_seed_ends_elsewhere(undisturbed, pictures):
    whole, _ = undisturbed("batchloader", "fp32")
    job = Job(pictures, "batchloader", "fp32", "sgd", 1)
    job.run()
    found = differences(whole.state(), job.state())
    assert "/model/0.conv1.weight" in found
    assert "/generators/train" in found


def test_batchnorm_statistics_and_momentum_come_back(undisturbed, pictures, tmp_path):
    """What a file of weights alone would forget."""
    whole, _ = undisturbed("batchloader", "fp32")
    path = tmp_path / "training.pt"
    interrupt(Job(pictures), path, 2)
    saved = torch.load(path, weights_only=True)
    assert saved["model"]["0.bn1.num_batches_tracked"] == 2 * len(whole.train)
    assert saved["optimizer"]["state"][0]["momentum_buffer"].abs().sum() > 0
    assert saved["scheduler"]["last_epoch"] == 2 * len(whole.train)
    assert len(saved["history"]["seconds"]) == 2
    assert saved["precision"] == "fp32"
    assert saved["threads"] == torch.get_num_threads()
    assert set(saved["generators"]) == {"torch", "cuda", "train"}
    assert checkpoints.KEYS | {"scheduler"} == saved.keys()


def linear_job(path, epochs=6, lr=3.0, seed=0, **options):
    """A small training whose validation goes up and down; returns model, history, lines."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(29, 3, 2, 2, generator=generator)
    labels = torch.randint(3, (29,), generator=generator)
    batches = list(zip(images[:20].split(8), labels[:20].split(8), strict=True))
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    lines = []
    options = {"precision": "fp32", "log": lines.append, "optimizer": None} | options
    options["optimizer"] = options["optimizer"] or SGD(model.parameters(), lr=lr, momentum=0.9)
    history = fit(
        model,
        options.pop("train", batches),
        epochs=epochs,
        val=[(images[20:], labels[20:])],
        checkpoint=path,
        **options,
    )
    return model, history, lines


@pytest.mark.parametrize("at", range(1, 6))
def test_the_best_weights_are_kept_across_a_resume(at, tmp_path):
    whole, history, _ = linear_job(None, keep_best=True)
    last, _, _ = linear_job(None)
    assert not torch.equal(whole[1].weight, last[1].weight), "the last is the best: nothing seen"
    path, lines = tmp_path / "best.pt", []

    def log(line):
        lines.append(line)
        if len(lines) > at:
            raise Interrupted

    with pytest.raises(Interrupted):
        linear_job(path, keep_best=True, log=log)
    for _ in range(2):  # resumed, and then called once more when all is done
        model, resumed, _ = linear_job(path, keep_best=True, seed=5)
        assert torch.equal(whole[1].weight, model[1].weight)
        assert untimed(resumed) == untimed(history)


def test_a_complete_training_is_not_run_again(tmp_path):
    path = tmp_path / "done.pt"
    model, history, _ = linear_job(path)
    bytes_then = path.read_bytes()

    class Untouchable(list):
        def __iter__(self):
            raise AssertionError("trained again")

    again, same_history, lines = linear_job(path, seed=7, train=Untouchable([0, 0, 0]))
    assert torch.equal(model[1].weight, again[1].weight)
    assert same_history == history
    assert lines == ["done.pt: 6 of 6 epochs are done"]
    assert path.read_bytes() == bytes_then


def test_plateau_remembers_what_it_waits_for(pictures, tmp_path):
    def run(path, log=None):
        job = Job(pictures)
        job.scheduler = lr_scheduler.ReduceLROnPlateau(job.optimizer, patience=0, threshold=0.9)
        history = job.run(path, log=log)
        return job, history

    whole, history = run(None)
    assert history.lr[-1] < history.lr[0]
    seen = []

    def log(line):
        seen.append(line)
        if len(seen) == 3:
            raise Interrupted

    with pytest.raises(Interrupted):
        run(tmp_path / "p.pt", log)
    job, resumed = run(tmp_path / "p.pt")
    assert resumed.lr == history.lr
    assert differences(whole.state(), job.state()) == []


def test_the_scale_of_fp16_comes_back(tmp_path):
    path, scales = tmp_path / "fp16.pt", []

    def loss_fn(logits, labels):  # overflows at the scale a training begins with
        return 1e3 * nn.functional.cross_entropy(logits.float(), labels)

    def log(line):
        scales.append(checkpoints.load(path)["scaler"]["scale"] if path.exists() else None)
        if len(scales) == 3:
            raise Interrupted

    options = {"precision": "fp16", "loss_fn": loss_fn, "lr": 1e-4}
    whole, _, _ = linear_job(None, **options)
    with pytest.raises(Interrupted):
        linear_job(path, log=log, **options)
    assert scales[-1] < 65536  # what it begins with
    model, _, _ = linear_job(path, **options)
    assert torch.equal(whole[1].weight, model[1].weight)
    assert checkpoints.load(path)["scaler"]["scale"] <= scales[-1]


def test_auto_keeps_the_precision_it_began_with(tmp_path, monkeypatch):
    path, answers = tmp_path / "auto.pt", iter(["bf16", "fp32"])
    monkeypatch.setattr("cifar_utils.training.choose_precision", lambda _: next(answers))
    linear_job(path, precision="auto")
    linear_job(path, precision="auto")
    assert checkpoints.load(path)["precision"] == "bf16"
    assert next(answers) == "fp32"  # not even asked


def test_other_threads_are_warned_of(tmp_path, monkeypatch):
    path = tmp_path / "threads.pt"
    linear_job(path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        linear_job(path)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 77)
    with pytest.warns(UserWarning, match="77 threads what began with"):
        linear_job(path)


def test_a_rate_of_numpys_can_be_saved_and_read(tmp_path):
    """The usual triangle is np.interp's, and leaves NumPy's numbers in optimizer and history."""
    found = []
    for _ in range(2):
        optimizer = SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
        schedule = lr_scheduler.LambdaLR(optimizer, lambda i: np.interp(i, [0, 9, 18], [0, 1, 0]))
        found.append(linear_job(tmp_path / "np.pt", optimizer=optimizer, scheduler=schedule)[1].lr)
    assert found[0] == found[1]
    assert max(found[0]) > 0.08


# --- Another recipe -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"epochs": 7}, r"options\[epochs\] was 6, now 7"),
        ({"lr": 0.5}, r"optimizer\[0: lr\] was 3.0, now 0.5"),
        ({"clip_norm": 1.0}, r"options\[clip_norm\] was None, now 1.0"),
        ({"keep_best": True}, r"options\[keep_best\] was False, now True"),
        ({"channels_last": False}, r"options\[channels_last\]"),
        ({"step_every": "epoch"}, r"options\[step_every\] was batch, now epoch"),
        (
            {"train": [(torch.zeros(1, 3, 2, 2), torch.zeros(1))]},
            r"options\[batches\] was 3, now 1",
        ),
        ({"precision": "bf16"}, "precision was fp32, now bf16"),
        ({"loss_fn": nn.CrossEntropyLoss(label_smoothing=0.1)}, r"loss\[label_smoothing\] was 0.0"),
        ({"loss_fn": nn.functional.cross_entropy}, r"loss\[type\] was CrossEntropyLoss, now func"),
        (
            {"optimizer": AdamW([nn.Parameter(torch.zeros(1))])},
            r"optimizer\[type\] was SGD, now AdamW",
        ),
    ],
)
def test_another_recipe_is_named_and_refused(change, words, tmp_path):
    path = tmp_path / "a.pt"
    linear_job(path)
    whole = path.read_bytes()
    with pytest.raises(CheckpointError, match=words) as error:
        linear_job(path, **change)
    assert str(path) in str(error.value)
    assert "move that one away" in str(error.value)
    assert path.read_bytes() == whole


def test_another_setting_of_a_scheduler_or_of_adam_is_seen():
    def recipe(steps=9, milestones=(3,), betas=(0.9, 0.99)):
        model = nn.Linear(2, 2)
        optimizer = AdamW(model.parameters(), betas=betas)
        cosine = lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps)
        stairs = lr_scheduler.MultiStepLR(optimizer, milestones)
        return [checkpoints.recipe(model, optimizer, s, None) for s in (cosine, stairs)]

    for was, now in zip(recipe(), recipe(), strict=True):
        checkpoints.require_same(was, now, "a.pt")
    for change, i, words in [
        ({"steps": 8}, 0, r"scheduler\[T_max\] was 9, now 8"),
        ({"milestones": (3, 5)}, 1, r"scheduler\[milestones\]"),
        ({"betas": (0.9, 0.95)}, 0, r"optimizer\[0: betas\] was \(0.9, 0.99\)"),
    ]:
        with pytest.raises(CheckpointError, match=words):
            checkpoints.require_same(recipe()[i], recipe(**change)[i], "a.pt")


def test_another_network_is_refused(pictures, tmp_path):
    job = Job(pictures)
    job.run(tmp_path / "a.pt", epochs=1)
    other = Job(pictures)
    other.model[0].fc = nn.Linear(16, 100)
    with pytest.raises(
        CheckpointError, match=r"shapes\[0.fc.weight\] was \[10, 16\], now \[100, 16\]"
    ):
        other.run(tmp_path / "a.pt", epochs=1)


# --- Files that are not whole, or not what they seem --------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    path = tmp_path_factory.mktemp("finished") / "a.pt"
    linear_job(path)
    return path


@pytest.mark.parametrize("share", [0, 0.01, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_refused(share, finished, tmp_path):
    path, whole = tmp_path / "cut.pt", finished.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(CheckpointError, match=r"cut\.pt cannot be read as a checkpoint"):
        linear_job(path)


def test_damage_anywhere_is_seen_or_does_no_harm(finished, tmp_path):
    """PyTorch's own reader does not look at the checksums that its files hold."""
    draw, whole = random.Random(0), finished.read_bytes()
    good, refused = checkpoints.load(finished), 0
    path = tmp_path / "damaged.pt"
    for i in range(200):
        damaged = bytearray(whole)
        at = draw.randrange(len(whole))
        damaged[at] ^= 1 << draw.randrange(8)
        if i % 2:
            damaged[at : at + draw.randrange(200)] = draw.randbytes(50)
        path.write_bytes(damaged)
        try:
            assert differences(good, checkpoints.load(path)) == []  # it hit what nobody reads
        except CheckpointError:
            refused += 1
    assert refused > 150


def test_a_flipped_bit_in_a_weight_is_seen(finished, tmp_path):
    weight = checkpoints.load(finished)["model"]["1.weight"]
    data_of_it = weight.numpy().tobytes()
    damaged = bytearray(finished.read_bytes())
    damaged[damaged.index(data_of_it) + 5] ^= 1
    path = tmp_path / "flipped.pt"
    path.write_bytes(damaged)
    with pytest.raises(CheckpointError, match="checksum"):
        checkpoints.load(path)


class Malicious:
    """Pickles to a call that leaves a trace."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return os.mkdir, (str(self.trace),)


@pytest.mark.parametrize("way", ["zip", "zip in model", "legacy", "pickle"])
def test_code_in_a_file_does_not_run(way, finished, tmp_path):
    path, trace = tmp_path / "evil.pt", tmp_path / "it-ran"
    evil = Malicious(trace)
    if way == "pickle":
        path.write_bytes(pickle.dumps(evil))
    elif way == "zip in model":
        torch.save(checkpoints.load(finished) | {"model": {"1.weight": evil}}, path)
    else:
        torch.save(evil, path, _use_new_zipfile_serialization=way == "zip")
    with pytest.raises(CheckpointError, match="cannot be read") as error:
        linear_job(path)
    assert not trace.exists()
    assert "weights_only" not in str(error.value)  # torch's advice to load it all the same
    with open(path, "rb") as file:  # the trap is a trap
        torch.load(file, weights_only=False) if way != "pickle" else pickle.load(file)
    assert trace.exists()


def test_a_whole_pickled_model_is_refused(tmp_path):
    torch.save(nn.Linear(2, 2), tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match="more than tensors and plain values"):
        linear_job(tmp_path / "model.pt")


@pytest.mark.parametrize(
    "content",
    [nn.Linear(2, 2).state_dict(), {"model": nn.Linear(2, 2).state_dict()}, [1, 2], torch.zeros(3)],
)
def test_weights_alone_are_no_training_state(content, tmp_path):
    torch.save(content, tmp_path / "weights.pt")
    with pytest.raises(CheckpointError, match=r"no training state: .*optimizer"):
        linear_job(tmp_path / "weights.pt")


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04" + bytes(100), b"\x80\x02]."])
def test_other_files_are_refused(content, tmp_path):
    path = tmp_path / "other.pt"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="Move it away"):
        checkpoints.load(path)


def test_a_zip_of_something_else_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "z.pt", "w") as archive:
        archive.writestr("readme", "hello")
    with pytest.raises(CheckpointError, match=r"z\.pt cannot be read"):
        checkpoints.load(tmp_path / "z.pt")


def test_a_file_that_is_not_there_is_said_to_be_so(tmp_path):
    with pytest.raises(FileNotFoundError):
        checkpoints.load(tmp_path / "none.pt")


# --- Writing ------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
@pytest.mark.parametrize("when", ["before writing", "after writing", "on moving"])
def test_an_error_while_saving_leaves_the_old_file_whole(error, when, tmp_path, monkeypatch):
    path = tmp_path / "deep" / "a.pt"
    checkpoints.save(path, {"a": 1})
    whole = path.read_bytes()
    torch_save = torch.save

    def fails(state, file):
        if when == "after writing":
            torch_save(state, file)
        if when != "on moving":
            file.write(b"half")
        raise error

    monkeypatch.setattr(*((os, "replace") if when == "on moving" else (torch, "save")), fails)
    with pytest.raises(CheckpointError if isinstance(error, OSError) else KeyboardInterrupt):
        checkpoints.save(path, {"a": 2})
    assert path.read_bytes() == whole
    assert [p.name for p in path.parent.iterdir()] == ["a.pt"]


def test_a_process_killed_while_saving_leaves_the_old_file_whole(finished, tmp_path):
    path = tmp_path / "a.pt"
    path.write_bytes(finished.read_bytes())
    kill = getattr(signal, "SIGKILL", signal.SIGTERM)  # Windows ends a process at once with either
    script = f"""if True:
        import os, torch
        from cifar_utils import checkpoints
        def killed(state, file):
            file.write(b"half")
            file.flush()
            os.kill(os.getpid(), {kill:d})
        torch.save = killed
        checkpoints.save({str(path)!r}, {{"a": 2}})
        """
    environment = os.environ | {"PYTHONPATH": str(conftest.ROOT)}
    ended = subprocess.run([sys.executable, "-c", script], env=environment, timeout=120)
    assert ended.returncode != 0
    assert path.read_bytes() == finished.read_bytes()
    model, _, _ = linear_job(path)
    assert torch.equal(model[1].weight, checkpoints.load(finished)["model"]["1.weight"])


def test_a_saved_state_comes_back(tmp_path):
    state = dict.fromkeys(checkpoints.KEYS, 0)
    state["model"] = {"w": torch.randn(3), "n": torch.tensor(7)}
    state["history"] = {"lr": [np.float64(0.1), 1e-300], "nested": ({"a": np.int64(3)},)}
    checkpoints.save(tmp_path / "a.pt", state)
    back = checkpoints.load(str(tmp_path / "a.pt"))
    assert differences(state, back) == []
    assert type(back["history"]["lr"][0]) is float


def test_a_loss_that_is_not_finite_leaves_the_last_checkpoint_whole(tmp_path):
    path, calls = tmp_path / "a.pt", []

    def loss_fn(logits, labels):
        calls.append(1)
        loss = nn.functional.cross_entropy(logits, labels)
        return loss * float("nan") if len(calls) == 8 else loss  # the 2nd step of epoch 3

    with pytest.raises(TrainingError, match="epoch 3, step 2"):
        linear_job(path, loss_fn=loss_fn)
    saved = checkpoints.load(path)
    assert len(saved["history"]["lr"]) == 2
    assert all(v.isfinite().all() for v in saved["model"].values())
    model, history, _ = linear_job(path, loss_fn=loss_fn)  # the accident does not come again
    assert len(history.lr) == 6
    assert model[1].weight.isfinite().all()


def test_training_leaves_one_file(tmp_path):
    linear_job(tmp_path / "a.pt")
    assert [p.name for p in tmp_path.iterdir()] == ["a.pt"]
