"""A picture from a file, an address, bytes or PIL, or a clear word on why it cannot be used.

It may come from anyone: sizes are judged before pixels are decoded, bytes counted as they arrive,
and programs (EPS, PDF) and texts (SVG, Netpbm) are not among the formats.
"""

import asyncio
import io
import os
import re
import stat
import threading
import warnings
import zlib
from concurrent.futures import Future
from typing import Any

import httpx
import numpy as np
from PIL import ExifTags, Image, ImageOps

SAVE, AGAIN = "Save it as PNG or JPEG.", "Save or fetch it again."
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
PASS = re.compile(rb"\xff\xda\x00[\x08\x0a\x0c\x0e][\x01-\x04]")  # of a progressive JPEG
SCHEME = re.compile(r"\s*(?:([a-z][a-z0-9+.-]+)://|(data|file|ftp|blob|javascript):)", re.I)
HEADERS = {
    "User-Agent": "cifar-utils (a book about small pictures)",  # some hosts refuse the nameless
    "Accept": "image/png,image/jpeg,image/webp,image/*;q=0.5",
    "Accept-Encoding": "identity",  # pictures are packed already
}
WEB_PAGE = "this is a web page, not a picture; use the address of the picture itself"
OTHERS = {  # what else is taken for a picture, by how it begins
    rb"(?is).*<(!doctype html|html|head)\b": WEB_PAGE,
    rb"(?s).*<svg\b|%PDF|%!PS": "this is a drawing or a document, not a picture",
    rb"(?s)....ftyp(avi|hei|hev|mif|msf)": "this is AVIF or HEIC",
}


class PictureError(ValueError):
    """A picture cannot be used; the message names it, what was found and what to do."""


def open_picture(
    source: str | os.PathLike | bytes | Image.Image,
    *,
    name: str | None = None,
    timeout: float = 10.0,
    max_bytes: int = 20_000_000,
    max_pixels: int = 50_000_000,
) -> Image.Image:
    """The picture in a file, behind an address, in bytes or in a PIL image: RGB and upright.

    A str that begins with http:// or https:// is an address; `timeout` is seconds for all of the
    fetch, redirects (five at most) included. Of an animation the first frame is taken. What is
    transparent becomes white. 16 bits are scaled to 8 (Pillow's `convert` clips them); numbers
    that do not say what is white are read as 0..1 (floats), 0..255 or 0..65535, whichever holds
    them all, else the brightest is white, and the darkest black if below zero. name: for errors.
    Raises PictureError for what is no picture, damaged, too large, below 8×8 or not to be had.
    """
    name = name or name_of(source, "the picture")
    raw = None if isinstance(source, Image.Image) else _bytes(source, name, timeout, max_bytes)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what Pillow warns of is refused here, or mended
            picture = Image.open(io.BytesIO(raw), formats=FORMATS) if raw else source
            _judge(picture, name, max_pixels)
            picture.load()
            return _rgb(picture)
    except PictureError:
        raise
    except Image.UnidentifiedImageError as error:
        found = [kind for start, kind in OTHERS.items() if re.match(start, raw[:1000])]
        found.append(f"this is no {' or '.join(FORMATS)}, or its head is damaged")
        raise PictureError(f"{name}: {found[0]}. {SAVE}") from error
    except Image.DecompressionBombError as error:
        raise _too_many(name, re.findall(r"\d+", str(error))[0], max_pixels) from error
    except Exception as error:  # of many kinds, for damaged files
        reason = f"{type(error).__name__}: {_short(str(error))}"
        raise PictureError(f"{name} is damaged or cut off ({reason}). {AGAIN}") from error


def name_of(source: Any, otherwise: str) -> str:
    """What to call a source: a file's name or an address, printable and without a password."""
    if isinstance(source, str) and SCHEME.match(source):
        return _short(re.sub(r"//[^/@]*@", "//", source.strip()))
    if isinstance(source, str | os.PathLike):
        return _short(os.path.basename(os.path.normpath(os.fsdecode(source)))) or otherwise
    return otherwise


def _short(text: str) -> str:
    text = "".join(c if c.isprintable() else "?" for c in text)
    return text if len(text) <= 100 else f"{text[:80]}…{text[-19:]}"


def _judge(picture: Image.Image, name: str, max_pixels: int) -> None:
    """Refuse, by what its head says, a picture that should not be decoded."""
    width, height = picture.size
    tags = getattr(picture, "tag_v2", {})
    tile = tags.get(322, 1) * tags.get(323, 1)  # a small TIFF may be cut from one huge tile
    if max(width * height, tile) > max_pixels:
        found = f"a tile of {tile:,}" if tile > max_pixels else f"{width:,}×{height:,}"
        raise _too_many(name, found, max_pixels)
    if min(width, height) < 8:
        raise PictureError(f"{name} has {width}×{height} pixels. Give one of at least 8×8.")
    if getattr(picture, "tile", None) and picture.format not in (*FORMATS, "MPO", None):
        raise PictureError(f"{name} is {picture.format} and not decoded yet. {SAVE}")


def _too_many(name: str, found: str, limit: int) -> PictureError:
    return PictureError(f"{name} has {found} pixels, over {limit:,}. Make it smaller first.")


def _too_large(name: str, limit: int) -> PictureError:
    return PictureError(f"{name} has over {limit / 1e6:g} MB. Make it smaller first.")


def _rgb(picture: Image.Image) -> Image.Image:
    """A decoded picture in 8 bits, on white, in RGB, upright, with nothing else attached."""
    try:
        orientation = picture.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # damaged EXIF makes no pixel worse
        orientation = None
    if picture.mode in ("I", "F") or picture.mode.startswith("I;16"):
        picture = _eight_bits(picture)
    elif picture.mode in ("La", "RGBa"):  # premultiplied: Pillow knows only this way out
        picture = picture.convert(picture.mode.upper())
    if picture.has_transparency_data:
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture.convert("RGBA"))
    picture = picture.convert("RGB")
    picture.info = {}
    if orientation in range(2, 9):  # alone: the rest of EXIF may be damaged
        picture.getexif()[ExifTags.Base.Orientation] = orientation
        picture = ImageOps.exif_transpose(picture)
    return picture


def _eight_bits(picture: Image.Image) -> Image.Image:
    """One channel of 16 or 32 bits as "L"; `open_picture` says what counts as white."""
    tags = getattr(picture, "tag_v2", {})
    values = np.nan_to_num(np.asarray(picture, dtype=np.float32), posinf=0, neginf=0)
    low, high = min(float(values.min()), 0), float(values.max())
    whites = (1, 255, 65535) if picture.mode == "F" else (255, 65535)
    if picture.mode.startswith("I;16") or picture.format == "PNG":
        whites = (4095,) if tags.get(258) == (12,) else (65535,)
    white = next((w for w in whites if high <= w and low == 0), high)
    grey = (values - low) * (255 / ((white - low) or 1))
    if tags.get(262) == 0:  # TIFF's "0 is white", which Pillow heeds only up to 8 bits
        grey = 255 - grey
    grey[values == picture.info.get("transparency")] = 255  # one value that a PNG may name
    return Image.fromarray(np.rint(grey).astype(np.uint8))


def _bytes(source: Any, name: str, timeout: float, max_bytes: int) -> bytes:
    """The bytes of a picture, wherever they are: at least one and at most `max_bytes`."""
    scheme = SCHEME.match(source) if isinstance(source, str) else None
    if isinstance(source, bytes | bytearray | memoryview):
        content = bytes(source)
    elif scheme:
        _allow(scheme[1] or scheme[2], name)
        content = _fetch(source.strip(), name, timeout, max_bytes)
    elif isinstance(source, str | os.PathLike):
        content = _read(os.path.expanduser(source), name, max_bytes)
    else:
        advice = "Give a path, an address, bytes or a PIL image (of an array: Image.fromarray)."
        raise PictureError(f"{name} is of type {type(source).__name__}. {advice}")
    if not content:
        raise PictureError(f"{name} is empty: zero bytes. {AGAIN}")
    if len(content) > max_bytes:
        raise _too_large(name, max_bytes)
    if content.startswith(b"\xff\xd8") and len(PASS.findall(content)) > 100:  # usual: ten
        raise PictureError(f"{name} is a JPEG of over 100 passes, each a delay. {SAVE}")
    return content


def _read(path: str | bytes, name: str, max_bytes: int) -> bytes:
    try:
        if stat.S_ISREG(os.stat(path).st_mode):
            with open(path, "rb") as file:
                return file.read(max_bytes + 1)
        found = "is a folder" if os.path.isdir(path) else "is a pipe or a device"  # may never end
    except FileNotFoundError:
        found = "does not exist"
    except (OSError, ValueError) as error:
        found = f"cannot be read ({getattr(error, 'strerror', None) or error})"
    raise PictureError(f"{name} {found}. Check the path: it must lead to a picture's file.")


def _allow(scheme: str, name: str) -> None:
    if scheme.lower() not in ("http", "https"):
        raise PictureError(f"{name}: {scheme[:20]}: is refused. Use http://, https:// or a path.")


def _fetch(address: str, name: str, timeout: float, max_bytes: int) -> bytes:
    """What `address` serves. A thread of its own: a notebook has an event loop already."""
    arrived: Future[bytes] = Future()

    def work() -> None:
        try:
            with asyncio.Runner() as runner:
                got = runner.run(_download(address, name, timeout, max_bytes))
            arrived.set_result(got)
        except BaseException as error:
            arrived.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    try:
        return arrived.result(timeout + 1)  # more: a name server cannot be interrupted
    except PictureError:
        raise
    except Exception as error:
        late = isinstance(error, TimeoutError) and f"it did not arrive in {timeout:g} s"
        found = f"could not be fetched: {late or _short(str(error)) or type(error).__name__}"
        raise PictureError(f"{name} {found}. Check the address, or save the picture.") from error


async def _download(address: str, name: str, timeout: float, max_bytes: int) -> bytes:
    async with asyncio.timeout(timeout), httpx.AsyncClient(headers=HEADERS, timeout=None) as client:
        for _ in range(6):
            async with client.stream("GET", address) as response:
                if response.next_request is None:
                    return await _body(response, name, max_bytes)
                address = str(response.next_request.url)
            _allow(address.partition(":")[0], f"{name} leads on to {name_of(address, '')}")
    raise PictureError(f"{name} leads on over 5 times. Use the address it ends at.")


async def _body(response: httpx.Response, name: str, max_bytes: int) -> bytes:
    """The body of an answer, unpacked; it stops at the first byte too many."""
    if not response.is_success:
        found = f"{response.status_code} {_short(response.reason_phrase)}"
        raise PictureError(f"{name}: the server answers {found}. Try the address in a browser.")
    if response.headers.get("content-type", "").strip().lower().startswith("text/html"):
        raise PictureError(f"{name}: {WEB_PAGE}.")
    if int(response.headers.get("content-length", 0)) > max_bytes:
        raise _too_large(name, max_bytes)
    packing = response.headers.get("content-encoding", "identity").strip().lower()
    if packing not in ("identity", "gzip"):
        raise PictureError(f"{name} comes packed as {_short(packing)}, unasked. Save it yourself.")
    unpack = zlib.decompressobj(31) if packing == "gzip" else None  # httpx's would not stop early
    content = bytearray()
    async for chunk in response.aiter_raw():
        room = max_bytes + 1 - len(content)
        content += unpack.decompress(chunk, room) if unpack else chunk
        if len(content) > max_bytes:
            raise _too_large(name, max_bytes)
    if unpack and not unpack.eof:
        raise PictureError(f"{name} is cut off. {AGAIN}")
    return bytes(content)
