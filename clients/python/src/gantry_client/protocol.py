"""Messages of protocol version 1, validated as they are decoded. Source: docs/PROTOCOL.md."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Optional, Union, cast

from .errors import InvalidArgumentError, MalformedError, RelayError, relay_error

OFFSET_MAX = 2**63 - 1
REQUEST_MAX_BYTES = 16_384
KEY_MAX_BYTES = 1024

#: The largest number of entries and prefixes in a page of a listing.
PAGE_MAX = 1000

#: Control characters: Unicode's category Cc.
CONTROL = re.compile(r"[\0-\x1f\x7f-\x9f]")

#: A smaller `chunk_max` of a request counts as this.
CHUNK_MIN_BYTES = 1024

#: The part of `max_payload` that is reserved for a message's headers.
HEADERS_MAX_BYTES = 4096

BEAT_MS = (50, 10_000)
IDLE_MS = (1_000, 3_600_000)
RETRY_AFTER_MAX_MS = 60_000

_PARTS_MAX = 10_000
_LOGGED_MAX = 512
_VERSION_MAX_BYTES = 1024
_TOKEN_MAX_BYTES = 8192
_CHECKSUM_MAX_BYTES = 176

#: The form of a store's name, and of an instance.
_STORE = re.compile(r"[A-Za-z0-9_-]{1,64}")
_TOKEN = re.compile(r"[^\s.*>]+")
_TRANSFER = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_DECIMAL = re.compile(r"0|[1-9][0-9]{0,18}")
_CRC = re.compile(r"[0-9a-f]{16}")

#: A valid `etag` or `version_id`, without control characters and surrogates.
_VERSION = re.compile(r"[^\0-\x1f\x7f-\x9f\ud800-\udfff]+")

Json = Mapping[str, Any]


@dataclass(frozen=True)
class Checksum:
    """The checksum that the store keeps of a whole object."""

    #: `crc64nvme`, `crc32`, `crc32c`, `sha1` or `sha256`.
    algorithm: str

    #: `full_object`, or `composite` for a digest of the digests of a multipart upload's parts.
    kind: str

    #: The digest, in Base64.
    value: str

    #: Only for `composite`: runs of parts of equal size, as (count, size). Empty if unknown.
    parts: tuple[tuple[int, int], ...] = ()

    def contradicts(self, other: Checksum) -> bool:
        """Returns whether this checksum and `other` can't belong to the same bytes."""
        return (self.algorithm, self.kind) == (other.algorithm, other.kind) and self.value != other.value


@dataclass(frozen=True)
class ObjectInfo:
    """One version of an object."""

    key: str
    size: int
    etag: str
    version_id: Optional[str] = None

    #: RFC 3339, in UTC.
    last_modified: Optional[str] = None

    content_type: Optional[str] = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    checksum: Optional[Checksum] = None


@dataclass(frozen=True)
class ListEntry:
    """One key of a listing."""

    key: str
    size: int
    etag: Optional[str] = None
    last_modified: Optional[str] = None


@dataclass(frozen=True)
class ListPage:
    """One page of a listing."""

    entries: tuple[ListEntry, ...]

    #: Common prefixes of keys, up to the next `/`, unless the listing is recursive.
    prefixes: tuple[str, ...]

    #: The token of the next page; `None` on the last page.
    next: Optional[str] = None


@dataclass(frozen=True)
class Accepted:
    """A relay's acceptance of a `get`."""

    object: ObjectInfo
    transfer: str
    control: str
    start: int
    end: int
    credit: int
    window_max: int
    chunk_max: int
    beat_s: float
    idle_s: float


@dataclass(frozen=True)
class Chunk:
    """Bytes of the object. Their CRC is not checked yet."""

    transfer: str
    sequence: int
    offset: int
    crc: int
    payload: bytes


@dataclass(frozen=True)
class Beat:
    """A heartbeat, with the sequence number and offset of the next chunk."""

    transfer: str
    sequence: int
    offset: int
    wait: str


@dataclass(frozen=True)
class End:
    """The end of a transfer."""

    transfer: str
    chunks: int
    bytes: int


@dataclass(frozen=True)
class GoAway:
    """The relay stops this transfer because it shuts down."""

    transfer: str


@dataclass(frozen=True)
class Failed:
    """The relay refuses the request (no transfer), or stops the transfer."""

    transfer: Optional[str]
    error: RelayError


@dataclass(frozen=True)
class NoResponders:
    """nats-server's own answer: nobody listens on the subject of the last message."""


Message = Union[Accepted, Chunk, Beat, End, GoAway, Failed, NoResponders]


def split_name(name: str) -> tuple[str, str]:
    """Splits `store/key` and validates both.

    Raises `InvalidArgumentError`.
    """
    store, slash, key = name.partition("/")
    if not slash:
        raise InvalidArgumentError(f"no key in {name!r}: expected store/key")
    check_store(store)
    check_text("key", key, minimum=1)
    check_line("key", key)
    return store, key


def check_store(store: str) -> None:
    """Raises `InvalidArgumentError` unless this is a valid store name."""
    if not _STORE.fullmatch(store):
        raise InvalidArgumentError(f"invalid store name {store!r}: expected 1 to 64 of A-Z a-z 0-9 _ -")


def check_text(name: str, value: str, minimum: int = 0, maximum: int = KEY_MAX_BYTES) -> None:
    """Raises `InvalidArgumentError` unless the text's length, in bytes of UTF-8, is within bounds."""
    try:
        length = len(value.encode())
    except UnicodeEncodeError:
        raise InvalidArgumentError(f"{name}: not Unicode text") from None
    if not minimum <= length <= maximum:
        raise InvalidArgumentError(f"{name}: {length} bytes, expected {minimum} to {maximum}")


def check_line(name: str, value: str) -> None:
    """Raises `InvalidArgumentError` if the text contains what no key may contain."""
    if any(character in value for character in "\0\r\n"):
        raise InvalidArgumentError(f"{name}: NUL, CR and LF are not allowed")


def check_prefix(prefix: str) -> None:
    """Raises `InvalidArgumentError` unless this is a valid subject prefix."""
    if prefix[:1] in ("$", "_") or not all(_TOKEN.fullmatch(token) for token in prefix.split(".")):
        raise InvalidArgumentError(f"invalid subject prefix {prefix!r}")


def printable(text: str) -> str:
    """Returns a relay's text for the log: at most 512 characters, and no control characters."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text[:_LOGGED_MAX])


def encoded(body: Mapping[str, object]) -> bytes:
    """Encodes a request's body, without members that are `None`."""
    text = json.dumps({name: value for name, value in body.items() if value is not None}, ensure_ascii=False)
    body_bytes = text.encode()
    if len(body_bytes) > REQUEST_MAX_BYTES:
        raise InvalidArgumentError(f"request of {len(body_bytes)} bytes, at most {REQUEST_MAX_BYTES} are allowed")
    return body_bytes


def read_message(prefix: str, headers: Optional[Mapping[str, str]], payload: bytes) -> Message:
    """Decodes a message of a transfer.

    Raises `MalformedError` if it is invalid.
    """
    headers = headers or {}
    if headers.get("Status") == "503" and not payload:
        return NoResponders()

    kind = headers.get("Gantry-Type", "")
    if kind == "error":
        return Failed(headers.get("Gantry-Transfer"), read_error(payload))

    transfer = headers.get("Gantry-Transfer", "")
    if not _TRANSFER.fullmatch(transfer):
        raise MalformedError(f"message with the transfer id {transfer!r}")

    if kind == "chunk":
        return Chunk(
            transfer,
            _header_count(headers, "Gantry-Seq"),
            _header_count(headers, "Gantry-Offset"),
            _header_crc(headers),
            payload,
        )
    if kind == "beat":
        sequence = _header_count(headers, "Gantry-Seq")
        return Beat(transfer, sequence, _header_count(headers, "Gantry-Offset"), headers.get("Gantry-Wait", ""))
    if kind == "accepted":
        return _read_accepted(prefix, transfer, _json(payload))
    if kind == "end":
        body = _json(payload)
        return End(transfer, _count(body, "chunks"), _count(body, "bytes"))
    if kind == "goaway":
        return GoAway(transfer)
    raise MalformedError(f"message of the unknown type {kind!r}")


def read_error(payload: bytes) -> RelayError:
    """Decodes the body of an error. An unreadable body counts as `internal`."""
    try:
        body = _json(payload)
        retry_after_ms = min(_optional_count(body, "retry_after_ms") or 0, RETRY_AFTER_MAX_MS)
        return relay_error(
            _text(body, "code"), _text(body, "message"), _flag(body, "retryable"), retry_after_ms / 1000
        )
    except MalformedError:
        return relay_error("internal", "the relay sent an error that can't be read", True, 0.0)


def read_answer(headers: Optional[Mapping[str, str]], payload: bytes) -> Json:
    """Decodes the answer to `stat` or `list`.

    Raises `RelayError` if it is an error, `MalformedError` if it is invalid.
    """
    if headers and "Nats-Service-Error-Code" in headers:
        raise read_error(payload)
    return _json(payload)


def read_object(body: Json) -> ObjectInfo:
    """Decodes an object's description. Raises `MalformedError`."""
    metadata = {} if body.get("metadata") is None else body["metadata"]
    if not isinstance(metadata, dict) or not all(map(_is_text, [*metadata, *metadata.values()])):
        raise MalformedError("metadata: expected an object of texts")
    return ObjectInfo(
        key=_text(body, "key"),
        size=_count(body, "size"),
        etag=_text(body, "etag"),
        version_id=_optional_text(body, "version_id"),
        last_modified=_optional_text(body, "last_modified"),
        content_type=_optional_text(body, "content_type"),
        metadata=metadata,
        checksum=_read_checksum(body.get("checksum")),
    )


def read_page(body: Json, limit: int) -> ListPage:
    """Decodes a page of a listing, of at most `limit` entries and prefixes. Raises `MalformedError`."""
    entries = tuple(
        ListEntry(
            _text(entry, "key"),
            _count(entry, "size"),
            _optional_text(entry, "etag"),
            _optional_text(entry, "last_modified"),
        )
        for entry in map(_object, _array(body, "entries"))
    )
    prefixes = _array(body, "prefixes")
    if not all(map(_is_text, prefixes)):
        raise MalformedError("prefixes: expected texts")
    if len(entries) + len(prefixes) > limit:
        raise MalformedError(f"page of {len(entries) + len(prefixes)} entries and prefixes, at most {limit} expected")

    token = _optional_text(body, "next")
    if token is not None and len(token.encode()) > _TOKEN_MAX_BYTES:
        raise MalformedError(f"next: {len(token.encode())} bytes, at most {_TOKEN_MAX_BYTES} are allowed")
    return ListPage(entries, tuple(prefixes), token)


def _read_accepted(prefix: str, transfer: str, body: Json) -> Accepted:
    instance = _text(body, "instance")
    control = _text(body, "control")
    if not _STORE.fullmatch(instance) or _text(body, "transfer") != transfer:
        raise MalformedError("accepted with an invalid instance or transfer")
    # A relay must not be able to make this client publish elsewhere.
    if control != f"{prefix}.v1.ctl.{instance}.{transfer}":
        raise MalformedError(f"accepted with the control subject {control!r}")

    accepted = Accepted(
        object=read_object(body),
        transfer=transfer,
        control=control,
        start=_count(body, "start"),
        end=_count(body, "end"),
        credit=_count(body, "credit"),
        window_max=_count(body, "window_max"),
        chunk_max=_count(body, "chunk_max"),
        beat_s=_clamped(_count(body, "beat_ms"), BEAT_MS) / 1000,
        idle_s=_clamped(_count(body, "idle_ms"), IDLE_MS) / 1000,
    )
    if not accepted.start <= accepted.end <= accepted.object.size or 0 in (accepted.chunk_max, accepted.window_max):
        raise MalformedError("accepted with an impossible range, chunk size or window")
    for name, value in (("etag", accepted.object.etag), ("version_id", accepted.object.version_id)):
        # Requests repeat both.
        if value is not None and not (_VERSION.fullmatch(value) and len(value.encode()) <= _VERSION_MAX_BYTES):
            raise MalformedError(f"accepted with an impossible {name}")
    return accepted


def _read_checksum(value: object) -> Optional[Checksum]:
    if value is None:
        return None
    body = _object(value)
    runs = [_object(run) for run in _array(body, "parts")] if body.get("parts") is not None else []
    if len(runs) > _PARTS_MAX:
        raise MalformedError(f"checksum of more than {_PARTS_MAX} runs of parts")
    parts = tuple((_count(run, "count"), _count(run, "size")) for run in runs)
    checksum = Checksum(_text(body, "algorithm"), _text(body, "kind"), _text(body, "value"), parts)
    if len(checksum.value.encode()) > _CHECKSUM_MAX_BYTES:
        raise MalformedError(f"checksum of {len(checksum.value.encode())} bytes")
    return checksum


def _json(payload: bytes) -> Json:
    try:
        # `json.loads` guesses the encoding of bytes.
        return _object(json.loads(payload.decode()))
    except (ValueError, RecursionError):
        raise MalformedError("expected a JSON object") from None


def _object(value: object) -> Json:
    if not isinstance(value, dict):
        raise MalformedError("expected a JSON object")
    return cast(Json, value)


def _array(body: Json, name: str) -> list[Any]:
    value = body.get(name)
    if not isinstance(value, list):
        raise MalformedError(f"{name}: expected an array")
    return value


def _text(body: Json, name: str) -> str:
    value = body.get(name)
    if not _is_text(value):
        raise MalformedError(f"{name}: expected a text")
    return cast(str, value)


def _is_text(value: object) -> bool:
    """Returns whether a value is a text that UTF-8 can represent: JSON can escape half of a surrogate pair."""
    return isinstance(value, str) and not any("\ud800" <= character <= "\udfff" for character in value)


def _optional_text(body: Json, name: str) -> Optional[str]:
    return None if body.get(name) is None else _text(body, name)


def _flag(body: Json, name: str) -> bool:
    value = body.get(name)
    if not isinstance(value, bool):
        raise MalformedError(f"{name}: expected true or false")
    return value


def _count(body: Json, name: str) -> int:
    value = body.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= OFFSET_MAX:
        raise MalformedError(f"{name}: expected an integer from 0 to 2^63 - 1")
    return value


def _optional_count(body: Json, name: str) -> Optional[int]:
    return None if body.get(name) is None else _count(body, name)


def _header_count(headers: Mapping[str, str], name: str) -> int:
    value = headers.get(name, "")
    if not _DECIMAL.fullmatch(value) or int(value) > OFFSET_MAX:
        raise MalformedError(f"{name}: expected decimal digits, got {value!r}")
    return int(value)


def _header_crc(headers: Mapping[str, str]) -> int:
    value = headers.get("Gantry-Crc", "")
    if not _CRC.fullmatch(value):
        raise MalformedError(f"Gantry-Crc: expected 16 hexadecimal digits, got {value!r}")
    return int(value, 16)


def _clamped(value: int, bounds: tuple[int, int]) -> int:
    return min(max(value, bounds[0]), bounds[1])
