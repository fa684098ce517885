"""Verification of the received bytes against the store's checksum."""

from __future__ import annotations

import base64
import binascii
import hashlib
from dataclasses import dataclass
from typing import Callable, Literal, Optional, Protocol

from . import crc
from .errors import IntegrityError
from .protocol import Checksum

#: S3's limit for a multipart upload.
_PARTS_MAX = 10_000


@dataclass(frozen=True)
class Verification:
    """How the bytes were verified."""

    #: `full_object` and `composite`: against the store's checksum. `transport`: by the CRC of each chunk and the
    #: counts only, since the store keeps no checksum that covers what was fetched. `invalid_checksum`: the same, although
    #: a checksum was stated, because it is not a digest of its algorithm, or its parts do not add up to the object.
    kind: Literal["full_object", "composite", "transport", "invalid_checksum"]

    #: The algorithm of the store's checksum; `None` for `transport`.
    algorithm: Optional[str] = None

    #: The number of parts that a composite checksum covers.
    parts: Optional[int] = None

    def __str__(self) -> str:
        if self.kind == "transport":
            return "transport only"
        if self.kind == "invalid_checksum":
            return f"transport only: the stated {self.algorithm} is invalid"
        parts = "" if self.parts is None else f" of {self.parts} parts"
        return f"{self.algorithm} ({self.kind}{parts})"


class _Hash(Protocol):
    def update(self, data: bytes, /) -> None: ...

    def digest(self) -> bytes: ...


class _Crc:
    """A CRC with the interface of `hashlib`."""

    def __init__(self, function: crc.CrcFunction, length: int) -> None:
        self._function = function
        self._length = length
        self._value = 0

    def update(self, data: bytes, /) -> None:
        self._value = self._function(data, self._value)

    def digest(self) -> bytes:
        return self._value.to_bytes(self._length, "big")


_HASHES: dict[str, Callable[[], _Hash]] = {
    "crc64nvme": lambda: _Crc(crc.crc64nvme, 8),
    "crc32": lambda: _Crc(crc.crc32, 4),
    "crc32c": lambda: _Crc(crc.crc32c, 4),
    "sha1": lambda: hashlib.sha1(usedforsecurity=False),
    "sha256": hashlib.sha256,
}


class Verifier:
    """Computes a checksum of bytes as they arrive, and compares it with the store's.

    A checksum that can't be compared is ignored, and the result is `transport`: an unknown algorithm or kind, or unknown
    part sizes. An invalid one is reported as `invalid_checksum`.
    """

    def __init__(self, checksum: Optional[Checksum], size: int) -> None:
        """Expects `size` bytes. Pass no checksum for a range: the store's checksum covers the whole object."""
        self._size = size
        self._count = 0
        self._crc64nvme = 0
        self._unverified = Verification("transport")
        self._check: _FullObject | _Composite | None = None
        try:
            self._check = _check_for(checksum, size)
        except _InvalidError:
            assert checksum is not None, "only a checksum can be invalid"
            self._unverified = Verification("invalid_checksum", checksum.algorithm)

    @property
    def crc64nvme(self) -> int:
        """CRC-64/NVME of the bytes so far."""
        return self._crc64nvme

    def update(self, data: bytes, data_crc64nvme: int) -> None:
        """Adds the next bytes, with their CRC-64/NVME, so that it need not be computed a second time."""
        self._count += len(data)
        self._crc64nvme = crc.folding_crc64nvme.joined(self._crc64nvme, data_crc64nvme, len(data))
        if self._check is not None:
            self._check.update(data)

    def finish(self) -> Verification:
        """Returns how the bytes were verified. Raises `IntegrityError` if they do not match the store's checksum."""
        if self._count != self._size:
            raise IntegrityError(f"got {self._count} bytes, expected {self._size}")
        if self._check is None:
            return self._unverified

        actual = self._check.digest(self._crc64nvme)
        if actual != self._check.expected:
            raise IntegrityError(
                f"{self._check.result.algorithm} of the bytes is {base64.b64encode(actual).decode()}, "
                f"the store keeps {base64.b64encode(self._check.expected).decode()}"
            )
        return self._check.result


class _FullObject:
    def __init__(self, checksum: Checksum, expected: bytes) -> None:
        self.expected = expected
        self.result = Verification("full_object", checksum.algorithm)
        # The chunks' CRCs are combined into the CRC of the whole object.
        self._hash = None if checksum.algorithm == "crc64nvme" else _HASHES[checksum.algorithm]()

    def update(self, data: bytes) -> None:
        if self._hash is not None:
            self._hash.update(data)

    def digest(self, crc64nvme: int) -> bytes:
        return crc64nvme.to_bytes(8, "big") if self._hash is None else self._hash.digest()


class _Composite:
    """The digest of the parts' concatenated digests."""

    def __init__(self, checksum: Checksum, expected: bytes) -> None:
        self.expected = expected
        self._sizes = [size for count, size in checksum.parts for _ in range(count)]
        self.result = Verification("composite", checksum.algorithm, len(self._sizes))
        self._sizes.reverse()
        self._left = self._sizes.pop()
        self._new = _HASHES[checksum.algorithm]
        self._whole = self._new()
        self._part = self._new()

    def update(self, data: bytes) -> None:
        while data:
            head = data[: self._left]
            self._part.update(head)
            self._left -= len(head)
            data = data[len(head) :]
            if self._left == 0 and data:
                self._next_part()

    def digest(self, _: int) -> bytes:
        while self._sizes:
            self._next_part()
        self._whole.update(self._part.digest())
        return self._whole.digest()

    def _next_part(self) -> None:
        self._whole.update(self._part.digest())
        self._part = self._new()
        self._left = self._sizes.pop()


class _InvalidError(Exception):
    """A checksum is invalid."""


def _check_for(checksum: Optional[Checksum], size: int) -> _FullObject | _Composite | None:
    """Returns how a checksum is compared, or `None` if that is not possible. Raises `_InvalidError`."""
    if checksum is None or checksum.algorithm not in _HASHES or checksum.kind not in ("full_object", "composite"):
        return None
    expected = _digest_of(checksum)
    if checksum.kind == "full_object":
        return _FullObject(checksum, expected)
    if not checksum.parts:
        return None

    count = sum(count for count, _ in checksum.parts)
    total = sum(count * part_size for count, part_size in checksum.parts)
    if not 0 < count <= _PARTS_MAX or total != size:
        raise _InvalidError
    return _Composite(checksum, expected)


def _digest_of(checksum: Checksum) -> bytes:
    try:
        digest = base64.b64decode(checksum.value, validate=True)
    except (binascii.Error, ValueError):
        raise _InvalidError from None
    # The decoder also accepts other spellings of the same digest.
    is_exact = base64.b64encode(digest).decode() == checksum.value
    if not is_exact or len(digest) != len(_HASHES[checksum.algorithm]().digest()):
        raise _InvalidError
    return digest
