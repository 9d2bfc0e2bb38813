"""How much of a result is luck, and how little it takes to have other luck (chapter 9).

One small network, one recipe, CIFAR-10. Every run is compared with one baseline. "everything"
draws other initial weights and another order of pictures; "order" keeps the weights; "one weight"
keeps both and moves a single weight of the first layer to the next number a float32 can hold;
"nothing" is the baseline over again. Claims: "nothing" repeats the baseline exactly, and a network
that started one rounding away disagrees with it on about as many pictures as one that shares
nothing with it. After Summers and Dinneen (2021), arXiv:2103.04514, who found both.
"""

import torch
from torch import nn
from torch.optim import SGD
from torch.optim.lr_scheduler import OneCycleLR

from cifar_utils import data, models, runs, training

SCALE = {"mean": data.CIFAR10_MEAN, "std": data.CIFAR10_STD}
RATE, EPOCHS = 0.2, 5
CHANGES = ("everything", "order", "one weight")
ROWS = [{"change": "nothing", "seed": seed} for seed in (0, 1)]
ROWS += [{"change": change, "seed": seed} for seed in range(1, 6) for change in CHANGES]


def small_network(seed: int) -> models.ResNet:
    """A ResNet-10 of width 16 with a max-pool behind the stem, its weights drawn from `seed`."""
    torch.manual_seed(seed)
    model = models.ResNet(models.BasicBlock, [1, 1, 1, 1], 10, width=16)
    model.maxpool = nn.MaxPool2d(3, 2, padding=1)
    return model


def nudge(model: models.ResNet, index: int) -> None:
    """Move one weight of the first convolution to the next larger float32."""
    weight = model.conv1.weight.detach().view(-1)
    weight[index] = torch.nextafter(weight[index], torch.tensor(torch.inf))


def one(run: runs.Run, change: str, seed: int) -> dict:
    """Train once; validation accuracy by epoch, and the class given to each validation picture."""
    cifar10 = run.load("cifar10")
    train, val = data.hold_out(cifar10.train, n=run.pick(smoke=100, laptop=5000, gpu=5000))
    epochs = run.pick(smoke=2, laptop=EPOCHS, gpu=EPOCHS)
    model = small_network(seed if change == "everything" else 0)
    if change == "one weight":
        nudge(model, index=seed)
    order = seed if change in ("everything", "order") else 0
    train = data.BatchLoader(
        train, 128, shuffle=True, crop=4, flip=True, seed=order, device=run.device, **SCALE
    )
    val = data.BatchLoader(val, 500, device=run.device, **SCALE)
    optimizer = SGD(model.parameters(), lr=RATE, momentum=0.9, nesterov=True, weight_decay=5e-4)
    history = training.fit(
        model,
        train,
        epochs=epochs,
        optimizer=optimizer,
        scheduler=OneCycleLR(optimizer, RATE, total_steps=epochs * len(train), pct_start=0.25),
        val=val,
        device=run.device,
        precision="fp32",
        log=None,
    )
    answers = training.evaluate(model, val, precision="fp32").logits.argmax(1)
    return {
        "precision": "fp32",
        "val_accuracy": history.val_accuracy[-1],
        "val_answers": "".join(map(str, answers.tolist())),  # one digit a picture
        "history": history.to_dict(),
    }


if __name__ == "__main__":
    runs.run_study("seeds", ROWS, one)
