"""Transfer: weights that are what they say, freezing that holds, features of the right network.

No test leaves the machine: "the network" is a small server on 127.0.0.1.
"""

import hashlib
import http.server
import io
import json
import socket
import threading
from types import SimpleNamespace

import pytest
import torch
import torchvision
from safetensors.torch import load_file, save_file
from torch import nn
from torch.optim import SGD

from cifar_utils import data, features, models, training, transfer, weights
from cifar_utils.features import FeatureCacheError
from cifar_utils.weights import WeightsError

ARCHITECTURE = {"block": "BasicBlock", "layers": [1, 1], "width": 4, "num_classes": 10}
SCALE = {"mean": data.CIFAR10_MEAN, "std": data.CIFAR10_STD}
ABOUT = {"architecture": ARCHITECTURE, "classes": list("abcdefghij"), "input_size": 32} | SCALE
ABOUT["results"] = "results/studies/backbone.jsonl"


def network(num_classes: int = 10, seed: int = 0) -> models.ResNet:
    torch.manual_seed(seed)
    return weights.build(ARCHITECTURE | {"num_classes": num_classes})


@pytest.fixture(scope="module")
def pictures() -> data.Split:
    return data.load("cifar10", stand_in=(60, 20)).train


def equal(a: nn.Module, b: nn.Module) -> bool:
    theirs = b.state_dict()
    return all(torch.equal(value, theirs[key]) for key, value in a.state_dict().items())


# --- Weights and their description --------------------------------------------------------------


def test_what_is_saved_comes_back(tmp_path):
    model = network()
    path = weights.save("small", model, ABOUT, tmp_path)
    loaded, about = weights.load("small", tmp_path)
    assert equal(model, loaded) and not loaded.training
    assert about == json.loads(json.dumps(ABOUT)) | {"sha256": about["sha256"]}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["small.json", path.name]


@pytest.mark.parametrize("name", ["resnet10_cifar10", "resnet10_wide_cifar10"])
def test_a_shipped_network_is_what_its_description_says(name):
    model, about = weights.load(name)
    path = weights.SHIPPED / f"{name}.safetensors"
    assert path.stat().st_size <= 3_000_000
    assert (about["mean"], about["std"]) == (list(data.CIFAR10_MEAN), list(data.CIFAR10_STD))
    assert len(about["classes"]) == model.fc.out_features == 10
    rows = (weights.SHIPPED.parent / about["results"]).read_text(encoding="utf-8").splitlines()
    assert about["test_accuracy"] in [json.loads(row).get("test_accuracy") for row in rows]


def test_pictures_are_held_out_by_what_they_are(pictures):
    train, val = weights.held_out(pictures, 20)
    assert (len(train), len(val)) == (40, 20)
    assert torch.equal(val.labels.bincount(), torch.full((10,), 2))
    order = torch.randperm(60, generator=torch.Generator().manual_seed(1))
    _, again = weights.held_out(pictures.subset(order), 20)

    def contents(split: data.Split) -> set[bytes]:
        return {image.numpy().tobytes() for image in split.images}

    assert contents(again) == contents(val)
    assert contents(train) | contents(val) == contents(pictures)
    assert not contents(train) & contents(val)


@pytest.mark.parametrize("n", [0, 60, -1])
def test_all_or_nothing_cannot_be_held_out(pictures, n):
    with pytest.raises(ValueError, match=f"between 1 and 59, got {n}"):
        weights.held_out(pictures, n)


def test_a_name_that_is_not_there_is_answered_with_those_that_are(tmp_path):
    with pytest.raises(WeightsError, match="resnet10_cifar10"):
        weights.load("resnet10_cifar100")
    with pytest.raises(WeightsError, match="there: none"):
        weights.load("small", tmp_path)


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


def test_damaged_tensors_are_refused(tmp_path):
    path = weights.save("small", network(), ABOUT, tmp_path)
    flip_a_bit(path)
    with pytest.raises(WeightsError, match="SHA-256 differs"):
        weights.load("small", tmp_path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(WeightsError, match="SHA-256 differs"):
        weights.load("small", tmp_path)
    with pytest.raises(WeightsError, match=r"not a safetensors file.*A pickle"):
        weights.read(path)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "cannot be read"),
        ("3", "does not say: architecture"),
        ("[]", "does not say: architecture"),
        (json.dumps({k: v for k, v in ABOUT.items() if k != "mean"}), "does not say: mean, sha256"),
        (json.dumps(ABOUT | {"sha256": "0", "classes": ["a", "b"]}), "its network has 10"),
        (json.dumps(ABOUT | {"sha256": "0", "classes": 10}), "its network has 10"),
    ],
)
def test_a_damaged_description_is_refused(tmp_path, text, says):
    weights.save("small", network(), ABOUT, tmp_path)
    (tmp_path / "small.json").write_text(text, encoding="utf-8")
    with pytest.raises(WeightsError, match=says):
        weights.load("small", tmp_path)


def test_tensors_without_a_description_are_refused(tmp_path):
    weights.save("small", network(), ABOUT, tmp_path)
    (tmp_path / "small.json").unlink()
    with pytest.raises(WeightsError, match=r"small\.json cannot be read"):
        weights.load("small", tmp_path)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ("resnet18", "dict of arguments"),
        ({"block": "Inception"}, "BasicBlock, Bottleneck"),
        ({"block": ["BasicBlock"]}, "BasicBlock, Bottleneck"),
        ({"block": "BasicBlock"}, "no ResNet can be built"),
        (ARCHITECTURE | {"depth": 3}, "no ResNet can be built"),
        (ARCHITECTURE | {"stem": "other"}, "no ResNet can be built"),
        (ARCHITECTURE | {"width": 10**6}, "from 1 to 1,000"),
        (ARCHITECTURE | {"num_classes": "10"}, "from 1 to 1,000"),
        (ARCHITECTURE | {"layers": [1] * 9}, "at most 8"),
        (ARCHITECTURE | {"layers": [[1]]}, "at most 8"),
        (ARCHITECTURE | {"layers": 3}, "no ResNet can be built"),
    ],
)
def test_an_architecture_that_cannot_be_built_is_refused(wrong, says):
    with pytest.raises(WeightsError, match=says):
        weights.build(wrong)


def refusal(model: nn.Module, state: dict) -> str:
    """What `fill` says; the model has to be as it was."""
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(WeightsError) as caught:
        weights.fill(model, state, "some.safetensors")
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    return str(caught.value)


def test_weights_with_another_number_of_classes_are_refused():
    said = refusal(network(100), network(10).state_dict())
    assert "10 classes, this network 100" in said and "replace_head" in said


def test_weights_of_another_architecture_are_refused_with_keys_and_shapes():
    wider = weights.build(ARCHITECTURE | {"width": 8}).state_dict()
    said = refusal(network(), wider)
    assert "conv1.weight has shape (8, 3, 3, 3), here (4, 3, 3, 3)" in said
    deeper = weights.build(ARCHITECTURE | {"layers": [1, 2]}).state_dict()
    said = refusal(network(), deeper)
    assert "left over: layer2.1.conv1.weight" in said and "more" in said
    said = refusal(weights.build(ARCHITECTURE | {"layers": [1, 2]}), network().state_dict())
    assert "missing: layer2.1.conv1.weight" in said


def test_the_prefix_of_data_parallel_is_named():
    state = {f"module.{key}": value for key, value in network().state_dict().items()}
    assert "Strip the prefix 'module.'" in refusal(network(), state)


# --- A new head ---------------------------------------------------------------------------------

CLASSIFIERS = """alexnet convnext_tiny densenet121 efficientnet_b0 googlenet
inception_v3 mnasnet0_5 mobilenet_v2 mobilenet_v3_small resnet34 shufflenet_v2_x0_5
squeezenet1_1 swin_t vgg11_bn vit_b_16""".split()


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_the_head_of_any_classifier_can_be_replaced(name):
    quiet = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    with torch.device("meta"):
        model = torchvision.models.get_model(name, **quiet).eval()
        head = transfer.replace_head(model, 7)
        side = 299 if name == "inception_v3" else 224
        assert model(torch.empty(2, 3, side, side)).shape == (2, 7)
    assert any(layer is head for layer in model.modules())
    transfer.freeze(model)
    head.requires_grad_(True)
    learning = [p for p in model.parameters() if p.requires_grad]
    assert len(learning) == 2 and all(p.shape[0] == 7 for p in learning)
    assert {p.device.type for p in model.parameters()} == {"meta"}


def test_a_head_keeps_its_kind():
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 5, bias=False))
    head = transfer.replace_head(model, 3)
    assert head.bias is None and model(torch.zeros(2, 3, 2, 2)).shape == (2, 3)


def test_a_network_without_a_head_is_refused():
    with pytest.raises(ValueError, match="Sequential has no linear layer and no convolution"):
        transfer.replace_head(nn.Sequential(nn.ReLU()), 3)


# --- Freezing -----------------------------------------------------------------------------------


def train_a_little(model: nn.Module, pictures: data.Split, parameters=None) -> None:
    """Two epochs of the package's own loop, decay and momentum on, every parameter in it."""
    batches = data.BatchLoader(pictures, 20, shuffle=True, **SCALE)
    parameters = list(model.parameters()) if parameters is None else parameters
    optimizer = SGD(parameters, lr=0.1, momentum=0.9, weight_decay=0.1)
    training.fit(model, batches, epochs=2, optimizer=optimizer, precision="fp32", log=None)


def changed(model: nn.Module, pictures: data.Split) -> set[str]:
    before = transfer.digests(model)
    train_a_little(model, pictures)
    after = transfer.digests(model)
    assert list(before) == list(after)
    return {name for name in before if before[name] != after[name]}


def test_without_gradients_alone_the_averages_move(pictures):
    model = network().requires_grad_(False)
    model.fc.requires_grad_(True)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    assert changed(model, pictures) == {"bn1", "layer1", "layer2", "fc"}
    moved = [key for key, value in model.state_dict().items() if not torch.equal(value, state[key])]
    assert all("running" in key or "tracked" in key or key.startswith("fc") for key in moved)


def test_what_is_frozen_does_not_move_in_fit(pictures):
    model = network()
    transfer.freeze(model)
    model.fc.requires_grad_(True)
    assert changed(model, pictures) == {"fc"}


def test_a_frozen_part_of_a_learning_network_does_not_move(pictures):
    model = network()
    for part in (model.conv1, model.bn1, model.layer1):
        transfer.freeze(part)
    assert changed(model, pictures) == {"layer2", "fc"}


def test_unfreeze_is_the_way_back(pictures):
    model = network()
    keys = list(model.state_dict())
    transfer.freeze(model)
    assert not model.train().bn1.training and model.training
    assert list(model.state_dict()) == keys
    transfer.unfreeze(model)
    assert model.train().bn1.training and type(model.bn1) is nn.BatchNorm2d
    assert changed(model, pictures) == set(transfer.digests(model))


def test_averages_alone_can_be_frozen(pictures):
    model = network()
    transfer.freeze_averages(model)
    scale, mean = model.bn1.weight.clone(), model.bn1.running_mean.clone()
    train_a_little(model, pictures)
    assert torch.equal(model.bn1.running_mean, mean) and not torch.equal(model.bn1.weight, scale)


def test_frozen_or_not_the_answer_is_the_same():
    model, images = network().eval(), torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        answer = model(images)
        transfer.freeze(model)
        assert torch.equal(model.train()(images), answer)


def test_digests_see_a_single_bit():
    model = network()
    before = transfer.digests(model)
    model.layer1[0].bn1.num_batches_tracked += 1
    with torch.no_grad():
        model.fc.bias.view(torch.int32)[0] ^= 1
    after = transfer.digests(model)
    assert {name for name in before if before[name] != after[name]} == {"layer1", "fc"}


def test_digests_do_not_depend_on_memory_layout_and_know_other_dtypes():
    model = network()
    before = transfer.digests(model)
    assert transfer.digests(model.to(memory_format=torch.channels_last)) == before
    assert transfer.digests(model.bfloat16()) != before


class Token(nn.Module):
    """A tensor that belongs to no child, as in a vision transformer."""

    def __init__(self):
        super().__init__()
        self.token = nn.Parameter(torch.zeros(3))
        self.head = nn.Linear(3, 2)


def test_a_tensor_of_the_network_itself_is_a_part_too():
    model = Token()
    before = transfer.digests(model)
    with torch.no_grad():
        model.token += 1
    assert transfer.digests(model)["token"] != before["token"]
    assert "token" in transfer.report(model)
    groups = transfer.parameter_groups(model, 1.0, 0.5)
    assert sum(len(group["params"]) for group in groups) == 3
    assert groups[-1]["params"][0] is model.token and groups[-1]["lr"] == 0.5


def test_the_report_says_what_learns_and_what_moves():
    model = network()
    transfer.freeze(model)
    transfer.unfreeze(model.layer2)
    transfer.unfreeze(model.layer1[0].bn1)
    lines = {line.split()[0]: line.split()[1:] for line in transfer.report(model).splitlines()}
    size = sum(p.numel() for p in model.layer2.parameters())
    assert lines["conv1"] == ["108", "0"]
    assert lines["bn1"] == ["8", "0", "still"]
    assert lines["layer1"][1:] == ["8", "1", "of", "2", "still"]
    assert lines["layer2"] == [f"{size:,}", f"{size:,}", "move"]
    assert lines["fc"] == ["90", "0"]


def test_groups_learn_slower_towards_the_picture():
    model = network()
    transfer.freeze(model.conv1)
    transfer.freeze(model.bn1)
    groups = transfer.parameter_groups(model, 0.8, 0.5)
    assert [group["lr"] for group in groups] == [0.8, 0.4, 0.2]
    assert [p.shape for p in groups[0]["params"]] == [(10, 8), (10,)]
    grouped = {id(p) for group in groups for p in group["params"]}
    assert grouped == {id(p) for p in model.parameters() if p.requires_grad}
    SGD(groups)


def test_nothing_left_to_learn_is_refused():
    model = network()
    transfer.freeze(model)
    with pytest.raises(ValueError, match="unfreeze a part"):
        transfer.parameter_groups(model, 0.1)


# --- Pretrained classifiers, from a server of our own -------------------------------------------


@pytest.fixture(scope="module")
def published() -> SimpleNamespace:
    """Random weights for SqueezeNet 1.1, as a file whose name ends in its digest."""
    model = torchvision.models.squeezenet1_1()
    torch.save(model.state_dict(), buffer := io.BytesIO())
    content = buffer.getvalue()
    name = f"squeezenet1_1-{hashlib.sha256(content).hexdigest()[:8]}.pth"
    return SimpleNamespace(model=model, content=content, name=name)


@pytest.fixture
def server(published, tmp_path, monkeypatch):
    """A place that serves `files`; torch's cache in an empty folder; torchvision's link to it."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            place.asked.append(self.path)
            content = place.files.get(self.path.lstrip("/"))
            self.send_response(200 if content is not None else 404)
            self.send_header("Content-Length", str(len(content or b"")))
            self.end_headers()
            self.wfile.write(content or b"")

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
        place = SimpleNamespace(asked=[], files={published.name: published.content})
        place.port = running.server_port
        place.cache = tmp_path / "torch home" / "hub" / "checkpoints"
        monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch home"))
        monkeypatch.delenv("TORCH_HUB", raising=False)
        monkeypatch.setattr(torch.hub, "_hub_dir", None)
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        entry = torchvision.models.SqueezeNet1_1_Weights.IMAGENET1K_V1
        url = f"http://127.0.0.1:{place.port}/{published.name}"
        monkeypatch.setattr(entry.value, "url", url)
        yield place
        running.shutdown()


def refused(place, match: str, **options) -> None:
    """`imagenet` says `match`, names no place on this machine and leaves nothing behind."""
    before = socket.getdefaulttimeout()
    there = sorted(place.cache.glob("*"))
    with pytest.raises(WeightsError, match=match) as caught:
        transfer.imagenet("squeezenet1_1", **options)
    assert str(place.cache.parents[2]) not in str(caught.value)
    assert sorted(place.cache.glob("*")) == there
    assert socket.getdefaulttimeout() == before


def test_weights_are_fetched_once_and_then_found(server, published, capfd):
    model, preset = transfer.imagenet("squeezenet1_1")
    assert equal(model, published.model)
    assert preset.crop_size == [224] and preset(torch.zeros(3, 300, 260)).shape == (3, 224, 224)
    assert f"Fetching {published.name}" in capfd.readouterr().out
    again, _ = transfer.imagenet("squeezenet1_1", "IMAGENET1K_V1", fetch=False)
    assert equal(again, published.model)
    assert server.asked == [f"/{published.name}"]
    assert [p.name for p in server.cache.iterdir()] == [published.name]
    assert capfd.readouterr() == ("", "")


def test_the_whole_road(server, pictures):
    model, preset = transfer.imagenet("squeezenet1_1")
    transfer.freeze(model)
    transfer.replace_head(model, 100)
    assert sum(p.requires_grad for p in model.parameters()) == 2
    model.classifier = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    some = pictures.subset(range(6))
    made = features.extract(model, some.images, mean=preset.mean, std=preset.std, size=64)
    assert made.shape == (6, 512)
    head = features.fit_head(made, some.labels, 10, decay=0.0)
    assert (head(made).argmax(1) == some.labels).all()


def test_bytes_that_are_not_the_published_ones_are_refused(server, published):
    server.files[published.name] = published.content[:-1] + b"?"
    refused(server, "could not be fetched.*hash")
    server.files[published.name] = published.content[: len(published.content) // 2]
    refused(server, "could not be fetched.*hash")


def test_a_file_that_is_gone_is_said(server):
    server.files.clear()
    refused(server, "404.*Put the file into a folder")


def test_a_folder_is_asked_before_the_network(server, published, tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / published.name).write_bytes(published.content)
    model, _ = transfer.imagenet("squeezenet1_1", folder=folder)
    assert equal(model, published.model) and not server.asked
    assert [p.name for p in server.cache.iterdir()] == [published.name]


def test_a_damaged_file_is_refused_wherever_it_lies(server, published, tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / published.name).write_bytes(published.content[:-1])
    refused(server, "is damaged.*Delete it", folder=folder)
    server.cache.mkdir(parents=True)
    (server.cache / published.name).write_bytes(b"")
    refused(server, "is damaged.*Delete it")
    assert not server.asked


def test_an_empty_folder_leaves_the_network(server, published, tmp_path):
    model, _ = transfer.imagenet("squeezenet1_1", folder=tmp_path)
    assert equal(model, published.model) and len(server.asked) == 1


def test_without_a_network_the_message_says_what_to_do(server, monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        entry = torchvision.models.SqueezeNet1_1_Weights.IMAGENET1K_V1
        url = entry.url.replace(str(server.port), str(free.getsockname()[1]))
        monkeypatch.setattr(entry.value, "url", url)
        refused(server, "could not be fetched.*TORCH_HOME")


def test_the_network_is_not_asked_where_it_should_not_be(server):
    refused(server, "not to be fetched", fetch=False)
    assert not server.asked


def test_a_silent_server_is_given_up(server, monkeypatch):
    monkeypatch.setattr(transfer, "PATIENCE", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        entry = torchvision.models.SqueezeNet1_1_Weights.IMAGENET1K_V1
        url = entry.url.replace(str(server.port), str(silent.getsockname()[1]))
        monkeypatch.setattr(entry.value, "url", url)
        refused(server, "could not be fetched.*timed out")


@pytest.mark.parametrize("name", ["resnet_34", "ResNet34", "reznet34"])
def test_an_unknown_backbone_is_answered_with_near_ones(name):
    with pytest.raises(ValueError, match=f"no classifier '{name}'.*resnet34"):
        transfer.imagenet(name)


def test_unknown_weights_are_answered_with_those_there_are():
    with pytest.raises(ValueError, match="IMAGENET1K_V1, IMAGENET1K_V2"):
        transfer.imagenet("resnet50", "IMAGENET1K_V3")


def test_every_published_file_carries_its_digest():
    for name in torchvision.models.list_models(module=torchvision.models):
        for entry in torchvision.models.get_model_weights(name):
            begins = entry.url.rpartition("-")[2].removesuffix(".pth")
            assert len(begins) >= 8 and int(begins, 16) >= 0, entry.url


# --- Features -----------------------------------------------------------------------------------


def body(seed: int = 0) -> nn.Module:
    model = network(seed=seed)
    model.fc = nn.Identity()
    return model


def test_features_are_what_the_network_makes_in_eval_mode(pictures):
    model = body().train()
    made = features.extract(model, pictures.images, **SCALE, batch_size=7)
    assert model.training
    with torch.no_grad():
        by_hand = model.eval()(data.normalize(pictures.images, **SCALE))
    assert made.shape == (60, 8) and made.dtype == torch.float32 and not made.requires_grad
    torch.testing.assert_close(made, by_hand)


def test_pictures_can_be_resized_on_the_way(pictures):
    seen = []
    model = body()
    model.conv1.register_forward_pre_hook(lambda layer, given: seen.append(given[0].shape))
    features.extract(model, pictures.images, **SCALE, size=48)
    assert seen == [(60, 3, 48, 48)]


@pytest.mark.parametrize(
    ("images", "says"),
    [
        (torch.zeros(2, 1, 32, 32, dtype=torch.uint8), r"\(2, 1, 32, 32\) uint8.*expand"),
        (torch.zeros(2, 32, 32, dtype=torch.uint8), r"\(2, 32, 32\) uint8"),
        (torch.zeros(2, 32, 32, 3, dtype=torch.uint8), r"\(2, 32, 32, 3\) uint8"),
        (torch.zeros(2, 3, 32, 32), r"\(2, 3, 32, 32\) float32"),
    ],
)
def test_other_pictures_are_refused(images, says):
    with pytest.raises(ValueError, match=says):
        features.extract(body(), images, **SCALE)


def test_the_advice_for_gray_pictures_works():
    gray = torch.zeros(2, 1, 32, 32, dtype=torch.uint8)
    assert features.extract(body(), gray.expand(-1, 3, -1, -1), **SCALE).shape == (2, 8)


def test_features_are_computed_once(pictures, tmp_path, monkeypatch):
    file = tmp_path / "new" / "some.safetensors"
    made = features.cached(file, body(), pictures.images, **SCALE)
    assert [p.name for p in file.parent.iterdir()] == [file.name]
    monkeypatch.setattr(features, "extract", lambda *_, **__: pytest.fail("computed again"))
    assert torch.equal(features.cached(file, body(), pictures.images, **SCALE), made)
    frozen = body()
    transfer.freeze(frozen)
    assert torch.equal(features.cached(file, frozen, pictures.images, **SCALE), made)


@pytest.mark.parametrize("what", ["network", "pictures", "options"])
def test_features_of_something_else_are_refused(pictures, tmp_path, what):
    file = tmp_path / "some.safetensors"
    made = features.cached(file, body(), pictures.images, **SCALE)
    cases = {
        "network": [(body(1), pictures.images, {}), (network(), pictures.images, {})],
        "pictures": [
            (body(), pictures.images[:-1], {}),
            (body(), pictures.images.flip(0), {}),
            (body(), pictures.images.reshape(60, 3, 16, 64), {}),
        ],
        "options": [
            (body(), pictures.images, {"size": 48}),
            (body(), pictures.images, {"mean": data.CIFAR100_MEAN}),
        ],
    }
    for model, images, options in cases[what]:
        with pytest.raises(FeatureCacheError, match=f"some.safetensors .*other {what}.*Delete"):
            features.cached(file, model, images, **SCALE | options)
    assert torch.equal(features.cached(file, body(), pictures.images, **SCALE), made)


def test_a_moved_average_is_another_network(pictures, tmp_path):
    file, model = tmp_path / "some.safetensors", body()
    features.cached(file, model, pictures.images, **SCALE)
    model.train()(data.normalize(pictures.images, **SCALE))
    with pytest.raises(FeatureCacheError, match="other network"):
        features.cached(file, model, pictures.images, **SCALE)


def test_a_file_that_holds_no_features_is_refused(pictures, tmp_path):
    file = tmp_path / "some.safetensors"
    save_file({"features": torch.zeros(60, 8)}, file)
    with pytest.raises(FeatureCacheError, match="other network: None"):
        features.cached(file, body(), pictures.images, **SCALE)
    file.write_bytes(b"no tensors here")
    with pytest.raises(WeightsError, match="not a safetensors file"):
        features.cached(file, body(), pictures.images, **SCALE)


def test_an_interrupted_write_leaves_nothing(pictures, tmp_path, monkeypatch):
    def interrupted(tensors, file, metadata):
        file.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(features, "save_file", interrupted)
    with pytest.raises(KeyboardInterrupt):
        features.cached(tmp_path / "some.safetensors", body(), pictures.images, **SCALE)
    assert not list(tmp_path.iterdir())


def test_features_are_stored_as_they_are(pictures, tmp_path):
    file = tmp_path / "some.safetensors"
    made = features.cached(file, body(), pictures.images, **SCALE)
    assert torch.equal(load_file(file)["features"], made)


# --- The head on features -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def clouds() -> tuple[torch.Tensor, torch.Tensor]:
    """Three overlapping clouds of points in four dimensions."""
    draw = torch.Generator().manual_seed(0)
    labels = torch.arange(90) % 3
    centers = torch.randn(3, 4, generator=draw)
    return centers[labels] + torch.randn(90, 4, generator=draw), labels


def test_the_head_is_at_the_minimum(clouds):
    points, labels = clouds
    head = features.fit_head(points, labels, 3, decay=1e-2).requires_grad_(True)
    loss = nn.functional.cross_entropy(head(points), labels)
    (loss + 1e-2 * head.weight.square().sum()).backward()
    assert head.weight.grad.abs().max() < 1e-3 and head.bias.grad.abs().max() < 1e-3


def test_the_head_does_not_depend_on_luck(clouds):
    points, labels = clouds
    torch.manual_seed(0)
    first = features.fit_head(points, labels, 3)
    torch.manual_seed(1)
    assert equal(first, features.fit_head(points, labels, 3))
    assert not any(p.requires_grad for p in first.parameters())


def test_decay_keeps_the_weights_small(clouds):
    norms = [features.fit_head(*clouds, 3, decay).weight.norm() for decay in (1e-3, 1e-2, 1e-1)]
    assert norms[0] > norms[1] > norms[2] > 0
