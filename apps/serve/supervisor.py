"""Several workers behind one port."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
from multiprocessing.connection import wait

import uvicorn
from prometheus_client.multiprocess import mark_process_dead
from uvicorn.config import STARTUP_FAILURE

# uvicorn's own parent of workers kills those that do not answer it within seconds, which importing
# torch on a busy machine takes; and it leaves the port open while they end.


def worker(config: uvicorn.Config, sock: socket.socket) -> None:
    """The life of a worker: it ends at a signal, or when its parent is gone."""

    def orphaned() -> None:
        multiprocessing.parent_process().join()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=orphaned, daemon=True).start()
    config.configure_logging()
    with contextlib.suppress(KeyboardInterrupt):
        uvicorn.Server(config).run([sock])


def supervise(config: uvicorn.Config, sock: socket.socket) -> int:
    """Keep `config.workers` workers at `sock`, one that dies replaced, until SIGTERM or SIGINT.

    Both have to raise here. Returns 2 if a worker cannot start, for the next one could not either.
    """
    spawn = multiprocessing.get_context("spawn")

    def start() -> multiprocessing.process.BaseProcess:
        process = spawn.Process(target=worker, args=(config, sock), daemon=True)
        process.start()
        return process

    mark_process_dead(os.getpid())  # it only minds workers: no gauges of its own
    workers = [start() for _ in range(config.workers)]
    try:
        while True:
            wait([process.sentinel for process in workers])
            for i, process in enumerate(workers):
                if process.is_alive():
                    continue
                mark_process_dead(process.pid)  # else it stays in the gauges
                if process.exitcode == STARTUP_FAILURE:
                    return 2
                dead = f"serve: worker {process.pid} ended ({process.exitcode}), another starts"
                print(dead, file=sys.stderr, flush=True)
                time.sleep(0.5)
                workers[i] = start()
    finally:
        for kind in (signal.SIGTERM, signal.SIGINT):
            signal.signal(kind, signal.SIG_IGN)  # it is ending already
        sock.close()  # while it is open here, new clients would wait for an answer
        for process in workers:
            process.terminate()
        for process in workers:
            process.join()
