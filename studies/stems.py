"""Three stems on 32-pixel pictures: how much does it cost to begin as ImageNet networks do?

A ResNet-10 of width 16 learns CIFAR-100 for 3 epochs with each stem. The two stems that shrink the
maps also run for as many epochs as take about the time of 3 with the CIFAR stem: a pilot of one
seed gave 62, 24 and 11 seconds an epoch. Claims (chapter 5): the ImageNet stem is worst at equal
epochs; at equal time the CIFAR stem is. 5 rows × 3 seeds.
"""

from torch import nn
from torch.optim import SGD
from torch.optim.lr_scheduler import OneCycleLR

from cifar_utils import data, models, runs, training

RATE = 0.2
STEMS = {  # kernel and stride of the first convolution, and whether a max-pool follows
    "imagenet": (7, 2, True),
    "3x3, max-pool": (3, 1, True),
    "3x3": (3, 1, False),
}


def network(stem: str, width: int = 16) -> models.ResNet:
    """A ResNet-10 for 100 classes, with that stem."""
    kernel, stride, pool = STEMS[stem]
    model = models.ResNet(models.BasicBlock, [1, 1, 1, 1], 100, width)
    model.conv1 = nn.Conv2d(3, width, kernel, stride, padding=kernel // 2, bias=False)
    models.start_convolution(model.conv1)
    model.maxpool = nn.MaxPool2d(3, 2, padding=1) if pool else nn.Identity()
    return model


def one(run: runs.Run, stem: str, epochs: int, seed: int) -> dict:
    """Train once; validation accuracy at the end, seconds of training, and the history."""
    train, val = data.hold_out(
        run.load("cifar100").train, run.pick(smoke=100, laptop=5000, gpu=5000)
    )
    scale = {"mean": data.CIFAR100_MEAN, "std": data.CIFAR100_STD, "device": run.device}
    batches = data.BatchLoader(train, 128, shuffle=True, crop=4, flip=True, seed=seed, **scale)
    model = network(stem).to(run.device)
    optimizer = SGD(model.parameters(), lr=RATE, momentum=0.9, weight_decay=5e-4, nesterov=True)
    history = training.fit(
        model,
        batches,
        epochs=epochs,
        optimizer=optimizer,
        scheduler=OneCycleLR(optimizer, RATE, total_steps=epochs * len(batches)),
        val=data.BatchLoader(val, 500, **scale),
        precision="fp32",
    )
    return {
        "precision": "fp32",
        "val_accuracy": history.val_accuracy[-1],
        "train_seconds": round(sum(history.seconds), 1),
        "history": history.to_dict(),
    }


ROWS = [
    {"stem": stem, "epochs": epochs, "seed": seed}
    for seed in range(3)
    for stem, epochs in [*((stem, 3) for stem in STEMS), ("3x3, max-pool", 8), ("imagenet", 16)]
]

if __name__ == "__main__":
    runs.run_study("stems", ROWS, one)
