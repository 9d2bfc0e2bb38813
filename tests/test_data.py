"""Finding, fetching and proving data, on small sets made here; no network but this machine."""

import dataclasses
import functools
import hashlib
import http.server
import io
import os
import pickle
import re
import shutil
import tarfile
import threading
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from cifar_utils import catalog, data, fetch, proofs, sources, standin
from cifar_utils.formats import read_pickle


def png(pixels, kind="PNG"):
    file = io.BytesIO()
    Image.fromarray(pixels.transpose(1, 2, 0)).save(file, kind, lossless=True)
    return {"bytes": file.getvalue(), "path": None}


def write_shards(folder, part, arrays, spec, shards=1, kind="PNG"):
    folder.mkdir(parents=True, exist_ok=True)
    images, labels, coarse = arrays
    for i, rows in enumerate(np.array_split(np.arange(len(labels)), shards)):
        table = {"img": [png(images[row], kind) for row in rows], spec.label: labels[rows]}
        if spec.coarse:
            table[spec.coarse] = coarse[rows]
        name = f"{part}-{i:05d}-of-{shards:05d}.parquet"
        pq.write_table(pa.table(table), folder / name)


@pytest.fixture(params=["cifar10", "cifar100"])
def name(request):
    return request.param


@pytest.fixture
def small(tmp_path, monkeypatch):
    """Data sets of a few pictures of noise, for which everything else is as for the real ones."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(sources, "DATA", tmp_path / "data")
    monkeypatch.setattr(catalog, "SPECS", dict(catalog.SPECS))
    arrays = {}
    for key, spec in list(catalog.SPECS.items()):
        classes = len(spec.classes)
        counts = (2 * classes, classes)
        sets = []
        for part, count in enumerate(counts):
            bits = np.random.PCG64([part, classes]).random_raw(count * 384)
            labels = np.arange(count) % classes
            coarse = labels // 5 if spec.coarse else None
            sets.append((bits.view(np.uint8).reshape(-1, 3, 32, 32), labels, coarse))
        mean, std = proofs.channel_stats(sets[0][0])
        arrays[key] = sets
        catalog.SPECS[key] = dataclasses.replace(
            spec, counts=counts, mean=tuple(mean), std=tuple(std)
        )
    return arrays


def parquet_folder(root, name, arrays, shards=1, kind="PNG"):
    spec = catalog.SPECS[name]
    folder = root / name / sources.hub_folder(spec)
    write_shards(folder, "train", arrays[name][0], spec, shards, kind)
    write_shards(folder, "test", arrays[name][1], spec)
    return folder


def as_mirror(monkeypatch, root, name, arrays):
    """Make the shards in `root` the mirror's: their digests are the published ones."""
    folder = parquet_folder(root, name, arrays)
    publish(monkeypatch, folder, name)
    return folder


def publish(monkeypatch, folder, name):
    shards = {
        f"{folder.name}/{path.name}": (path.stat().st_size, proofs.file_digest(path, "sha256"))
        for path in sorted(folder.iterdir(), reverse=True)
    }
    spec = dataclasses.replace(catalog.SPECS[name], shards=shards)
    monkeypatch.setitem(catalog.SPECS, name, spec)


def same(found, arrays):
    for split, (images, labels, coarse) in zip((found.train, found.test), arrays, strict=True):
        assert np.array_equal(split.images, images) and np.array_equal(split.labels, labels)
        assert split.images.dtype == torch.uint8 and split.labels.dtype == torch.int64
        assert coarse is None or np.array_equal(split.coarse_labels, coarse)


# Folders ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("shards", "kind"), [(1, "PNG"), (2, "WEBP")])
def test_parquet_folder(small, tmp_path, name, shards, kind):
    parquet_folder(tmp_path / "mine", name, small, shards, kind)
    first = data.load(name, tmp_path / "mine")
    same(first, small[name])
    assert (first.split, first.stand_in) == ("unverified", False)
    assert str(tmp_path) not in first.source
    assert first.classes == catalog.SPECS[name].classes
    again = data.load(name, tmp_path / "mine")  # this time from the cache
    same(again, small[name])
    assert dataclasses.replace(again, train=None, test=None) == dataclasses.replace(
        first, train=None, test=None
    )


def test_environment_names_the_folder(small, tmp_path, monkeypatch):
    parquet_folder(tmp_path / "mine", "cifar10", small)
    monkeypatch.setenv("CIFAR_DATA", str(tmp_path / "mine"))
    same(data.load("cifar10"), small["cifar10"])


def test_named_folder_without_the_set_is_an_error(small, tmp_path, monkeypatch):
    parquet_folder(tmp_path / "mine", "cifar10", small)
    with pytest.raises(data.DataError, match="holds no cifar100"):
        data.load("cifar100", tmp_path / "mine")
    monkeypatch.setenv("CIFAR_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(data.DataError, match="CIFAR_DATA holds no cifar10"):
        data.load("cifar10")


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such folders")
def test_folder_not_to_be_written_to_stays_as_it_is(small, tmp_path):
    folder = tmp_path / "mine"
    parquet_folder(folder, "cifar10", small)
    folder.chmod(0o555)
    before = sorted(folder.rglob("*"))
    try:
        data.load("cifar10", folder)
        assert sorted(folder.rglob("*")) == before
        assert (proofs.cache_folder() / proofs.MEMORY).is_file()
    finally:
        folder.chmod(0o755)


def test_cache_is_checked(small, tmp_path):
    parquet_folder(tmp_path / "mine", "cifar10", small)
    data.load("cifar10", tmp_path / "mine")
    (cached,) = proofs.cache_folder().glob("*.npz")
    content = bytearray(cached.read_bytes())
    content[2000] ^= 1
    cached.write_bytes(content)
    same(data.load("cifar10", tmp_path / "mine"), small["cifar10"])
    cached.write_bytes(b"")
    same(data.load("cifar10", tmp_path / "mine"), small["cifar10"])


def official_folder(root, name, arrays, **extra):
    """The official layout, in this set's own small pickles."""
    spec, parts = catalog.SPECS[name], arrays[name]
    folder = root / spec.official.base_folder
    folder.mkdir(parents=True)
    for listed, (images, labels, coarse) in zip(
        (spec.official.train_list, spec.official.test_list), parts, strict=True
    ):
        for (file, _), rows in zip(
            listed, np.array_split(np.arange(len(labels)), len(listed)), strict=True
        ):
            batch = {"data": images[rows].reshape(-1, 3072), f"{spec.label}s": list(labels[rows])}
            batch[f"{spec.label}s"] = labels[rows].tolist()
            if spec.coarse:
                batch[f"{spec.coarse}s"] = coarse[rows].tolist()
            (folder / file).write_bytes(pickle.dumps(batch, protocol=2))
    (folder / spec.official.meta["filename"]).write_bytes(pickle.dumps(extra, protocol=2))
    return folder


def make_official(monkeypatch, name, folder):
    """Give torchvision's class, and so the catalog, the MD5s of the files in `folder`."""
    kind = catalog.SPECS[name].official
    listed = [
        [[file, proofs.file_digest(folder / file, "md5")] for file, _ in files]
        for files in (kind.train_list, kind.test_list)
    ]
    meta = kind.meta | {"md5": proofs.file_digest(folder / kind.meta["filename"], "md5")}
    entries = {"train_list": listed[0], "test_list": listed[1], "meta": meta}
    ours = type(kind.__name__, (kind,), entries)
    spec = dataclasses.replace(catalog.SPECS[name], official=ours)
    monkeypatch.setitem(catalog.SPECS, name, spec)


def test_official_folder(small, tmp_path, monkeypatch, name):
    folder = official_folder(tmp_path / "mine", name, small)
    found = data.load(name, tmp_path / "mine")
    same(found, small[name])
    assert found.split == "unverified"  # not the files that torchvision knows
    make_official(monkeypatch, name, folder)
    found = data.load(name, tmp_path / "mine")
    same(found, small[name])
    assert (found.split, found.source) == ("official", f"files in {folder.name}")


def test_stand_in_in_official_layout_says_so(small, tmp_path, name):
    standin.write_official(tmp_path / "mine", name, 200, 100)
    found = data.load(name, tmp_path / "mine")
    drawn = data.load(name, stand_in=(200, 100))
    assert found.stand_in and found.split == found.source == "stand-in"
    assert found.digest == drawn.digest and found.classes == drawn.classes
    assert torch.equal(found.train.images, drawn.train.images)


# Faults ------------------------------------------------------------------------------------------


def refused(name, folder, message):
    """Loading says what is wrong, and leaves no decoded pictures behind."""
    with pytest.raises(data.DataError, match=message):
        data.load(name, folder)
    assert not list(proofs.cache_folder().glob("*.npz"))


def test_truncated_parquet(small, tmp_path):
    folder = parquet_folder(tmp_path / "mine", "cifar10", small)
    file = folder / "train-00000-of-00001.parquet"
    file.write_bytes(file.read_bytes()[:-1000])
    refused("cifar10", tmp_path / "mine", f"{file.name} is not a whole parquet file")


def test_altered_mirror_file(small, tmp_path, monkeypatch):
    folder = as_mirror(monkeypatch, tmp_path / "mine", "cifar10", small)
    assert data.load("cifar10", tmp_path / "mine").split == "official"
    shutil.rmtree(proofs.cache_folder())
    (tmp_path / "mine" / proofs.MEMORY).unlink()
    write_shards(
        folder,
        "train",
        (255 - small["cifar10"][0][0], *small["cifar10"][0][1:]),
        catalog.SPECS["cifar10"],
    )
    refused("cifar10", tmp_path / "mine", "not the mirror's file: its SHA-256 differs")


def test_altered_pictures_without_published_digest(small, tmp_path):
    """What no publisher vouches for is held to what it was the first time."""
    parquet_folder(tmp_path / "mine", "cifar10", small)
    data.load("cifar10", tmp_path / "mine")
    images = small["cifar10"][0][0].copy()
    images[0, 0, 0, 0] ^= 1
    shutil.rmtree(proofs.cache_folder())
    altered = {"cifar10": [(images, *small["cifar10"][0][1:]), small["cifar10"][1]]}
    parquet_folder(tmp_path / "mine", "cifar10", altered)
    with pytest.raises(data.DataError, match="has changed since it was first loaded"):
        data.load("cifar10", tmp_path / "mine")


def test_altered_official_file(small, tmp_path, monkeypatch):
    folder = official_folder(tmp_path / "mine", "cifar10", small)
    make_official(monkeypatch, "cifar10", folder)
    content = bytearray((folder / "data_batch_3").read_bytes())
    content[len(content) // 2] ^= 1
    (folder / "data_batch_3").write_bytes(content)
    refused("cifar10", tmp_path / "mine", "data_batch_3 is not the official file: its MD5 differs")


class Payload:
    def __reduce__(self):
        return os.mkdir, ("payload-ran",)


@pytest.mark.parametrize("content", [Payload(), {"data": Payload()}, {"data": np.float64(1)}])
def test_pickle_that_calls_functions(small, tmp_path, monkeypatch, content):
    monkeypatch.chdir(tmp_path)
    folder = official_folder(tmp_path / "mine", "cifar10", small)
    (folder / "data_batch_2").write_bytes(pickle.dumps(content))
    refused("cifar10", tmp_path / "mine", "data_batch_2 is not a CIFAR batch")
    assert not (tmp_path / "payload-ran").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "a list, no dict"),
        ({"labels": [1]}, "no entry 'data'"),
        ({"data": np.zeros((4, 3072), np.uint8)}, "no entry 'labels'"),
        ({"data": np.zeros((4, 100), np.uint8), "labels": [0] * 4}, "3072 columns"),
        ({"data": np.zeros((4, 3072)), "labels": [0] * 4}, "uint8"),
        ({"data": np.zeros((4, 3072), np.uint8), "labels": [0] * 3}, "must be 4 integers"),
        ({"data": np.zeros((4, 3072), np.uint8), "labels": list("abcd")}, "must be 4 integers"),
    ],
)
def test_pickle_that_is_not_cifar(small, tmp_path, content, message):
    folder = official_folder(tmp_path / "mine", "cifar10", small)
    (folder / "test_batch").write_bytes(pickle.dumps(content, protocol=2))
    refused("cifar10", tmp_path / "mine", message)


def test_truncated_and_missing_pickle(small, tmp_path):
    folder = official_folder(tmp_path / "mine", "cifar10", small)
    whole = (folder / "data_batch_1").read_bytes()
    (folder / "data_batch_1").write_bytes(whole[:500])
    refused("cifar10", tmp_path / "mine", "data_batch_1 is not a CIFAR batch")
    (folder / "data_batch_1").unlink()
    refused("cifar10", tmp_path / "mine", "incomplete: data_batch_1 is missing")


def test_old_numpy_pickles_are_read(tmp_path):
    """The official files name numpy.core; today's numpy writes numpy._core."""
    batch = pickle.dumps({"data": np.zeros((2, 3072), np.uint8)}, protocol=2)
    (tmp_path / "old").write_bytes(batch.replace(b"numpy._core", b"numpy.core"))
    assert read_pickle(tmp_path / "old")["data"].shape == (2, 3072)


def test_missing_column(small, tmp_path):
    folder = parquet_folder(tmp_path / "mine", "cifar100", small)
    file = folder / "test-00000-of-00001.parquet"
    pq.write_table(pq.read_table(file).drop(["coarse_label"]), file)
    refused("cifar100", tmp_path / "mine", "no column 'coarse_label', only img, fine_label")


@pytest.mark.parametrize("bad", [-1, 10, 300])
def test_label_out_of_range(small, tmp_path, bad):
    small["cifar10"][0][1][3] = bad
    parquet_folder(tmp_path / "mine", "cifar10", small)
    refused("cifar10", tmp_path / "mine", f"training label {bad} is out of range 0..9")


def test_uneven_classes(small, tmp_path):
    small["cifar10"][0][1][3] = 4
    parquet_folder(tmp_path / "mine", "cifar10", small)
    refused("cifar10", tmp_path / "mine", "cifar10 has 20, 2 of each")


def test_wrong_number_of_pictures(small, tmp_path):
    small["cifar10"][1] = tuple(a if a is None else a[:-1] for a in small["cifar10"][1])
    parquet_folder(tmp_path / "mine", "cifar10", small)
    refused("cifar10", tmp_path / "mine", "9 test pictures")


def test_picture_of_another_size(small, tmp_path):
    folder = parquet_folder(tmp_path / "mine", "cifar10", small)
    file = folder / "test-00000-of-00001.parquet"
    rows = pq.read_table(file).to_pylist()
    rows[5]["img"] = png(np.zeros((3, 32, 40), np.uint8))
    pq.write_table(pa.Table.from_pylist(rows), file)
    refused("cifar10", tmp_path / "mine", "a picture of 40×32 pixels, not 32×32")


def test_picture_that_cannot_be_decoded(small, tmp_path):
    folder = parquet_folder(tmp_path / "mine", "cifar10", small)
    file = folder / "test-00000-of-00001.parquet"
    rows = pq.read_table(file).to_pylist()
    rows[5]["img"]["bytes"] = rows[5]["img"]["bytes"][:100]
    pq.write_table(pa.Table.from_pylist(rows), file)
    refused("cifar10", tmp_path / "mine", "cannot be decoded")


def test_missing_shard(small, tmp_path):
    folder = parquet_folder(tmp_path / "mine", "cifar10", small, shards=3)
    (folder / "train-00001-of-00003.parquet").unlink()
    refused("cifar10", tmp_path / "mine", "2 of 3 train shards")
    for file in folder.glob("train-*"):
        file.unlink()
    refused("cifar10", tmp_path / "mine", "train shards")


def test_other_pictures_of_the_right_shape(small, tmp_path):
    images, *labels = small["cifar10"][0]
    small["cifar10"][0] = (images // 2, *labels)
    parquet_folder(tmp_path / "mine", "cifar10", small)
    refused("cifar10", tmp_path / "mine", "are not cifar10: channel means")


# The Hub, and what comes after it ---------------------------------------------------------------


class Hub(http.server.ThreadingHTTPServer):
    """Speaks as much of the Hub's protocol as a download needs, and can misbehave."""

    daemon_threads = True

    def __init__(self, folder):
        self.folder, self.log = folder, []
        self.cut = self.missing = self.stall = self.pause = None
        super().__init__(("127.0.0.1", 0), Answer)
        threading.Thread(target=self.serve_forever, daemon=True).start()


class Answer(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.answer(send=False)

    def do_GET(self):
        self.answer(send=True)

    def answer(self, send):
        hub = self.server
        asked = self.headers.get("Range")
        hub.log.append((self.command, self.path, asked))
        if self.path.startswith("/cdn/"):
            return self.cdn(self.path[5:], asked, send)
        match = re.fullmatch(r"/datasets/(uoft-cs/\w+)/resolve/([0-9a-f]{40})/(.*)", self.path)
        file = match and hub.folder / match[3]
        if not file or not file.is_file() or (hub.missing and hub.missing in file.name):
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound")
            self.send_header("Content-Length", "0")
            return self.end_headers()
        self.send_response(302)  # large files: a redirect, and what they are
        self.send_header("X-Repo-Commit", match[2])
        self.send_header("X-Linked-Etag", f'"{hashlib.sha256(file.read_bytes()).hexdigest()}"')
        self.send_header("X-Linked-Size", str(file.stat().st_size))
        self.send_header("Location", f"http://localhost:{hub.server_port}/cdn/{match[3]}")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def cdn(self, path, asked, send):
        hub, content = self.server, (self.server.folder / path).read_bytes()
        start = int(re.match(r"bytes=(\d+)-", asked)[1]) if asked else 0
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        if not send:
            return
        if hub.stall:
            time.sleep(hub.stall)
            self.close_connection = True
            return
        if hub.cut and not asked:  # the line goes dead in the middle, once
            self.wfile.write(content[: hub.cut])
            self.close_connection = True
            return
        if hub.pause:  # slow in the middle
            middle = (start + len(content)) // 2
            self.wfile.write(content[start:middle])
            time.sleep(hub.pause)
            start = middle
        self.wfile.write(content[start:])


@pytest.fixture
def hub(small, tmp_path, monkeypatch):
    """A local Hub with the small CIFAR-10; the official archive is not to be had."""
    folder = as_mirror(monkeypatch, tmp_path / "served", "cifar10", small).parent
    server = Hub(folder)
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)

    def no_archive(spec, data):
        raise fetch.NotHad("not in this test")

    monkeypatch.setattr(fetch, "from_archive", no_archive)
    yield server
    server.shutdown()
    server.server_close()


def left(tmp_path):
    """Files under data/, that is: nothing, or whole and in place."""
    return sorted(p.name for p in (tmp_path / "data").rglob("*.parquet"))


SHARDS = ["test-00000-of-00001.parquet", "train-00000-of-00001.parquet"]


def test_hub(hub, small, tmp_path):
    found = data.load("cifar10")
    same(found, small["cifar10"])
    assert (found.source, found.split) == ("Hub mirror uoft-cs/cifar10", "official")
    assert left(tmp_path) == SHARDS
    assert [p.name for p in (tmp_path / "data").iterdir() if p.is_dir()] == ["cifar10"]
    asked = len(hub.log)
    same(data.load("cifar10"), small["cifar10"])
    assert len(hub.log) == asked


def test_hub_interrupted_then_resumed(hub, small, tmp_path, monkeypatch):
    file = next(hub.folder.rglob("train-*.parquet"))
    # huggingface_hub resumes in steps of 10 MiB, so the file has to be longer.
    ballast = pa.array([os.urandom(1 << 20) for _ in range(20)])
    pq.write_table(pq.read_table(file).append_column("more", ballast), file)
    publish(monkeypatch, file.parent, "cifar10")
    hub.cut = 12 << 20
    same(data.load("cifar10"), small["cifar10"])
    assert ("GET", "/cdn/plain_text/" + file.name, f"bytes={10 << 20}-") in hub.log


def test_hub_second_call_keeps_what_is_whole(hub, small, tmp_path, capsys):
    hub.missing = "test-"
    assert data.load("cifar10").stand_in
    assert "EntryNotFound" in capsys.readouterr().out
    hub.missing, before = None, len(hub.log)
    same(data.load("cifar10"), small["cifar10"])
    assert not [p for command, p, _ in hub.log[before:] if command == "GET" and "train-" in p]


def test_hub_altered(hub, tmp_path, capsys):
    file = next(hub.folder.rglob("train-*.parquet"))
    content = bytearray(file.read_bytes())
    content[5000] ^= 1
    file.write_bytes(content)
    found = data.load("cifar10")
    assert found.stand_in and len(found.train) == 20
    said = capsys.readouterr().out
    assert "arrived altered" in said and "WARNING" in said and "STAND-IN" in said
    assert not left(tmp_path) and not list((tmp_path / "data").glob("*mirror"))


def test_hub_not_found(hub, tmp_path, capsys):
    hub.missing = "train-"
    assert data.load("cifar10").stand_in
    said = capsys.readouterr().out
    assert "no cifar10 from the Hub mirror" in said and "not in this test" in said
    assert not left(tmp_path)


def test_hub_stalled(hub, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(fetch, "WINDOW", 1.5)
    hub.stall = 60
    assert data.load("cifar10").stand_in
    assert "too slow" in capsys.readouterr().out
    assert not left(tmp_path)


def test_hub_off(hub, tmp_path, capsys):
    hub.shutdown()
    hub.server_close()
    assert data.load("cifar10").stand_in
    assert "no cifar10 from the Hub mirror" in capsys.readouterr().out


@pytest.mark.parametrize("altered", [False, True])
def test_official_archive(small, tmp_path, monkeypatch, altered):
    folder = official_folder(tmp_path / "made", "cifar10", small)
    make_official(monkeypatch, "cifar10", folder)
    archive = tmp_path / "served" / "cifar-10-python.tar.gz"
    archive.parent.mkdir()
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0),
        functools.partial(http.server.SimpleHTTPRequestHandler, directory=archive.parent),
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder, folder.name)
    kind = catalog.SPECS["cifar10"].official
    kind.url = f"http://127.0.0.1:{server.server_port}/{archive.name}"
    kind.tgz_md5 = proofs.file_digest(archive, "md5")
    if altered:
        archive.write_bytes(archive.read_bytes()[:-10])

    def no_hub(spec, data):
        raise fetch.NotHad("not in this test")

    monkeypatch.setattr(fetch, "from_hub", no_hub)
    found = data.load("cifar10")
    server.shutdown()
    server.server_close()
    assert found.stand_in is altered
    if not altered:
        same(found, small["cifar10"])
        assert found.split == "official"
    assert [p for p in (tmp_path / "data").iterdir() if p.is_dir()] == (
        [] if altered else [tmp_path / "data" / folder.name]
    )
