"""Downloads objects from Gantry relays over NATS, verified.

    client = await gantry_client.connect("nats://127.0.0.1:4222")
    await client.get("models/a.bin", to="a.bin")
    async for chunk in client.stream("models/a.bin"):
        ...
"""

from .client import Client, Progress, Result, Stream, connect
from .errors import (
    AuthenticationError,
    BadRequestError,
    BusyError,
    ChangedError,
    ConnectionFailedError,
    DeniedError,
    DrainingError,
    EndedError,
    FileInUseError,
    GantryError,
    IdleError,
    IntegrityError,
    InternalError,
    InvalidArgumentError,
    MalformedError,
    NoRelayError,
    NotFoundError,
    PartFileError,
    PermissionDeniedError,
    RangeError,
    RelayError,
    StalledError,
    StoreUnavailableError,
)
from .protocol import Checksum, ListEntry, ListPage, ObjectInfo
from .verify import Verification

__version__ = "0.2.0"

__all__ = [
    "AuthenticationError",
    "BadRequestError",
    "BusyError",
    "ChangedError",
    "Checksum",
    "Client",
    "ConnectionFailedError",
    "DeniedError",
    "DrainingError",
    "EndedError",
    "FileInUseError",
    "GantryError",
    "IdleError",
    "IntegrityError",
    "InternalError",
    "InvalidArgumentError",
    "ListEntry",
    "ListPage",
    "MalformedError",
    "NoRelayError",
    "NotFoundError",
    "ObjectInfo",
    "PartFileError",
    "PermissionDeniedError",
    "Progress",
    "RangeError",
    "RelayError",
    "Result",
    "StalledError",
    "StoreUnavailableError",
    "Stream",
    "Verification",
    "connect",
]
