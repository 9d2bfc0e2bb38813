"""What CIFAR-10 and CIFAR-100 are: names, sizes, addresses and digests.

Source: Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009,
https://www.cs.toronto.edu/~kriz/cifar.html.
"""

from __future__ import annotations

from dataclasses import dataclass

from torchvision import datasets


@dataclass(frozen=True)
class Spec:
    """All that finding and verifying a data set needs to know about it."""

    name: str
    classes: tuple[str, ...]
    superclasses: tuple[str, ...] | None
    official: type[datasets.CIFAR10]  # torchvision knows the official files and their MD5s
    label: str  # the parquet column; the key in the official files has an s at its end
    coarse: str | None
    repo: str  # on the Hub
    revision: str  # the commit of that repository
    shards: dict[str, tuple[int, str]]  # path in the repository: bytes, SHA-256
    mean: tuple[float, float, float]  # of the training set's channels
    std: tuple[float, float, float]
    counts: tuple[int, int] = (50_000, 10_000)  # pictures for training and test


CIFAR10 = Spec(
    name="cifar10",
    classes=tuple("airplane automobile bird cat deer dog frog horse ship truck".split()),
    superclasses=None,
    official=datasets.CIFAR10,
    label="label",
    coarse=None,
    repo="uoft-cs/cifar10",
    revision="0b2714987fa478483af9968de7c934580d0bb9a2",
    shards={
        "plain_text/train-00000-of-00001.parquet": (
            119_705_255,
            "8428b53a88a11ac374111006708df51469e315a22ac6d66470afd9c78d2ae883",
        ),
        "plain_text/test-00000-of-00001.parquet": (
            23_940_850,
            "841389e6f2d64f28bf17310e430aebac20ec3ba611a3c5e231dc93c645ce84de",
        ),
    },
    mean=(0.4914, 0.4822, 0.4465),
    std=(0.2470, 0.2435, 0.2616),
)

CIFAR100 = Spec(
    name="cifar100",
    classes=tuple(
        """apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus
        butterfly camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch
        crab crocodile cup dinosaur dolphin elephant flatfish forest fox girl hamster house kangaroo
        keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle mountain
        mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain
        plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk
        skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone
        television tiger tractor train trout tulip turtle wardrobe whale willow_tree wolf woman
        worm""".split()
    ),
    superclasses=tuple(
        """aquatic_mammals fish flowers food_containers fruit_and_vegetables
        household_electrical_devices household_furniture insects large_carnivores
        large_man-made_outdoor_things large_natural_outdoor_scenes large_omnivores_and_herbivores
        medium_mammals non-insect_invertebrates people reptiles small_mammals trees vehicles_1
        vehicles_2""".split()
    ),
    official=datasets.CIFAR100,
    label="fine_label",
    coarse="coarse_label",
    repo="uoft-cs/cifar100",
    revision="aadb3af77e9048adbea6b47c21a81e47dd092ae5",
    shards={
        "cifar100/train-00000-of-00001.parquet": (
            118_518_617,
            "694865d6b990e234804f01268586c41e88bcbbb75e20858432c05ad4081aca23",
        ),
        "cifar100/test-00000-of-00001.parquet": (
            23_772_751,
            "98776c529bb146a9c791229df74a5cf076be9b43d82dbbd334b6a7788d73dc68",
        ),
    },
    mean=(0.5071, 0.4865, 0.4409),
    std=(0.2673, 0.2564, 0.2762),
)

SPECS = {"cifar10": CIFAR10, "cifar100": CIFAR100}

# Copies that are neither the official files nor the mirror's, known by the digest of their
# content: what the division into training and test is, and a note that travels with the source.
KNOWN_COPIES = {
    "75d751392fa3fc614bb050fc6b715a5807bde7c9d4326a6d4c14018ae23700db": (
        "official",
        "201 of 60,000 pictures recompressed",
    ),
    "5fc350714aa7ecba5aae267483e1ab44e8f7cdd99c45b7c7bdb738a8d7f39833": (
        "re-split",
        "re-split",
    ),
}
