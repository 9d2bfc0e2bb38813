"""The in-memory loader beside torch's DataLoader with PIL transforms: crop, flip, normalize.

Same pictures, same augmentations, one after the other on the same machine, several rounds each.
"""

from __future__ import annotations

import json
import time

from torch.utils.data import DataLoader
from torchvision import transforms

from cifar_utils import data


def measure(pictures: int = 5000, rounds: int = 3) -> dict:
    """Pictures a second of both, best of `rounds`: {"name", "ours", "peer", "ratio"}."""
    drawn = data.load("cifar10", stand_in=(pictures, 1))
    mean, std = data.CIFAR10_MEAN, data.CIFAR10_STD
    ours = data.BatchLoader(drawn.train, 128, mean=mean, std=std, shuffle=True, crop=4, flip=True)
    steps = [
        transforms.RandomCrop(32, padding=4, padding_mode="reflect"),
        transforms.RandomHorizontalFlip(),
        transforms.ToTensor(),
        transforms.Normalize(mean, std),
    ]
    dataset = data.torchvision_dataset(drawn, transform=transforms.Compose(steps))
    peers = [
        DataLoader(dataset, 128, shuffle=True),
        DataLoader(dataset, 128, shuffle=True, num_workers=2, persistent_workers=True),
    ]
    best = {}
    for _ in range(rounds):
        for loader in (ours, *peers):
            begun = time.perf_counter()
            for _batch in loader:
                pass
            speed = pictures / (time.perf_counter() - begun)
            best[loader] = max(best.get(loader, 0), speed)
    peer = max(best[loader] for loader in peers)  # whichever of its settings is faster here
    return {
        "name": "loader, pictures a second",
        "ours": round(best[ours]),
        "peer": round(peer),
        "ratio": round(best[ours] / peer, 1),
    }


if __name__ == "__main__":
    print(json.dumps(measure()))
