"""Training and judging a network: `fit`, `evaluate` and `History`.

With every option off, `fit` ends in the same weights as the loop of chapter 2 (a test holds it).
"""

import dataclasses
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from torch import Tensor, nn

from cifar_utils import checkpoints, memory, metrics
from cifar_utils.precision import autocast, choose_precision

Batches = Iterable[tuple[Tensor, Tensor]]  # of images (B, 3, H, W) float and labels (B,) int64


class TrainingError(RuntimeError):
    """Training cannot go on; the message says where it stopped and what to try."""


@dataclasses.dataclass
class History:
    """What each epoch left: one entry an epoch in every list. Accuracies are fractions.

    `lr` is the rate at the epoch's end; `seconds` counts training and validation of the epoch.
    The `val_` lists stay empty without a validation set.
    """

    train_loss: list[float] = dataclasses.field(default_factory=list)
    train_accuracy: list[float] = dataclasses.field(default_factory=list)
    val_loss: list[float] = dataclasses.field(default_factory=list)
    val_accuracy: list[float] = dataclasses.field(default_factory=list)
    lr: list[float] = dataclasses.field(default_factory=list)
    seconds: list[float] = dataclasses.field(default_factory=list)

    def to_dict(self) -> dict[str, list[float]]:
        """Plain lists, for JSON and checkpoints; `History(**d)` is the way back."""
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """A network's answers on a whole set: logits (N, C) float32 and labels (N,), on the CPU."""

    loss: float  # mean cross-entropy a picture, in nats
    accuracy: float  # fraction right
    logits: Tensor
    labels: Tensor


@memory.advised(TrainingError)
@torch.inference_mode()
def evaluate(
    model: nn.Module,
    batches: Batches,
    *,
    device: torch.device | str | None = None,
    precision: str = "auto",
) -> Evaluation:
    """The network's answers on `batches`, in eval mode and without gradients.

    Loss and accuracy are means over pictures, not over batches. The model's mode is put back.
    Raises TrainingError, with advice, if memory runs out.
    """
    device = torch.device(device) if device else next(model.parameters()).device
    precision = choose_precision(device) if precision == "auto" else precision
    was_training = model.training
    model.eval()
    logits, labels = [], []
    try:
        for images, batch_labels in batches:
            with autocast(device, precision):
                logits.append(model(images.to(device)).float().cpu())
            labels.append(batch_labels.cpu())
    finally:
        model.train(was_training)
    logits, labels = torch.cat(logits), torch.cat(labels)
    loss = nn.functional.cross_entropy(logits, labels).item()
    return Evaluation(loss, metrics.accuracy(logits, labels), logits, labels)


@memory.advised(TrainingError, "; gradients accumulated over several small batches (chapter 13)")
def fit(
    model: nn.Module,
    train: Batches,
    *,
    epochs: int,
    optimizer: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.LRScheduler | None = None,
    step_every: str = "batch",
    val: Batches | None = None,
    loss_fn: Callable[[Tensor, Tensor], Tensor] | None = None,
    device: torch.device | str | None = None,
    precision: str = "auto",
    channels_last: bool = True,
    clip_norm: float | None = None,
    checkpoint: str | Path | None = None,
    keep_best: bool = False,
    log: Callable[[str], None] | None = print,
) -> History:
    """Train `model` in place for `epochs` passes over `train`; return what each epoch left.

    train, val: batches of images (B, 3, H, W) and labels (B,), of known length.
    scheduler: any of torch's; stepped after each "batch" or each "epoch" as `step_every` says.
        ReduceLROnPlateau is stepped each epoch, with the validation loss (without `val`, the
        training loss).
    loss_fn: of (logits, labels); the default is cross-entropy.
    clip_norm: largest norm the gradient of all parameters together may have.
    checkpoint: a file written after each epoch. If it is there, training goes on from it; if that
        training was complete, its weights and history are loaded and nothing is trained.
    keep_best: end with the weights of the epoch with the highest validation accuracy.
    log: called with one line of text an epoch; None for silence.

    Raises TrainingError where the loss is not finite or memory runs out, CheckpointError where the
    checkpoint comes from another recipe, ValueError for options that contradict each other. The
    recipe knows neither pictures nor augmentation nor seed: give each training a file of its own.
    """
    if step_every not in ("batch", "epoch"):
        raise ValueError(f"step_every is 'batch' or 'epoch', not {step_every!r}")
    if keep_best and val is None:
        raise ValueError("keep_best=True chooses by validation accuracy: pass val=")
    device = torch.device(device) if device else next(model.parameters()).device
    plateau = isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau)
    layout = torch.channels_last if channels_last else torch.preserve_format
    model.to(device, memory_format=layout)
    loss_fn = loss_fn or nn.CrossEntropyLoss()
    recipe = checkpoints.recipe(
        model,
        optimizer,
        scheduler,
        loss_fn,
        epochs=epochs,
        batches=len(train),
        generator=getattr(train, "generator", None) is not None,
        step_every=step_every,
        clip_norm=clip_norm,
        channels_last=channels_last,
        keep_best=keep_best,
    )
    history, best, saved = History(), None, None
    if checkpoint and Path(checkpoint).exists():
        saved = checkpoints.load(checkpoint, device)
        with checkpoints.restoring(checkpoint):
            autocast(device, saved["precision"])  # one that there is
            if precision == "auto":  # a probe that goes by time may answer otherwise today
                precision = saved["precision"]
            was, now = saved["recipe"] | {"precision": saved["precision"]}, recipe
            checkpoints.require_same(was, now | {"precision": precision}, checkpoint)
    precision = choose_precision(device) if precision == "auto" else precision
    scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")
    stateful = {"model": model, "optimizer": optimizer, "scaler": scaler}
    if scheduler is not None:
        stateful["scheduler"] = scheduler
    if saved:
        checkpoints.warn_if_not_exact(saved["threads"])
        with checkpoints.restoring(checkpoint):
            history, best = History(**saved["history"]), saved["best"]
            sum(map(sum, history.to_dict().values()))  # lists of numbers, or it fails here
            if best is not None:  # seen to fit now, not after hours
                model.load_state_dict(best["model"])
                best["val_accuracy"] = float(best["val_accuracy"])
            for name, part in stateful.items():
                part.load_state_dict(saved[name])
            checkpoints.set_rng_state(saved["generators"], train)
        if log:
            log(f"{Path(checkpoint).name}: {len(history.lr)} of {epochs} epochs are done")

    for epoch in range(len(history.lr), epochs):
        start = time.perf_counter()
        model.train()
        losses, correct, seen = [], 0, 0
        for images, labels in train:
            images = images.to(device, memory_format=layout)
            labels = labels.to(device)
            with autocast(device, precision):
                logits = model(images)
                loss = loss_fn(logits, labels)
            optimizer.zero_grad()
            scaler.scale(loss).backward()
            if clip_norm is not None:
                scaler.unscale_(optimizer)
                nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
            scaler.step(optimizer)
            scaler.update()
            lr = optimizer.param_groups[0]["lr"]
            if scheduler is not None and not plateau and step_every == "batch":
                scheduler.step()
            losses.append(loss.detach() * len(labels))
            correct += (logits.detach().argmax(1) == labels).sum()
            seen += len(labels)
            if len(losses) % 50 == 0 or len(losses) == len(train):  # each look waits for a GPU
                _require_finite(losses, epoch, lr)
        history.train_loss.append(torch.stack(losses).sum().item() / seen)
        history.train_accuracy.append(correct.item() / seen)
        if val is not None:
            judged = evaluate(model, val, device=device, precision=precision)
            history.val_loss.append(judged.loss)
            history.val_accuracy.append(judged.accuracy)
            if keep_best and (best is None or judged.accuracy > best["val_accuracy"]):
                weights = {name: value.clone() for name, value in model.state_dict().items()}
                best = {"val_accuracy": judged.accuracy, "epoch": epoch, "model": weights}
        if plateau:
            scheduler.step((history.val_loss or history.train_loss)[-1])
        elif scheduler is not None and step_every == "epoch":
            scheduler.step()
        history.lr.append(lr)
        history.seconds.append(time.perf_counter() - start)
        if log:
            log(progress_line(history, epochs))
        if checkpoint:
            state = {name: part.state_dict() for name, part in stateful.items()}
            state |= {
                "recipe": recipe,
                "generators": checkpoints.rng_state(train),
                "history": history.to_dict(),
                "best": best,
                "precision": precision,
                "threads": torch.get_num_threads(),
            }
            checkpoints.save(checkpoint, state)
    if keep_best and best is not None:
        model.load_state_dict(best["model"])
    return history


def progress_line(history: History, epochs: int) -> str:
    """One line on the last epoch of `history`: losses, accuracies, rate, seconds, time left."""
    done, seconds = len(history.lr), history.seconds[-1]
    line = f"epoch {done:>3}/{epochs}   loss {history.train_loss[-1]:.3f}"
    line += f"   accuracy {history.train_accuracy[-1]:6.1%}"
    if history.val_accuracy:
        line += f"   val {history.val_accuracy[-1]:6.1%}"
    left = sum(history.seconds) / done * (epochs - done)
    line += f"   lr {history.lr[-1]:.4f}   {seconds:.0f} s"
    return line + (f"   {left / 60:.0f} min left" if left >= 60 else f"   {left:.0f} s left")


def _require_finite(losses: list[Tensor], epoch: int, lr: float) -> None:
    """Raise TrainingError naming the first step with a NaN or infinite loss, and the lr now."""
    finite = torch.isfinite(torch.stack(losses))
    if not finite.all():
        step = int((~finite).nonzero()[0])
        raise TrainingError(
            f"the loss became {losses[step].item()} in epoch {epoch + 1}, step {step + 1}, at "
            f"lr {lr:.3g}. Try, in this order: check that the pictures are normalized and finite; "
            "a rate ten times lower, or a warm-up; clip_norm=1; precision='fp32'."
        )
