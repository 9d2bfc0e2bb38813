"""A client's connection, with time limits on what uvicorn waits for without end."""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol


class Connection(H11Protocol):
    """uvicorn's own, closed when a head, or a client that should read, keeps it waiting too long.

    uvicorn only counts the seconds in which nothing at all arrives, and only after a first answer:
    a client that says nothing, or a byte now and then, would hold its place for ever. Here a head
    has `timeout_keep_alive` seconds from the moment in which no request is running, and an answer
    has as long to be taken off the line. The limits for a body are in `web`.
    """

    head: asyncio.TimerHandle | None = None
    answer: asyncio.TimerHandle | None = None

    def watch(self) -> None:
        """Let the time for a head run exactly while no request is."""
        idle = self.cycle is None or self.cycle.response_complete
        if idle and self.head is None:
            self.head = self.loop.call_later(self.timeout_keep_alive, self.transport.abort)
        elif not idle and self.head is not None:
            self.head.cancel()
            self.head = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        """A client is here."""
        super().connection_made(transport)
        self.watch()

    def handle_events(self) -> None:
        """Something has arrived, or an answer has left."""
        super().handle_events()
        self.watch()

    def pause_writing(self) -> None:
        """The client does not take what was sent."""
        super().pause_writing()
        self.answer = self.loop.call_later(self.timeout_keep_alive, self.transport.abort)

    def resume_writing(self) -> None:
        """It does again."""
        super().resume_writing()
        self.answer.cancel()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has left, or was left."""
        super().connection_lost(exc)
        for timer in filter(None, (self.head, self.answer)):
            timer.cancel()
