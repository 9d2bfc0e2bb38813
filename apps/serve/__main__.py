"""`python -m apps.serve MODEL.onnx`: see `--help`."""

from __future__ import annotations

import argparse
import functools
import math
import os
import signal
import socket
import sys
import tempfile

HELP = """\
Serve an exported network (python -m apps.export) as a web page and an HTTP API:

  curl --data-binary @cat.png http://127.0.0.1:8000/predict
  curl -F file=@cat.png       http://127.0.0.1:8000/predict
  curl http://127.0.0.1:8000/health
  curl http://127.0.0.1:8000/metrics

Pictures that arrive together are computed together. What is too much is refused at once, with 503
and Retry-After. SIGTERM or Ctrl+C: nothing new is taken, what runs is finished, then it ends.
Exit codes: 0 stopped, 2 not started (the reason is one line on stderr)."""


def number(least: float, kind: type = int):
    """For argparse: a number, and not below `least`."""

    def parse(text: str):
        value = kind(text)
        if not least <= value < math.inf:
            raise argparse.ArgumentTypeError(f"at least {least:g}, not {text}")
        return value

    parse.__name__ = kind.__name__
    return parse


def parser() -> argparse.ArgumentParser:
    """The command line."""
    formatter = argparse.RawDescriptionHelpFormatter
    p = argparse.ArgumentParser("python -m apps.serve", description=HELP, formatter_class=formatter)
    p.add_argument("model", metavar="MODEL.onnx", help="its description lies beside it as .json")
    p.add_argument("--host", default="127.0.0.1", help="0.0.0.0 lets other machines in")
    p.add_argument("--port", type=number(0), default=8000, help="0: any that is free")
    p.add_argument("--workers", type=number(1), default=1, help="processes, each with the network")
    p.add_argument("--threads", type=number(1), help="a worker's; default: cores / workers")
    p.add_argument("--max-bytes", type=number(1), default=10_000_000, help="of an upload: else 413")
    p.add_argument("--max-pixels", type=number(64), default=25_000_000, help="more: 422, unopened")
    p.add_argument("--max-queue", type=number(1), default=64, help="pictures inside a worker")
    p.add_argument(
        "--batch", type=number(1), default=16, help="pictures computed together, at most"
    )
    p.add_argument("--wait-ms", type=number(0, float), default=5, help="how long a batch fills")
    seconds = "seconds for a head, then for a body (408), and again for its answer (503)"
    p.add_argument("--timeout", type=number(0.1, float), default=10, help=seconds)
    return p


def listen(host: str, port: int) -> socket.socket:
    """A listening socket. Raises ValueError where there can be none."""
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        sock = socket.create_server(address[:2], family=family)
        # Inherited by every connection: an answer in two parts would else wait for the client's
        # acknowledgment, which clients delay by some 40 ms.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        advice = "choose another --port or --host, or stop what is there"
        raise ValueError(f"cannot listen at {host}, port {port}: {reason}; {advice}") from error


def run(args: argparse.Namespace) -> int:
    """Serve until a signal comes; the exit code."""
    threads = args.threads or max(1, (os.cpu_count() or 1) // args.workers)
    try:
        sock = listen(args.host, args.port)  # first: it takes no time, and importing torch does
        import uvicorn

        from apps.serve.connection import Connection
        from apps.serve.supervisor import supervise
        from apps.serve.web import Network, Settings, create_app

        network = Network(args.model, threads)
    except (ValueError, OSError) as error:
        print(f"serve: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    limits = {k: getattr(args, k) for k in "max_bytes max_pixels max_queue batch timeout".split()}
    settings = Settings(args.model, threads, wait=args.wait_ms / 1000, **limits)
    host, port = sock.getsockname()[:2]
    host = f"[{host}]" if ":" in host else host
    workers = f"{args.workers} worker{'s' * (args.workers > 1)}"
    print(
        f"{network.name}, {len(network.classes)} classes, {workers}: http://{host}:{port}",
        flush=True,
    )
    # Processes of their own load their own network.
    app = functools.partial(create_app, settings, network if args.workers == 1 else None)
    config = uvicorn.Config(
        app,
        factory=True,
        workers=args.workers,
        loop="asyncio",  # not "auto": the same everywhere, whatever else is installed
        http=Connection,
        ws="none",
        lifespan="on",
        log_level="warning",
        server_header=False,
        timeout_keep_alive=args.timeout,
        timeout_graceful_shutdown=math.ceil(2 * args.timeout) + 1,
    )
    if args.workers == 1:
        uvicorn.Server(config).run([sock])
        return 0
    return supervise(config, sock)


def main() -> int:
    """Parse, serve, clean up; the exit code."""
    args = parser().parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # torch's, which normalizes and no more
    with tempfile.TemporaryDirectory(prefix="serve-") as counts:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = counts
        try:
            return run(args)
        except KeyboardInterrupt:
            return 0


if __name__ == "__main__":
    sys.exit(main())
