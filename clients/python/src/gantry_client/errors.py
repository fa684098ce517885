"""Exceptions. Each one states by `retryable` whether the same call can succeed later."""

from __future__ import annotations

from typing import ClassVar, Optional


class GantryError(Exception):
    """Base class of all errors of this package."""

    #: Whether the same call can succeed later.
    retryable: bool = False

    #: The id of the download that failed, which the logs and traces of both sides contain. `None` for other calls.
    correlation: Optional[str] = None


class InvalidArgumentError(GantryError, ValueError):
    """An argument breaks a rule of the protocol. Nothing was sent."""


class ConnectionFailedError(GantryError):
    """nats-server can't be reached, or the client is closed."""

    retryable = True


class AuthenticationError(ConnectionFailedError):
    """nats-server refuses the credentials, or they can't be used."""

    retryable = False


class NoRelayError(GantryError):
    """No relay listens for requests to this store."""

    retryable = True


class PermissionDeniedError(GantryError):
    """nats-server denies publishing the request or subscribing to the answer."""


class StalledError(GantryError):
    """No new byte arrived within the time limit. The bytes so far are kept, so that the download can be resumed."""

    retryable = True


class MalformedError(GantryError):
    """The relay's answer violates the protocol."""


class IntegrityError(GantryError):
    """The bytes do not match the store's checksum."""


class PartFileError(GantryError):
    """The file can't be written safely."""


class FileInUseError(PartFileError):
    """Another download writes to the same file."""

    retryable = True


class RelayError(GantryError):
    """A relay answered with an error."""

    #: The error code of the protocol.
    code: ClassVar[str] = ""

    def __init__(
        self, message: str, *, retryable: bool | None = None, retry_after_s: float = 0.0, code: str | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        if retryable is not None:
            self.retryable = retryable

        #: The minimum time to wait before a retry, in seconds.
        self.retry_after_s = retry_after_s

        #: The code that the relay sent. It differs from `code` if it is unknown to this package.
        self.wire_code = code if code is not None else self.code


class BadRequestError(RelayError):
    """The relay rejects the request as malformed."""

    code = "bad_request"


class DeniedError(RelayError):
    """The store denies access to the object."""

    code = "denied"


class NotFoundError(RelayError):
    """The bucket, key or version does not exist."""

    code = "not_found"


class IdleError(RelayError):
    """The relay received nothing from this consumer for too long."""

    code = "idle"
    retryable = True


class EndedError(RelayError):
    """The relay does not know the transfer (any more). Sent in answer to a probe."""

    code = "ended"
    retryable = True


class ChangedError(RelayError):
    """The object is not, or is no longer, the requested version."""

    code = "changed"


class RangeError(RelayError):
    """The range starts after its end or after the object's end."""

    code = "range"


class BusyError(RelayError):
    """The relay has reached one of its limits."""

    code = "busy"
    retryable = True


class InternalError(RelayError):
    """The relay has a defect."""

    code = "internal"
    retryable = True


class StoreUnavailableError(RelayError):
    """The store fails or does not respond."""

    code = "store_unavailable"
    retryable = True


class DrainingError(RelayError):
    """The relay is shutting down."""

    code = "draining"
    retryable = True


_BY_CODE: dict[str, type[RelayError]] = {
    error.code: error
    for error in (
        BadRequestError,
        DeniedError,
        NotFoundError,
        IdleError,
        EndedError,
        ChangedError,
        RangeError,
        BusyError,
        InternalError,
        StoreUnavailableError,
        DrainingError,
    )
}


def relay_error(code: str, message: str, retryable: bool, retry_after_s: float) -> RelayError:
    """Returns the exception for an error of the protocol; a plain `RelayError` for an unknown code."""
    error = _BY_CODE.get(code, RelayError)
    return error(message, retryable=retryable, retry_after_s=retry_after_s, code=code)
