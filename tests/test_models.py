"""The networks: sizes, shapes, and the same answers as torchvision's with the same weights."""

import pytest
import torch
import torchinfo
import torchvision
from torch import nn

from cifar_utils import models

DEPTHS = (18, 34, 50, 101, 152)
# torchvision publishes the sizes for 1000 classes and the 7×7 stem; He et al. (2015, table 6)
# round theirs to 0.27, 0.46, 0.66, 0.85 and 1.7 million.
SIZES = {18: 11_173_962, 34: 21_282_122, 50: 23_520_842, 101: 42_512_970, 152: 58_156_618}
CIFAR_SIZES = {20: 269_722, 32: 464_154, 44: 658_586, 56: 853_018, 110: 1_727_962}


def size(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def on_paper(make, *args, **options) -> nn.Module:
    """A network of shapes only: nothing is allocated or drawn."""
    with torch.device("meta"):
        return make(*args, **options)


# --- Sizes --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("depth", "parameters"), SIZES.items())
def test_resnets_have_the_known_sizes(depth, parameters):
    assert size(on_paper(getattr(models, f"resnet{depth}"))) == parameters


@pytest.mark.parametrize("depth", [18, 50])
def test_with_the_imagenet_stem_they_have_the_published_sizes(depth):
    ours = on_paper(getattr(models, f"resnet{depth}"), num_classes=1000, stem="imagenet")
    assert size(ours) == size(on_paper(getattr(torchvision.models, f"resnet{depth}")))


@pytest.mark.parametrize(("depth", "parameters"), CIFAR_SIZES.items())
def test_cifar_resnets_have_the_known_sizes(depth, parameters):
    model = on_paper(models.cifar_resnet, depth)
    assert size(model) == parameters
    weighted = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert len(weighted) == depth  # the paper counts layers with weights


def test_the_small_cnn_has_the_known_size():
    assert size(on_paper(models.SimpleCNN)) == 62_006


@pytest.mark.parametrize("depth", [2, 18, 21, -4])
def test_a_depth_that_cannot_be_is_refused(depth):
    with pytest.raises(ValueError, match=rf"6n \+ 2 .* not {depth}"):
        models.cifar_resnet(depth)


@pytest.mark.parametrize("options", [{"stem": "caffe"}, {"shortcut": "none"}])
def test_a_word_that_means_nothing_is_refused(options):
    with pytest.raises(ValueError, match=next(iter(options.values()))):
        models.ResNet(models.BasicBlock, [1, 1, 1], **options)


# --- Shapes -------------------------------------------------------------------------------------


def stage_shapes(model: nn.Module, images: torch.Tensor) -> list[tuple[int, ...]]:
    shapes = []
    for name in model.stages:
        layer = model.get_submodule(name)
        layer.register_forward_hook(lambda _, __, out: shapes.append(tuple(out.shape[1:])))
    model(images)
    return shapes


@pytest.mark.parametrize(
    ("make", "options", "shapes"),
    [
        (models.resnet18, {}, [(64, 32, 32), (128, 16, 16), (256, 8, 8), (512, 4, 4)]),
        (models.resnet50, {}, [(256, 32, 32), (512, 16, 16), (1024, 8, 8), (2048, 4, 4)]),
        (
            models.resnet18,
            {"stem": "imagenet"},
            [(64, 8, 8), (128, 4, 4), (256, 2, 2), (512, 1, 1)],
        ),
        (models.cifar_resnet, {"depth": 20}, [(16, 32, 32), (32, 16, 16), (64, 8, 8)]),
    ],
)
def test_stages_have_the_shapes_of_the_paper(make, options, shapes):
    images = torch.empty(2, 3, 32, 32, device="meta")
    assert stage_shapes(on_paper(make, **options), images) == shapes


@pytest.mark.parametrize("make", [models.SimpleCNN, models.resnet18, models.resnet50])
def test_there_is_a_logit_for_every_class(make):
    images = torch.empty(2, 3, 32, 32, device="meta")
    assert on_paper(make, num_classes=100)(images).shape == (2, 100)


def test_torchinfo_sums_up_a_resnet():
    found = torchinfo.summary(models.resnet18(), (2, 3, 32, 32), verbose=0, device="cpu")
    assert found.total_params == SIZES[18]
    stages = {i.var_name: i.output_size for i in found.summary_list if i.depth == 1}
    assert stages["layer1"] == [2, 64, 32, 32]
    assert stages["layer4"] == [2, 512, 4, 4]


# --- The same answers as torchvision's ----------------------------------------------------------


def settle(model: nn.Module, images: torch.Tensor) -> None:
    """Give BatchNorm weights of its own and the statistics of `images`, so that it has a say."""
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
            module.weight.data.uniform_(0.5, 1.5, generator=generator)
            module.bias.data.uniform_(-0.2, 0.2, generator=generator)
    with torch.no_grad():
        model.train()(images)
    model.eval()


def torchvision_twin(model: models.ResNet, depth: int, stem: str) -> nn.Module:
    """torchvision's network with the weights of `model`, every one of them by its name."""
    theirs = on_paper(getattr(torchvision.models, f"resnet{depth}"), num_classes=10)
    if stem == "cifar":
        theirs.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False, device="meta")
        theirs.maxpool = nn.Identity()
    theirs.load_state_dict(model.state_dict(), strict=True, assign=True)
    return theirs.eval()


def distance(depth: int, stem: str, pixels: int) -> tuple[float, float]:
    """Largest difference of logits to torchvision's, and the largest logit, for 2 pictures."""
    torch.manual_seed(depth)
    model = getattr(models, f"resnet{depth}")(stem=stem)
    images = torch.randn(2, 3, pixels, pixels)
    settle(model, images)
    theirs = torchvision_twin(model, depth, stem)
    with torch.inference_mode():
        images = torch.randn(2, 3, pixels, pixels)
        ours, theirs = model(images), theirs(images)
    return (ours - theirs).abs().max().item(), ours.abs().max().item()


@pytest.mark.parametrize("depth", DEPTHS)
def test_logits_equal_torchvisions(depth):
    error, largest = distance(depth, "cifar", 32)
    assert error < 1e-5
    assert 0.1 < largest < 1000  # what is compared is neither nothing nor overflowing


@pytest.mark.parametrize("depth", [18, 50])
def test_logits_equal_torchvisions_with_its_own_stem(depth):
    error, largest = distance(depth, "imagenet", 64)
    assert error < 1e-5
    assert 0.1 < largest < 1000


def test_weights_that_differ_are_seen():
    torch.manual_seed(0)
    model, images = models.resnet18(stem="imagenet"), torch.randn(2, 3, 64, 64)
    settle(model, images)
    theirs = torchvision_twin(model, 18, "imagenet")
    theirs.layer3[0].downsample[0].weight = nn.Parameter(
        theirs.layer3[0].downsample[0].weight * 1.001
    )
    with torch.inference_mode():
        assert (model(images) - theirs(images)).abs().max() > 1e-5


# --- Blocks -------------------------------------------------------------------------------------


def test_the_pad_shortcut_takes_every_second_pixel_and_adds_zeros():
    x = torch.arange(2 * 3 * 4 * 4.0).view(2, 3, 4, 4)
    out = models.PadShortcut(2, 5)(x)
    assert out.shape == (2, 8, 2, 2)
    for n, c, i, j in [(0, 0, 0, 0), (1, 2, 1, 1), (0, 1, 1, 0)]:
        assert out[n, c, i, j] == x[n, c, 2 * i, 2 * j]
    assert not out[:, 3:].any()
    assert not list(models.PadShortcut(2, 5).parameters())


@pytest.mark.parametrize("block", [models.BasicBlock, models.Bottleneck])
def test_a_block_whose_last_batchnorm_is_zero_is_its_shortcut(block):
    stage = models.make_stage(block, 8, 4, 2, stride=1, shortcut="projection")
    block = stage[1].eval()
    last = [m for m in block.modules() if isinstance(m, nn.BatchNorm2d)][-1]
    nn.init.zeros_(last.weight)
    x = torch.rand(2, 4 * block.expansion, 6, 6)
    assert block.downsample is None
    assert torch.equal(block(x), x)


def test_only_the_first_block_of_a_stage_changes_the_shape():
    for shortcut, kind in [("pad", models.PadShortcut), ("projection", nn.Sequential)]:
        stage = models.make_stage(models.BasicBlock, 8, 16, 3, stride=2, shortcut=shortcut)
        assert isinstance(stage[0].downsample, kind)
        assert [b.downsample for b in stage[1:]] == [None, None]


def test_convolutions_start_as_he_et_al_say():
    torch.manual_seed(0)
    conv = models.resnet18().layer3[1].conv1.weight
    assert conv.std().item() == pytest.approx((2 / (256 * 9)) ** 0.5, rel=0.01)


def test_channels_last_gives_the_same_answers():
    torch.manual_seed(0)
    model, images = models.cifar_resnet(20).eval(), torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        plain = model(images)
        fast = model.to(memory_format=torch.channels_last)(
            images.to(memory_format=torch.channels_last)
        )
    torch.testing.assert_close(plain, fast, rtol=1e-4, atol=1e-5)
