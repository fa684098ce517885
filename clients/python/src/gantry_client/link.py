"""The connection to nats-server, shared by all requests of a client."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Optional

import nats.errors
from nats.aio.client import Client as NatsClient
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from .connection import is_refusal, reason_of
from .errors import AuthenticationError, ConnectionFailedError, PermissionDeniedError

# Maximum number of messages in an inbox. Credit bounds a transfer's chunks; this bounds all other messages.
_INBOX_MESSAGES_MAX = 65_536

_VIOLATIONS_KEPT = 64

# How often in succession nats-server refuses the credentials before that is reported. It may do so once as it starts.
_REFUSALS_MAX = 2

_POLL_S = 0.05
_HEALTH_TIMEOUT_S = 2


class Link:
    """A NATS connection that is replaced once it is closed permanently."""

    def __init__(self, nc: NatsClient, reopen: Optional[Callable[[], Awaitable[NatsClient]]]) -> None:
        """`reopen` makes a new connection. It is `None` if the caller owns `nc` and keeps it open."""
        self._nc = nc
        self._reopen = reopen
        self._reopening = asyncio.Lock()
        self._closed = False
        self._violations: deque[str] = deque(maxlen=_VIOLATIONS_KEPT)

        # Why there is no connection, and how often in succession the reason was that the credentials were refused.
        self._reason = ""
        self._refusals = 0

    @property
    def epoch(self) -> object:
        """Identifies the current connection: changes with each reconnect, and is `None` while disconnected."""
        nc = self._nc
        return (id(nc), nc.stats["reconnects"]) if nc.is_connected else None

    async def ready(self, within_s: float) -> NatsClient:
        """Waits for a connection. Raises `ConnectionFailedError` and `AuthenticationError`."""
        deadline = time.monotonic() + within_s
        while True:
            if self._closed:
                raise ConnectionFailedError("the client is closed")
            nc = self._nc
            if nc.is_connected:
                self._reason, self._refusals = "", 0
                return nc
            if self._refusals >= _REFUSALS_MAX:
                raise AuthenticationError(f"nats-server refuses the credentials: {self._reason}")
            if nc.is_closed:
                await self._replace(nc)
                if self._nc.is_connected:
                    continue
            if time.monotonic() >= deadline:
                reason = f": {self._reason}" if self._reason else ""
                raise ConnectionFailedError(f"no connection to nats-server within {within_s:.0f} s{reason}")
            await asyncio.sleep(_POLL_S)

    async def check(self) -> None:
        """Replaces a connection that no longer responds."""
        nc = self._nc
        if not nc.is_connected:
            return
        try:
            await nc.flush(timeout=_HEALTH_TIMEOUT_S)
        except (nats.errors.Error, asyncio.TimeoutError, OSError):
            if self._reopen is not None and self._nc is nc and nc.is_connected:
                # `ready` makes a new one.
                await _close(nc)

    async def record_error(self, error: Exception) -> None:
        """Records an error that nats-server reports. `nats-py` calls this."""
        self._violations.append(str(error).lower())
        self._reason = reason_of(error)
        self._refusals = self._refusals + 1 if is_refusal(error) else 0

    def check_permission(self, *subjects: str) -> None:
        """Raises `PermissionDeniedError` if nats-server has just denied one of the subjects."""
        for violation in self._violations:
            for subject in subjects:
                if "permissions violation" in violation and f'"{subject.lower()}"' in violation:
                    self._violations.remove(violation)
                    raise PermissionDeniedError(f"nats-server denies {subject!r}: {violation}")

    async def close(self) -> None:
        """Closes the connection, unless the caller owns it."""
        self._closed = True
        if self._reopen is not None:
            await _close(self._nc)

    async def _replace(self, dead: NatsClient) -> None:
        if self._reopen is None:
            raise ConnectionFailedError("the NATS connection is closed")
        async with self._reopening:
            if self._nc is not dead or self._closed:
                return
            try:
                self._nc = await self._reopen()
            except AuthenticationError:
                raise
            except ConnectionFailedError as error:
                # `ready` tries again until its time is up.
                self._reason = str(error)


async def _close(nc: NatsClient) -> None:
    # nats-py sends what is buffered first, which fails if nats-server has closed the connection.
    with contextlib.suppress(OSError):
        await nc.close()


class Inbox:
    """A fresh subject, and the messages that have arrived on it."""

    def __init__(self, nc: NatsClient, bytes_max: int) -> None:
        """Holds at most `bytes_max` bytes. Beyond that, messages are dropped and `overflowed` is set."""
        self._nc = nc
        self._bytes_max = bytes_max
        self._bytes = 0
        self._messages: deque[Msg] = deque()
        self._wake = asyncio.Event()
        self._subscription: Optional[Subscription] = None

        #: The subject.
        self.subject: str = nc.new_inbox()

        #: Whether messages were dropped.
        self.overflowed = False

    async def open(self) -> None:
        """Subscribes."""
        # Messages leave the subscription at once, so that its own limits never drop a message before this inbox does.
        self._subscription = await self._nc.subscribe(
            self.subject,
            cb=self._take,
            pending_msgs_limit=2 * _INBOX_MESSAGES_MAX,
            pending_bytes_limit=2 * self._bytes_max,
        )

    async def publish(self, subject: str, payload: bytes) -> None:
        """Publishes with this inbox as reply subject."""
        await self._nc.publish(subject, payload, reply=self.subject)

    async def next(self, timeout_s: float) -> Optional[Msg]:
        """Returns the next message, or `None` if the time is up or `wake` was called."""
        if not self._messages and not self._wake.is_set():
            # Before Python 3.12, `asyncio.wait_for` can lose a cancellation.
            timer = asyncio.get_running_loop().call_later(timeout_s, self._wake.set)
            try:
                await self._wake.wait()
            finally:
                timer.cancel()
        self._wake.clear()
        if not self._messages:
            return None
        message = self._messages.popleft()
        self._bytes -= len(message.data)
        return message

    def wake(self) -> None:
        """Makes `next` return."""
        self._wake.set()

    async def close(self) -> None:
        """Unsubscribes."""
        subscription, self._subscription = self._subscription, None
        self._messages.clear()
        if subscription is not None:
            try:
                await subscription.unsubscribe()
            except (nats.errors.Error, OSError):
                pass

    async def _take(self, message: Msg) -> None:
        size = len(message.data)
        if self._bytes + size > self._bytes_max or len(self._messages) >= _INBOX_MESSAGES_MAX:
            self.overflowed = True
        else:
            self._messages.append(message)
            self._bytes += size
        self._wake.set()


class WindowBudget:
    """Divides the bytes that may be in flight on one connection among its downloads."""

    def __init__(self, window: int, total: int) -> None:
        """`window` is the maximum for one download, `total` the maximum for all downloads together."""
        self._window = window
        self._total = total
        self._active = 0

    @property
    def share(self) -> int:
        """The current window of each download."""
        return max(1, min(self._window, self._total // max(1, self._active)))

    def join(self) -> None:
        """Adds a download."""
        self._active += 1

    def leave(self) -> None:
        """Removes a download."""
        self._active -= 1
