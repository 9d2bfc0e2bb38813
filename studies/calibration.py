"""What long training and label smoothing do to a network's confidence (chapter 10).

The small network of `studies/seeds.py` learns CIFAR-10 in as many steps from "many pictures"
(45,000, 4 epochs) or from "few pictures" (10,000 of them, 18 epochs), with hard labels or with
label smoothing 0.1. One temperature is fitted on 5,000 validation pictures, as one should, and
another on training pictures, shown without augmentation, as one should not; the test set judges
both. Claims: few pictures seen often give a network that is too sure, so that its temperature lies
above that of many pictures; smoothing pushes the temperature down; a temperature fitted on the
training pictures is lower than the one that validation asks for, and after few pictures seen often
it is worse than none. 4 rows × 3 seeds.
Run or resume it with `make study NAME=calibration`.
"""

from seeds import SCALE, small_network
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD
from torch.optim.lr_scheduler import OneCycleLR

from cifar_utils import data, metrics, runs, training

RATE = 0.2
EPOCHS = {"many pictures": 4, "few pictures": 18}  # as many steps, within one batch an epoch
FEW = 10_000
ROWS = [
    {"recipe": recipe, "smoothing": smoothing, "seed": seed}
    for seed in range(3)
    for recipe in EPOCHS
    for smoothing in (0.0, 0.1)
]


def figures(name: str, judged: training.Evaluation, temperature: float) -> dict:
    """Accuracy, confidence, calibration error and loss, before and after the temperature."""

    def error(logits: Tensor) -> float:
        return round(metrics.calibration_error(logits.softmax(1), judged.labels), 5)

    cooled = judged.logits / temperature
    return {
        f"{name}_accuracy": judged.accuracy,
        f"{name}_confidence": round(judged.logits.softmax(1).amax(1).mean().item(), 5),
        f"{name}_calibration_error": error(judged.logits),
        f"{name}_calibration_error_after": error(cooled),
        f"{name}_loss": round(judged.loss, 5),
        f"{name}_loss_after": round(F.cross_entropy(cooled, judged.labels).item(), 5),
    }


def one(run: runs.Run, recipe: str, smoothing: float, seed: int) -> dict:
    """Train once; what the network's confidence is worth, and the temperatures that mend it."""
    cifar10 = run.load("cifar10")
    train, val = data.hold_out(cifar10.train, n=run.pick(smoke=100, laptop=5000, gpu=5000))
    n_few = run.pick(smoke=100, laptop=FEW, gpu=FEW)
    if recipe == "few pictures":
        train = data.hold_out(train, n=n_few)[1]
    n_clean = run.pick(smoke=50, laptop=5000, gpu=5000)
    clean = data.hold_out(train, n=n_clean)[1]  # some of the pictures it learns from
    options = {"seed": seed, "device": run.device}
    batches = data.BatchLoader(train, 128, shuffle=True, crop=4, flip=True, **options, **SCALE)
    clean, val, test = (
        data.BatchLoader(part, 500, device=run.device, **SCALE)
        for part in (clean, val, cifar10.test)
    )
    epochs = run.pick(smoke=2, laptop=EPOCHS[recipe], gpu=EPOCHS[recipe])
    model = small_network(seed)
    optimizer = SGD(model.parameters(), lr=RATE, momentum=0.9, nesterov=True, weight_decay=5e-4)
    history = training.fit(
        model,
        batches,
        epochs=epochs,
        optimizer=optimizer,
        scheduler=OneCycleLR(optimizer, RATE, total_steps=epochs * len(batches), pct_start=0.25),
        loss_fn=nn.CrossEntropyLoss(label_smoothing=smoothing),
        device=run.device,
        precision="fp32",
        log=None,
    )
    clean, val, test = (
        training.evaluate(model, part, precision="fp32") for part in (clean, val, test)
    )
    temperature = metrics.fit_temperature(val.logits, val.labels)
    wrong = metrics.fit_temperature(clean.logits, clean.labels)
    misled = (test.logits / wrong).softmax(1)
    found = figures("val", val, temperature) | figures("test", test, temperature)
    print(
        f"  test {test.accuracy:.1%}, sure {found['test_confidence']:.1%}; T {temperature:.3f}, "
        f"of training pictures {wrong:.3f}",
        flush=True,
    )
    return {
        "precision": "fp32",
        "pictures": len(train),
        "epochs": epochs,
        "temperature": round(temperature, 5),
        "temperature_of_train": round(wrong, 5),
        "test_calibration_error_misled": round(metrics.calibration_error(misled, test.labels), 5),
        "train_confidence": round(clean.logits.softmax(1).amax(1).mean().item(), 5),
        "train_accuracy": clean.accuracy,
        "shown_accuracy": history.train_accuracy,
        "shown_loss": [round(loss, 5) for loss in history.train_loss],
        "train_seconds": round(sum(history.seconds), 1),
    } | found


if __name__ == "__main__":
    runs.run_study("calibration", ROWS, one)
