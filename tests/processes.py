"""Processes that tests start: to kill them, to lock them out, or to have two of them meet.

On Linux they fork from a server that has imported what they need, so that a start takes
milliseconds and not seconds; elsewhere each is a fresh Python.
"""

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

CONTEXT = multiprocessing.get_context("forkserver" if sys.platform == "linux" else "spawn")
if sys.platform == "linux":
    CONTEXT.set_forkserver_preload("pytest cifar_utils.runs".split())
KILL = getattr(signal, "SIGKILL", signal.SIGTERM)  # Windows ends a process at once with either


class Voice:
    """What a process says of itself; at the moment aimed at, it is the last it says."""

    def __init__(self, say: Connection, aim: tuple[str, int] | None = None):
        self.say, (self.phase, self.left) = say, aim or (None, 0)

    def __call__(self, *words: Any) -> None:
        self.say.send(words)
        self.left -= words[0] == self.phase
        if words[0] == self.phase and not self.left:
            os.kill(os.getpid(), KILL)

    def before(self, word: str, call: Callable) -> Callable:
        """`call`, but it says `word` first."""

        def said(*arguments, **options):
            self(word)
            return call(*arguments, **options)

        return said


def start(function: Callable, *arguments: Any) -> tuple[multiprocessing.Process, Connection]:
    """Run `function(say, *arguments)` in a process of its own; the process, and what it says."""
    heard, say = CONTEXT.Pipe(duplex=False)
    process = CONTEXT.Process(target=function, args=(say, *arguments))
    process.start()
    say.close()
    return process, heard


def listen(process: multiprocessing.Process, heard: Connection) -> list[tuple]:
    """All that a process says until it ends."""
    said = []
    while True:
        try:
            said.append(heard.recv())
        except (EOFError, OSError):  # the last word may be cut short
            process.join()
            return said


def run(function: Callable, *arguments: Any) -> list[tuple]:
    """What `function(say, *arguments)` says in a process of its own, which must end well."""
    process, heard = start(function, *arguments)
    said = listen(process, heard)
    assert process.exitcode == 0, f"{function.__name__} ended with {process.exitcode}: {said[-1:]}"
    return said
