"""The networks of the book: a small CNN, and every ResNet from one class.

Attribute names are torchvision's (`conv1`, `bn1`, `layer1` … `fc`), so that weights can be copied
between the two by name.
"""

from torch import Tensor, nn
from torch.nn import functional as F


class SimpleCNN(nn.Module):
    """A LeNet for color pictures: (N, 3, 32, 32) float → (N, num_classes) logits.

    Two 5×5 convolutions and three linear layers, no BatchNorm; 62,006 parameters for 10 classes.
    Source: the network of PyTorch's "Training a Classifier" tutorial, after LeCun et al. (1998).
    Built in chapter 2
    """

    def __init__(self, num_classes: int = 10):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, kernel_size=5)
        self.conv2 = nn.Conv2d(6, 16, kernel_size=5)
        self.pool = nn.MaxPool2d(2)
        self.fc1 = nn.Linear(16 * 5 * 5, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(F.relu(self.conv1(x)))  # (N, 6, 14, 14)
        x = self.pool(F.relu(self.conv2(x)))  # (N, 16, 5, 5)
        x = x.flatten(1)  # (N, 400)
        x = F.relu(self.fc1(x))
        x = F.relu(self.fc2(x))
        return self.fc3(x)


class BasicBlock(nn.Module):
    """Two 3×3 convolutions and a shortcut: (N, C_in, H, W) → (N, channels, H/stride, W/stride).

    `downsample` brings the input to the shape of the output where the two differ; None is the
    identity. Source: He et al. (2015), "Deep Residual Learning", figure 2. Built in chapter 3
    """

    expansion = 1  # channels out of the block, as a multiple of `channels`

    def __init__(
        self, in_channels: int, channels: int, stride: int = 1, downsample: nn.Module | None = None
    ):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        z = F.relu(self.bn1(self.conv1(x)))
        z = self.bn2(self.conv2(z))
        return F.relu(z + shortcut)


class Bottleneck(nn.Module):
    """1×1 down, 3×3, 1×1 up, and a shortcut: (N, C_in, H, W) → (N, 4·channels, H/stride, W/stride).

    The stride sits on the 3×3 convolution, as in torchvision ("v1.5"); the paper has it on the
    first 1×1. Source: He et al. (2015), figure 5. Built in chapter 3
    """

    expansion = 4

    def __init__(
        self, in_channels: int, channels: int, stride: int = 1, downsample: nn.Module | None = None
    ):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, channels * self.expansion, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels * self.expansion)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        z = F.relu(self.bn1(self.conv1(x)))
        z = F.relu(self.bn2(self.conv2(z)))
        z = self.bn3(self.conv3(z))
        return F.relu(z + shortcut)


class PadShortcut(nn.Module):
    """A shortcut without parameters: every `stride`-th pixel, and `extra` channels of zeros.

    (N, C, H, W) → (N, C + extra, H/stride, W/stride). Source: He et al. (2015), option A.
    Built in chapter 3
    """

    def __init__(self, stride: int, extra: int):
        super().__init__()
        self.stride, self.extra = stride, extra

    def forward(self, x: Tensor) -> Tensor:
        x = x[:, :, :: self.stride, :: self.stride]
        return F.pad(x, (0, 0, 0, 0, 0, self.extra))


def make_stage(
    block: type[nn.Module],
    in_channels: int,
    channels: int,
    blocks: int,
    stride: int,
    shortcut: str,
) -> nn.Sequential:
    """`blocks` blocks in a row; only the first changes the shape, so only it needs a `downsample`.

    Built in chapter 3
    """
    out_channels = channels * block.expansion
    downsample = None
    if stride != 1 or in_channels != out_channels:
        if shortcut == "pad":
            downsample = PadShortcut(stride, out_channels - in_channels)
        else:
            projection = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
            downsample = nn.Sequential(projection, nn.BatchNorm2d(out_channels))
    first = block(in_channels, channels, stride, downsample)
    return nn.Sequential(first, *[block(out_channels, channels) for _ in range(blocks - 1)])


def start_convolution(module: nn.Module) -> None:
    """Draw the initial weights of a convolution, wide enough to keep the variance through ReLU.

    Source: He et al. (2015), "Delving Deep into Rectifiers". Built in chapter 3
    """
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


class ResNet(nn.Module):
    """A residual network: (N, 3, H, W) float → (N, num_classes) logits.

    `layers` counts the blocks of each stage; stage i has width · 2^i channels (times the block's
    expansion) at half the resolution of the stage before. `stem` is "cifar" (3×3, stride 1) or
    "imagenet" (7×7, stride 2, then a max-pool: a map 4 times smaller on each side). `shortcut` is
    "projection" (1×1 convolution, option B) or "pad" (zeros, option A) where shapes change.
    Raises ValueError for another stem or shortcut. Convolutions start as in He et al. (2015),
    "Delving Deep into Rectifiers". Source: He et al. (2015), "Deep Residual Learning".
    Built in chapter 3
    """

    def __init__(
        self,
        block: type[nn.Module],
        layers: list[int],
        num_classes: int = 10,
        width: int = 64,
        stem: str = "cifar",
        shortcut: str = "projection",
    ):
        super().__init__()
        if stem not in ("cifar", "imagenet") or shortcut not in ("projection", "pad"):
            raise ValueError(f"no such stem or shortcut: {stem!r}, {shortcut!r}")
        kernel, stride = (3, 1) if stem == "cifar" else (7, 2)
        self.conv1 = nn.Conv2d(3, width, kernel, stride, padding=kernel // 2, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.maxpool = nn.MaxPool2d(3, 2, padding=1) if stem == "imagenet" else nn.Identity()
        self.stages = [f"layer{i + 1}" for i in range(len(layers))]
        in_channels = width
        for i, name in enumerate(self.stages):
            stage = make_stage(block, in_channels, width * 2**i, layers[i], 2 if i else 1, shortcut)
            self.add_module(name, stage)
            in_channels = width * 2**i * block.expansion
        self.fc = nn.Linear(in_channels, num_classes)
        self.apply(start_convolution)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(F.relu(self.bn1(self.conv1(x))))
        for name in self.stages:
            x = self.get_submodule(name)(x)
        return self.fc(x.mean(dim=(2, 3)))  # global average pooling: (N, C, H, W) → (N, C)


def resnet18(num_classes: int = 10, stem: str = "cifar") -> ResNet:
    """ResNet-18; 11,173,962 parameters with the CIFAR stem and 10 classes."""
    return ResNet(BasicBlock, [2, 2, 2, 2], num_classes, stem=stem)


def resnet34(num_classes: int = 10, stem: str = "cifar") -> ResNet:
    """ResNet-34."""
    return ResNet(BasicBlock, [3, 4, 6, 3], num_classes, stem=stem)


def resnet50(num_classes: int = 10, stem: str = "cifar") -> ResNet:
    """ResNet-50."""
    return ResNet(Bottleneck, [3, 4, 6, 3], num_classes, stem=stem)


def resnet101(num_classes: int = 10, stem: str = "cifar") -> ResNet:
    """ResNet-101."""
    return ResNet(Bottleneck, [3, 4, 23, 3], num_classes, stem=stem)


def resnet152(num_classes: int = 10, stem: str = "cifar") -> ResNet:
    """ResNet-152."""
    return ResNet(Bottleneck, [3, 8, 36, 3], num_classes, stem=stem)


def cifar_resnet(depth: int, num_classes: int = 10, width: int = 16) -> ResNet:
    """The narrow ResNets He et al. (2015, section 4.2) made for CIFAR-10: depth = 6n + 2.

    Three stages of n blocks, 16, 32 and 64 channels, option A shortcuts: ResNet-20, 32, 44, 56
    and 110 of the paper, 0.27 to 1.7 million parameters. Raises ValueError for another depth.
    """
    blocks, rest = divmod(depth - 2, 6)
    if rest or blocks < 1:
        raise ValueError(f"a CIFAR ResNet has depth 6n + 2 (8, 14, 20, …, 110), not {depth}")
    return ResNet(BasicBlock, [blocks] * 3, num_classes, width, shortcut="pad")
