"""Opens connections to nats-server, and finds out why one can't be opened."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import re
from collections import UserString
from typing import Any, Optional
from urllib.parse import urlsplit

from nats.aio.client import Client as NatsClient

from .errors import AuthenticationError, ConnectionFailedError, GantryError, InvalidArgumentError
from .protocol import printable
from .tasks import stop

_SCHEMES = ("nats", "tls", "ws", "wss")

# Everything up to the last `@` of a URL, except the scheme: a user and a password, or a token.
_USER_INFO = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*://)?.*@", re.DOTALL)

# What nats-server reports when it refuses or revokes credentials, and how nats-py words it.
_REFUSALS = ("authorization violation", "authentication expired", "authentication revoked", "authorization failed")

# A file of credentials has these two sections. nats-py reads on forever if the first one is missing.
_SECTIONS = (b"BEGIN NATS USER JWT", b"BEGIN USER NKEY SEED")


async def open_connection(servers: list[str], timeout_s: float, options: dict[str, Any]) -> NatsClient:
    """Connects within the time limit.

    Raises `AuthenticationError` at once if all servers refuse the credentials, or if these can't be used. Raises
    `InvalidArgumentError` for an invalid URL or option, and otherwise `ConnectionFailedError` with the last reason.
    """
    _check_servers(servers)
    _check_credentials(options)
    nc = NatsClient()
    failures = _Failures(len(servers))

    async def connect() -> None:
        await nc.connect(servers, **{**options, "error_cb": failures.recording(options["error_cb"])})

    connecting = asyncio.ensure_future(connect())
    refusing = asyncio.ensure_future(failures.refused.wait())
    is_connected = False
    try:
        await asyncio.wait({connecting, refusing}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        is_connected = connecting.done() and connecting.exception() is None
    finally:
        await stop(refusing, connecting)
        if not is_connected:
            # nats-py can't close what it has not begun to open.
            with contextlib.suppress(Exception):
                await nc.close()

    if not is_connected:
        raised = None if connecting.cancelled() else connecting.exception()
        # Without the exception of nats-py as cause or context, which may contain a part of a URL.
        raise failures.error(raised, ", ".join(map(redacted, servers)), timeout_s, _has_keys(options))
    return nc


class _Failures:
    """The reasons why a connection can't be opened."""

    def __init__(self, servers: int) -> None:
        self._servers = servers
        self._last: Optional[Exception] = None
        self._refusals: list[Exception] = []

        #: Set once as many attempts as there are servers were refused.
        self.refused = asyncio.Event()

    def recording(self, report: Any) -> Any:
        """Returns a callback for `nats-py` that records an error before it reports it."""

        async def record(error: Exception) -> None:
            self._last = error
            if is_refusal(error):
                self._refusals.append(error)
            if len(self._refusals) >= self._servers:
                self.refused.set()
            await report(error)

        return record

    def error(self, raised: Optional[BaseException], names: str, timeout_s: float, has_keys: bool) -> GantryError:
        """Returns the exception for the caller. `raised` is what `nats-py` has raised."""
        if isinstance(raised, TypeError):
            return InvalidArgumentError(f"can't connect to {names}: {reason_of(raised)}")
        if raised is not None and has_keys and not isinstance(raised, (OSError, asyncio.TimeoutError)):
            return AuthenticationError(f"can't use the credentials for {names}: {reason_of(raised)}")

        reason = self._refusals[-1] if self._refusals else raised or self._last
        if reason is None:
            return ConnectionFailedError(f"can't connect to {names}: no answer within {timeout_s:g} s")
        if is_refusal(reason):
            return AuthenticationError(f"{names} refuses the credentials: {reason_of(reason)}")
        return ConnectionFailedError(f"can't connect to {names}: {reason_of(reason)}")


def redacted(url: str) -> str:
    """Returns a URL without its user, password or token."""
    return printable(_USER_INFO.sub(r"\1***@", url))


def is_refusal(error: BaseException) -> bool:
    """Returns whether nats-server has refused the credentials."""
    text = str(error).lower()
    return any(refusal in text for refusal in _REFUSALS)


def reason_of(error: BaseException) -> str:
    """Returns an error's text, or its type if it has none."""
    return printable(str(error)) or type(error).__name__


def _check_servers(servers: list[str]) -> None:
    if not servers:
        raise InvalidArgumentError("servers: expected at least one URL")
    for server in servers:
        if not _is_valid(server):
            shown = redacted(server) if isinstance(server, str) else type(server).__name__
            raise InvalidArgumentError(f"servers: {shown}, expected a URL such as nats://host:4222")


def _is_valid(server: str) -> bool:
    if not isinstance(server, str):
        return False
    try:
        parts = urlsplit(server if "://" in server else f"nats://{server}")
        return parts.scheme in _SCHEMES and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _has_keys(options: dict[str, Any]) -> bool:
    return any(options.get(name) is not None for name in ("user_credentials", "nkeys_seed", "nkeys_seed_str"))


def _check_credentials(options: dict[str, Any]) -> None:
    """Raises `AuthenticationError` if `nats-py` can't use a user's keys."""
    if not _has_keys(options):
        return
    if importlib.util.find_spec("nkeys") is None:
        raise AuthenticationError(
            "credentials with keys need the package nkeys: run `pip install gantry-client[nkeys]`"
        )

    credentials = options.get("user_credentials")
    if isinstance(credentials, tuple):
        for path in credentials:
            _read(path)
    elif credentials is not None:
        is_text = isinstance(credentials, UserString)
        content = credentials.data.encode() if is_text else _read(credentials)
        name = "the credentials" if is_text else os.fspath(credentials)
        for section in _SECTIONS:
            if section not in content:
                raise AuthenticationError(f"{name}: there is no section {section.decode()!r}")
    elif options.get("nkeys_seed") is not None:
        _read(options["nkeys_seed"])


def _read(path: Any) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise AuthenticationError(f"can't read the credentials in {os.fspath(path)}: {error.strerror}") from error
