"""Networks as files for other programs: what onnxruntime answers, int8, and what is refused."""

import json
import platform
import sys

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import nn

from cifar_utils import export, models, weights

X86 = platform.machine().lower() in ("x86_64", "amd64")
ABOUT = {
    "architecture": {"block": "BasicBlock", "layers": [1, 1], "width": 8, "num_classes": 4},
    "classes": ["a", "b", "c", "d"],
    "mean": [0.5] * 3,
    "std": [0.25] * 3,
    "input_size": 16,
    "results": "nowhere",
    "test_accuracy": 0.5,
}


def network() -> nn.Module:
    """A small ResNet, its BatchNorm statistics and scales as various as after training."""
    torch.manual_seed(0)
    model = weights.build(ABOUT["architecture"])
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.normal_(module.bias, std=0.2)
            nn.init.normal_(module.running_mean, std=0.2)
            nn.init.uniform_(module.running_var, 0.5, 2)
    return model.train()


def pictures(n: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(n, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """`net.onnx`, exported from a network in train mode, and `net_int8.onnx`."""
    folder = tmp_path_factory.mktemp("exported")
    model = network()
    export.to_onnx(model, ABOUT, folder / "net.onnx")
    assert model.training and all(module.training for module in model.modules())
    export.quantize_static(folder / "net.onnx", pictures(64), folder / "net_int8.onnx")
    return folder


@pytest.fixture
def pair(folder, tmp_path):
    """A copy of both files that a test may spoil: (net.onnx, net.json)."""
    for name in ("net.onnx", "net.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    return tmp_path / "net.onnx", tmp_path / "net.json"


# --- ONNX ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 7])
def test_onnxruntime_answers_as_the_network_does_at_any_batch_size(folder, n):
    opened, about = export.session(folder / "net.onnx", threads=1)
    model = network().eval()
    with torch.no_grad():
        expected = model(pictures(n))
    got = export.answers(opened, pictures(n), size=3)
    assert got.shape == (n, 4) and got.dtype == torch.float32
    torch.testing.assert_close(got, expected, atol=export.AGREE, rtol=export.AGREE)
    assert about["format"] == "onnx" and about["test_accuracy"] == 0.5
    assert about.items() >= ABOUT.items()


def test_nothing_else_is_left_and_no_place_is_named(folder):
    names = {path.name for path in folder.iterdir()}
    assert names == {"net.onnx", "net.json", "net_int8.onnx", "net_int8.json"}
    for name in names:
        content = (folder / name).read_bytes()
        for place in (str(weights.SHIPPED.parent), sys.prefix, str(folder)):
            assert place.encode() not in content


def test_a_network_of_which_export_makes_another_is_refused(tmp_path):
    class TwoFaced(nn.Module):
        """Answers otherwise while it is traced."""

        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(3, 4)

        def forward(self, x):
            return self.fc(x.mean((2, 3))) + (1 if torch.compiler.is_compiling() else 0)

    with pytest.raises(weights.WeightsError, match=r"net\.onnx: onnxruntime and the network"):
        export.to_onnx(TwoFaced(), ABOUT, tmp_path / "net.onnx")
    assert not list(tmp_path.iterdir())


def test_a_description_that_is_not_whole_is_refused_before_anything_is_written(tmp_path):
    about = {key: value for key, value in ABOUT.items() if key != "classes"}
    with pytest.raises(weights.WeightsError, match="does not say: classes"):
        export.to_onnx(network(), about, tmp_path / "net.onnx")
    assert not list(tmp_path.iterdir())


# --- int8 ---------------------------------------------------------------------------------------


def test_every_convolution_computes_in_integers(folder):
    model = network()
    total = sum(isinstance(module, nn.Conv2d) for module in model.modules())
    assert export.convolutions(folder / "net.onnx") == (0, total)
    assert export.convolutions(folder / "net_int8.onnx") == (total, total)


def test_int8_is_close_and_smaller_and_says_what_it_is(folder):
    opened, about = export.session(folder / "net_int8.onnx")
    model = network().eval()
    with torch.no_grad():
        expected = model(pictures(200, seed=2))
    got = export.answers(opened, pictures(200, seed=2))
    apart = (got - expected).abs().mean() / expected.std()
    assert apart < 0.1
    assert "test_accuracy" not in about
    made_from = json.loads((folder / "net.json").read_text())["sha256"]
    assert about["quantized"] == {
        "pictures": 64,
        "per_channel": True,
        "signed": False,
        "reduce_range": export.lacks_vnni(),
        "made_from": made_from,
    }


@pytest.mark.skipif(not X86, reason="onnxruntime treats signed activations so on x86 only")
def test_signed_activations_leave_convolutions_around_a_shortcut_in_floats(folder, tmp_path):
    export.quantize_static(folder / "net.onnx", pictures(8), tmp_path / "signed.onnx", signed=True)
    done, total = export.convolutions(tmp_path / "signed.onnx")
    assert 0 < done < total


@pytest.mark.parametrize(
    "images",
    [
        torch.zeros(4, 3, 16, 16, dtype=torch.uint8),
        torch.zeros(4, 3, 32, 32),
        torch.zeros(0, 3, 16, 16),
        torch.zeros(3, 16, 16),
    ],
    ids=["bytes", "size", "none", "one picture"],
)
def test_calibration_pictures_of_another_kind_are_refused(folder, tmp_path, images):
    with pytest.raises(ValueError, match="float32, normalized"):
        export.quantize_static(folder / "net.onnx", images, tmp_path / "q.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("machine", "known", "lacks"),
    [
        ("x86_64", {"avx512_vnni": True}, False),
        ("AMD64", {"avx_vnni": True, "avx512_vnni": False}, False),
        ("x86_64", {"avx512_vnni": False}, True),
        ("x86_64", {}, True),
        ("arm64", {}, False),
        ("aarch64", {}, False),
    ],
)
def test_range_is_reduced_where_products_could_overflow(monkeypatch, machine, known, lacks):
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: known, raising=False)
    assert export.lacks_vnni() is lacks


# --- What a session refuses ---------------------------------------------------------------------


def refused(path, match):
    with pytest.raises(weights.WeightsError, match=match):
        export.session(path)


def test_another_file_than_the_one_described_is_refused(pair):
    path, _ = pair
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    refused(path, r"net\.onnx is not the file that net\.json describes: its SHA-256 differs")


@pytest.mark.parametrize("missing", [0, 1])
def test_a_missing_half_is_named(pair, missing):
    pair[missing].unlink()
    refused(pair[0], f"no {pair[missing].name} in ")


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("{", "cannot be read"),
        ("[]", "does not say: format, sha256, classes"),
        ('{"format": "onnx"}', "does not say: sha256, classes, mean, std, input_size"),
    ],
)
def test_a_description_that_is_none_is_refused(pair, text, match):
    pair[1].write_text(text)
    refused(pair[0], match)


def described(path, **changes):
    """Change a description, and make its digest right again."""
    import hashlib

    about = json.loads(path.with_suffix(".json").read_text())
    about |= {"sha256": hashlib.sha256(path.read_bytes()).hexdigest()} | changes
    path.with_suffix(".json").write_text(json.dumps(about))


def test_a_description_of_another_model_is_refused(pair):
    described(pair[0], classes=["a", "b", "c"])
    refused(pair[0], r"its description wants 'images' \(N, 3, 16, 16\) and 'logits' \(N, 3\)")
    described(pair[0], classes=ABOUT["classes"], input_size=32)
    refused(pair[0], r"\(N, 3, 32, 32\)")
    described(pair[0], input_size=16, format="safetensors")
    refused(pair[0], "describes 'safetensors', not 'onnx'")


@pytest.mark.parametrize("content", [b"", b"\x00" * 100, b"<html>no</html>"])
def test_what_is_no_model_is_refused(pair, content):
    pair[0].write_bytes(content)
    described(pair[0])
    refused(pair[0], r"net\.onnx is not a model onnxruntime runs")


def test_a_model_with_other_inputs_is_refused(pair):
    put = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])
    got = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [put], [got])
    opset = [helper.make_opsetid("", 20)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), pair[0])
    described(pair[0])
    refused(pair[0], r"takes \[\('x', 'tensor\(float\)', 4\)\]")


# --- The program --------------------------------------------------------------------------------


@pytest.fixture
def shipped(tmp_path, monkeypatch):
    """A folder of shipped networks that holds one, for CIFAR-10 pictures."""
    about = ABOUT | {
        "input_size": 32,
        "classes": list("abcdefghij"),
        "dataset": {"name": "cifar10"},
    }
    about["architecture"] = ABOUT["architecture"] | {"num_classes": 10}
    model = models.ResNet(models.BasicBlock, [1, 1], 10, width=8)
    weights.save("tiny", model, about, tmp_path / "weights")
    load = weights.load
    monkeypatch.setattr(weights, "load", lambda name: load(name, tmp_path / "weights"))
    monkeypatch.setenv("CIFAR_BUDGET", "smoke")
    return tmp_path


def test_the_program_writes_both_pairs(shipped, capsys):
    from apps import export as program

    out = shipped / "out"
    assert program.main(["tiny", "--out", str(out), "--int8", "--pictures", "20"]) == 0
    said = capsys.readouterr().out
    assert "tiny.onnx: " in said and "6 of 6 convolutions" in said and "→" in said
    names = {path.name for path in out.iterdir()}
    assert names == {"tiny.onnx", "tiny.json", "tiny_int8.onnx", "tiny_int8.json"}
    for name in ("tiny", "tiny_int8"):
        opened, about = export.session(out / f"{name}.onnx")
        images = np.zeros((3, 3, 32, 32), np.float32)
        assert opened.run(["logits"], {"images": images})[0].shape == (3, len(about["classes"]))


def test_the_program_says_in_one_line_why_not(shipped, capsys):
    from apps import export as program

    assert program.main(["nothing", "--out", str(shipped / "out")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("export: no weights 'nothing'") and error.count("\n") == 1
    arguments = ["tiny", "--out", str(shipped / "out"), "--int8", "--pictures", "5000"]
    assert program.main(arguments) == 2
    assert "--pictures is between 1 and 99" in capsys.readouterr().err
