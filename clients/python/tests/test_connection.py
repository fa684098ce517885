"""Connections that can't be opened: the exception states why, and no message contains a password."""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
import tempfile
import time
import traceback
import unittest
from pathlib import Path
from unittest import mock

import gantry_client
from gantry_client.connection import redacted
from harness import AsyncTest, Harness, NatsServer, free_port

SECRET = "geheim"


class Connecting(AsyncTest):
    @classmethod
    def setUpClass(cls) -> None:
        cls.harness = Harness()
        cls.addClassCleanup(cls.harness.close)
        cls.nats = protected(cls.harness, SECRET)
        cls.address = cls.nats.url.removeprefix("nats://")

    async def fails(self, expected: type[gantry_client.GantryError], servers: object, **options: object) -> str:
        """Returns the message of the exception, after searching it and everything that was logged for the password."""
        log = Log()
        logging.getLogger().addHandler(log)
        self.addCleanup(logging.getLogger().removeHandler, log)
        with self.assertRaises(expected) as caught:
            await asyncio.wait_for(gantry_client.connect(servers, **options), 20)

        error = caught.exception
        self.assertIs(type(error), expected)
        shown = "".join(traceback.format_exception(error)) + repr(error) + "".join(log.lines)
        self.assertNotIn("geh", shown)
        return str(error)

    async def test_the_reason_is_that_nobody_listens(self) -> None:
        message = await self.fails(
            gantry_client.ConnectionFailedError, f"nats://u:{SECRET}@127.0.0.1:{free_port()}", connect_timeout_s=0.5
        )
        self.assertIn("Connect call failed", message)
        self.assertIn("nats://***@127.0.0.1", message)

    async def test_the_reason_is_that_the_server_is_silent(self) -> None:
        silent = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(silent.close)
        port = silent.getsockname()[1]
        message = await self.fails(
            gantry_client.ConnectionFailedError, f"nats://127.0.0.1:{port}", connect_timeout_s=0.5
        )
        self.assertIn("no answer within 0.5 s", message)

    async def test_refused_credentials_are_reported_at_once_and_not_retryable(self) -> None:
        for servers, options in (
            (f"nats://u:{SECRET}-not@{self.address}", {}),
            (f"nats://{SECRET}@{self.address}", {}),
            (f"u:{SECRET}-not@{self.address}", {}),
            ([self.nats.url, self.nats.url], {"user": "u", "password": f"{SECRET}-not"}),
            (self.nats.url, {"user": "u", "password": f"{SECRET}-not", "allow_reconnect": False}),
            (self.nats.url, {}),
        ):
            with self.subTest(servers=servers, **options):
                began = time.monotonic()
                message = await self.fails(gantry_client.AuthenticationError, servers, **options)
                self.assertLess(time.monotonic() - began, 2)
                self.assertIn("Authorization Violation", message)
        self.assertFalse(gantry_client.AuthenticationError.retryable)
        self.assertTrue(issubclass(gantry_client.AuthenticationError, gantry_client.ConnectionFailedError))

    async def test_one_server_that_refuses_does_not_keep_from_trying_the_others(self) -> None:
        other = protected(self.harness, "other")
        servers = [self.nats.url, other.url]
        client = await gantry_client.connect(servers, user="u", password=SECRET, dont_randomize=True)
        await client.close()
        client = await gantry_client.connect(servers[::-1], user="u", password=SECRET, dont_randomize=True)
        await client.close()

    async def test_credentials_that_are_refused_later_are_reported_before_the_patience_ends(self) -> None:
        server = protected(self.harness, SECRET)
        client = await gantry_client.connect(server.url, user="u", password=SECRET)
        self.addAsyncCleanup(client.close)
        server.kill()
        protect(server, "another")
        server.start()

        with self.assertRaises(gantry_client.AuthenticationError):
            await asyncio.wait_for(client.stat("files/a"), 10)

    async def test_a_lost_connection_is_reported_with_its_reason(self) -> None:
        server = self.harness.nats()
        client = await gantry_client.connect(server.url, patience_s=1)
        self.addAsyncCleanup(client.close)
        server.kill()
        stream = client.stream("files/a")
        with self.assertRaises(gantry_client.GantryError) as caught:
            async for _ in stream:
                pass
        self.assertIn("Connect call failed", str(caught.exception))

    async def test_invalid_urls_are_invalid_arguments(self) -> None:
        for servers in (
            f"nats://u:{SECRET}/x@h:4222", f"nats://u:{SECRET}@h:port", f"http://u:{SECRET}@h", "nats://", [], [7],
            [self.nats.url, f"nats://u:{SECRET}@"],
        ):
            with self.subTest(servers=servers):
                await self.fails(gantry_client.InvalidArgumentError, servers)

    async def test_an_unknown_option_is_an_invalid_argument(self) -> None:
        message = await self.fails(gantry_client.InvalidArgumentError, self.nats.url, colour="blue")
        self.assertIn("colour", message)

    async def test_a_missing_package_for_keys_is_named(self) -> None:
        with mock.patch("importlib.util.find_spec", return_value=None):
            for option in ("user_credentials", "nkeys_seed", "nkeys_seed_str"):
                message = await self.fails(gantry_client.AuthenticationError, self.nats.url, **{option: "x"})
                self.assertIn("pip install gantry-client[nkeys]", message)

    async def test_credentials_that_can_not_be_read_are_reported_at_once(self) -> None:
        with tempfile.NamedTemporaryFile() as file, mock.patch("importlib.util.find_spec", return_value=object()):
            file.write(b"-----BEGIN USER NKEY SEED-----\ngeheim\n")
            file.flush()
            for option, value, reason in (
                ("user_credentials", "/none/a.creds", "can't read the credentials in /none/a.creds"),
                ("user_credentials", (file.name, "/none/seed"), "can't read the credentials in /none/seed"),
                ("nkeys_seed", Path("/none/seed"), "can't read the credentials in /none/seed"),
                ("user_credentials", file.name, "no section 'BEGIN NATS USER JWT'"),
            ):
                with self.subTest(value=value):
                    message = await self.fails(gantry_client.AuthenticationError, self.nats.url, **{option: value})
                    self.assertIn(reason, message)

    async def test_an_invalid_seed_is_reported(self) -> None:
        nkeys = mock.Mock()
        nkeys.from_seed.side_effect = ValueError("invalid seed")
        with (
            mock.patch.dict(sys.modules, nkeys=nkeys),
            mock.patch("importlib.util.find_spec", return_value=object()),
        ):
            message = await self.fails(gantry_client.AuthenticationError, self.nats.url, nkeys_seed_str="geheim")
        self.assertIn("invalid seed", message)

    async def test_a_cancelled_connect_leaves_no_task(self) -> None:
        before = asyncio.all_tasks()
        connecting = asyncio.ensure_future(gantry_client.connect(f"nats://127.0.0.1:{free_port()}"))
        await asyncio.sleep(0.05)
        connecting.cancel()
        with self.assertRaises(asyncio.CancelledError):
            await connecting
        self.assertEqual(asyncio.all_tasks(), before)


class Redaction(unittest.TestCase):
    def test_everything_before_the_last_at_sign_is_redacted(self) -> None:
        for url, shown in (
            ("nats://u:p@h:4222", "nats://***@h:4222"),
            ("tls://token@h", "tls://***@h"),
            ("u:p@ss/w?o#rd@h:4222", "***@h:4222"),
            ("nats://u:p\n@h", "nats://***@h"),
            ("nats://h:4222", "nats://h:4222"),
            ("h", "h"),
        ):
            self.assertEqual(redacted(url), shown)


class Log(logging.Handler):
    """Collects everything that is logged."""

    def __init__(self) -> None:
        super().__init__(0)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


def protected(harness: Harness, password: str) -> NatsServer:
    """Starts a nats-server with a password for the user `u`."""
    server = harness.nats()
    server.kill()
    protect(server, password)
    server.start()
    return server


def protect(server: NatsServer, password: str) -> None:
    server._config.write_text(f"authorization {{ users: [ {{user: u, password: {password!r}}} ] }}\n")


if __name__ == "__main__":
    unittest.main()
