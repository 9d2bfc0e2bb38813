"""One's own pictures: opened whatever they are, or refused with a word on what to do.

No test leaves the machine: "the network" is a small server on 127.0.0.1.
"""

import gzip
import http.server
import io
import os
import pickle
import random
import struct
import threading
import time
import warnings
import zlib

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from cifar_utils import data, predict, training, weights
from cifar_utils.predict import PictureError, open_picture, prepare
from cifar_utils.weights import WeightsError

ARCHITECTURE = {"block": "BasicBlock", "layers": [1, 1], "width": 4, "num_classes": 10}
ABOUT = {"architecture": ARCHITECTURE, "classes": list("abcdefghij"), "input_size": 32}
ABOUT |= {"mean": list(data.CIFAR10_MEAN), "std": list(data.CIFAR10_STD), "results": "none"}


def network(num_classes: int = 10, width: int = 4) -> nn.Module:
    torch.manual_seed(0)
    return weights.build(ARCHITECTURE | {"num_classes": num_classes, "width": width}).eval()


def encoded(image: Image.Image, format: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image).astype(int)


PIXELS = np.random.default_rng(0).integers(0, 256, (24, 30, 3), dtype=np.uint8)
PIXELS[:12] = 8 * np.arange(30, dtype=np.uint8)[None, :, None]
RGB = Image.fromarray(PIXELS)
GREY = RGB.convert("L")
PNG = encoded(RGB)


def refused(source, *words: str, **limits) -> str:
    """What `open_picture` says when it refuses; each of `words` must be in it, once on one line."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # nothing may be said beside the error
        with pytest.raises(PictureError) as caught:
            open_picture(source, **limits)
    said = str(caught.value)
    assert said.isprintable() and len(said) < 400
    assert not [word for word in words if word not in said], said
    return said


# --- What is a picture: any mode, upright, first frame ------------------------------------------


@pytest.mark.parametrize("format", ["PNG", "BMP", "TIFF", "WEBP"])
def test_a_picture_comes_as_it_is(format, tmp_path):
    content = encoded(RGB, format, **({"lossless": True} if format == "WEBP" else {}))
    path = tmp_path / "cat"  # its content says what it is, not its name
    path.write_bytes(content)
    for source in (content, bytearray(content), path, str(path), Image.open(io.BytesIO(content))):
        opened = open_picture(source)
        assert opened.mode == "RGB" and opened.tobytes() == RGB.tobytes()


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr", "HSV", "RGBX", "LA", "RGBA"])
def test_every_mode_becomes_rgb(mode):
    image = RGB.convert(mode)
    opened = open_picture(image)
    assert opened.mode == "RGB" and opened.size == (30, 24)
    assert opened.tobytes() == image.convert("RGB").tobytes()
    assert open_picture(opened).tobytes() == opened.tobytes()
    if mode not in ("YCbCr", "HSV", "RGBX"):
        assert open_picture(encoded(image, "TIFF")).tobytes() == opened.tobytes()
    if mode == "CMYK":  # Adobe writes these inverted; Pillow knows
        assert abs(pixels(open_picture(encoded(image, "JPEG"))) - pixels(opened)).mean() < 40


def ramp(dtype, top) -> np.ndarray:
    return np.linspace(0, top, 256).reshape(16, 16).astype(dtype)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (ramp(np.uint16, 65535), np.arange(256)),
        (ramp(np.uint16, 65535) // 257, 0),  # 16 bits, all but black
        (ramp(np.int32, 65535), np.arange(256)),
        (ramp(np.int32, 255), np.arange(256)),
        (ramp(np.int32, 2**31 - 129), np.arange(256)),
        (ramp(np.int32, 510) - 255, np.arange(256)),
        (ramp(np.float32, 1), np.arange(256)),
        (ramp(np.float32, 255), np.arange(256)),
        (np.full((16, 16), np.nan, np.float32), 0),
        (np.where(ramp(np.float32, 1) == 1, np.inf, ramp(np.float32, 1)), None),
    ],
)
def test_16_and_32_bits_are_scaled_and_not_clipped(values, expected):
    image = Image.fromarray(values)
    opened = pixels(open_picture(image))
    if expected is not None:
        # Half a step off: whole numbers do not divide the ramp evenly.
        assert abs(opened - np.broadcast_to(expected, 256).reshape(16, 16, 1)).max() <= 1
    for format in ("PNG", "TIFF") if image.mode == "I;16" else ("TIFF",):
        assert np.array_equal(pixels(open_picture(encoded(image, format))), opened)
    if image.mode == "I;16":
        flipped = image.convert("I").convert("I;16B")
        assert np.array_equal(pixels(open_picture(flipped)), opened)


def test_pillow_alone_would_clip_16_bits():
    image = Image.fromarray(ramp(np.uint16, 65535))
    assert np.sum(np.asarray(image.convert("L")) == 255) > 250  # why we scale
    assert len(np.unique(pixels(open_picture(image)))) == 256


def test_what_is_transparent_becomes_white():
    clear = RGB.copy()
    clear.putalpha(GREY)
    alpha = pixels(GREY)[..., None] / 255
    blended = pixels(RGB) * alpha + 255 * (1 - alpha)
    for source in (clear, encoded(clear), encoded(clear, "TIFF"), clear.convert("RGBa")):
        assert abs(pixels(open_picture(source)) - blended).max() <= 2
    palette = RGB.convert("P")
    holes = np.asarray(palette) == 5
    holes[0, 0] = palette.putpixel((0, 0), 5) or True
    for options in ({"transparency": 5}, {"transparency": bytes([255] * 5 + [0] + [255] * 250)}):
        opened = pixels(open_picture(encoded(palette, "PNG", **options)))
        assert (opened[holes] == 255).all()
        assert np.array_equal(opened[~holes], pixels(palette.convert("RGB"))[~holes])
    gif = pixels(open_picture(encoded(palette, "GIF", transparency=5)))
    assert (gif[holes] == 255).all()
    one = Image.fromarray(np.full((9, 9), 1000, np.uint16))
    assert (pixels(open_picture(encoded(one, "PNG", transparency=1000))) == 255).all()
    color = Image.new("RGB", (9, 9), (1, 2, 3))
    assert (pixels(open_picture(encoded(color, "PNG", transparency=(1, 2, 3)))) == 255).all()


def oriented(orientation: int) -> tuple[Image.Image, Image.Exif]:
    """A picture stored as a camera does it, and the EXIF that says how to turn it upright."""
    stored = {
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }[orientation]
    exif = Image.Exif()
    exif[274] = orientation
    return (RGB if stored is None else RGB.transpose(stored)), exif


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_stand_upright(orientation):
    stored, exif = oriented(orientation)
    for format in ("PNG", "TIFF"):
        content = encoded(stored, format, exif=exif)
        assert open_picture(content).tobytes() == RGB.tobytes()
        image = Image.open(io.BytesIO(content))
        assert open_picture(image).tobytes() == RGB.tobytes()
        assert open_picture(open_picture(image)).tobytes() == RGB.tobytes()
    jpeg = open_picture(encoded(stored, "JPEG", exif=exif, quality=95, subsampling=0))
    assert abs(pixels(jpeg) - PIXELS).mean() < 5


def test_damaged_exif_makes_no_picture_worse():
    content = encoded(RGB, exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x0b\xff\xff\xff\xff\0")
    assert open_picture(content).tobytes() == RGB.tobytes()
    stored, exif = oriented(6)
    exif[305] = "software"
    cut = encoded(stored, exif=exif.tobytes()[:-3])  # the orientation comes first and is whole
    assert open_picture(cut).tobytes() == RGB.tobytes()


@pytest.mark.parametrize("format", ["GIF", "PNG", "WEBP", "TIFF", "MPO"])
def test_of_an_animation_the_first_frame_is_taken(format):
    frames = [Image.new("RGB", (16, 12), color) for color in ("red", "lime", "blue")]
    content = encoded(frames[0], format, save_all=True, append_images=frames[1:])
    opened = open_picture(content)
    assert opened.size == (16, 12)
    assert abs(pixels(opened) - (255, 0, 0)).max() <= 8


def test_the_caller_s_picture_is_left_alone():
    stored, exif = oriented(6)
    image = Image.open(io.BytesIO(encoded(stored, exif=exif)))
    open_picture(image)
    assert image.size == stored.size and image.getexif()[274] == 6 and image.info
    turned = open_picture(RGB)
    turned.putpixel((0, 0), (1, 2, 3))
    assert RGB.tobytes() == PIXELS.tobytes()


# --- What is none: files, bytes, objects --------------------------------------------------------


def chunk(kind: bytes, content: bytes) -> bytes:
    checksum = struct.pack(">I", zlib.crc32(kind + content))
    return struct.pack(">I", len(content)) + kind + content + checksum


def png_of(width: int, height: int, extra: bytes = b"") -> bytes:
    """A PNG whose head promises width × height grey pixels, and that has none."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + extra + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def bmp_of(width: int, height: int) -> bytes:
    head = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + head


def tiff_of(tags: list[tuple[int, int]]) -> bytes:
    entries = [struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags]
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + b"".join(entries) + bytes(9)


def webp_of(side: int) -> bytes:
    size = struct.pack("<I", (side - 1) | (side - 1) << 14)
    return b"RIFF" + struct.pack("<I", 30) + b"WEBPVP8L\x0a\0\0\0\x2f" + size + bytes(5)


def many_passes() -> bytes:
    """A small progressive JPEG with its last pass 101 times: each is a walk over all pixels."""
    content = encoded(RGB, "JPEG", progressive=True)
    start = content.rindex(b"\xff\xda")
    return content[:-2] + content[start:-2] * 101 + content[-2:]


GIF_HUGE = b"GIF89a\x0a\0\x0a\0\0\0\0,\0\0\0\0\xff\xff\xff\xff\0\x08\x02\x4c\x01\0;"
TILE = [(256, 64), (257, 64), (258, 8), (259, 8), (262, 1), (277, 1)]
TILE += [(322, 30000), (323, 20000), (324, 8), (325, 9)]
NO_PICTURE = ("this is no PNG or JPEG", "Save it as PNG or JPEG.")
MEGAPIXELS = ("pixels, over 50,000,000", "Make it smaller")
DAMAGED = ("is damaged or cut off", "Save or fetch it again.")
BAD = {
    "empty": (b"", "is empty: zero bytes", "Save or fetch it again."),
    "text": (b"this is a text, not a picture", *NO_PICTURE),
    "noise": (random.Random(0).randbytes(5000), *NO_PICTURE),
    "web page": (b"\n<!DOCTYPE html><html><img src='a.png'>", "web page", "use the address of the"),
    "old web page": (
        b"<HTML>\n<BODY>Not here",
        "web page",
        "use the address of the picture itself",
    ),
    "svg": (b"<?xml version='1.0'?>\n<svg width='9'/>", "a drawing", "Save it as PNG"),
    "pdf": (b"%PDF-1.7\n", "a document", "Save it as PNG"),
    "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "Save it as PNG"),
    "avif": (b"\0\0\0\x20ftypavif\0\0\0\0", "AVIF or HEIC", "Save it as PNG"),
    "heic": (b"\0\0\0\x20ftypheic\0\0\0\0", "AVIF or HEIC", "Save it as PNG"),
    "photoshop": (b"8BPS\0\x01" + bytes(100), *NO_PICTURE),
    "netpbm": (b"P3 9 9 255 " + b"# \n" * 99, *NO_PICTURE),  # comments would take Pillow hours
    "cut off": (PNG[: len(PNG) // 2], *DAMAGED),
    "cut off jpeg": (encoded(RGB, "JPEG")[:-100], *DAMAGED),
    "one pixel": (encoded(Image.new("L", (1, 1))), "1×1 pixels", "at least 8×8"),
    "a line": (encoded(Image.new("L", (3000, 7))), "3000×7 pixels", "at least 8×8"),
    "20,000 × 20,000": (png_of(20_000, 20_000), "has 400000000", *MEGAPIXELS),
    "8,000 × 8,000": (png_of(8_000, 8_000), "8,000×8,000", *MEGAPIXELS),
    "warned": (png_of(12_000, 12_000), "12,000×12,000", *MEGAPIXELS),  # Pillow would warn
    "bmp bomb": (bmp_of(20_000, -20_000), "has 400000000", *MEGAPIXELS),
    "gif bomb": (GIF_HUGE, *MEGAPIXELS),
    "webp bomb": (webp_of(16_383), *MEGAPIXELS),
    "tiff bomb": (tiff_of([(256, 20_000), (257, 20_000), *TILE[2:]]), *MEGAPIXELS),
    "tile bomb": (tiff_of(TILE), "a tile of 600,000,000", *MEGAPIXELS),
    "text bomb": (
        png_of(9, 9, chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(2_000_000)))),
        *DAMAGED,
    ),
    "passes": (many_passes(), "JPEG of over 100 passes", "Save it as PNG"),
}


@pytest.mark.parametrize("content, words", [(c, w) for c, *w in BAD.values()], ids=list(BAD))
def test_what_is_no_picture_is_refused(content, words, tmp_path, capfd):
    refused(content, "the picture", *words)
    path = tmp_path / "cat.png"
    path.write_bytes(content)
    said = refused(path, "cat.png", *words)
    assert str(tmp_path) not in said
    assert capfd.readouterr() == ("", "")


def test_a_bomb_is_refused_before_it_goes_off(monkeypatch):
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
    bombs = [name for name, (_, *words) in BAD.items() if set(MEGAPIXELS) <= set(words)]
    assert len(bombs) > 6
    for name in (*bombs, "one pixel", "passes"):
        refused(BAD[name][0])
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)  # a reader's own, elsewhere
    refused(BAD["20,000 × 20,000"][0], "20,000×20,000", *MEGAPIXELS)


@pytest.mark.parametrize(
    "format, options",
    [(format, {}) for format in predict.pictures.FORMATS]
    + [("JPEG", {"progressive": True}), ("TIFF", {"compression": "tiff_lzw"})],
)
def test_a_cut_off_picture_is_an_error_or_whole(format, options):
    """Never silently grey from where it was cut."""
    content = encoded(RGB.convert("P") if format == "GIF" else RGB, format, **options)
    whole = open_picture(content).tobytes()
    for length in range(1, len(content), len(content) // 25):
        try:
            assert open_picture(content[:length]).tobytes() == whole
        except PictureError as error:
            assert "Save" in str(error)


def test_mutated_pictures_end_in_pictures_or_picture_errors():
    """300 of them here; some ten thousand were tried when this was written."""
    options = {"JPEG": {"progressive": True}, "TIFF": {"compression": "tiff_lzw"}}
    formats = ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"]
    whole = [
        encoded(RGB.convert("P") if f == "GIF" else RGB, f, **options.get(f, {})) for f in formats
    ]
    draw = random.Random(0)
    ends = {"opened": 0, "refused": 0}
    for i in range(300):
        content = bytearray(whole[i % len(whole)])
        for _ in range(draw.randint(1, 4)):
            place = draw.randrange(draw.choice([40, 200, len(content)])) % len(content)
            kind = draw.randrange(3)
            if kind == 0:
                content[place] = draw.choice([0, 1, 127, 128, 255])
            elif kind == 1:
                del content[place : place + draw.randint(1, 30)]
            else:
                content[place:place] = draw.randbytes(draw.randint(1, 20))
        try:
            assert open_picture(bytes(content), max_pixels=1_000_000).mode == "RGB"
            ends["opened"] += 1
        except PictureError as error:
            assert str(error).isprintable()
            ends["refused"] += 1
    assert min(ends.values()) > 30


def test_files_that_are_none(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    check = "Check the path: it must lead to a picture's file."
    refused("missing.png", "missing.png does not exist", check)
    refused(tmp_path / "not" / "there.png", "there.png does not exist", check)
    (tmp_path / "photos").mkdir()
    for source in ("photos", "photos/", tmp_path / "photos"):
        refused(source, "photos is a folder", check)
    refused("a\0b.png", "a?b.png cannot be read", check)
    refused("x" * 5000, "x…x", "cannot be read", check)
    (tmp_path / "big.png").write_bytes(PNG + bytes(1000))
    refused("big.png", "big.png has over 0.001 MB", "Make it smaller", max_bytes=1000)
    refused(PNG, "the picture has over 0.001 MB", "Make it smaller", max_bytes=1000)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no such files")
def test_what_never_ends_is_not_read(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    refused(tmp_path / "pipe.png", "pipe.png is a pipe or a device", "Check the path")
    (tmp_path / "loop.png").symlink_to("loop.png")
    refused(tmp_path / "loop.png", "loop.png cannot be read", "Check the path")
    refused("/dev/zero", "zero is a pipe or a device", "Check the path")
    if os.geteuid():
        (tmp_path / "locked.png").write_bytes(PNG)
        (tmp_path / "locked.png").chmod(0)
        refused(tmp_path / "locked.png", "locked.png cannot be read (Permission denied)")


@pytest.mark.parametrize("source", [PIXELS, torch.zeros(3, 9, 9), None, 7, io.BytesIO(PNG)])
def test_other_objects_are_named(source):
    refused(source, f"is of type {type(source).__name__}", "Image.fromarray")


def test_a_pil_picture_is_judged_too():
    refused(Image.new("L", (7, 100)), "the picture has 7×100 pixels", "at least 8×8")
    refused(Image.new("1", (100, 101)), "100×101", "over 10,000", max_pixels=10_000)
    refused(Image.open(io.BytesIO(PNG[:700])), *DAMAGED)


def test_ghostscript_never_runs(monkeypatch):
    from PIL import EpsImagePlugin

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_, **__: pytest.fail("it ran"))
    content = encoded(RGB, "EPS")
    refused(content, "a drawing or a document", "Save it as PNG")
    refused(Image.open(io.BytesIO(content)), "is EPS and not decoded yet", "Save it as PNG")


def test_names_are_printable_and_hold_no_secrets():
    name = "cat\udcff\n\x1b[31m\u202egnp.exe"  # bytes that are no text, a terminal's color, a trick
    assert "cat???[31m?gnp.exe does not exist" in refused(name)
    said = refused("ftp://me:secret@host/cat.png", "ftp://host/cat.png", "http://")
    assert "secret" not in said


# --- Addresses ----------------------------------------------------------------------------------


class Handler(http.server.BaseHTTPRequestHandler):
    """Pictures, and all that goes wrong with them on the way. `server.end` ends what is endless."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_) -> None:
        pass

    def head(self, status: int = 200, **headers: str) -> None:
        self.close_connection = True
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()

    def do_GET(self) -> None:
        self.server.asked.append((self.path, dict(self.headers)))
        try:
            getattr(self, self.path[1:].partition(".")[0].partition("?")[0])()
        except OSError:  # the client has had enough
            self.server.hung_up.append(self.path)

    def ok(self) -> None:
        self.head(Content_Type="image/png", Content_Length=str(len(PNG)))
        self.wfile.write(PNG)

    def chunked(self) -> None:
        self.head(Transfer_Encoding="chunked")
        for part in (PNG[:1000], PNG[1000:], b""):
            self.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))

    def gzipped(self) -> None:
        self.head(Content_Encoding="gzip")
        self.wfile.write(gzip.compress(PNG))

    def gzip_cut(self) -> None:
        self.head(Content_Encoding="gzip")
        self.wfile.write(gzip.compress(PNG)[:500])

    def gzip_bad(self) -> None:
        self.head(Content_Encoding="gzip")
        self.wfile.write(PNG)

    def gzip_bomb(self) -> None:
        self.head(Content_Encoding="gzip")
        self.wfile.write(gzip.compress(bytes(30_000_000), 1))

    def gzip_twice(self) -> None:
        self.head(Content_Encoding="gzip, gzip")
        self.wfile.write(gzip.compress(gzip.compress(bytes(1_000_000))))

    def empty(self) -> None:
        self.head(Content_Length="0")

    def html(self) -> None:
        self.head(Content_Type="text/html; charset=utf-8")
        self.wfile.write(b"<p>the picture is below</p>")

    def html_unsaid(self) -> None:
        self.head(Content_Type="image/png")
        self.wfile.write(b"<!doctype html><title>Sign in</title>")

    def missing(self) -> None:
        self.head(404, Content_Type="text/html")
        self.wfile.write(b"<html>")

    def error(self) -> None:
        self.head(503)

    def lost(self) -> None:
        self.head(302)

    def moved(self) -> None:
        self.head(301, Location="/ok.png")
        self.endless()  # the body of a redirect must not be waited for

    def hop(self) -> None:
        left = int(self.path.partition("?")[2])
        self.head(302, Location=f"/hop?{left - 1}" if left > 1 else "/ok.png")

    def loop(self) -> None:
        self.head(302, Location="/loop")

    def to_file(self) -> None:
        self.head(302, Location="file:///etc/passwd")

    def to_ftp(self) -> None:
        self.head(302, Location="ftp://127.0.0.1/ok.png")

    def to_nowhere(self) -> None:
        self.head(302, Location="http://[/")

    def said_large(self) -> None:
        self.head(Content_Length="30000000")
        self.endless()

    def understated(self) -> None:
        self.head(Content_Length="100")
        self.wfile.write(PNG)

    def overstated(self) -> None:
        self.head(Content_Length=str(len(PNG) + 100))
        self.wfile.write(PNG)

    def endless(self) -> None:
        if self.path == "/endless":
            self.head(Content_Type="image/png")
        while not self.server.end.is_set():
            self.wfile.write(bytes(1_000_000))

    def drip(self) -> None:
        self.head(Content_Length=str(len(PNG)))
        for byte in PNG:
            if self.server.end.wait(0.02):
                break
            self.wfile.write(bytes([byte]))

    def drip_head(self) -> None:
        self.close_connection = True
        self.wfile.write(b"HTTP/1.1 200 OK\r\nX-Long: ")
        while not self.server.end.wait(0.02):
            self.wfile.write(b"x")

    def silent(self) -> None:
        self.close_connection = True
        self.server.end.wait(30)

    def nonsense(self) -> None:
        self.close_connection = True
        self.wfile.write(b"220 this is another kind of server\r\n")


@pytest.fixture(scope="module")
def server():
    served = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    served.daemon_threads, served.block_on_close = True, False
    served.end, served.asked, served.hung_up = threading.Event(), [], []
    threading.Thread(target=served.serve_forever, args=(0.02,), daemon=True).start()
    yield served
    served.end.set()
    served.shutdown()
    served.server_close()


@pytest.fixture
def at(server, monkeypatch):
    """The address of something on the server."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    return lambda path: f"http://127.0.0.1:{server.server_port}/{path}"


@pytest.mark.parametrize("path", "ok.png ok.png?size=9 chunked gzipped moved hop?5".split())
def test_a_picture_is_fetched(path, at, server):
    assert open_picture(at(path)).tobytes() == RGB.tobytes()
    headers = server.asked[-1][1]
    assert headers["Accept-Encoding"] == "identity" and "cifar" in headers["User-Agent"]


def test_an_address_is_one_in_any_case_and_between_blanks(at):
    assert open_picture(f" {at('ok.png').replace('http', 'HTTP')}\n").tobytes() == RGB.tobytes()


async def in_a_running_loop(address: str) -> Image.Image:
    return open_picture(address)


def test_a_notebook_s_own_event_loop_does_not_matter(at):
    import asyncio

    assert asyncio.run(in_a_running_loop(at("ok.png"))).tobytes() == RGB.tobytes()


NOT_HAD = ("could not be fetched: ", "Check the address, or save the picture.")
SLOW = ("could not be fetched: it did not arrive in 0.3 s", "or save the picture")
ANSWERS = {
    "missing": ("the server answers 404 Not Found", "Try the address in a browser."),
    "error": ("the server answers 503 Service Unavailable", "Try the address in a browser."),
    "lost": ("the server answers 302", "Try the address in a browser."),
    "html": ("this is a web page", "use the address of the picture itself"),
    "html_unsaid": ("this is a web page", "use the address of the picture itself"),
    "empty": ("is empty: zero bytes", "fetch it again"),
    "hop?6": ("leads on over 5 times", "Use the address it ends at."),
    "loop": ("leads on over 5 times", "Use the address it ends at."),
    "to_file": ("leads on to file://", "/etc/passwd: file: is refused", "Use http://"),
    "to_ftp": ("leads on to ftp://127.0.0.1/ok.png: ftp: is refused", "Use http://"),
    "to_nowhere": NOT_HAD,
    "said_large": ("has over 20 MB", "Make it smaller"),
    "endless": ("has over 20 MB", "Make it smaller"),
    "gzip_bomb": ("has over 20 MB", "Make it smaller"),
    "gzip_twice": ("comes packed as gzip, gzip", "Save it yourself"),
    "gzip_cut": ("is cut off", "fetch it again"),
    "gzip_bad": NOT_HAD,
    "understated": DAMAGED,
    "overstated": NOT_HAD,
    "nonsense": NOT_HAD,
    "drip": SLOW,
    "drip_head": SLOW,
    "silent": SLOW,
}


@pytest.mark.parametrize("path", ANSWERS)
def test_what_goes_wrong_on_the_way_is_said(path, at):
    slow = ANSWERS[path] is SLOW  # "drip" would arrive whole, were the limit one for each byte
    refused(at(path), at(path), *ANSWERS[path], timeout=0.3 if slow else 10)


def test_a_server_is_left_as_soon_as_too_much_has_come(at, server):
    refused(at("endless"), "has over 0.1 MB", max_bytes=100_000)
    refused(at("drip"), *SLOW, timeout=0.3)

    def at_rest() -> bool:
        """The server saw both calls end, and no thread of ours goes on."""
        gone = {"/endless", "/drip"} <= set(server.hung_up)
        return gone and not [t for t in threading.enumerate() if "work" in t.name]

    for _ in range(200):
        if at_rest():
            break
        time.sleep(0.02)
    assert at_rest()


def test_a_server_that_is_not_there(at):
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    refused(f"http://127.0.0.1:{port}/cat.png", f"http://127.0.0.1:{port}/cat.png", *NOT_HAD)


@pytest.mark.parametrize("address", ["http://", "http:///cat.png", "http://[::1", "https://a b/c"])
def test_an_address_that_is_none(address):
    refused(address, *NOT_HAD)


@pytest.mark.parametrize(
    "address",
    [
        "ftp://host/cat.png",
        "FTP://host/cat.png",
        "file:///etc/passwd",
        "file:cat.png",
        "data:image/png;base64,iVBO",
        "s3://bucket/cat.png",
        "javascript:alert(1)",
        " blob:x",
    ],
)
def test_other_schemes_are_refused_by_name(address):
    scheme = address.strip().partition(":")[0]
    refused(address, address.strip(), f"{scheme}: is refused", "Use http://, https://")


def test_a_long_address_is_cut_in_what_is_said():
    assert len(refused("data:image/png;base64," + "A" * 100_000, "…")) < 250


# --- Prepared -----------------------------------------------------------------------------------


def test_a_picture_of_the_right_size_is_untouched():
    image = Image.fromarray(PIXELS[:24, :24])
    prepared = prepare(image, 24)
    assert prepared.shape == (3, 24, 24) and prepared.dtype == torch.uint8
    assert np.array_equal(prepared.permute(1, 2, 0).numpy(), PIXELS[:24, :24])


@pytest.mark.parametrize("size", [(30, 24), (24, 30), (500, 33), (8, 8), (4000, 8), (9, 4000)])
def test_any_size_becomes_a_square(size):
    prepared = prepare(RGB.resize(size))
    assert prepared.shape == (3, 32, 32) and prepared.is_contiguous()


def test_the_middle_is_kept_and_the_shorter_side_whole():
    wide = Image.fromarray(np.random.default_rng(1).integers(0, 256, (64, 192, 3), dtype=np.uint8))
    scaled = wide.resize((96, 32), Image.Resampling.BICUBIC)  # all of it, as is the definition
    assert np.array_equal(prepare(wide).permute(1, 2, 0), np.asarray(scaled)[:, 32:64])
    tall = prepare(wide.transpose(Image.Transpose.TRANSPOSE))
    assert (tall.int() - prepare(wide).transpose(1, 2).int()).abs().max() <= 1  # rounded in between


def test_nothing_aliases():
    fine = np.zeros((256, 256, 3), dtype=np.uint8)
    fine[:, ::2] = 255  # stripes far finer than the pixels they end in
    prepared = prepare(Image.fromarray(fine)).int()
    assert ((prepared - 127).abs() <= 8).all()
    assert fine[::8, ::8].max() - fine[::8, ::8].min() == 0  # what picking every eighth would show


def test_only_rgb_is_prepared():
    with pytest.raises(PictureError, match=r"prepare takes RGB.* is P\. Use open_picture"):
        prepare(RGB.convert("P"))


# --- Predicted ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shipped():
    return weights.load("resnet10_cifar10")


@pytest.fixture(scope="module")
def test_split() -> data.Split:
    return data.load("cifar10", stand_in=(20, 24)).test


def test_the_file_route_gives_the_evaluation_s_logits(shipped, test_split, tmp_path):
    model, about = shipped
    paths = [tmp_path / f"{i}.png" for i in range(len(test_split))]
    for path, image in zip(paths, test_split.images, strict=True):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(path)

    def evaluated(batch_size: int) -> torch.Tensor:
        scale = {"mean": about["mean"], "std": about["std"]}
        batches = data.BatchLoader(test_split, batch_size, **scale)
        return training.evaluate(model, batches, precision="fp32").logits

    several = torch.stack([p.logits for p in predict.predict(model, about, paths)])
    torch.testing.assert_close(several, evaluated(len(paths)), rtol=0, atol=1e-6)
    single = torch.stack([predict.predict(model, about, path)[0].logits for path in paths])
    torch.testing.assert_close(single, evaluated(1), rtol=0, atol=1e-6)
    torch.testing.assert_close(single, several, rtol=0, atol=1e-5)  # sums in another order


def test_predictions_are_in_order_and_named(shipped, tmp_path, at):
    model, about = shipped
    (tmp_path / "cat.png").write_bytes(PNG)
    sources = [PNG, tmp_path / "cat.png", RGB, str(tmp_path / "cat.png"), at("ok.png")]
    predictions = predict.predict(model, about, sources)
    names = ["picture 1", "cat.png", "picture 3", "cat.png", at("ok.png")]
    assert [p.source for p in predictions] == names
    for p in predictions:
        assert p.classes == predictions[0].classes and len(p.classes) == len(p.probabilities) == 5
        assert list(p.probabilities) == sorted(p.probabilities, reverse=True)
        assert p.classes[0] == about["classes"][p.logits.argmax()]
        assert p.probabilities[0] == pytest.approx(p.logits.softmax(0).max().item(), abs=1e-6)
        assert p.logits.shape == (10,) and not p.logits.requires_grad
    assert "logits" not in repr(predictions[0]) and predictions[1] == predictions[3]
    assert predict.predict(model, about, []) == []
    generated = predict.predict(model, about, (source for source in sources[:2]))
    assert [p.source for p in generated] == names[:2]


def test_one_bad_picture_among_several_is_named(tmp_path):
    with pytest.raises(PictureError, match=r"^picture 2 is empty: zero bytes\."):
        predict.predict(network(), ABOUT, [RGB, b"", RGB])
    with pytest.raises(PictureError, match=r"^gone\.png does not exist\."):
        predict.predict(network(), ABOUT, [RGB, tmp_path / "gone.png"])
    for source in (PIXELS, torch.zeros(3, 9, 9)):
        with pytest.raises(PictureError, match=r"^picture 1 is of type .*Image\.fromarray"):
            predict.predict(network(), ABOUT, source)


def test_top_k_and_temperature():
    model = network()
    (all_of_them,) = predict.predict(model, ABOUT, RGB, top_k=99)
    assert len(all_of_them.classes) == 10
    assert sum(all_of_them.probabilities) == pytest.approx(1)
    (one,) = predict.predict(model, ABOUT, RGB, top_k=1)
    assert one.classes == all_of_them.classes[:1]
    (soft,) = predict.predict(model, ABOUT, RGB, temperature=1e300)
    assert soft.probabilities == pytest.approx([0.1] * 5)
    (hard,) = predict.predict(model, ABOUT, RGB, temperature=1e-300)
    assert hard.probabilities == (1, 0, 0, 0, 0) and hard.classes == all_of_them.classes[:5]
    assert torch.equal(hard.logits, all_of_them.logits)
    for wrong in ({"top_k": 0}, {"temperature": 0}, {"temperature": -1.0}, {"temperature": np.nan}):
        with pytest.raises(ValueError, match=r"top_k must be at least 1 and temperature above 0"):
            predict.predict(model, ABOUT, RGB, **wrong)


def test_the_mode_is_put_back_and_eval_is_used():
    model = network()
    expected = predict.predict(model, ABOUT, RGB)[0].logits
    before = model.bn1.running_mean.clone() if hasattr(model, "bn1") else None
    model.train()
    frozen = next(m for m in model.modules() if isinstance(m, nn.BatchNorm2d)).eval()
    assert torch.equal(predict.predict(model, ABOUT, RGB)[0].logits, expected)
    assert model.training and not frozen.training
    assert before is None or torch.equal(model.bn1.running_mean, before)
    with pytest.raises(WeightsError):
        predict.predict(model, ABOUT | {"classes": ["a"]}, RGB)
    assert model.training and not frozen.training


def without(name: str) -> dict:
    return {key: value for key, value in ABOUT.items() if key != name}


@pytest.mark.parametrize(
    ("about", "words"),
    [
        *[(without(name), name) for name in ("classes", "mean", "std", "input_size")],
        (ABOUT | {"classes": []}, "classes are []"),
        (ABOUT | {"classes": "abcdefghij"}, "classes are 'abcdefghij'"),
        (ABOUT | {"classes": list(range(10))}, "classes are [0, 1"),
        (ABOUT | {"classes": None}, "TypeError"),
        (ABOUT | {"mean": [0.5]}, "mean is [0.5]"),
        (ABOUT | {"std": [0.2, 0.2, 0]}, "std [0.2, 0.2, 0.0]"),
        (ABOUT | {"std": [0.2, 0.2, float("nan")]}, "nan"),
        (ABOUT | {"mean": ["dark", 0, 0]}, "ValueError"),
        (ABOUT | {"input_size": 10**6}, "input_size is 1000000"),
        (ABOUT | {"input_size": "32"}, "input_size is '32'"),
        ([], "TypeError"),
    ],
)
def test_a_description_that_is_not_whole_is_refused(about, words):
    with pytest.raises(WeightsError, match="It needs classes") as caught:
        predict.predict(network(), about, "never-opened.png")
    assert words in str(caught.value)


class Fixed(nn.Module):
    """Always the same answer; its layer wants 3 × 32 × 32 numbers."""

    def __init__(self, answer: torch.Tensor) -> None:
        super().__init__()
        self.layer, self.answer = nn.Linear(3072, 1), answer

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.layer(images.flatten(1))
        return self.answer.expand(len(images), -1)


def test_a_description_of_another_network_is_refused():
    for model, count in ((network(7), 7), (network(100), 100)):
        with pytest.raises(WeightsError, match=rf"10 classes.*\({count},\).*weights\.load"):
            predict.predict(model, ABOUT, RGB)
    with pytest.raises(WeightsError, match="cannot take pictures of 3×16×16, as its description"):
        predict.predict(Fixed(torch.zeros(10)), ABOUT | {"input_size": 16}, RGB)
    with pytest.raises(WeightsError, match=r"NaN or infinity\. Load its weights again"):
        predict.predict(Fixed(torch.full((10,), float("nan"))), ABOUT, RGB)


# --- Model files of strangers -------------------------------------------------------------------


class Payload:
    """Unpickled, it makes a file: the sign that code ran."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.mark.parametrize("honest", [True, False], ids=["its digest is right", "it is not"])
def test_a_pickle_under_another_name_is_refused_and_does_not_run(honest, tmp_path):
    path = weights.save("small", network(), ABOUT, tmp_path)
    sign = tmp_path / "it-ran"
    path.write_bytes(pickle.dumps(Payload(str(sign))))
    if honest:  # the stranger wrote the description as well
        from cifar_utils.proofs import file_digest

        described = path.with_suffix(".json").read_text(encoding="utf-8")
        old = described.split('"sha256": "')[1][:64]
        described = described.replace(old, file_digest(path, "sha256"))
        path.with_suffix(".json").write_text(described, encoding="utf-8")
    with pytest.raises(WeightsError) as caught:
        weights.load("small", tmp_path)
    assert not sign.exists()
    words = "not a safetensors file" if honest else "its SHA-256 differs"
    assert "small" in str(caught.value) and words in str(caught.value)
    pickle.loads(path.read_bytes()).close()  # it would have
    assert sign.exists()


def test_a_model_of_other_classes_or_architecture_is_refused(tmp_path):
    weights.save("more", network(100), ABOUT, tmp_path)  # described as if it had ten
    with pytest.raises(WeightsError, match=r"more\.safetensors has 100 classes, this network 10"):
        weights.load("more", tmp_path)
    weights.save("wider", network(width=8), ABOUT, tmp_path)
    with pytest.raises(WeightsError, match=r"wider\.safetensors holds another network.* Build"):
        weights.load("wider", tmp_path)
    weights.save(
        "unsaid",
        network(100),
        ABOUT | {"architecture": ARCHITECTURE | {"num_classes": 100}},
        tmp_path,
    )
    with pytest.raises(WeightsError, match="its network has 100"):
        weights.load("unsaid", tmp_path)  # whole, but its ten names are not its classes
    with pytest.raises(WeightsError, match=r"10 classes.*\(100,\)"):
        predict.predict(network(100), ABOUT, RGB)
