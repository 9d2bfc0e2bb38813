"""The server of apps/serve among bad clients: slow, garbled, huge and many at once.

Good requests in between are answered, and answered right; nothing grows, and no status begins with
5 but 503, which says that it is busy.
"""

import asyncio
import contextlib
import http.client
import json
import mmap
import os
import random
import signal
import socket
import subprocess
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torture
import uvicorn
from test_serve import (
    BAD_PICTURES,
    CLASSES,
    FORM,
    LIMIT,
    MEAN,
    PART,
    STD,
    TOWARD,
    Server,
    noisy,
    picture,
    status_of,
    wire,
    write_network,
)
from torture import figures, rounds

from apps.serve.connection import Connection
from cifar_utils import export, predict, weights

TIMEOUT = 2  # seconds that the server gives a head, and a body
LIBERAL = 60  # seconds: a machine may be busy
CLIENTS = 8
NEAR = 1e-5  # between the server's probabilities and predict's
GROWTH = 40  # MB: what a server may hold more after all of them


class Colors(torch.nn.Module):
    """The network of test_serve, in torch."""

    def forward(self, images):
        return images.mean((2, 3)) @ torch.from_numpy(TOWARD.T)


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    """A server, and a network with its description that should say the same."""
    folder = tmp_path_factory.mktemp("asked")
    if torture.LONG:
        model, about = weights.load("resnet10_wide_cifar10")
        path = export.to_onnx(model, about, folder / "asked.onnx")
    else:
        path = write_network(folder / "asked.onnx")
        model = Colors()
        about = {"classes": CLASSES, "mean": MEAN, "std": STD, "input_size": 32}
    server = Server(path, "--max-bytes", str(LIMIT), "--timeout", str(TIMEOUT))
    yield server, model, about
    server.process.send_signal(signal.SIGINT)
    assert server.process.wait(LIBERAL) == 0
    server.process.stdout.close()
    assert "Exception in ASGI" not in server.log.read_text()


def good(content, form=False):
    """A whole request with a picture, as bytes."""
    if not form:
        return request(content)
    return request(PART + content + b"\r\n--cut--\r\n", **FORM)


def request(body=b"", start="POST /predict", length=None, **headers):
    """A request as bytes; `length` may say something else than the body's."""
    length = len(body) if length is None else length
    lines = {"host": "x", "content-length": length} | headers
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"{start} HTTP/1.1\r\n{head}\r\n".encode("latin-1") + body


def answer(address, raw, sock=None, last=False):
    """Status, body and whether the connection stays; status None if it closed without an answer.

    last: nothing more will be sent, whether the request is whole or not.
    """
    host, port = address.removeprefix("http://").split(":")
    with contextlib.ExitStack() as stack:
        if sock is None:
            sock = stack.enter_context(socket.create_connection((host, int(port)), LIBERAL))
        with contextlib.suppress(OSError):  # it may refuse before all is sent
            sock.sendall(raw)
            if last:
                sock.shutdown(socket.SHUT_WR)
        try:
            response = http.client.HTTPResponse(sock)
            response.begin()
            return response.status, response.read(), not response.will_close
        except (ConnectionError, http.client.HTTPException):
            return None, b"", False


def right(answered, content, model, about):
    """Whether an answer gives the classes the probabilities that `predict` gives them."""
    status, body, _ = answered
    if status != 200:
        return False
    (own,) = predict.predict(model, about, content, top_k=len(about["classes"]))
    own = dict(zip(own.classes, own.probabilities, strict=True))
    found = {p["class"]: p["probability"] for p in json.loads(body)["predictions"]}
    first = next(iter(found))
    return (
        len(found) == 5
        and own[first] >= max(own.values()) - NEAR
        and all(abs(share - own[name]) <= NEAR for name, share in found.items())
    )


# --- Clients that are slow ----------------------------------------------------------------------


@contextlib.contextmanager
def served(protocol, seconds):
    """A bare application that never waits for a body, in a thread; gives the port."""

    async def app(scope, receive, send):
        start = {"type": "http.response.start", "status": 200, "headers": []}
        await send(start | {"headers": [(b"content-length", b"4000000")]})
        for _ in range(40):
            await send({"type": "http.response.body", "body": bytes(100_000), "more_body": True})
        await send({"type": "http.response.body"})

    with socket.create_server(("127.0.0.1", 0)) as sock:
        config = uvicorn.Config(
            app, http=protocol, ws="none", lifespan="off", loop="asyncio", log_level="error"
        )
        config.timeout_keep_alive, config.timeout_graceful_shutdown = seconds, 1
        server = uvicorn.Server(config)
        thread = threading.Thread(target=lambda: asyncio.run(server.serve([sock])))
        thread.start()
        yield sock.getsockname()[1]
        server.should_exit = True
        thread.join()


HEAD = b"GET / HTTP/1.1\r\nHost: x\r\n"


def silent(sock):
    """Never says a word."""
    yield


def slow_head(sock):
    """A head that never ends, byte by byte."""
    while True:
        yield sock.sendall(b"x")


def slow_second_head(sock):
    """A good request first, with its answer read; then as above."""
    sock.sendall(HEAD + b"\r\n")
    left = 4_000_000
    while left > 0 and (got := sock.recv(100_000)):
        left -= len(got)
    yield from slow_head(sock)


def slow_rest(sock):
    """A body that goes on byte by byte, though the answer has been given."""
    sock.sendall(HEAD + b"Content-Length: 1000000\r\n\r\n")
    sock.setblocking(False)
    while True:
        with contextlib.suppress(BlockingIOError):
            sock.recv(1_000_000)
        yield sock.send(b"x")


def deaf(sock):
    """Asks, and never takes the answer."""
    sock.sendall(HEAD + b"\r\n")
    while True:
        yield sock.sendall(b"x")


SLOW = [silent, slow_head, slow_second_head, slow_rest, deaf]


def held(port, behave, most):
    """Seconds until the server hangs up on such a client; None if it has not by `most`."""
    with socket.create_connection(("127.0.0.1", port), timeout=most) as sock:
        begun, acts = time.perf_counter(), behave(sock)
        with contextlib.suppress(ConnectionError):
            while (spent := time.perf_counter() - begun) < most:
                next(acts, None)
                if behave is silent:  # it can only look
                    sock.settimeout(most)
                    with contextlib.suppress(TimeoutError):
                        if not sock.recv(1):
                            return time.perf_counter() - begun
                time.sleep(0.02)
            return None
        return spent


def all_held(protocol, seconds, most):
    """Seconds for each kind of slow client, all at the same time."""
    with served(protocol, seconds) as port, ThreadPoolExecutor(len(SLOW)) as pool:
        spent = pool.map(lambda behave: held(port, behave, most), SLOW)
        return dict(zip([behave.__name__ for behave in SLOW], spent, strict=True))


def test_a_slow_client_is_left_in_time():
    spent = all_held(Connection, 0.2, LIBERAL)
    assert None not in spent.values() and min(spent.values()) > 0.15, spent


def test_uvicorn_alone_would_wait_for_slow_clients():
    assert set(all_held("h11", 0.1, 0.6).values()) == {None}


def test_a_client_that_takes_its_time_within_the_limits_is_answered(asked):
    """A head in pieces and then a body in pieces, each nearly as slow as may be."""
    server, content = asked[0], picture()
    host, port = server.address.removeprefix("http://").split(":")
    head = f"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: {len(content)}\r\n\r\n".encode()
    with socket.create_connection((host, int(port)), timeout=LIBERAL) as sock:
        for whole in (head, content):
            for i in range(5):
                sock.sendall(whole[len(whole) * i // 5 : len(whole) * (i + 1) // 5])
                time.sleep(TIMEOUT / 20)
        response = http.client.HTTPResponse(sock)
        response.begin()
        assert response.status == 200


def test_slow_clients_do_not_keep_others_waiting(asked):
    """Bodies that stop halfway get 408, heads that stop halfway are left, the rest is answered."""
    server, *judge = asked
    with contextlib.ExitStack() as stack:
        bodies = [stack.enter_context(wire(server, "Content-Length: 900", b"x")) for _ in range(10)]
        chunked = wire(server, "Transfer-Encoding: chunked", b"5\r\nhel")
        bodies.append(stack.enter_context(chunked))
        heads = [stack.enter_context(wire(server, "X: y", b"GET / HT")) for _ in range(10)]
        assert right(answer(server.address, good(picture())), picture(), *judge)
        assert [status_of(sock)[0] for sock in bodies] == [408] * len(bodies)
        for sock in heads:
            first = http.client.HTTPResponse(sock)  # an empty body is no picture
            first.begin()
            assert first.status == 422 and first.read()
            assert not sock.recv(1), "the connection is still open"


@pytest.mark.skipif(not torture.LONG, reason="takes some seconds of waiting: make torture")
def test_more_silent_clients_than_the_server_can_hold_do_not_lock_it(asked):
    """It runs out of file descriptors, hangs up on them in time, and answers again."""
    resource = pytest.importorskip("resource", reason="no limits on open files here")
    if not hasattr(resource, "prlimit"):
        pytest.skip("only Linux limits the open files of another process")
    server, *judge = asked
    assert right(answer(server.address, good(picture())), picture(), *judge)
    pid = server.process.pid
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    room = len(os.listdir(f"/proc/{pid}/fd")) + 20
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (room, before[1]))
    try:
        host, port = server.address.removeprefix("http://").split(":")
        with contextlib.ExitStack() as stack:
            for _ in range(30):
                stack.enter_context(socket.create_connection((host, int(port))))
            assert right(answer(server.address, good(picture())), picture(), *judge)
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)


# --- Requests that are garbled ------------------------------------------------------------------


def form(body, kind=FORM["content-type"]):
    return request(body, **{"content-type": kind})


def part(disposition, content=b"x"):
    return b"--cut\r\nContent-Disposition: " + disposition + b"\r\n\r\n" + content + b"\r\n"


END, FILE, FIELD = b"--cut--\r\n", b'form-data; name="file"; filename="a.png"', b"form-data; name=a"
SENT = picture()
NESTED = PART[:-2] + b"Content-Type: multipart/mixed; boundary=in\r\n\r\n--in\r\n\r\n"

# name: the request and the statuses that it may get.
BAD = {
    "no boundary": (form(PART, "multipart/form-data"), {400}),
    "an empty boundary": (form(PART, "multipart/form-data; boundary="), {400}),
    "a long boundary": (form(PART, f"multipart/form-data; boundary={'x' * 5000}"), {400}),
    "another boundary": (form(PART + SENT, "multipart/form-data; boundary=other"), {400}),
    "a form of lines": (form(b"\r\n" * (LIMIT // 2)), {400}),
    "parts without end": (form(part(FIELD) * 5000), {400}),
    "files without end": (form(part(FILE, SENT) * 300), {400}),
    "a part's head without end": (form(b"--cut\r\n" + b"a: b\r\n" * 20_000), {400}),
    "a long name": (form(part(FILE[:-5] + b"x" * 100_000 + b'"', SENT) + END), {400}),
    "nearly boundaries": (form(PART + b"\r\n--cu" * 40_000), {400}),
    "ends without end": (form(PART + b"\r\n--cut--" * 30_000), {400, 422}),
    "a form in a form": (form(NESTED + SENT + b"\r\n--in--\r\n" + END), {422}),
    "truncated": (form(PART + SENT), {400}),
    "no disposition": (form(b"--cut\r\n\r\n" + SENT + b"\r\n" + END), {400}),
    "no name": (form(part(b'form-data; filename="a"', SENT) + END), {400}),
    "broken names": (form(part(b"form-data; name*0*=no''%e2; filename*2=b") + END), {400}),
    "a charset that fails": (
        form(PART + SENT + b"\r\n" + END, FORM["content-type"] + "; charset=undefined"),
        {400},
    ),
    "a charset that is none": (
        form(PART + SENT + b"\r\n" + END, FORM["content-type"] + "; charset=punycode"),
        {400},
    ),
    "a large body": (request(bytes(LIMIT + 1)), {413}),
    "a very large body": (request(bytes(4 * LIMIT)), {413}),
    "a length too small": (request(SENT, length=20), {422}),
    "two lengths": (request(SENT, **{"Content-Length": 20}), {400}),
    "a length of many digits": (request(length="9" * 5000), {400}),
    "a huge head": (request(SENT, x="y" * 1_000_000), {400}),
    "heads without end": (request(SENT, **{f"x{i}": i for i in range(100_000)}), {400}),
    "a head with a zero": (request(SENT, x="a\0b"), {400}),
    "not HTTP": (b"\x16\x03\x01\x02\x00\x01\x00" * 20 + b"\r\n\r\n", {400}),
    "no host": (b"GET / HTTP/1.1\r\n\r\n", {400}),
    "a path out": (request(start="GET /static/../../../etc/passwd"), {404}),
    "a path with a zero": (request(start="GET /static/%00"), {404}),
    "a long path": (request(start="GET /static/" + "a" * 20_000), {404}),
    "a strange method": (request(start="BREW /predict"), {405}),
    "ranges": (request(start="GET /", range="bytes=a-b,-,5-1"), {400}),
    "a websocket": (
        request(start="GET /predict", upgrade="websocket", connection="upgrade"),
        {405},
    ),
}
for _name, _content in BAD_PICTURES.items():
    BAD[_name] = good(_content), {422}
    BAD[f"{_name}, in a form"] = good(_content, form=True), {422}

NAMES = {  # of a file: none is ever used, so the picture is answered
    "a path": b"../../../../tmp/taken.png",
    "an absolute path": b"/etc/passwd",
    "a drive": b"C:\\windows\\a.png",
    "no name": b"",
    "a device": b"/dev/zero",
    "not UTF-8": b"\xff\xfe\xff",
    "quotes": b'a\\"; name=\\"other',
}


@pytest.mark.parametrize("name", BAD)
def test_a_garbled_request_is_refused(asked, name):
    raw, statuses = BAD[name]
    status = answer(asked[0].address, raw)[0]
    # None: it hung up while the request was still being sent.
    assert status in statuses or (status is None and len(raw) > LIMIT), status


@pytest.mark.parametrize("name", NAMES)
def test_the_name_of_a_file_is_never_used(asked, name):
    server, *judge = asked
    named = part(b'form-data; name="file"; filename="' + NAMES[name] + b'"', SENT)
    assert right(answer(server.address, form(named + END)), SENT, *judge)


# --- Many at once -------------------------------------------------------------------------------


def mutated(raw, dice):
    """A request with a few of its bytes changed, lost or doubled, then cut off."""
    raw = bytearray(raw)
    for _ in range(dice.randint(1, 8)):
        i = dice.randrange(len(raw))
        raw[i : i + dice.randint(0, 3)] = dice.randbytes(dice.randint(0, 3))
    return bytes(raw[: dice.choice([len(raw), dice.randrange(len(raw)) + 1])])


def pictures(seed, n):
    """Pictures of different colors, sizes and formats, as files."""
    dice = random.Random(seed)
    for _ in range(n):
        size = dice.randint(8, 80), dice.randint(8, 80)
        kind = dice.choice(["PNG", "JPEG", "WEBP", "GIF", "BMP"])
        color = tuple(dice.randbytes(3))
        yield dice.choice([picture(color, size, kind), noisy(size, kind)])


def mix(seed, n, contents):
    """`n` requests, half of them good: the bytes, and what is right to answer.

    That is a picture's number for a good one, a set of statuses for a bad one, and None for one of
    which only is known that the server survives it.
    """
    dice = random.Random(seed)
    for _ in range(n):
        at = dice.randrange(len(contents))
        raw = good(contents[at], form=dice.random() < 0.5)
        yield dice.choice(
            [(raw, at), (raw, at), dice.choice(list(BAD.values())), (mutated(raw, dice), None)]
        )


def memory(pid):
    """What a process holds, in MB; nothing where `ps` cannot say."""
    try:
        out = subprocess.run(["ps", "-o", "rss=", "-p", str(pid)], capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no ps here to ask for a process's memory")
    return int(out.stdout) / 1024


def client(address, requests, judged):
    """Sends one request after the other, over connections that last as long as the server lets.

    Returns how often each status came, and what was answered wrongly: status, request, answer.
    """
    host, port = address.removeprefix("http://").split(":")
    counts, wrong, sock = Counter(), [], None
    for raw, due in requests:
        picture_sent = type(due) is int
        more_than_one = raw == BAD["a length too small"][0]  # its rest begins the next one
        for _ in range(100):
            sock = sock or socket.create_connection((host, int(port)), LIBERAL)
            answered = answer(address, raw, sock, last=due is None)
            status, _, stays = answered
            counts[status] += 1
            if due is None or more_than_one or not stays:
                sock.close()
                sock = None
            if status != 503 and not (picture_sent and status is None):
                break
            time.sleep(0.05)  # it is busy, or had just hung up: once more
        if picture_sent:
            fine = judged(answered, due)
        else:
            fine = status in (due or range(500)) or status in (None, 503)
        if not fine:
            wrong.append((status, raw[:200], answered[1][:200]))
    if sock:
        sock.close()
    return counts, wrong


def test_among_thousands_of_requests_every_good_one_is_answered_right_and_memory_stays(asked):
    server, *judge = asked
    address = server.address  # heard from the server once, before the threads ask
    seed, n = 20, rounds(60, 10_000)
    contents = list(pictures(seed, rounds(20, 200)))

    def judged(answered, at):
        return right(answered, contents[at], *judge)

    def flood(requests):
        each = [requests[i::CLIENTS] for i in range(CLIENTS)]
        with ThreadPoolExecutor(CLIENTS) as pool:
            parts = list(pool.map(lambda r: client(address, r, judged), each))
        return sum((c for c, _ in parts), Counter()), [w for _, wrong in parts for w in wrong]

    _, wrong = flood(list(mix(seed + 1, rounds(20, 1000), contents)))
    assert not wrong, f"seed {seed + 1}: {wrong[:3]}"
    before = memory(server.process.pid)
    counts, wrong = flood(list(mix(seed, n, contents)))
    after = memory(server.process.pid)
    assert not wrong, f"seed {seed}: {wrong[:3]}"
    assert not {s for s in counts if s and s >= 500} - {503}, counts
    assert after - before < GROWTH, f"seed {seed}: {before:.0f} MB became {after:.0f}"
    assert server.count("serve_queue_depth") == 0
    figures(
        "requests",
        "mixed good and bad",
        tries=n,
        answered=counts[200],
        busy=counts[503],
        server_errors=0,
        wrong=0,
        growth_mb=round(after - before, 1),
    )


def test_a_wrong_answer_and_memory_that_grows_are_seen(asked):
    server, *judge = asked
    answered = answer(server.address, good(picture((30, 200, 30))))
    assert right(answered, picture((30, 200, 30)), *judge)
    assert not right(answered, picture((34, 200, 30)), *judge)
    assert not right((503, *answered[1:]), picture((30, 200, 30)), *judge)
    before = memory(os.getpid())
    with mmap.mmap(-1, 2 * GROWTH * 2**20) as held:  # new to the process, whatever it freed before
        held.write(b"x" * len(held))
        assert memory(os.getpid()) - before > GROWTH
