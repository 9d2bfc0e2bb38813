"""The server of apps/serve under load, on loopback: one worker and two, calm, crowded, flooded.

Clients are coroutines in this process, each with one connection kept open, that send the next
picture when the last is answered; they take some of the machine that the server runs on. The
picture is a PNG of 32 × 32 pixels. `ratio` is answers a second over those of one worker and one
client; where the queue is short, answers a second over what they were in calm.

`python benchmarks/serve.py [MODEL.onnx] [SECONDS]` prints a table; without a model, the shipped
network is exported first.
"""

from __future__ import annotations

import asyncio
import io
import subprocess
import sys
import tempfile
import time
from contextlib import asynccontextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NETWORK = "resnet10_wide_cifar10"
CLIENTS = (1, 8, 64)
QUEUE = 4  # in the flood: far fewer places than clients


def a_picture() -> bytes:
    """A drawn picture as PNG."""
    from PIL import Image

    from cifar_utils import data

    image = data.load("cifar10", stand_in=(1, 1)).train.images[0]
    file = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(file, "PNG")
    return file.getvalue()


@asynccontextmanager
async def serving(model: Path, *options: str):
    """A server as a process of its own; gives its port, once every worker answers."""
    command = [sys.executable, "-m", "apps.serve", str(model), "--port", "0", *options]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        line = process.stdout.readline()
        if ":" not in line:
            raise RuntimeError(f"no server: code {process.wait()}")
        port, workers = int(line.rsplit(":", 1)[1]), 1 + ("2 workers" in line)
        while (await ask(port, b"GET /metrics HTTP/1.1")).count(b"serve_worker_up{") < workers:
            await asyncio.sleep(0.2)
        yield port
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


async def ask(port: int, head: bytes) -> bytes:
    """One request on a connection of its own."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(head + b"\r\nHost: here\r\nConnection: close\r\n\r\n")
    answer = await reader.read()
    writer.close()
    return answer


async def client(port: int, body: bytes, until: float, seen: list[tuple[int, float]]) -> None:
    """Sends picture after picture; notes the status and the seconds of each."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = f"POST /predict HTTP/1.1\r\nHost: here\r\nContent-Length: {len(body)}\r\n\r\n"
    while time.perf_counter() < until:
        begun = time.perf_counter()
        writer.write(head.encode() + body)
        answer = await reader.readuntil(b"\r\n\r\n")
        length = int(answer.lower().split(b"content-length:")[1].split(b"\r\n")[0])
        await reader.readexactly(length)
        status = int(answer.split()[1])
        seen.append((status, time.perf_counter() - begun))
        if status == 503:
            await asyncio.sleep(0.1)  # told to come back in a second; this one is in a hurry
    writer.close()


async def load(port: int, clients: int, seconds: float) -> dict:
    """What so many clients got in so many seconds: answers a second, milliseconds, refusals."""
    body, seen = a_picture(), []
    await client(port, body, time.perf_counter() + 0.5, [])  # warm
    begun = time.perf_counter()
    await asyncio.gather(*(client(port, body, begun + seconds, seen) for _ in range(clients)))
    took = time.perf_counter() - begun
    row = {}
    for name, status in (("answer", 200), ("refusal", 503)):
        times = sorted(1000 * t for s, t in seen if s == status)
        row[f"{name}s_per_second"] = round(len(times) / took, 1)
        if times:
            row[f"{name}_p50_ms"] = round(times[len(times) // 2], 1)
            row[f"{name}_p99_ms"] = round(times[int(0.99 * len(times))], 1)
    row["other_statuses"] = sum(s not in (200, 503) for s, _ in seen)
    return row


async def campaign(model: Path, seconds: float) -> list[dict]:
    """All rows, in order."""
    rows = []
    for workers in (1, 2):
        async with serving(model, "--workers", str(workers)) as port:
            for clients in CLIENTS:
                row = await load(port, clients, seconds)
                name = f"serve, workers {workers}, clients {clients}"
                rows.append({"name": name, "ratio": 1.0, **row})
                rows[-1]["ratio"] = round(
                    row["answers_per_second"] / rows[0]["answers_per_second"], 2
                )
    async with serving(model, "--max-queue", str(QUEUE)) as port:
        calm = await load(port, QUEUE, seconds)
        flood = await load(port, 64, seconds)
        after = await load(port, QUEUE, seconds)
    for when, row in (("calm", calm), ("flood of 64", flood), ("calm again", after)):
        ratio = round(row["answers_per_second"] / calm["answers_per_second"], 2)
        rows.append({"name": f"serve, queue of {QUEUE}, {when}", "ratio": ratio, **row})
    return rows


def measure(model: Path | None = None, seconds: float = 5) -> list[dict]:
    """One row for each load: {"name", "ratio", answers a second, p50 and p99, refusals}."""
    if model is not None:
        return asyncio.run(campaign(model, seconds))
    from cifar_utils import export, weights

    with tempfile.TemporaryDirectory() as folder:
        network, about = weights.load(NETWORK)
        path = export.to_onnx(network, about, Path(folder) / f"{NETWORK}.onnx")
        return asyncio.run(campaign(path, seconds))


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    from benchmarks.run import table

    given = [Path(a) for a in sys.argv[1:] if a.endswith(".onnx")]
    numbers = [float(a) for a in sys.argv[1:] if not a.endswith(".onnx")]
    print(table(measure(*given[:1] or [None], *numbers[:1])))
