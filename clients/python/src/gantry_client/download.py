"""One download: requests the bytes, checks each message, and requests the rest again after any failure."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import deque
from dataclasses import dataclass, replace
from typing import NoReturn, Optional

import nats.errors
from nats.aio.client import Client as NatsClient
from nats.aio.msg import Msg

from . import crc, protocol
from .errors import (
    ChangedError,
    ConnectionFailedError,
    GantryError,
    InternalError,
    MalformedError,
    NoRelayError,
    RelayError,
    StalledError,
)
from .link import Inbox, Link, WindowBudget
from .protocol import Accepted, ObjectInfo

_log = logging.getLogger("gantry_client")

_TICK_S = 0.25
_STALL_S = 3.0
_STALL_MAX_S = 30.0
_ANSWER_S = 1.0
_NO_RELAY_S = 1.5
_BACKOFF_S = (0.1, 2.0)
_INTERNAL_MAX = 5
_CHUNK_MIN = 16 * 1024

# The largest chunk of a relay with default settings. Credit is first given in multiples of it.
_CHUNK_DEFAULT = 520_192

# Credit is sent when it has grown by this fraction of the window, which is two chunks for the default window.
_CREDIT_STEPS = 4

# How long after a `503` a control message is sent again, and how many `beat_s` of silence, at least how many seconds,
# mean together with one that the relay is gone.
_RESEND_S = 0.05
_ABSENCE_BEATS, _ABSENCE_MIN_S = 1.25, 0.25

# If a wait exceeds its timeout by this much, this process was suspended.
_OWN_PAUSE_S = 0.5

# The number of bytes that an inbox holds in addition to the window: messages other than chunks, and repeats.
_INBOX_SLACK = 16 * 1024 * 1024


@dataclass(frozen=True)
class Request:
    """The requested object and range."""

    store: str
    key: str
    correlation: str
    start: int = 0
    end: Optional[int] = None
    if_match: Optional[str] = None
    version_id: Optional[str] = None


class _SetbackError(Exception):
    """The transfer has failed, and the rest must be requested again."""

    def __init__(self, cause: GantryError, *, cancels: bool = False, is_silence: bool = False) -> None:
        super().__init__(str(cause))
        self.cause = cause
        self.cancels = cancels
        self.is_silence = is_silence


class Download:
    """Receives the bytes of one request in order. `run` drives it; `next_batch` and `mark_written` take the bytes."""

    def __init__(
        self,
        link: Link,
        budget: WindowBudget,
        prefix: str,
        request: Request,
        patience_s: float,
        known: Optional[ObjectInfo] = None,
    ) -> None:
        """`known` is the version that the bytes must belong to, if some of them have been downloaded before."""
        self._link = link
        self._budget = budget
        self._prefix = prefix
        self._request = request
        self._patience_s = patience_s

        self._version = known
        self._end: Optional[int] = None
        self._received = request.start
        self._written = request.start
        self._queue: deque[tuple[bytes, int]] = deque()
        self._changed = asyncio.Event()
        self._begun = asyncio.Event()
        self._inbox: Optional[Inbox] = None

        self._heard_relay = False
        self._progress_at = time.monotonic()
        self._fruitless = 0
        self._internal_errors = 0
        self._stall_s = _STALL_S
        self._answer_s = _ANSWER_S
        self._chunk_limit: Optional[int] = None
        self._finished = False

        #: How often the rest was requested again.
        self.recoveries = 0

        #: The last transfer.
        self.transfer: Optional[str] = None

    @property
    def info(self) -> ObjectInfo:
        """The version, once the first request was accepted."""
        assert self._version is not None, "begun comes first"
        return self._version

    @property
    def end(self) -> int:
        """The exclusive end of the range, once the first request was accepted."""
        assert self._end is not None, "begun comes first"
        return self._end

    async def begun(self) -> None:
        """Waits for the first acceptance."""
        await self._begun.wait()

    async def next_batch(self) -> list[tuple[bytes, int]]:
        """Waits for chunks, and returns each with its CRC-64/NVME. Returns an empty list at the end."""
        while not self._queue and not self._finished:
            self._changed.clear()
            await self._changed.wait()
        batch = list(self._queue)
        self._queue.clear()
        return batch

    def stop(self) -> None:
        """Wakes all callers that wait in `begun` or `next_batch`, after `run` has ended for any reason."""
        self._finished = True
        self._begun.set()
        self._changed.set()

    def mark_written(self, length: int) -> None:
        """Records this many more written bytes, so that the relay may send as many more."""
        self._written += length
        self._progress_at = time.monotonic()
        if self._inbox is not None:
            self._inbox.wake()

    async def run(self) -> None:
        """Receives everything, or raises a `GantryError`."""
        self._budget.join()
        try:
            while not self._finished:
                received = self._received
                try:
                    await self._attempt()
                except _SetbackError as setback:
                    await self._recover(setback, progressed=self._received > received)
        finally:
            self._budget.leave()

    async def _attempt(self) -> None:
        nc = await self._link.ready(self._patience_s)
        epoch = self._link.epoch
        inbox = Inbox(nc, self._budget.share + _INBOX_SLACK)
        self._inbox = inbox
        transfer = _Transfer(self, inbox, epoch)
        try:
            await inbox.open()
            await transfer.request(nc)
            await transfer.receive()
        except _SetbackError as setback:
            if setback.cancels:
                await transfer.cancel()
            raise
        except (nats.errors.Error, OSError) as error:
            raise _SetbackError(ConnectionFailedError(f"the NATS connection failed: {error}")) from error
        except BaseException:
            await transfer.cancel()
            raise
        finally:
            self._inbox = None
            await inbox.close()

    async def _recover(self, setback: _SetbackError, progressed: bool) -> None:
        cause = setback.cause
        if isinstance(cause, RelayError) and not cause.retryable:
            raise cause

        self.recoveries += 1
        self._log("requesting the rest from offset %d: %s", self._received, protocol.printable(str(cause)))
        self._fruitless = 0 if progressed else self._fruitless + 1
        self._internal_errors = self._internal_errors + 1 if isinstance(cause, InternalError) and not progressed else 0
        if setback.is_silence:
            self._adapt_to_silence(progressed)
            await self._link.check()
        self._give_up_if_hopeless(cause)

        pause_s = getattr(cause, "retry_after_s", 0.0)
        if self._fruitless > 0:
            first, most = _BACKOFF_S
            backoff_s = min(most, first * 2 ** min(self._fruitless - 1, 10))
            pause_s = max(pause_s, backoff_s * random.uniform(0.5, 1.0))
        if pause_s > 0:
            await asyncio.sleep(pause_s)

    def _adapt_to_silence(self, progressed: bool) -> None:
        """Adapts to a slow link: smaller chunks arrive sooner, and a longer timeout lets them arrive."""
        self._answer_s = min(_STALL_S, self._answer_s * 2)
        if not progressed and self._heard_relay:
            self._stall_s = min(_STALL_MAX_S, self._stall_s * 2)
            self._chunk_limit = max(_CHUNK_MIN, (self._chunk_limit or 1024 * 1024) // 2)

    def _is_out_of_patience(self) -> bool:
        # If not all received bytes are written, the reader is slow, and not the relay.
        return self._written >= self._received and time.monotonic() - self._progress_at >= self._patience_s

    def _give_up_if_hopeless(self, cause: GantryError) -> None:
        waited_s = time.monotonic() - self._progress_at
        if self._written < self._received:
            return
        if isinstance(cause, NoRelayError) and not self._heard_relay and waited_s >= _NO_RELAY_S:
            raise cause
        if self._internal_errors >= _INTERNAL_MAX:
            raise cause
        if self._is_out_of_patience():
            if isinstance(cause, RelayError):
                raise cause
            raise StalledError(f"nothing new for {waited_s:.0f} s: {cause}") from cause

    def _take_version(self, accepted: Accepted) -> None:
        """Pins the version at the first acceptance, and compares it at later ones."""
        request, info, version = self._request, accepted.object, self._version
        if info.key != request.key:
            _set_back(f"accepted for the key {info.key!r}")

        if version is None:
            etag = request.if_match or info.etag
            version = replace(info, etag=etag, version_id=request.version_id or info.version_id)
        same_id = version.version_id is None or info.version_id is None or version.version_id == info.version_id
        if (info.etag, info.size) != (version.etag, version.size) or not same_id:
            raise _SetbackError(ChangedError(f"{request.store}/{request.key} is another version now"), cancels=True)

        if version.checksum and info.checksum and version.checksum.contradicts(info.checksum):
            _set_back("accepted with another checksum")

        end = info.size if request.end is None else min(request.end, info.size)
        if (accepted.start, accepted.end) != (self._received, end):
            _set_back(f"accepted the range {accepted.start}..{accepted.end}, not {self._received}..{end}")

        if self._version is None or not self._begun.is_set():
            self._version = info
        self._end = end
        self.transfer = accepted.transfer
        self._log("accepted from offset %d, transfer %s", accepted.start, accepted.transfer)
        self._begun.set()

    def _take_bytes(self, payload: bytes, payload_crc: int) -> None:
        self._received += len(payload)
        self._queue.append((payload, payload_crc))
        self._progress_at = time.monotonic()
        self._changed.set()

    def _log(self, message: str, *arguments: object) -> None:
        """Logs a line with the store and the id of the download, which are also attributes of the record."""
        names = {"store": self._request.store, "correlation": self._request.correlation}
        _log.info(f"%s [%s]: {message}", names["store"], names["correlation"], *arguments, extra=names)

    def _finish(self) -> None:
        self._finished = True
        self._changed.set()


class _Transfer:
    """One request and the messages that answer it."""

    def __init__(self, download: Download, inbox: Inbox, epoch: object) -> None:
        self._download = download
        self._inbox = inbox
        self._epoch = epoch
        self._subject = f"{download._prefix}.v1.get.{download._request.store}"
        self._accepted: Optional[Accepted] = None
        self._transfer: Optional[str] = None
        self._chunk_max = 0
        self._sequence = 0
        self._credit = 0
        self._heard_at = time.monotonic()
        self._sent_at = self._heard_at
        self._resend_at: Optional[float] = None

    async def request(self, nc: NatsClient) -> None:
        """Publishes the request for the missing bytes."""
        download, request = self._download, self._download._request
        chunk_max = max(1, nc.max_payload - protocol.HEADERS_MAX_BYTES)
        chunk_max = self._chunk_max = min(chunk_max, download._chunk_limit or chunk_max)
        window = _whole_chunks(download._budget.share, min(chunk_max, _CHUNK_DEFAULT))
        self._credit = min(protocol.OFFSET_MAX, max(download._received, download._written + window))
        version = download._version
        body = protocol.encoded(
            {
                "key": request.key,
                "start": download._received,
                "end": request.end,
                "if_match": version.etag if version else request.if_match,
                "version_id": (version.version_id if version and download._begun.is_set() else None)
                or request.version_id,
                "credit": self._credit,
                "chunk_max": chunk_max,
                "keeps_alive": True,
                "context": request.correlation,
            }
        )
        await self._inbox.publish(self._subject, body)
        self._heard_at = self._sent_at = time.monotonic()

    async def receive(self) -> None:
        """Handles messages until the end. Raises `_SetbackError`."""
        while not self._download._finished:
            waited_from = time.monotonic()
            message = await self._inbox.next(_TICK_S if self._resend_at is None else _RESEND_S)
            waited_s = time.monotonic() - waited_from
            if waited_s > _TICK_S + _OWN_PAUSE_S:
                # Messages that have arrived meanwhile are still unread.
                self._heard_at += waited_s - _TICK_S
            if self._inbox.overflowed:
                _set_back("the relay sends more than it may")
            if message is not None:
                self._handle(message)
            await self._keep_up()

    async def cancel(self) -> None:
        """Asks the relay to stop. Before an acceptance, it stops by itself once the inbox is gone."""
        if self._accepted is None:
            return
        try:
            await self._send({"credit": self._credit, "cancel": True})
        except (nats.errors.Error, OSError):
            pass

    def _handle(self, raw: Msg) -> None:
        try:
            message = protocol.read_message(self._download._prefix, raw.headers, raw.data)
        except MalformedError as error:
            raise _SetbackError(error, cancels=True) from error

        if isinstance(message, protocol.NoResponders):
            self._handle_absence()
            return
        if self._accepted is not None and message.transfer != self._accepted.transfer:
            return

        if self._is_news(message):
            self._heard_at = time.monotonic()
        self._download._heard_relay = True
        if isinstance(message, protocol.Failed):
            raise _SetbackError(message.error)
        if isinstance(message, protocol.GoAway):
            raise _SetbackError(NoRelayError("the relay is shutting down"))
        if isinstance(message, Accepted):
            self._handle_accepted(message)
        elif isinstance(message, protocol.Beat):
            self._handle_beat(message)
        elif self._accepted is None:
            _set_back("the acceptance was lost")
        elif isinstance(message, protocol.Chunk):
            self._handle_chunk(message, self._accepted)
        else:
            self._handle_end(message, self._accepted)

    def _handle_absence(self) -> None:
        """Nobody has received the request or the last control message."""
        if self._accepted is None:
            raise _SetbackError(NoRelayError(f"no relay listens on {self._subject!r}"))
        now = time.monotonic()
        if now - self._heard_at > max(_ABSENCE_MIN_S, _ABSENCE_BEATS * self._accepted.beat_s):
            raise _SetbackError(NoRelayError("the relay is gone"))
        # It may only be replacing the connection on which it receives control messages.
        self._resend_at = now + _RESEND_S

    def _is_news(self, message: protocol.Message) -> bool:
        """Returns whether a message shows that the relay is alive. Repeats and beats after the last byte don't."""
        accepted = self._accepted
        if accepted is None:
            return True
        if isinstance(message, protocol.Beat):
            return message.sequence >= self._sequence and self._download._received < accepted.end
        if isinstance(message, protocol.Chunk):
            return message.sequence >= self._sequence
        return not isinstance(message, Accepted)

    def _handle_accepted(self, accepted: Accepted) -> None:
        if self._accepted is not None:
            return
        self._accepted = accepted
        if accepted.chunk_max > max(self._chunk_max, protocol.CHUNK_MIN_BYTES):
            _set_back(f"accepted with chunks of {accepted.chunk_max} bytes, {self._chunk_max} were requested")
        self._credit = min(self._credit, accepted.credit)
        self._download._take_version(accepted)
        self._download._answer_s = _ANSWER_S

    def _handle_beat(self, beat: protocol.Beat) -> None:
        self._transfer = beat.transfer
        if self._accepted is None:
            return
        if beat.sequence > self._sequence:
            _set_back(f"chunk {self._sequence} was lost")
        if beat.sequence == self._sequence and beat.offset != self._download._received:
            _set_back(f"beat at offset {beat.offset}, expected {self._download._received}")
        # The last control message may still be in flight. If it was lost, the next beat shows that.
        is_overdue = time.monotonic() - self._sent_at >= self._accepted.beat_s / 2
        if beat.wait == "credit" and is_overdue:
            self._sent_at = 0.0

    def _handle_chunk(self, chunk: protocol.Chunk, accepted: Accepted) -> None:
        download = self._download
        if chunk.sequence < self._sequence:
            return
        end = chunk.offset + len(chunk.payload)
        if chunk.sequence > self._sequence:
            _set_back(f"chunk {self._sequence} was lost")
        if chunk.offset != download._received:
            _set_back(f"chunk at offset {chunk.offset}, expected {download._received}")
        if not chunk.payload or len(chunk.payload) > accepted.chunk_max:
            _set_back(f"chunk of {len(chunk.payload)} bytes")
        if end > min(self._credit, accepted.end):
            _set_back(f"chunk at offset {chunk.offset} exceeds credit {self._credit} or the range")
        if crc.crc64nvme(chunk.payload) != chunk.crc:
            _set_back(f"chunk {chunk.sequence} has a wrong CRC")

        self._sequence += 1
        download._take_bytes(chunk.payload, chunk.crc)

    def _handle_end(self, end: protocol.End, accepted: Accepted) -> None:
        download = self._download
        counts = (self._sequence, download._received - accepted.start)
        if download._received != accepted.end or (end.chunks, end.bytes) != counts:
            _set_back(f"the end counts {end.chunks} chunks and {end.bytes} bytes, got {counts[0]} and {counts[1]}")
        download._finish()

    async def _keep_up(self) -> None:
        """Handles the timers: sends credit and keep-alives, and abandons a silent transfer."""
        download, now = self._download, time.monotonic()
        if self._download._link.epoch != self._epoch:
            raise _SetbackError(ConnectionFailedError("the NATS connection was lost"))

        if download._is_out_of_patience():
            # It may send beats for ever.
            raise _SetbackError(StalledError("the relay sends nothing new"), cancels=True)

        silence_s = now - self._heard_at
        accepted = self._accepted
        if accepted is None:
            download._link.check_permission(self._subject, self._inbox.subject)
            if silence_s >= (download._stall_s if self._transfer else download._answer_s):
                raise _SetbackError(StalledError(f"no answer for {silence_s:.1f} s"), is_silence=True)
            return

        if silence_s >= max(download._stall_s, 3 * accepted.beat_s):
            raise _SetbackError(StalledError(f"the relay was silent for {silence_s:.1f} s"), is_silence=True)

        window = _whole_chunks(min(download._budget.share, accepted.window_max), accepted.chunk_max)
        target = min(accepted.end, download._written + window)
        grown = target - self._credit
        since_sent_s = now - self._sent_at
        probes = silence_s >= accepted.beat_s / 2 and since_sent_s >= accepted.beat_s / 2
        is_due = grown >= window // _CREDIT_STEPS or (grown > 0 and target == accepted.end)
        resends = self._resend_at is not None and now >= self._resend_at
        if is_due or probes or resends or since_sent_s >= accepted.idle_s / 4:
            self._credit = max(self._credit, target)
            await self._send({"credit": self._credit, **({"probe": True} if probes and not is_due else {})})

    async def _send(self, state: dict[str, object]) -> None:
        assert self._accepted is not None, "there is no control subject before the acceptance"
        self._sent_at, self._resend_at = time.monotonic(), None
        await self._inbox.publish(self._accepted.control, protocol.encoded(state))


def _whole_chunks(window: int, chunk_max: int) -> int:
    """Returns the window as a multiple of the chunk size, so that credit does not cut chunks."""
    return window // chunk_max * chunk_max or window


def _set_back(reason: str) -> NoReturn:
    raise _SetbackError(MalformedError(reason), cancels=True)
