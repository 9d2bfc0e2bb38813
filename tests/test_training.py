"""`fit` and `evaluate`: the plain loop underneath, and what each option adds to it."""

import copy
import re
import warnings

import pytest
import torch
from torch import nn
from torch.optim import SGD, lr_scheduler
from torch.utils.data import DataLoader, TensorDataset

from cifar_utils import data, metrics, models, training
from cifar_utils.precision import autocast, choose_precision
from cifar_utils.training import History, TrainingError, evaluate, fit

QUIET = {"log": None, "precision": "fp32"}
PLAIN = {**QUIET, "channels_last": False}
SCALE = {"mean": data.CIFAR10_MEAN, "std": data.CIFAR10_STD}
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def pictures() -> data.Dataset:
    return data.load("cifar10", stand_in=(200, 100))


@pytest.fixture
def loader(pictures) -> data.BatchLoader:
    return data.BatchLoader(pictures.train, 64, shuffle=True, crop=4, flip=True, **SCALE)


@pytest.fixture
def val(pictures) -> data.BatchLoader:
    return data.BatchLoader(pictures.test, 64, **SCALE)


def small_resnet() -> nn.Module:
    torch.manual_seed(0)
    return models.ResNet(models.BasicBlock, [1, 1, 1], width=4)


def linear(pixels: int = 12) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(pixels, 3))


def noise(n: int = 20, batch: int = 8, pixels: int = 2) -> DataLoader:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(n, 3, pixels, pixels, generator=generator)
    labels = torch.randint(3, (n,), generator=generator)
    return DataLoader(TensorDataset(images, labels), batch)


def sgd(model: nn.Module, lr: float = 0.1, **options) -> SGD:
    return SGD(model.parameters(), lr=lr, momentum=0.9, **options)


def same(a: nn.Module, b: nn.Module) -> bool:
    """Parameters and buffers (BatchNorm's too) equal to the last bit."""
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# --- The plain loop -----------------------------------------------------------------------------


def plain_loop(model, batches, optimizer, epochs):
    """Chapter 2's, in as many words."""
    loss_fn = nn.CrossEntropyLoss()
    model.train()
    for _ in range(epochs):
        for images, labels in batches:
            optimizer.zero_grad()
            loss = loss_fn(model(images), labels)
            loss.backward()
            optimizer.step()


@pytest.mark.parametrize("make", [models.SimpleCNN, small_resnet])
def test_fit_with_nothing_on_is_the_plain_loop_with_a_dataloader(make, pictures):
    images = data.normalize(pictures.train.images, **SCALE)
    pairs = TensorDataset(images, pictures.train.labels)
    by_loop, by_fit = make(), make()
    by_fit.load_state_dict(by_loop.state_dict())
    for model, train in [(by_loop, plain_loop), (by_fit, fit)]:
        torch.manual_seed(3)
        batches = DataLoader(pairs, 64, shuffle=True)
        options = PLAIN if train is fit else {}
        train(model, batches, optimizer=sgd(model), epochs=2, **options)
    assert same(by_loop, by_fit)
    assert not same(by_fit, make())


def test_fit_with_nothing_on_is_the_plain_loop_with_a_batchloader(pictures):
    by_loop, by_fit = small_resnet(), small_resnet()
    for model, train in [(by_loop, plain_loop), (by_fit, fit)]:
        batches = data.BatchLoader(pictures.train, 64, shuffle=True, crop=4, flip=True, **SCALE)
        options = PLAIN if train is fit else {}
        train(model, batches, optimizer=sgd(model), epochs=2, **options)
    assert same(by_loop, by_fit)


def test_validation_changes_nothing_in_training(loader, val):
    with_val, without = small_resnet(), small_resnet()
    fit(without, loader, epochs=2, optimizer=sgd(without), **QUIET)
    loader.generator.manual_seed(0)
    fit(with_val, loader, epochs=2, optimizer=sgd(with_val), val=val, **QUIET)
    assert same(with_val, without)


def test_training_lowers_the_loss():
    model = linear()
    history = fit(model, noise(), epochs=20, optimizer=sgd(model), **QUIET)
    assert history.train_loss[-1] < 0.7 * history.train_loss[0]


# --- History and the line of progress -----------------------------------------------------------


def test_history_has_one_entry_an_epoch(loader, val):
    model, lines = small_resnet(), []
    history = fit(
        model, loader, epochs=2, optimizer=sgd(model), val=val, precision="fp32", log=lines.append
    )
    assert {len(entries) for entries in history.to_dict().values()} == {2}
    assert History(**history.to_dict()) == history
    assert all(0 <= a <= 1 for a in history.train_accuracy + history.val_accuracy)
    assert all(s > 0 for s in history.seconds)
    assert history.lr == [0.1, 0.1]
    assert len(lines) == 2
    judged = evaluate(model, val, precision="fp32")
    assert (judged.loss, judged.accuracy) == (history.val_loss[-1], history.val_accuracy[-1])


def test_history_without_validation_keeps_those_lists_empty():
    model = linear()
    history = fit(model, noise(), epochs=3, optimizer=sgd(model), **QUIET)
    assert len(history.train_loss) == len(history.lr) == 3
    assert history.val_loss == history.val_accuracy == []


def test_training_loss_and_accuracy_are_means_over_pictures():
    model, batches = linear(), noise(20, 8)  # 8, 8 and 4
    images, labels = batches.dataset.tensors
    history = fit(model, batches, epochs=1, optimizer=SGD(model.parameters(), lr=0.0), **QUIET)
    logits = linear()(images)
    assert history.train_loss[0] == pytest.approx(nn.CrossEntropyLoss()(logits, labels).item())
    assert history.train_accuracy[0] == (logits.argmax(1) == labels).float().mean().item()


def test_the_line_of_progress():
    history = History([2.0, 1.5], [0.25, 0.5], [], [], [0.1, 0.05], [100.0, 50.0])
    assert training.progress_line(history, 4) == (
        "epoch   2/4   loss 1.500   accuracy  50.0%   lr 0.0500   50 s   2 min left"
    )
    history.val_loss, history.val_accuracy, history.seconds = [2, 2], [0.3, 0.4], [3.0, 5.0]
    line = training.progress_line(history, 3)
    assert "val  40.0%" in line
    assert line.endswith("5 s   4 s left")


def test_silence_and_printing(capsys):
    model = linear()
    fit(model, noise(), epochs=1, optimizer=sgd(model), **QUIET)
    assert capsys.readouterr().out == ""
    fit(model, noise(), epochs=1, optimizer=sgd(model), precision="fp32")
    assert re.match(r"epoch   1/1   loss \d\.\d{3}   acc", capsys.readouterr().out)


# --- Schedulers ---------------------------------------------------------------------------------


def rates(scheduler_of, epochs=3, **options) -> tuple[list[float], object]:
    """The rate of each epoch's last step, for 3 batches an epoch."""
    model = linear()
    optimizer = sgd(model, lr=1e-3)
    scheduler = scheduler_of(optimizer)
    history = fit(
        model, noise(), epochs=epochs, optimizer=optimizer, scheduler=scheduler, **options, **QUIET
    )
    return history.lr, scheduler


def halve_every_two(optimizer):
    return lr_scheduler.StepLR(optimizer, step_size=2, gamma=0.5)


def test_a_scheduler_steps_after_each_batch_or_each_epoch():
    by_batch, scheduler = rates(halve_every_two)
    assert scheduler.last_epoch == 9
    assert by_batch == pytest.approx([5e-4, 2.5e-4, 6.25e-5])  # after steps 2, 5 and 8
    by_epoch, scheduler = rates(halve_every_two, step_every="epoch")
    assert scheduler.last_epoch == 3
    assert by_epoch == pytest.approx([1e-3, 1e-3, 5e-4])


def test_one_cycle_ends_where_it_should():
    lr, _ = rates(lambda o: lr_scheduler.OneCycleLR(o, 0.1, total_steps=9))
    assert max(lr) > 1e-2
    assert lr[-1] == pytest.approx(0.1 / 25 / 1e4)


class Recorded(lr_scheduler.ReduceLROnPlateau):
    def step(self, metrics, *args, **options):
        self.seen = [*getattr(self, "seen", []), metrics]
        super().step(metrics, *args, **options)


@pytest.mark.parametrize("step_every", ["batch", "epoch"])
def test_plateau_is_shown_the_validation_loss_once_an_epoch(step_every):
    model, batches = linear(), noise()
    optimizer = sgd(model)
    scheduler = Recorded(optimizer, patience=0, threshold=0.5)
    options = {"scheduler": scheduler, "step_every": step_every, **QUIET}
    history = fit(model, batches, epochs=3, optimizer=optimizer, val=noise(7), **options)
    assert scheduler.seen == history.val_loss
    assert history.lr == pytest.approx([0.1, 0.1, 0.01])  # the first loss is the best so far


def test_plateau_without_validation_is_shown_the_training_loss():
    model = linear()
    optimizer = sgd(model)
    scheduler = Recorded(optimizer)
    history = fit(model, noise(), epochs=2, optimizer=optimizer, scheduler=scheduler, **QUIET)
    assert scheduler.seen == history.train_loss


def test_another_word_than_batch_or_epoch_is_refused():
    model = linear()
    with pytest.raises(ValueError, match="'batch' or 'epoch', not 'step'"):
        fit(model, noise(), epochs=1, optimizer=sgd(model), step_every="step", **QUIET)


# --- Clipping, other losses, best weights -------------------------------------------------------


@pytest.mark.parametrize("clip_norm", [None, 1e-3, 1e6])
def test_clipping_bounds_the_step(clip_norm):
    model = linear()
    before = [p.clone() for p in model.parameters()]
    optimizer = SGD(model.parameters(), lr=1.0)  # a step is as long as the gradient
    fit(model, noise(8), epochs=1, optimizer=optimizer, clip_norm=clip_norm, **QUIET)
    pairs = zip(model.parameters(), before, strict=True)
    length = torch.cat([(p - q).flatten() for p, q in pairs]).norm().item()
    if clip_norm == 1e-3:
        assert length == pytest.approx(1e-3, rel=1e-3)
    else:
        assert length > 0.1


def test_another_loss_is_used():
    model, seen = linear(), []

    def loss_fn(logits, labels):
        seen.append(len(labels))
        return logits.square().sum()

    fit(model, noise(), epochs=1, optimizer=sgd(model, lr=1e-3), loss_fn=loss_fn, **QUIET)
    assert seen == [8, 8, 4]


def test_the_best_weights_by_validation_are_kept():
    model, batches, each = linear(), noise(), []
    val = noise(9, 4)
    # a rate this high makes validation go up and down

    def remember(line):
        each.append(copy.deepcopy(model.state_dict()))

    options = {"val": val, "precision": "fp32", "log": remember}
    optimizer = sgd(model, lr=3.0)
    history = fit(model, batches, epochs=8, optimizer=optimizer, keep_best=True, **options)
    best = history.val_accuracy.index(max(history.val_accuracy))
    assert best < 7, "the last epoch is the best: this test sees nothing"
    assert all(torch.equal(each[best][name], v) for name, v in model.state_dict().items())
    assert evaluate(model, val, precision="fp32").accuracy == max(history.val_accuracy)


def test_the_last_weights_stay_without_keep_best():
    model, each = linear(), []
    options = {"precision": "fp32", "log": lambda _: each.append(copy.deepcopy(model))}
    fit(model, noise(), epochs=3, optimizer=sgd(model, lr=3.0), val=noise(9), **options)
    assert same(model, each[-1])


def test_choosing_the_best_needs_something_to_choose_by():
    model = linear()
    with pytest.raises(ValueError, match="pass val="):
        fit(model, noise(), epochs=1, optimizer=sgd(model), keep_best=True, **QUIET)


# --- A loss that is not finite ------------------------------------------------------------------


@pytest.mark.parametrize(("bad", "word"), [(float("nan"), "nan"), (float("inf"), "inf|nan")])
def test_a_loss_that_is_not_finite_stops_and_says_where(bad, word):
    model, batches = linear(), list(noise(30, 5))
    calls = 0

    def loss_fn(logits, labels):
        nonlocal calls
        calls += 1
        loss = nn.functional.cross_entropy(logits, labels)
        return loss * bad if calls == 6 + 4 else loss  # epoch 2, step 4

    with pytest.raises(TrainingError, match=f"became ({word}) in epoch 2, step 4, at lr 0.25") as e:
        fit(model, batches, epochs=3, optimizer=sgd(model, lr=0.25), loss_fn=loss_fn, **QUIET)
    assert "clip_norm" in str(e.value)
    assert calls == 12  # not another epoch


def test_a_rate_far_too_high_stops_training(loader):
    model = small_resnet()
    with pytest.raises(TrainingError, match=r"in epoch \d, step \d+"):
        fit(model, loader, epochs=5, optimizer=SGD(model.parameters(), lr=1e30), **QUIET)


# --- Evaluation ---------------------------------------------------------------------------------


def test_evaluate_counts_pictures_not_batches():
    model, batches = linear(), noise(20, 8)
    images, labels = batches.dataset.tensors
    judged = evaluate(model, batches, precision="fp32")
    logits = model(images).detach()
    assert judged.loss == pytest.approx(nn.functional.cross_entropy(logits, labels).item())
    assert judged.accuracy == pytest.approx((logits.argmax(1) == labels).float().mean().item())
    torch.testing.assert_close(judged.logits, logits)
    assert torch.equal(judged.labels, labels)
    by_batch = [nn.functional.cross_entropy(model(i), t).item() for i, t in batches]
    assert abs(judged.loss - sum(by_batch) / 3) > 1e-4  # the other mean is another number


@pytest.mark.parametrize("mode", [True, False])
def test_evaluate_uses_running_statistics_and_leaves_the_model_as_it_was(mode, val):
    model = small_resnet().train(mode)
    before = copy.deepcopy(model)
    judged = evaluate(model, val, precision="fp32")
    assert same(model, before)
    assert model.training is mode
    assert model.layer1[0].bn1.training is mode
    one_by_one = torch.cat([before.eval()(images) for images, _ in val]).detach()
    assert torch.equal(judged.logits, one_by_one)


def test_evaluate_keeps_no_graph_and_gives_float32(val):
    model = small_resnet()
    judged = evaluate(model, val, precision="bf16")
    assert not judged.logits.requires_grad
    assert judged.logits.dtype == torch.float32
    assert judged.logits.shape == (100, 10)
    assert all(p.grad is None for p in model.parameters())


def test_training_ends_with_its_batchnorm_in_step(loader):
    model = small_resnet().eval()  # as an evaluation by hand may have left it
    fit(model, loader, epochs=2, optimizer=sgd(model), **QUIET)
    assert model.bn1.num_batches_tracked == 2 * len(loader)
    assert model.bn1.running_mean.abs().sum() > 0


# --- Precision ----------------------------------------------------------------------------------


def test_the_choice_of_precision_spends_no_randomness():
    choose_precision.cache_clear()
    before = torch.get_rng_state()
    assert choose_precision(CPU) in ("fp32", "bf16")
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("context", [torch.inference_mode, torch.no_grad, torch.enable_grad])
def test_the_choice_of_precision_can_be_made_anywhere(context):
    choose_precision.cache_clear()
    with context():
        assert choose_precision(CPU) in ("fp32", "bf16")


def test_evaluate_may_be_the_first_to_choose(val):
    choose_precision.cache_clear()
    assert evaluate(small_resnet(), val).logits.shape == (100, 10)


@pytest.mark.parametrize(
    ("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)]
)
def test_the_forward_pass_computes_in_the_precision_asked_for(precision, dtype):
    model, seen = small_resnet(), []
    model.conv1.register_forward_hook(lambda _, __, out: seen.append(out.dtype))
    images = torch.randn(4, 3, 32, 32)
    with autocast(CPU, precision):
        model(images)
    options = {"optimizer": sgd(model), "precision": precision, "log": None}
    fit(model, [(images, torch.arange(4))], epochs=1, **options)
    evaluate(model, [(images, torch.arange(4))], precision=precision)
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    assert seen == [dtype] * 3
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_bf16_trains_nearly_as_fp32(pictures):
    losses = {}
    for precision in ("fp32", "bf16"):
        model = small_resnet()
        batches = data.BatchLoader(pictures.train, 50, shuffle=True, **SCALE)
        history = fit(model, batches, epochs=2, optimizer=sgd(model), precision=precision, log=None)
        losses[precision] = history.train_loss
    assert losses["fp32"] != losses["bf16"]
    assert losses["bf16"] == pytest.approx(losses["fp32"], rel=0.05)


def test_fp16_scales_its_loss_and_steps_over_what_overflows():
    model = linear()
    seen, start = [], copy.deepcopy(model)
    big = [(1e4 * images, labels) for images, labels in noise()]  # 65,504 is fp16's largest number

    def loss_fn(logits, labels):
        seen.append(same(model, start))
        return nn.functional.cross_entropy(logits.float(), labels)

    options = {"optimizer": sgd(model, lr=1e-6), "loss_fn": loss_fn, "precision": "fp16"}
    history = fit(model, big, epochs=8, log=None, **options)
    assert seen[:2] == [True, True]  # the first step was left out
    assert not same(model, start)
    assert all(p.isfinite().all() for p in model.parameters())
    assert len(history.lr) == 8


def test_fp16_clips_what_it_unscaled():
    model = linear()
    before = [p.clone() for p in model.parameters()]
    options = {"optimizer": SGD(model.parameters(), lr=1.0), "clip_norm": 1e-2}
    fit(model, noise(8), epochs=1, precision="fp16", log=None, **options)
    pairs = zip(model.parameters(), before, strict=True)
    length = torch.cat([(p - q).flatten() for p, q in pairs]).norm().item()
    assert length == pytest.approx(1e-2, rel=1e-2)


def test_channels_last_is_the_models_layout():
    images = torch.randn(4, 3, 32, 32)
    for channels_last in (True, False):
        model, seen = small_resnet(), []
        model.conv1.register_forward_pre_hook(
            lambda _, x: seen.append(x[0].is_contiguous(memory_format=torch.channels_last))  # noqa: B023
        )
        options = {"optimizer": sgd(model), "channels_last": channels_last, **QUIET}
        fit(model, [(images, torch.arange(4))], epochs=1, **options)
        weight = model.layer1[0].conv1.weight
        assert weight.is_contiguous(memory_format=torch.channels_last) is channels_last
        assert seen == [channels_last]


def test_training_gives_no_warning(loader, val):
    model = small_resnet()
    optimizer = sgd(model)
    scheduler = lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=len(loader))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(model, loader, epochs=1, optimizer=optimizer, scheduler=scheduler, val=val, **QUIET)


# --- Metrics ------------------------------------------------------------------------------------

LOGITS = torch.tensor(
    [[9.0, 5.0, 1.0, 0.0], [1.0, 9.0, 5.0, 0.0], [5.0, 9.0, 1.0, 0.0], [0.0, 1.0, 5.0, 9.0]]
)
LABELS = torch.tensor([0, 2, 0, 2])  # right; second; second; second


def test_accuracy_by_hand():
    assert metrics.accuracy(LOGITS, LABELS) == 0.25
    assert metrics.accuracy(LOGITS, LABELS, top_k=2) == 1.0
    assert metrics.accuracy(LOGITS, torch.tensor([0, 2, 0, 0]), top_k=2) == 0.75
    assert metrics.accuracy(LOGITS, torch.tensor([0, 2, 0, 0]), top_k=4) == 1.0


def test_accuracy_by_class_by_hand():
    labels = torch.tensor([0, 1, 0, 1])
    assert metrics.per_class_accuracy(LOGITS, labels).tolist() == [0.5, 0.5, 0.0, 0.0]
    uneven = torch.tensor([0, 1, 1, 0])
    assert metrics.accuracy(LOGITS, uneven) == 0.75
    assert metrics.per_class_accuracy(LOGITS, uneven).tolist() == [0.5, 1.0, 0.0, 0.0]


def test_accuracy_of_random_answers_is_counted_right():
    generator = torch.Generator().manual_seed(0)
    logits, labels = (
        torch.randn(500, 10, generator=generator),
        torch.randint(10, (500,), generator=generator),
    )
    for k in (1, 3, 5):
        by_hand = (logits.argsort(1, descending=True)[:, :k] == labels[:, None]).any(1)
        assert metrics.accuracy(logits, labels, top_k=k) == pytest.approx(by_hand.float().mean())
