"""The client."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
import uuid
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Optional, Union

import nats.errors
from nats.aio.client import Client as NatsClient

from . import protocol
from .connection import open_connection
from .download import Download, Request
from .errors import (
    ChangedError,
    GantryError,
    InvalidArgumentError,
    MalformedError,
    NoRelayError,
    PartFileError,
    RelayError,
    StalledError,
)
from .link import Inbox, Link, WindowBudget
from .part import PartFile, Wanted
from .protocol import Json, ListPage, ObjectInfo
from .tasks import in_thread, stop, together
from .verify import Verification, Verifier

#: How many bytes a download may have requested or received but not yet written.
WINDOW_BYTES = 4 * 1024 * 1024

#: The same limit for all downloads of a client together. nats-server disconnects a client with 64 MiB pending.
WINDOWS_TOTAL_BYTES = 24 * 1024 * 1024

#: How long a download waits for a new byte before it fails, in seconds.
PATIENCE_S = 120.0

_ASK_AGAIN_AFTER_S = (1.0, 3.0, 7.0, 15.0)
_ANSWER_S = 16.0
_NO_RELAY_S = 1.5
_ANSWER_MAX_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True)
class Progress:
    """The progress of a download."""

    #: How many bytes of the range are written, including those of an earlier download.
    done: int

    #: The size of the range in bytes.
    total: int


@dataclass(frozen=True)
class Result:
    """The result of a download."""

    #: The version that the bytes belong to.
    object: ObjectInfo

    #: The range: absolute offsets within the object, `end` exclusive.
    start: int
    end: int

    #: How the bytes were verified.
    verification: Verification

    #: How many bytes this call received.
    fetched: int

    #: The absolute offset from which an earlier download was resumed; `None` if it was not resumed.
    resumed_from: Optional[int]

    #: How often the rest was requested again, for example after a lost chunk or relay.
    recoveries: int

    #: The time from the request to the durable file, in seconds.
    elapsed_s: float

    #: The id of the download, which the logs and traces of both sides contain.
    correlation: str

    #: The last transfer, as in the relay's log.
    transfer: Optional[str]

    #: The file; `None` for a stream.
    path: Optional[Path] = None


ProgressCallback = Callable[[Progress], None]


async def connect(
    servers: Union[str, Sequence[str]] = "nats://127.0.0.1:4222",
    *,
    prefix: str = "gantry",
    window: int = WINDOW_BYTES,
    windows_total: int = WINDOWS_TOTAL_BYTES,
    patience_s: float = PATIENCE_S,
    connect_timeout_s: float = 4.0,
    **options: Any,
) -> Client:
    """Connects to nats-server and returns a client. Close it, or use it as a context manager.

    `prefix` is the first part of all subjects. `window`, `windows_total` and `patience_s` are explained at
    `WINDOW_BYTES`, `WINDOWS_TOTAL_BYTES` and `PATIENCE_S`. All other options go to `nats.aio.client.Client.connect`,
    for example for credentials and TLS. By default, a lost connection is retried forever.

    Raises `ConnectionFailedError`, `AuthenticationError`, `InvalidArgumentError`. No message contains what precedes the
    `@` of a URL.
    """
    urls = [servers] if isinstance(servers, str) else list(servers)
    link: Optional[Link] = None
    report = options.pop("error_cb", None)

    async def record_error(error: Exception) -> None:
        if link is not None:
            await link.record_error(error)
        if report is not None:
            await report(error)

    settings = {
        "name": "gantry-client (Python)",
        "max_reconnect_attempts": -1,
        "reconnect_time_wait": 0.1,
        "connect_timeout": 2,
        **options,
        "error_cb": record_error,
    }

    async def reopen() -> NatsClient:
        return await open_connection(urls, connect_timeout_s, settings)

    _check_client_arguments(prefix, window, windows_total)
    link = Link(await reopen(), reopen)
    return Client(link, prefix=prefix, window=window, windows_total=windows_total, patience_s=patience_s)


class Client:
    """Downloads objects from Gantry relays. All methods may run concurrently, in one event loop."""

    def __init__(
        self,
        connection: Union[Link, NatsClient],
        *,
        prefix: str = "gantry",
        window: int = WINDOW_BYTES,
        windows_total: int = WINDOWS_TOTAL_BYTES,
        patience_s: float = PATIENCE_S,
    ) -> None:
        """Uses an existing `nats-py` connection, which the caller closes. Prefer `connect`."""
        _check_client_arguments(prefix, window, windows_total)
        self._link = connection if isinstance(connection, Link) else Link(connection, None)
        self._prefix = prefix
        self._patience_s = patience_s
        self._budget = WindowBudget(window, windows_total)

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(
        self, kind: Optional[type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the connection that `connect` made. Downloads in progress fail."""
        await self._link.close()

    async def get(
        self,
        name: str,
        *,
        to: Union[str, "os.PathLike[str]"],
        start: int = 0,
        end: Optional[int] = None,
        if_match: Optional[str] = None,
        version_id: Optional[str] = None,
        resume: bool = True,
        progress: Optional[ProgressCallback] = None,
        correlation: Optional[str] = None,
    ) -> Result:
        """Downloads an object, or the range from `start` to `end` (exclusive), to a file.

        `name` is `store/key`. The target is replaced only once all bytes are verified and durable. Until then they
        are in a part file beside it. If the download fails or is cancelled, they stay there, and the next call with
        the same arguments resumes at that point if the object's version has not changed.

        `correlation` is an id of at most 256 bytes, which the logs of the relays and of this package and the exceptions
        contain. Without one, the download gets a random id.

        Raises `RelayError` and its subclasses, `NoRelayError`, `StalledError`, `IntegrityError`, `PartFileError`,
        `ConnectionFailedError`, `PermissionDeniedError`, `InvalidArgumentError`.
        """
        began = time.monotonic()
        request = _request(name, start, end, if_match, version_id, correlation)
        wanted = Wanted(request.store, request.key, start, end, if_match, version_id)
        try:
            part = await in_thread(lambda: PartFile(Path(to), wanted, resume), undo=PartFile.close)
            try:
                return await self._get_or_start_over(part, request, progress, began)
            except BaseException:
                # Bytes that can't be made durable cost the next download their transfer. The first error counts.
                with contextlib.suppress(PartFileError, OSError):
                    await in_thread(part.suspend)
                raise
            finally:
                await in_thread(part.close)
        except GantryError as error:
            error.correlation = request.correlation
            raise

    def stream(
        self,
        name: str,
        *,
        start: int = 0,
        end: Optional[int] = None,
        if_match: Optional[str] = None,
        version_id: Optional[str] = None,
        progress: Optional[ProgressCallback] = None,
        correlation: Optional[str] = None,
    ) -> Stream:
        """Returns an object's bytes, or those from `start` to `end` (exclusive), as an asynchronous iterator.

        Each chunk is checked against its CRC before it is returned. The checksum of the whole object is compared at the
        end: the bytes are verified only if the loop ends without an exception. Memory use is bounded by the client's
        window, even if the reader is slow. `correlation` is described at `get`.

        Iterating raises what `get` raises, except `PartFileError`.
        """
        request = _request(name, start, end, if_match, version_id, correlation)
        return Stream(self._download(request), request, progress)

    async def stat(
        self, name: str, *, if_match: Optional[str] = None, version_id: Optional[str] = None
    ) -> ObjectInfo:
        """Describes an object.

        Raises `RelayError` and its subclasses, `NoRelayError`, `StalledError`, `MalformedError`,
        `ConnectionFailedError`, `PermissionDeniedError`, `InvalidArgumentError`.
        """
        request = _request(name, 0, None, if_match, version_id, None)
        body = {"key": request.key, "if_match": if_match, "version_id": version_id}
        info = protocol.read_object(await self._ask("stat", request.store, body))
        if info.key != request.key:
            raise MalformedError(f"the relay described the key {info.key!r}")
        return info

    async def list(
        self, store: str, *, prefix: str = "", recursive: bool = False, limit: int = 1000
    ) -> AsyncIterator[ListPage]:
        """Lists the keys of a store that start with `prefix`, page by page.

        Unless `recursive`, keys with a `/` after the prefix are folded into `ListPage.prefixes`. A page has at most
        `limit` entries and prefixes, 1000 at most, and can be empty without being the last one.

        Iterating raises what `stat` raises.
        """
        protocol.check_store(store)
        protocol.check_text("prefix", prefix)
        protocol.check_line("prefix", prefix)
        if limit < 1:
            raise InvalidArgumentError(f"limit: {limit}, expected at least 1")
        limit = min(limit, protocol.PAGE_MAX)

        token: Optional[str] = None
        while True:
            body = {"prefix": prefix, "recursive": recursive, "limit": limit, "token": token}
            page = protocol.read_page(await self._ask("list", store, body), limit)
            yield page
            if page.next is None:
                return
            if page.next == token:
                raise MalformedError("the relay returns the same page again and again")
            token = page.next

    def _download(self, request: Request, known: Optional[ObjectInfo] = None) -> Download:
        return Download(self._link, self._budget, self._prefix, request, self._patience_s, known)

    async def _get_or_start_over(
        self, part: PartFile, request: Request, progress: Optional[ProgressCallback], began: float
    ) -> Result:
        try:
            return await self._get(part, request, progress, began)
        except ChangedError:
            if part.found is None:
                raise
            # The part file belongs to an older version.
            await in_thread(part.discard_found)
            return await self._get(part, request, progress, began)

    async def _get(
        self, part: PartFile, request: Request, progress: Optional[ProgressCallback], began: float
    ) -> Result:
        found, offset = part.found, part.offset
        rest = Request(**{**request.__dict__, "start": offset})
        download = self._download(rest, found)

        async def write() -> None:
            await download.begun()
            await in_thread(lambda: part.begin(download.info, request.start, download.end))
            _report(progress, offset - request.start, download.end - request.start)

            while batch := await download.next_batch():
                for payload, payload_crc in batch:
                    await in_thread(lambda: part.write(payload, payload_crc))
                    download.mark_written(len(payload))
                _report(progress, part.offset - request.start, download.end - request.start)

        await together(download.run(), write())
        verification = await in_thread(part.commit)
        return Result(
            object=download.info,
            start=request.start,
            end=download.end,
            verification=verification,
            fetched=download.end - offset,
            resumed_from=offset if found is not None else None,
            recoveries=download.recoveries,
            elapsed_s=time.monotonic() - began,
            correlation=request.correlation,
            transfer=download.transfer,
            path=part.target,
        )

    async def _ask(self, verb: str, store: str, body: Mapping[str, object]) -> Json:
        """Sends a request and returns the answer. Repeats the request while no answer arrives."""
        subject = f"{self._prefix}.v1.{verb}.{store}"
        payload = protocol.encoded(body)
        began = time.monotonic()
        while True:
            nc = await self._link.ready(_ANSWER_S)
            epoch = self._link.epoch
            inbox = Inbox(nc, _ANSWER_MAX_BYTES)
            try:
                await inbox.open()
                answer = await self._answer(inbox, subject, payload, began, epoch)
            except (nats.errors.Error, OSError):
                answer = None
            finally:
                await inbox.close()
            if isinstance(answer, RelayError):
                waited_s = time.monotonic() - began
                if not answer.retryable or waited_s + answer.retry_after_s > _ANSWER_S:
                    raise answer
                await asyncio.sleep(max(0.1, answer.retry_after_s))
            elif answer is not None:
                return answer
            else:
                waited_s = time.monotonic() - began
                if waited_s >= _ANSWER_S:
                    raise StalledError(f"no answer to {verb} within {waited_s:.0f} s")
                await asyncio.sleep(0.1)

    async def _answer(
        self, inbox: Inbox, subject: str, payload: bytes, began: float, epoch: object
    ) -> Union[Json, RelayError, None]:
        """Returns the answer or a relay's error, or `None` if the connection was lost or the time is up."""
        ask_again_at = 0.0
        while (waited_s := time.monotonic() - began) < _ANSWER_S and self._link.epoch == epoch:
            if waited_s >= ask_again_at:
                await inbox.publish(subject, payload)
                later = [after_s for after_s in _ASK_AGAIN_AFTER_S if after_s > waited_s]
                ask_again_at = later[0] if later else _ANSWER_S

            message = await inbox.next(0.25)
            self._link.check_permission(subject, inbox.subject)
            if message is None:
                continue
            if (message.headers or {}).get("Status") == "503" and not message.data:
                if waited_s >= _NO_RELAY_S:
                    raise NoRelayError(f"no relay listens on {subject!r}")
                await asyncio.sleep(0.1)
                ask_again_at = 0.0
                continue
            try:
                return protocol.read_answer(message.headers, message.data)
            except RelayError as error:
                return error
        return None


class Stream:
    """The bytes of one object, as an asynchronous iterator that can be used once.

    A loop that ends early ends the transfer soon afterwards. To wait until it has ended, use the stream as a context
    manager, or `contextlib.aclosing`.
    """

    def __init__(self, download: Download, request: Request, progress: Optional[ProgressCallback]) -> None:
        self._download = download
        self._request = request
        self._progress = progress
        # The generator refers to this object. A reference back would keep it, and its transfer, until the next garbage
        # collection after the loop has been left.
        self._chunks: Optional[weakref.ref[AsyncGenerator[bytes, None]]] = None
        self._driver: Optional[asyncio.Future[None]] = None
        self._result: Optional[Result] = None

    @property
    def result(self) -> Result:
        """The result of the download. Raises `RuntimeError` before the end."""
        if self._result is None:
            raise RuntimeError("the stream has not ended yet")
        return self._result

    async def __aenter__(self) -> Stream:
        return self

    async def __aexit__(
        self, kind: Optional[type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Stops the transfer, and waits until it has ended."""
        chunks = None if self._chunks is None else self._chunks()
        if chunks is not None:
            await chunks.aclose()
        if self._driver is not None:
            await stop(self._driver)

    def __aiter__(self) -> AsyncIterator[bytes]:
        if self._chunks is not None:
            raise RuntimeError("a stream can be read only once")
        chunks = self._run()
        self._chunks = weakref.ref(chunks)
        return chunks

    async def _run(self) -> AsyncGenerator[bytes, None]:
        began = time.monotonic()
        download, start = self._download, self._request.start
        driver = self._driver = asyncio.ensure_future(download.run())
        driver.add_done_callback(lambda _: download.stop())
        try:
            await download.begun()
            if driver.done():
                await driver
            info, end = download.info, download.end
            is_whole = start == 0 and end == info.size
            verifier = Verifier(info.checksum if is_whole else None, end - start)

            done = 0
            while batch := await download.next_batch():
                for payload, payload_crc in batch:
                    verifier.update(payload, payload_crc)
                    yield payload
                    done += len(payload)
                    download.mark_written(len(payload))
                    _report(self._progress, done, end - start)
            await driver
            verification = verifier.finish()
        except GantryError as error:
            error.correlation = self._request.correlation
            raise
        finally:
            await stop(driver)

        self._result = Result(
            object=info,
            start=start,
            end=end,
            verification=verification,
            fetched=end - start,
            resumed_from=None,
            recoveries=download.recoveries,
            elapsed_s=time.monotonic() - began,
            correlation=self._request.correlation,
            transfer=download.transfer,
        )


def _report(progress: Optional[ProgressCallback], done: int, total: int) -> None:
    if progress is not None:
        progress(Progress(done, total))


def _request(
    name: str,
    start: int,
    end: Optional[int],
    if_match: Optional[str],
    version_id: Optional[str],
    correlation: Optional[str],
) -> Request:
    store, key = protocol.split_name(name)
    for label, offset in (("start", start), ("end", end)):
        if offset is not None and not 0 <= offset <= protocol.OFFSET_MAX:
            raise InvalidArgumentError(f"{label}: {offset}, expected 0 to 2^63 - 1")
    for label, text, maximum in (
        ("if_match", if_match, 1024),
        ("version_id", version_id, 1024),
        ("correlation", correlation, 256),
    ):
        if text is None:
            continue
        protocol.check_text(label, text, minimum=1, maximum=maximum)
        if protocol.CONTROL.search(text):
            raise InvalidArgumentError(f"{label}: control characters are not allowed")
    if correlation is not None and correlation.strip() != correlation:
        raise InvalidArgumentError("correlation: white space is not allowed at either end")
    return Request(store, key, correlation or uuid.uuid4().hex, start, end, if_match, version_id)


def _check_client_arguments(prefix: str, window: int, windows_total: int) -> None:
    protocol.check_prefix(prefix)
    if window < 1 or windows_total < window:
        raise InvalidArgumentError("window: expected at least 1, and windows_total at least as much")
