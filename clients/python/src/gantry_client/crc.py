"""CRC-64/NVME, CRC-32 and CRC-32C.

If `awscrt` is installed, it computes them, at several GB/s. Otherwise CRC-32 comes from `zlib`, and the other two are
computed here, at some tens of MB/s, with methods of `bytes` and `int` that run in C.
"""

from __future__ import annotations

import zlib
from functools import lru_cache
from typing import Protocol

# The longest block that is folded at once, so that the intermediate values stay in a core's cache.
_BLOCK_MAX = 32 * 1024

# Below this many bytes, a plain loop is as fast as folding.
_SHORT = 64

_CRC64NVME_POLYNOMIAL = 0x9A6C9329AC4BC9B5
_CRC32C_POLYNOMIAL = 0x82F63B78


class CrcFunction(Protocol):
    """Returns the CRC of `data`, which follows bytes whose CRC is `previous`."""

    def __call__(self, data: bytes, previous: int = 0, /) -> int: ...


class FoldingCrc:
    """A reflected CRC whose initial value and final XOR are all ones.

    A CRC is linear: a byte followed by `n` bytes has the same effect on the register as certain `width / 8` bytes that
    start `n` bytes later. So the first block of the data can be replaced by its effect on the block after it.
    `bytes.translate` looks up this effect for a whole block, once for each byte of the register; `int` adds it by XOR.
    """

    def __init__(self, width: int, polynomial: int) -> None:
        """`polynomial` is in reflected form."""
        self._width = width
        self._polynomial = polynomial
        self._register_len = width // 8
        self._ones = (1 << width) - 1
        self._table = [self._divided(value) for value in range(256)]
        self._tables: dict[int, list[bytes]] = {}

    def __call__(self, data: bytes, previous: int = 0, /) -> int:
        """Returns the CRC of `data`, which follows bytes whose CRC is `previous`."""
        register = previous ^ self._ones
        if len(data) < 2 * _SHORT:
            return self._absorb(register, data) ^ self._ones

        rest = bytearray(data)
        _add(rest, 0, self._register_len, register)

        position = 0
        while len(rest) - position >= _SHORT:
            # A power of two, so that few tables are needed; what it adds must fit behind it.
            room = (len(rest) - position - self._register_len) // 2
            block_len = min(_BLOCK_MAX, 1 << (room.bit_length() - 1))
            block = bytes(rest[position : position + block_len])
            position += block_len

            added = 0
            for index, table in enumerate(self._tables_for(block_len)):
                added ^= int.from_bytes(block.translate(table), "little") << (8 * index)
            _add(rest, position, block_len + self._register_len, added)

        return self._absorb(0, bytes(rest[position:])) ^ self._ones

    def joined(self, first: int, second: int, second_len: int) -> int:
        """Returns the CRC of bytes with the CRC `first`, followed by `second_len` bytes with the CRC `second`."""
        return self._product(self._power(second_len), first) ^ second

    def _absorb(self, register: int, data: bytes) -> int:
        table = self._table
        for byte in data:
            register = table[(register ^ byte) & 0xFF] ^ (register >> 8)
        return register

    def _tables_for(self, distance: int) -> list[bytes]:
        """Returns a table for each byte of the register: the effect of each byte value `distance` bytes later."""
        if distance not in self._tables:
            power = self._power(distance - 1)
            values = [self._product(power, entry) for entry in self._table]
            self._tables[distance] = [
                bytes(value >> (8 * index) & 0xFF for value in values) for index in range(self._register_len)
            ]
        return self._tables[distance]

    def _divided(self, register: int) -> int:
        for _ in range(8):
            register = (register >> 1) ^ (self._polynomial if register & 1 else 0)
        return register

    def _product(self, a: int, b: int) -> int:
        """Multiplies two polynomials modulo the CRC's. The highest bit stands for 1, the next one for x."""
        product = 0
        bit = 1 << (self._width - 1)
        while bit:
            if a & bit:
                product ^= b
            b = (b >> 1) ^ (self._polynomial if b & 1 else 0)
            bit >>= 1
        return product

    @lru_cache(maxsize=64)  # noqa: B019 -- the two instances live as long as the module
    def _power(self, length: int) -> int:
        """Returns x to the power of `8 * length`, by which `length` zero bytes multiply the register."""
        power = 1 << (self._width - 1)
        base = power >> 8
        while length:
            if length & 1:
                power = self._product(power, base)
            base = self._product(base, base)
            length >>= 1
        return power


def _add(data: bytearray, position: int, length: int, value: int) -> None:
    total = int.from_bytes(data[position : position + length], "little") ^ value
    data[position : position + length] = total.to_bytes(length, "little")


folding_crc64nvme = FoldingCrc(64, _CRC64NVME_POLYNOMIAL)
folding_crc32c = FoldingCrc(32, _CRC32C_POLYNOMIAL)

crc32: CrcFunction = zlib.crc32
crc64nvme: CrcFunction
crc32c: CrcFunction

try:
    from awscrt import checksums
except ImportError:
    IMPLEMENTATION = "pure Python"
    crc64nvme = folding_crc64nvme
    crc32c = folding_crc32c
else:
    IMPLEMENTATION = "awscrt"
    crc64nvme = checksums.crc64nvme
    crc32c = checksums.crc32c
