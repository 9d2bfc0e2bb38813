"""The fast recipe and Muon: each part against an independent way to the same, and the whole."""

import dataclasses
import itertools

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from apps import fast as program
from cifar_utils import data, fast
from cifar_utils.muon import Muon, orthogonalize

SCALE = fast.SCALES["cifar10"]
SMALL = fast.Recipe(phases=((16, 2), (20, 1.5), (32, 1)), widths=(24, 32, 64), batch_size=50)


@pytest.fixture(scope="module")
def pictures() -> data.Dataset:
    return data.load("cifar10", stand_in=(500, 200))


@pytest.fixture(scope="module")
def some(pictures) -> torch.Tensor:
    return data.normalize(pictures.train.images, **SCALE)


@pytest.fixture
def model(some) -> fast.FastNet:
    torch.manual_seed(0)
    return fast.FastNet(10, SMALL.widths, some)


# --- Muon -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(6, 20), (20, 6), (8, 8)])
@pytest.mark.parametrize("steps", [1, 3, 5])
def test_orthogonalize_is_the_polynomial_on_singular_values(shape, steps):
    matrix = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    values = values / (values.norm() + 1e-7)
    for _ in range(steps):
        values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
    assert torch.allclose(orthogonalize(matrix, steps), left @ values.diag() @ right, atol=1e-12)


def test_muon_steps_as_torch_does():
    """torch.optim.Muon takes matrices, computes in bf16, and leaves the weights their norm."""
    torch.manual_seed(0)
    filters = nn.Parameter(torch.randn(16, 4, 3, 3))
    matrix = nn.Parameter(filters.detach().flatten(1).clone())
    ours = Muon([filters], lr=0.1, momentum=0.6)
    options = {"lr": 0.1, "momentum": 0.6, "weight_decay": 0.0, "ns_steps": 3}
    theirs = torch.optim.Muon([matrix], **options)
    for _ in range(4):
        filters.grad = torch.randn_like(filters)
        matrix.grad = filters.grad.flatten(1)
        with torch.no_grad():
            matrix.mul_(16**0.5 / matrix.norm())
        before = matrix.detach().clone()
        ours.step()
        theirs.step()
        apart = (filters.detach().flatten(1) - matrix.detach()).norm()
        assert apart < 0.02 * (matrix.detach() - before).norm()


# --- Parts ----------------------------------------------------------------------------------------


def test_whitening_makes_patches_white(some):
    filters = fast.whitening_filters(some, floor=0.0)
    assert filters.shape == (24, 3, 2, 2) and torch.equal(filters[:12], -filters[12:])
    values = F.conv2d(some, filters[:12]).transpose(0, 1).flatten(1)
    assert torch.allclose(values @ values.T / values.shape[1], torch.eye(12), atol=1e-2)


@pytest.mark.parametrize("side", [1, 3])
@pytest.mark.parametrize(("channels_in", "channels"), [(24, 64), (32, 32), (32, 16)])
def test_a_convolution_starts_as_the_identity(channels_in, channels, side):
    maps = torch.randn(2, channels_in, 7, 7)
    out, passed = fast.identity_conv(channels_in, channels, side)(maps), min(channels_in, channels)
    assert out.shape == (2, channels, 7, 7) and torch.equal(out[:, :passed], maps[:, :passed])


@pytest.mark.parametrize("side", [2, 3])
def test_each_group_starts_as_the_identity_before_its_pool(side):
    maps, before = torch.randn(2, 24, 7, 7), []
    group = fast.Group(24, 64, side)
    pool = next(m for m in group.down if isinstance(m, torch.nn.MaxPool2d))
    pool.register_forward_hook(lambda module, given, out: before.append(given[0]))
    group(maps)
    lost = 3 - side  # a 2×2 filter passes the lower right of its four pixels on
    assert torch.equal(before[0][:, :24], maps[:, :, lost:, lost:])


@pytest.mark.parametrize("pixels", [4, 5, 7])
def test_the_last_group_sees_every_pixel(pixels):
    maps = torch.randn(20, 24, pixels, pixels, requires_grad=True)
    fast.Group(24, 64, 2).down(maps).square().sum().backward()
    assert (maps.grad.abs().amax((0, 1)) > 0).all()


@pytest.mark.parametrize("side", [16, 20, 24, 32])
def test_the_network_takes_pictures_of_any_of_the_sizes(model, side):
    assert model(torch.randn(5, 3, side, side)).shape == (5, 10)


def test_every_weight_that_learns_has_one_optimizer(model):
    learning = {id(p) for p in model.parameters() if p.requires_grad}
    held = [
        p for o in fast.optimizers_for(model, SMALL) for g in o.param_groups for p in g["params"]
    ]
    assert {id(p) for p in held} == learning and len(held) == len(learning)
    fixed = [name for name, p in model.named_parameters() if not p.requires_grad]
    assert fixed == ["whiten.weight"]


def test_shrink_keeps_what_a_picture_shows(pictures):
    images = pictures.train.images[:20]
    assert fast.shrink(images, 32) is images
    small = fast.shrink(images, 16)
    assert small.shape == (20, 3, 16, 16) and small.dtype == torch.uint8
    blocks = F.avg_pool2d(images.float(), 2)
    assert (small.float() - blocks).abs().mean() < 12  # the filter reaches a little beyond
    assert (small.float().mean((2, 3)) - images.float().mean((2, 3))).abs().max() < 4
    plain = torch.full((2, 3, 32, 32), 77, dtype=torch.uint8)
    assert (fast.shrink(plain, 20) == 77).all()


def epochs_of(alternate: bool, epochs: int = 4, seed: int = 0) -> list[tuple]:
    endless = fast.draws(23, 5, torch.Generator().manual_seed(seed), alternate)
    batches = list(itertools.islice(endless, 4 * epochs))
    return [
        tuple(torch.cat(part) for part in zip(*batches[4 * e : 4 * e + 4], strict=True))
        for e in range(epochs)
    ]


def turns_of(epochs: list[tuple]) -> dict[int, set]:
    """Of each picture its sides, those of every other epoch negated."""
    sides: dict[int, set] = {}
    for epoch, (pick, mirrored) in enumerate(epochs):
        for i, side in zip(pick.tolist(), mirrored.tolist(), strict=True):
            sides.setdefault(i, set()).add(side ^ (epoch % 2 == 1))
    return sides


def test_an_epoch_draws_each_picture_once_and_a_side_in_turns():
    epochs = epochs_of(alternate=True)
    assert all(len(set(pick.tolist())) == len(pick) == 20 for pick, _ in epochs)
    sides = turns_of(epochs)
    assert len(sides) == 23 and all(len(turns) == 1 for turns in sides.values())
    assert set.union(*sides.values()) == {False, True}


def test_draws_repeat_with_their_seed_alone_and_coins_are_tossed_anew():
    first, again, other = epochs_of(True), epochs_of(True), epochs_of(True, seed=1)
    assert str(first) == str(again) != str(other)
    tossed = turns_of(epochs_of(alternate=False))
    assert any(len(turns) == 2 for turns in tossed.values())


def test_views_are_averaged_as_they_say(model, some):
    model.eval()
    images = some[:7]

    def alone(view):
        return model(view) / 2 + model(view.flip(3)) / 2

    with torch.no_grad():
        around = F.pad(images, (1, 1, 1, 1), mode="reflect")
        up, down = around[:, :, :-2, :-2], around[:, :, 2:, 2:]
        six = alone(images) / 2 + alone(up) / 4 + alone(down) / 4
        for views, wanted in ((1, model(images)), (2, alone(images)), (6, six)):
            assert torch.allclose(fast.answers(model, images, views), wanted, atol=1e-5)
    assert not torch.allclose(fast.answers(model, images, 6), fast.answers(model, images, 2))


# --- The whole ------------------------------------------------------------------------------------


def trained(pictures, recipe=SMALL, seed=0, **options):
    quiet = {"precision": "fp32", "log": lambda line: None}
    return fast.learn(pictures, recipe, seed, "cpu", **quiet | options)


def test_training_follows_its_plan(pictures, monkeypatch):
    sizes, rates, held = [], [], []
    forward, parts = fast.FastNet.forward, fast.optimizers_for

    def watched(self, images):
        if self.training:
            sizes.append(images.shape[-1])
            rates.append([g["lr"] for o in held[0] for g in o.param_groups])
        return forward(self, images)

    def kept(model, recipe):
        held.append(parts(model, recipe))
        return held[0]

    monkeypatch.setattr(fast.FastNet, "forward", watched)
    monkeypatch.setattr(fast, "optimizers_for", kept)
    steps: list[int] = []
    trained(pictures, after_step=steps.append)
    assert sizes == [16] * 20 + [20] * 15 + [32] * 10
    assert steps == list(range(1, 46))
    peaks = (SMALL.filter_rate, SMALL.rate, SMALL.rate)  # filters; norms and biases; head
    for found, peak in zip(zip(*rates, strict=True), peaks, strict=True):
        rising = [peak * step / 45 * 4 for step in range(12)]
        falling = [peak * (1 - step / 45) / 0.75 for step in range(12, 45)]
        assert found == pytest.approx(rising + falling)


def test_training_learns_and_repeats_itself(pictures, some):
    longer = dataclasses.replace(SMALL, phases=((16, 8), (32, 4)))
    right = fast.answers(trained(pictures, longer), some).argmax(1) == pictures.train.labels
    assert right.float().mean() > 0.4  # a tenth by chance
    model = trained(pictures)
    again, other = trained(pictures), trained(pictures, seed=1)
    assert torch.equal(model.head.weight, again.head.weight)
    assert not torch.equal(model.head.weight, other.head.weight)
    assert torch.equal(model.whiten.weight, fast.whitening_filters(some))


def test_the_program_says_what_it_reaches_and_which_recipes_there_are(
    pictures, monkeypatch, capsys
):
    monkeypatch.setattr(data, "load", lambda name: pictures)
    short = {("cifar10", "full"): dataclasses.replace(SMALL, phases=((16, 1),))}
    monkeypatch.setattr(fast, "RECIPES", short)
    monkeypatch.setattr("sys.argv", ["apps.fast", "cifar10", "--seeds", "2"])
    program.main()
    said = capsys.readouterr().out
    assert said.count("6 views: test accuracy") == 2 and "seed 1" in said
    monkeypatch.setattr("sys.argv", ["apps.fast", "cifar10", "--recipe", "quik"])
    with pytest.raises(SystemExit):
        program.main()
    assert "no recipe 'quik', only: full" in capsys.readouterr().err


# --- The studies ----------------------------------------------------------------------------------


@pytest.fixture
def studies(monkeypatch):
    monkeypatch.syspath_prepend(str(program.runs.ROOT / "studies"))
    import airbench94
    import ladder

    return airbench94, ladder


def test_the_peer_has_six_convolutions_that_learn_and_fixed_scales(studies, some):
    model = studies[0].PlainNet(10, (24, 32, 32), some)
    assert model(some[:5]).shape == (5, 10)
    fixed = {name.split(".")[-1] for name, p in model.named_parameters() if not p.requires_grad}
    scales = [m.weight for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert fixed == {"weight"} and len(scales) == 6
    assert not any(scale.requires_grad for scale in scales)
    filters = [p for p in model.parameters() if p.requires_grad and p.ndim == 4]
    assert len(filters) == 6
    groups = studies[0].optimizer_for(model, 1024).param_groups
    assert groups[0]["lr"] == pytest.approx(64 * groups[1]["lr"]) and len(groups[0]["params"]) == 6


def test_the_peer_s_rate_is_a_triangle(studies):
    triangle = studies[0].triangle
    assert [triangle(x) for x in (0, 0.23, 1)] == pytest.approx([0.2, 1, 0.07])
    assert triangle(0.115) == pytest.approx(0.6)


def test_lookahead_moves_slow_weights_and_ends_on_them(studies, model):
    bias = model.whiten.bias
    slow = studies[0].Lookahead(model)
    with torch.no_grad():
        bias.fill_(1.0)
        slow.follow(3, 20)
        assert (bias == 1).all()  # only every five steps
        slow.follow(10, 20)
        set_back = bias.clone()
        assert torch.allclose(bias, torch.full_like(bias, 1 - 0.95**5 / 8))
        bias.fill_(2.0)
        slow.follow(20, 20)
    assert torch.equal(bias, set_back)  # the slow weights are what training leaves


def test_each_row_of_the_ladder_changes_what_it_says(studies, some):
    _, ladder = studies

    def set_up(change):
        recipe = dataclasses.replace(ladder.RECIPE, widths=SMALL.widths, **ladder.CHANGES[change])
        torch.manual_seed(0)
        model = fast.FastNet(10, recipe.widths, some)
        ladder.change_network(model, change)
        optimizers = ladder.optimizers_for(model, recipe, change)
        groups = [
            (type(o).__name__, {k: v for k, v in g.items() if k != "params"}, len(g["params"]))
            for o in optimizers
            for g in o.param_groups
        ]
        weights = {name: value.sum().item() for name, value in model.state_dict().items()}
        shape = dataclasses.replace(recipe, schedule=None)
        return shape, recipe.schedule(0.5), weights, groups, str(model)

    plain = set_up("recipe")
    for change in ladder.CHANGES:
        outside = change in ("recipe", "lookahead")  # lookahead acts after each step
        assert (set_up(change) == plain) == outside, change
