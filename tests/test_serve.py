"""The server of apps/serve, from outside: answers, refusals, overload, its end, and its page.

Two servers run while this file is tested: a quick one, and one of two workers whose network is
slow and whose queue is short.
"""

import asyncio
import contextlib
import hashlib
import http.client
import io
import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from apps.serve import __main__ as program
from apps.serve.engine import Batcher, Full
from cifar_utils.predict import open_picture, prepare

CLIENT = httpx.Client(timeout=120, trust_env=False, limits=httpx.Limits(max_connections=None))
ROOT = Path(__file__).resolve().parents[1]
CLASSES = ["red", "green", "blue", "yellow", "cyan", "a class with a very long name, magenta"]
TOWARD = 4 * np.float32(
    [[1, 0, 0], [0, 1, 0], [0, 0, 1], [0.6, 0.6, -0.5], [-0.5, 0.6, 0.6], [0.6, -0.5, 0.6]]
)
MEAN, STD = [0.5, 0.4, 0.3], [0.2, 0.3, 0.4]
LIMIT = 300_000  # bytes


def write_network(path, rounds=0, fixed=False, **other):
    """A network that goes by the mean color, after as many `rounds` of doing nothing."""

    def value(name, kind=TensorProto.FLOAT, shape=None):
        return helper.make_tensor_value_info(name, kind, shape)

    n = 1 if fixed else "N"
    take, give = value("images", shape=[n, 3, 32, 32]), value("logits", shape=[n, 6])
    values = [("W", TOWARD.T), ("axes", [2, 3]), ("rounds", rounds), ("on", True)]
    values = [numpy_helper.from_array(np.array(v), name) for name, v in values]
    body = helper.make_graph(
        [helper.make_node("Identity", ["on1"], ["on2"]), helper.make_node("Neg", ["x1"], ["x2"])],
        "round",
        [value("i", TensorProto.INT64, []), value("on1", TensorProto.BOOL, []), value("x1")],
        [value("on2", TensorProto.BOOL, []), value("x2")],
    )
    nodes = [
        helper.make_node("Loop", ["rounds", "on", "images"], ["late"], body=body),
        helper.make_node("ReduceMean", ["late", "axes"], ["mean"], keepdims=0),
        helper.make_node("MatMul", ["mean", "W"], ["logits"]),
    ]
    graph = helper.make_graph(nodes, "colors", [take], [give], values)
    opset = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), path)
    about = {"format": "onnx", "classes": CLASSES, "mean": MEAN, "std": STD, "input_size": 32}
    about["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    path.with_suffix(".json").write_text(json.dumps(about | other), encoding="utf-8")
    return path


class Server:
    """`python -m apps.serve` as a process of its own; `address` waits until it answers."""

    def __init__(self, model, *options):
        self.log = model.with_suffix(f".{len(options)}.log")
        command = [sys.executable, "-m", "apps.serve", str(model), "--port", "0", *options]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=log)

    @property
    def address(self):
        if not hasattr(self, "found"):
            line = self.process.stdout.readline().decode()
            assert "http://" in line, f"{line}{self.log.read_text()}"
            self.found = line.split()[-1]
            assert CLIENT.get(f"{self.found}/health").json()["ready"]
        return self.found

    def post(self, content, **more):
        return CLIENT.post(f"{self.address}/predict", content=content, **more)

    def count(self, name):
        """A metric's value; 0 before it is first counted."""
        text = CLIENT.get(f"{self.address}/metrics").text
        return sum(float(n) for n in re.findall(rf"^{re.escape(name)} (\S+)$", text, re.M))


@pytest.fixture(scope="module")
def servers(tmp_path_factory):
    """The quick one and the slow one; both start at the same time."""
    folder = tmp_path_factory.mktemp("served")
    # --timeout: how long a body may take. Long for the quick one: a machine may be busy.
    quick = ["--max-bytes", str(LIMIT), "--wait-ms", "50", "--timeout", "60"]
    slow = ["--workers", "2", "--max-queue", "1", "--batch", "1", "--timeout", "10"]
    pair = [
        Server(write_network(folder / "quick.onnx"), *quick),
        Server(write_network(folder / "slow.onnx", rounds=30_000), *slow),
    ]
    yield pair
    for server in pair:
        if server.process.poll() is None:
            server.process.send_signal(signal.SIGINT)
        assert server.process.wait(60) == 0
        server.process.stdout.close()
        assert "Traceback" not in server.log.read_text()


@pytest.fixture
def server(servers):
    return servers[0]


@pytest.fixture
def slow(servers):
    return servers[1]


def picture(color=(200, 30, 30), size=(48, 40), kind="PNG", mode="RGB", **options):
    """A file of one color, as bytes."""
    file = io.BytesIO()
    Image.new("RGB", size, color).convert(mode).save(file, kind, **options)
    return file.getvalue()


def noisy(size=(90, 60), kind="PNG"):
    file = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), np.uint8)
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def expected(content):
    """Class → probability, by the package's own preprocessing and numpy."""
    image = prepare(open_picture(content), 32).numpy() / 255
    logits = TOWARD @ ((image.mean((1, 2)) - MEAN) / STD)
    shares = np.exp(logits - logits.max())
    return dict(zip(CLASSES, shares / shares.sum(), strict=True))


def check(response, content):
    """The answer to a picture: five classes, the likeliest first, with the right shares."""
    assert response.status_code == 200, response.text
    found = [(p["class"], p["probability"]) for p in response.json()["predictions"]]
    truth = expected(content)
    assert len(found) == 5 and found == sorted(found, key=lambda pair: -pair[1])
    assert [share for _, share in found] == pytest.approx(
        [truth[name] for name, _ in found], abs=1e-4
    )
    assert found[0][0] == max(truth, key=truth.get)


# --- Answers ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        picture(),
        noisy(),
        noisy((32, 32), "WEBP"),
        noisy((500, 30), "JPEG"),
        picture(kind="JPEG", mode="CMYK"),
        picture(kind="GIF", mode="P"),
        picture(mode="RGBA"),
        picture(mode="L"),
    ],
    ids="png noise webp strip cmyk gif rgba gray".split(),
)
def test_a_picture_is_answered_as_body_and_as_form(server, content):
    check(server.post(content), content)
    form = {"note": (None, "a field that nobody asked for"), "file": ("ä.png", content)}
    check(CLIENT.post(f"{server.address}/predict", files=form), content)


def test_simultaneous_pictures_share_batches_and_get_each_its_own_answer(server):
    pictures = [picture((4 * i, 255 - 4 * i, (37 * i) % 256)) for i in range(64)]
    batches, seen = (server.count(f"serve_batch_pictures_{what}") for what in ("count", "sum"))
    with ThreadPoolExecutor(64) as pool:
        answers = list(pool.map(server.post, pictures))
    for answer, content in zip(answers, pictures, strict=True):
        check(answer, content)
    assert server.count("serve_batch_pictures_sum") - seen == 64
    assert server.count("serve_batch_pictures_count") - batches < 64
    assert server.count("serve_queue_depth") == 0


def test_health_says_what_is_served_and_metrics_count_it(server):
    health = CLIENT.get(f"{server.address}/health").json()
    assert health["live"] and health["ready"] and health["classes"] == CLASSES
    assert (health["model"], health["input_size"], health["max_bytes"]) == ("quick", 32, LIMIT)
    name = 'serve_requests_total{path="/predict",status="200"}'
    before = server.count(name)
    server.post(picture())
    assert server.count(name) == before + 1
    response = CLIENT.get(f"{server.address}/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    for part in ("# TYPE serve_request_seconds histogram", 'le="+Inf"', "serve_worker_up{pid="):
        assert part in response.text


# --- Refusals -----------------------------------------------------------------------------------


def png(side):
    """A whole PNG of side × side pixels, most of them never stored, in a few kilobytes."""

    def chunk(kind, content):
        checked = kind + content
        return struct.pack(">I", len(content)) + checked + struct.pack(">I", zlib.crc32(checked))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0))
    rows = chunk(b"IDAT", zlib.compress(bytes((min(side, 20_000) // 8 + 1) * min(side, 20_000)), 1))
    return b"\x89PNG\r\n\x1a\n" + head + rows + chunk(b"IEND", b"")


BAD_PICTURES = {
    "zero bytes": b"",
    "text": b"not a picture at all",
    "truncated png": noisy()[:2000],
    "truncated jpeg": noisy(kind="JPEG")[:1000],
    "head only": noisy()[:20],
    "20,000 × 20,000": png(20_000),
    "bomb": png(2**31 - 1),
    "1 × 1": picture(size=(1, 1)),
    "a line": picture(size=(3000, 1)),
    "html": b"<!DOCTYPE html><html><body>404</body></html>",
    "svg": b'<svg xmlns="http://www.w3.org/2000/svg"/>',
    "pdf": b"%PDF-1.7",
    "an address": b'{"url": "http://127.0.0.1/cat.png"}',
    "a path": b"/etc/passwd",
}


@pytest.mark.parametrize("form", [False, True], ids=["body", "form"])
@pytest.mark.parametrize("name", BAD_PICTURES)
def test_a_bad_picture_is_refused_with_a_reason(server, name, form):
    content = BAD_PICTURES[name]
    sent = {"files": {"file": ("cat.png", content, "image/png")}} if form else {"content": content}
    response = CLIENT.post(f"{server.address}/predict", **sent)
    assert response.status_code == 422 and response.json()["error"].startswith("the picture")


FORM = {"content-type": "multipart/form-data; boundary=cut"}
PART = b'--cut\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n'


@pytest.mark.parametrize(
    ("status", "says", "request_"),
    [
        (400, "field named 'file'", {"files": {"image": ("a.png", picture())}}),
        (400, "field named 'file'", {"files": {"file": (None, "text")}}),
        (400, "field named 'file'", {"content": PART + b"cut off", "headers": FORM}),
        (400, "field named 'file'", {"content": b"", "headers": FORM}),
        (400, "Invalid multipart", {"content": b"--cut\r\nno head\r\n\r\n", "headers": FORM}),
        (
            400,
            "Missing boundary",
            {"content": PART, "headers": {"content-type": FORM["content-type"].split(";")[0]}},
        ),
        (400, "Too many files", {"files": [("file", (f"{i}.png", picture())) for i in range(2)]}),
        (413, "0.3 MB", {"content": bytes(LIMIT + 1)}),
        (413, "0.3 MB", {"content": bytes(40 * LIMIT)}),
        (413, "0.3 MB", {"content": iter([bytes(LIMIT), bytes(LIMIT)])}),  # without its length
        (405, "Method", {"method": "GET"}),
        (405, "Method", {"method": "PUT", "content": picture()}),
        (405, "Method", {"method": "DELETE", "path": "/health"}),
        (404, "/predict", {"path": "/predictions", "content": picture()}),
        (404, "/predict", {"method": "GET", "path": "/static/../../engine.py"}),
        (404, "/predict", {"method": "GET", "path": "/static/%2e%2e/web.py"}),
    ],
)
def test_a_bad_request_is_refused_with_a_reason(server, status, says, request_):
    method, path = request_.pop("method", "POST"), request_.pop("path", "/predict")
    response = CLIENT.request(method, server.address + path, **request_)
    assert response.status_code == status and says in response.json()["error"]
    if status == 405 and path == "/predict":
        assert response.headers["allow"] == "POST"


def wire(server, head, body=b""):
    """A raw connection that has sent so much; the caller reads and closes it."""
    host, port = server.address.removeprefix("http://").split(":")
    sock = socket.create_connection((host, int(port)), timeout=120)
    sock.sendall(f"POST /predict HTTP/1.1\r\nHost: x\r\n{head}\r\n\r\n".encode() + body)
    return sock


def status_of(sock):
    response = http.client.HTTPResponse(sock)
    response.begin()
    return response.status, json.loads(response.read())["error"]


@pytest.mark.parametrize(
    "head", ["Content-Length: 999999999", "Content-Length: 999999999\r\nExpect: 100-continue"]
)
def test_what_says_it_is_too_large_is_refused_before_it_is_sent(server, head):
    with wire(server, head) as sock:
        assert status_of(sock)[0] == 413


@pytest.mark.parametrize(
    "head", ["Content-Length: -5", "Content-Length: many", "Transfer-Encoding: odd"]
)
def test_a_garbled_head_is_refused(server, head):
    with wire(server, head) as sock:
        assert sock.recv(100).split()[1] in (b"400", b"501")


def test_a_client_that_goes_away_is_counted_and_no_more(server):
    gone = 'serve_requests_total{path="/predict",status="499"}'
    before = server.count(gone)
    wire(server, "Content-Length: 1000", b"half").close()
    wire(server, "Transfer-Encoding: chunked", b"5\r\nhel").close()
    for _ in range(200):
        if server.count(gone) == before + 2:
            break
        time.sleep(0.05)
    assert server.count(gone) == before + 2
    check(server.post(picture()), picture())


# --- Too much, and the end ----------------------------------------------------------------------


def test_overload_is_refused_and_passes(slow):
    """Two workers with one place each: of a burst most are told to come back, and none hangs."""
    late = wire(slow, "Content-Length: 1000", b"the rest never comes")  # looked at further below
    time.sleep(1)  # it is let in: arriving with the burst, it could be told to come back too
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: slow.post(picture()), range(16)))
    kinds = [answer.status_code for answer in answers]
    assert set(kinds) == {200, 503}, kinds
    for answer in answers:
        if answer.status_code == 503:
            assert int(answer.headers["retry-after"]) >= 1 and "busy" in answer.json()["error"]
    check(slow.post(picture()), picture())
    # Counts are those of both workers together, whichever is asked.
    told = {s: slow.count(f'serve_requests_total{{path="/predict",status="{s}"}}') for s in kinds}
    assert told == {503: kinds.count(503), 200: kinds.count(200) + 1}
    with late:  # it held no place meanwhile
        status, error = status_of(late)
    assert status == 408 and "did not arrive" in error


def workers(server):
    """Process ids of those who serve; none if the one that was asked has just died."""
    with contextlib.suppress(httpx.TransportError):
        text = CLIENT.get(f"{server.address}/metrics").text
        return set(re.findall(r'serve_worker_up{pid="(\d+)"}', text))
    return set()


def test_a_worker_that_dies_is_replaced(slow):
    while len(workers(slow)) < 2:
        time.sleep(0.1)
    before = workers(slow)
    os.kill(int(min(before)), signal.SIGKILL)
    while min(before) in (now := workers(slow)) or len(now) < 2:
        time.sleep(0.1)
    assert max(before) in now
    check(slow.post(picture()), picture())
    assert f"worker {min(before)} ended (-9), another starts" in slow.log.read_text()


def test_a_running_request_is_finished_at_the_end_and_no_new_one_is_taken(slow):
    answers = []
    running = threading.Thread(target=lambda: answers.append(slow.post(picture())))
    running.start()
    while not slow.count("serve_queue_depth"):
        time.sleep(0.01)
    slow.process.send_signal(signal.SIGTERM)
    with contextlib.suppress(httpx.TransportError):  # a burst of them, until the port is closed
        while slow.process.poll() is None:
            CLIENT.get(f"{slow.address}/health")
    running.join()
    check(answers[0], picture())
    assert slow.process.wait(60) == 0
    with pytest.raises(httpx.ConnectError):
        CLIENT.get(f"{slow.address}/health")


# --- Batches, without a server ------------------------------------------------------------------


def batched(jobs, ask, **options):
    """Sizes of the batches, and what became of `jobs(batcher)`, run beside a batcher's work."""

    async def run():
        batcher = Batcher(ask, **{"batch": 4, "wait": 3600, "room": 100} | options)
        sizes = []
        work = asyncio.create_task(batcher.work(sizes.append))
        found = await asyncio.wait_for(jobs(batcher), 60)
        work.cancel()
        return sizes, found

    return asyncio.run(run())


async def ask_one(batcher, value):
    with batcher.place():
        return await batcher.answer(np.full(2, value))


def test_a_batch_waits_only_for_those_who_are_inside():
    async def jobs(batcher):
        alone = await ask_one(batcher, 7)  # would take an hour
        return alone, await asyncio.gather(*(ask_one(batcher, i) for i in range(10)))

    sizes, (alone, rows) = batched(jobs, lambda images: images * 2)
    assert sizes == [1, 4, 4, 2] and alone.tolist() == [14, 14]
    assert [row.tolist() for row in rows] == [[2 * i, 2 * i] for i in range(10)]


def test_a_batch_that_fails_fails_alone():
    def ask(images):
        if images.min() < 0:
            raise MemoryError("not this one")
        return images

    async def jobs(batcher):
        bad = await asyncio.gather(*(ask_one(batcher, i) for i in (1, -1)), return_exceptions=True)
        return bad, await ask_one(batcher, 5)

    _, (bad, row) = batched(jobs, ask)
    assert all(isinstance(error, MemoryError) for error in bad) and row.tolist() == [5, 5]


def test_who_has_given_up_is_not_computed_and_who_finds_no_room_is_told():
    async def jobs(batcher):
        first = asyncio.create_task(ask_one(batcher, 1))
        second = asyncio.create_task(ask_one(batcher, 2))
        await asyncio.sleep(0)
        with pytest.raises(Full):
            await ask_one(batcher, 3)
        second.cancel()
        return await first

    sizes, row = batched(jobs, lambda images: images, room=2)
    assert sizes == [1] and row.tolist() == [1, 1]


# --- What cannot start --------------------------------------------------------------------------


def edited(path, **change):
    """The description beside `path` with another content; None takes a field out."""
    about = json.loads(path.with_suffix(".json").read_text()) | change
    about = {key: value for key, value in about.items() if value is not None}
    path.with_suffix(".json").write_text(json.dumps(about))


SPOILED = {
    "no such file": lambda path: path.unlink(),
    "no description": lambda path: path.with_suffix(".json").unlink(),
    "other bytes": lambda path: path.write_bytes(path.read_bytes() + b" "),
    "not onnx": lambda path: (
        path.write_bytes(b"GIF89a"),
        edited(path, sha256=hashlib.sha256(b"GIF89a").hexdigest()),
    ),
    "description is no json": lambda path: path.with_suffix(".json").write_text("{"),
    "description without classes": lambda path: edited(path, classes=None),
    "other classes": lambda path: edited(path, classes=CLASSES[:3]),
    "classes are a number": lambda path: edited(path, classes=6),
    "other size": lambda path: edited(path, input_size=64),
    "half a mean": lambda path: edited(path, mean=[0.5]),
    "a mean of words": lambda path: edited(path, mean=["a", "b", "c"]),
    "a deviation of zero": lambda path: edited(path, std=[0, 0, 0]),
    "batch size fixed at one": lambda path: write_network(path, fixed=True),
}


@pytest.mark.parametrize("name", SPOILED)
def test_a_wrong_model_is_one_line_and_code_2(name, tmp_path, capsys):
    path = write_network(tmp_path / "spoiled.onnx")
    SPOILED[name](path)
    assert program.run(program.parser().parse_args([str(path), "--port", "0"])) == 2
    said = capsys.readouterr()
    assert not said.out and said.err.startswith("serve: ") and said.err.count("\n") == 1
    assert "spoiled" in said.err


def test_a_port_in_use_is_one_line_and_code_2(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        command = [sys.executable, "-m", "apps.serve", "any.onnx", "--port", str(port)]
        out = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (out.returncode, out.stdout, out.stderr.count("\n")) == (2, "", 1)
    assert f"port {port}" in out.stderr and "--port" in out.stderr


@pytest.mark.parametrize(
    "options",
    ["--workers 0", "--port -1", "--batch none", "--timeout 0", "--wait-ms nan", "--max-queue 1e3"],
)
def test_a_wrong_option_is_refused(options, capsys):
    with pytest.raises(SystemExit, match="2"):
        program.parser().parse_args(["any.onnx", *options.split()])
    assert options.split()[0] in capsys.readouterr().err


# --- The page, in a real browser ----------------------------------------------------------------


@pytest.fixture(scope="module")
def browser():
    found = [shutil.which(n) for n in "chromium chromium-browser google-chrome chrome".split()]
    if not any(found):
        pytest.skip("no Chromium here: install chromium or google-chrome to test the page")
    sync = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
    with sync.sync_playwright() as play:
        options = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        browser = play.chromium.launch(executable_path=next(filter(None, found)), args=options)
        yield browser
        browser.close()


@pytest.fixture
def opened(browser, server):
    """Opens the page; what the browser complains about fails the test."""
    complaints, contexts = [], []

    def open_page(**options):
        contexts.append(browser.new_context(**options))
        page = contexts[-1].new_page()
        page.set_default_timeout(60_000)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda m: m.type == "error" and complaints.append(m.text))
        page.on("filechooser", lambda chooser: None)  # from the start: no real dialog ever opens
        page.goto(server.address)
        page.wait_for_selector("#about:not(:empty)")
        return page

    yield open_page
    for context in contexts:
        context.close()
    # That a request failed is what some tests are about, and Chromium notes it by itself.
    assert not [text for text in complaints if "Failed to load resource" not in text]


FILE = {"name": "my red square.png", "mimeType": "image/png", "buffer": picture()}


def shown(page):
    """What the page answers: status and rows, once there are five."""
    page.wait_for_selector("#bars li:nth-child(5)", state="visible")
    return page.inner_text("#status"), page.locator("#bars li").all_inner_texts()


def test_a_chosen_picture_shows_the_five_likeliest_classes(opened):
    page = opened()
    with page.expect_file_chooser() as chooser:
        page.click("#drop")
    chooser.value.set_files(FILE)
    status, rows = shown(page)
    truth = sorted(expected(picture()).items(), key=lambda pair: -pair[1])[:5]
    assert [row.split("\n") for row in rows] == [[name, f"{p:.1%}"] for name, p in truth]
    assert status == f"Most likely: {truth[0][0]}, {truth[0][1]:.1%}."
    assert page.get_attribute("#shown", "alt") == "Your picture, my red square.png"
    assert page.evaluate("document.getElementById('shown').naturalWidth") == 48
    bars = page.eval_on_selector_all("#bars progress", "bars => bars.map(bar => bar.value)")
    assert bars == pytest.approx([p for _, p in truth], abs=1e-4)


def test_the_page_works_by_keyboard(opened):
    page = opened()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "file"
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Enter")
    chooser.value.set_files(FILE)
    assert shown(page)[0].startswith("Most likely: red")
    assert page.get_attribute("#status", "role") == "status"  # so that it is read out


def test_a_picture_can_be_dropped_anywhere(opened):
    page = opened()
    page.evaluate(
        """bytes => {
            const data = new DataTransfer();
            data.items.add(new File([new Uint8Array(bytes)], "dropped.png"));
            for (const kind of ["dragover", "drop"])
                document.body.dispatchEvent(
                    new DragEvent(kind, {dataTransfer: data, bubbles: true, cancelable: true}));
        }""",
        list(picture((20, 20, 220))),
    )
    assert shown(page)[0].startswith("Most likely: blue")


def test_what_goes_wrong_is_shown_and_the_last_answer_is_not(opened):
    page = opened()
    page.set_input_files("#file", FILE)
    shown(page)

    def error_after(act):
        act()
        page.wait_for_selector("#error", state="visible")
        assert page.is_hidden("#answer") and page.get_attribute("#error", "role") == "alert"
        return page.inner_text("#error")

    bad = {"name": "notes.png", "mimeType": "image/png", "buffer": b"no picture"}
    large = {"name": "large.png", "mimeType": "image/png", "buffer": bytes(LIMIT + 1)}
    assert "notes.png: the picture" in error_after(lambda: page.set_input_files("#file", bad))
    assert "0.3 MB" in error_after(lambda: page.set_input_files("#file", large))
    page.set_input_files("#file", FILE)
    shown(page)
    assert page.is_hidden("#error")
    page.route("**/predict", lambda route: route.abort())
    assert "does not answer" in error_after(lambda: page.set_input_files("#file", bad))


def contrast(page, selector, prop="color"):
    """WCAG's contrast of a color with the page's paper, as the browser computed both."""

    def luminance(color):
        parts = [int(n) / 255 for n in re.findall(r"\d+", color)[:3]]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return np.dot(linear, [0.2126, 0.7152, 0.0722])

    style = "(e, p) => getComputedStyle(e)[p]"
    pair = [
        luminance(page.eval_on_selector(where, style, what))
        for where, what in ((selector, prop), ("body", "backgroundColor"))
    ]
    return (max(pair) + 0.05) / (min(pair) + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_reads_on_a_phone_by_day_and_by_night(opened, scheme):
    page = opened(viewport={"width": 360, "height": 640}, color_scheme=scheme)
    name = "a_very_long_file_name_without_any_space_" * 4 + ".png"
    page.set_input_files("#file", FILE | {"name": name})
    shown(page)
    width = "document.documentElement.scrollWidth"
    assert page.evaluate(width) == 360
    assert contrast(page, "progress") >= 3
    page.set_input_files("#file", {"name": name, "mimeType": "image/png", "buffer": b"no picture"})
    page.wait_for_selector("#error", state="visible")
    assert page.evaluate(width) == 360
    paper = page.eval_on_selector("body", "e => getComputedStyle(e).backgroundColor")
    assert (paper == "rgb(255, 255, 255)") == (scheme == "light")
    for selector in ("body", "h1", "#about", "#error", "#file"):
        assert contrast(page, selector) >= 4.5, selector
    assert contrast(page, "#drop", "borderColor") >= 3
