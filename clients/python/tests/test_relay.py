"""Downloads from a real relay through a real nats-server."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import hashlib
import os
import tempfile
import time
import tracemalloc
import unittest
from pathlib import Path
from unittest import mock

import gantry_client
from harness import AsyncTest, Harness, kill, serving, sha256

CHUNK = 520_192
MIB = 1 << 20
SIZES = [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK - 1, 3 * CHUNK, 3 * CHUNK + 1, 5 * MIB]
LARGE = 300 * MIB


class WithRelay(AsyncTest):
    """nats-server and a relay over a folder, for all tests of a class."""

    max_payload: int | None = None

    @classmethod
    def setUpClass(cls) -> None:
        cls.harness = Harness()
        cls.addClassCleanup(cls.harness.close)
        cls.nats = cls.harness.nats(max_payload=cls.max_payload)
        cls.relay = cls.harness.relay(cls.nats.url)
        cls.digests = {size: cls.harness.object(f"{size}.bin", size) for size in SIZES}

    async def asyncSetUp(self) -> None:
        await super().asyncSetUp()
        self.client = await gantry_client.connect(self.nats.url)
        self.addAsyncCleanup(self.client.close)
        folder = tempfile.TemporaryDirectory(dir=self.harness.folder)
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        await serving(self.client, "files/1.bin")

    def assert_no_leftovers(self) -> None:
        self.assertEqual([name for name in os.listdir(self.folder) if name.startswith(".")], [])


class Sizes(WithRelay):
    async def test_files_of_all_sizes_are_the_same_bytes(self) -> None:
        for size in SIZES:
            with self.subTest(size=size):
                target = self.folder / f"{size}.bin"
                seen: list[gantry_client.Progress] = []

                result = await self.client.get(f"files/{size}.bin", to=target, progress=seen.append)

                self.assertEqual(sha256(target), self.digests[size])
                self.assertEqual((result.end, result.fetched, result.recoveries), (size, size, 0))
                self.assertEqual(seen[-1], gantry_client.Progress(size, size))
        self.assert_no_leftovers()

    async def test_streams_of_all_sizes_are_the_same_bytes(self) -> None:
        for size in SIZES:
            with self.subTest(size=size):
                digest = hashlib.sha256()
                stream = self.client.stream(f"files/{size}.bin")
                async for chunk in stream:
                    digest.update(chunk)
                self.assertEqual(digest.hexdigest(), self.digests[size])
                self.assertEqual(stream.result.fetched, size)

    async def test_twenty_slow_readers_share_one_connection(self) -> None:
        size = 5 * MIB

        async def read() -> str:
            digest = hashlib.sha256()
            async for chunk in self.client.stream(f"files/{size}.bin"):
                await asyncio.sleep(0.05)
                digest.update(chunk)
            return digest.hexdigest()

        digests = await asyncio.gather(*(read() for _ in range(20)))

        self.assertEqual(set(digests), {self.digests[size]})

    async def test_ranges_are_cut_as_requested(self) -> None:
        size = 3 * CHUNK + 1
        whole = (self.harness.objects / f"{size}.bin").read_bytes()
        for start, end in ((0, 10), (CHUNK - 1, CHUNK + 1), (size - 1, size), (7, None), (size, None), (5, size + 99)):
            with self.subTest(start=start, end=end):
                target = self.folder / "range.bin"
                result = await self.client.get(f"files/{size}.bin", to=target, start=start, end=end)
                self.assertEqual(target.read_bytes(), whole[start:end])
                self.assertEqual(result.verification.kind, "transport" if (start, result.end) != (0, size) else "")


class SmallPayload(Sizes):
    """The same with a `max_payload` of 64 KiB."""

    max_payload = 64 * 1024


class Requests(WithRelay):
    async def test_stat_describes_the_object(self) -> None:
        info = await self.client.stat(f"files/{CHUNK}.bin")
        self.assertEqual((info.key, info.size), (f"{CHUNK}.bin", CHUNK))
        same = await self.client.stat(f"files/{CHUNK}.bin", if_match=info.etag)
        self.assertEqual(same.etag, info.etag)

    async def test_list_walks_all_pages(self) -> None:
        keys: list[str] = []
        async for page in self.client.list("files", recursive=True, limit=2):
            self.assertLessEqual(len(page.entries), 2)
            keys += [entry.key for entry in page.entries]
        self.assertEqual(keys, sorted(f"{size}.bin" for size in SIZES))

    async def test_a_limit_past_the_maximum_means_the_maximum(self) -> None:
        for limit in (1001, 2**40, 2**80):
            page = await anext(self.client.list("files", recursive=True, limit=limit))
            self.assertEqual(len(page.entries), len(SIZES))
        with self.assertRaises(gantry_client.InvalidArgumentError):
            await anext(self.client.list("files", limit=0))

    async def test_errors_are_exceptions_of_their_code(self) -> None:
        target = self.folder / "none"
        with self.assertRaises(gantry_client.NotFoundError) as caught:
            await self.client.get("files/none", to=target)
        self.assertFalse(caught.exception.retryable)
        with self.assertRaises(gantry_client.NotFoundError):
            await self.client.stat("files/none")
        with self.assertRaises(gantry_client.RangeError):
            await self.client.get("files/1.bin", to=target, start=2)
        with self.assertRaises(gantry_client.ChangedError):
            await self.client.get("files/1.bin", to=target, if_match='"other"')
        with self.assertRaises(gantry_client.NoRelayError) as caught_none:
            await self.client.get("nothing/1.bin", to=target)
        self.assertTrue(caught_none.exception.retryable)
        with self.assertRaises(gantry_client.NoRelayError):
            await self.client.stat("nothing/1.bin")
        self.assertEqual(os.listdir(self.folder), [])

    async def test_invalid_arguments_are_rejected_before_anything_is_sent(self) -> None:
        for name in ("files", "files/", "fi les/1.bin", "files/a\nb", "files/" + "a" * 1025, "files/\ud800"):
            with self.subTest(name=name), self.assertRaises(gantry_client.InvalidArgumentError):
                await self.client.get(name, to=self.folder / "x")
        with self.assertRaises(gantry_client.InvalidArgumentError):
            await self.client.get("files/1.bin", to=self.folder / "x", start=-1)
        for text in ("a\0b", "a\x7fb", "a\x85b", "a\u009fb"):
            for name in ("correlation", "if_match", "version_id"):
                with self.subTest(name, text=text), self.assertRaises(gantry_client.InvalidArgumentError):
                    await self.client.get("files/1.bin", to=self.folder / "x", **{name: text})
        for prefix in ("a\n", "\ud800", "a" * 1025):
            with self.subTest(prefix=prefix), self.assertRaises(gantry_client.InvalidArgumentError):
                await anext(self.client.list("files", prefix=prefix))

    async def test_a_correlation_may_have_any_other_character(self) -> None:
        result = await self.client.get("files/1.bin", to=self.folder / "x", correlation="a\u00a0\u200b\U0010ffff")
        self.assertEqual(result.correlation, "a\u00a0\u200b\U0010ffff")

    async def test_a_stream_that_is_left_early_ends_its_transfer(self) -> None:
        async with self.client.stream(f"files/{5 * MIB}.bin") as stream:
            async for _ in stream:
                break
        self.assertEqual(self.client._budget._active, 0)
        with self.assertRaises(RuntimeError):
            _ = stream.result

    async def test_a_loop_that_is_left_ends_its_transfer_without_a_garbage_collection(self) -> None:
        gc.disable()
        self.addCleanup(gc.enable)
        name = f"files/{5 * MIB}.bin"

        async def leave(stream: gantry_client.Stream) -> None:
            async for _ in stream:
                break

        async def fail(stream: gantry_client.Stream) -> None:
            async for _ in stream:
                raise ZeroDivisionError

        await leave(self.client.stream(name))
        await self.has_no_download()
        with self.assertRaises(ZeroDivisionError):
            await fail(self.client.stream(name))
        await self.has_no_download()
        kept = self.client.stream(name)
        await leave(kept)
        await self.has_no_download()

    async def has_no_download(self) -> None:
        """Waits for tasks that are ready to run, and at most 1 s for messages to nats-server."""
        for _ in range(100):
            if self.client._budget._active == 0:
                return
            await asyncio.sleep(0.01)
        self.fail("the transfer was not ended")

    async def test_closing_a_stream_waits_until_its_transfer_has_ended(self) -> None:
        async with contextlib.aclosing(self.client.stream(f"files/{5 * MIB}.bin")) as stream:
            async for _ in stream:
                break
        self.assertEqual(self.client._budget._active, 0)

        stream = self.client.stream(f"files/{5 * MIB}.bin")
        chunks = aiter(stream)
        await anext(chunks)
        await stream.aclose()
        self.assertEqual(self.client._budget._active, 0)
        with self.assertRaises(StopAsyncIteration):
            await anext(chunks)
        await stream.aclose()

    async def test_errors_of_the_file_have_the_correlation(self) -> None:
        (self.folder / "folder").mkdir()
        for target in (self.folder / "folder", self.folder / "none" / "x"):
            with self.assertRaises(gantry_client.PartFileError) as caught:
                await self.client.get("files/1.bin", to=target, correlation="order-7")
            self.assertEqual(caught.exception.correlation, "order-7")

    async def test_a_failure_to_keep_the_part_file_does_not_hide_the_first_error(self) -> None:
        failure = gantry_client.PartFileError("can't make it durable")
        with mock.patch("gantry_client.part.PartFile.suspend", side_effect=failure):
            with self.assertRaises(gantry_client.NotFoundError) as caught:
                await self.client.get("files/none", to=self.folder / "x", correlation="order-7")
        self.assertEqual(caught.exception.correlation, "order-7")

    async def test_a_failing_progress_callback_ends_the_download(self) -> None:
        def fail(_: gantry_client.Progress) -> None:
            raise ZeroDivisionError

        with self.assertRaises(ZeroDivisionError):
            await self.client.get("files/1.bin", to=self.folder / "x", progress=fail)
        self.assertFalse((self.folder / "x").exists())

    async def test_a_download_that_is_cancelled_at_any_step_releases_its_file(self) -> None:
        target = self.folder / "x"
        for steps in range(12):
            download = asyncio.ensure_future(self.client.get("files/1.bin", to=target))
            for _ in range(steps):
                await asyncio.sleep(0.0005)
            download.cancel()
            await asyncio.gather(download, return_exceptions=True)
            await self.client.get("files/1.bin", to=target)
        self.assertEqual(os.listdir(self.folder), ["x"])

    async def test_the_callers_connection_is_used_and_left_open(self) -> None:
        import nats

        nc = await nats.connect(self.nats.url)
        client = gantry_client.Client(nc)
        await client.get("files/1.bin", to=self.folder / "x")
        await client.close()
        self.assertTrue(nc.is_connected)
        await nc.close()


class Faults(WithRelay):
    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.large = cls.harness.object("large.bin", LARGE)

    async def test_a_large_file_survives_kill_of_the_relay_and_restart_of_nats(self) -> None:
        second = self.harness.relay(self.nats.url, name="relay-2")
        target = self.folder / "large.bin"
        progress: list[int] = []
        tracemalloc.start()
        self.addCleanup(tracemalloc.stop)

        download = asyncio.ensure_future(
            self.client.get("files/large.bin", to=target, progress=lambda seen: progress.append(seen.done))
        )
        await past(progress, 60 * MIB)
        kill(self.relay)
        await past(progress, 120 * MIB)
        self.nats.kill()
        self.nats.start()
        await past(progress, 180 * MIB)
        kill(second)
        type(self).relay = self.harness.relay(self.nats.url, name="relay-3")
        result = await asyncio.wait_for(download, 120)

        self.assertEqual(sha256(target), self.large)
        self.assertGreaterEqual(result.recoveries, 2)
        self.assertLess(tracemalloc.get_traced_memory()[1], 64 * MIB)
        self.assert_no_leftovers()

    async def test_a_cancelled_download_resumes_where_it_stopped(self) -> None:
        target = self.folder / "large.bin"
        progress: list[int] = []
        first = asyncio.ensure_future(
            self.client.get("files/large.bin", to=target, progress=lambda seen: progress.append(seen.done))
        )
        await past(progress, 20 * MIB)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        self.assertFalse(target.exists())

        result = await self.client.get("files/large.bin", to=target)

        self.assertGreaterEqual(result.resumed_from or 0, 20 * MIB)
        self.assertEqual(sha256(target), self.large)
        self.assert_no_leftovers()

    async def test_a_part_of_an_older_version_is_not_resumed(self) -> None:
        target = self.folder / "changing.bin"
        self.harness.object("changing.bin", 30 * MIB)
        progress: list[int] = []
        first = asyncio.ensure_future(
            self.client.get("files/changing.bin", to=target, progress=lambda seen: progress.append(seen.done))
        )
        await past(progress, 5 * MIB)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        newer = self.harness.object("changing.bin", 30 * MIB)

        result = await self.client.get("files/changing.bin", to=target)

        self.assertIsNone(result.resumed_from)
        self.assertEqual(sha256(target), newer)

    async def test_a_connection_that_is_closed_for_good_is_replaced(self) -> None:
        # nats-py closes a connection permanently on most errors from nats-server.
        digest = hashlib.sha256()
        stream = self.client.stream("files/large.bin", end=40 * MIB)
        count = 0
        async for chunk in stream:
            digest.update(chunk)
            count += 1
            if count == 20:
                await self.client._link._nc.close()
        with open(self.harness.objects / "large.bin", "rb") as file:
            self.assertEqual(digest.hexdigest(), hashlib.sha256(file.read(40 * MIB)).hexdigest())
        self.assertGreaterEqual(stream.result.recoveries, 1)

    async def test_two_downloads_to_one_file_do_not_mix(self) -> None:
        target = self.folder / "large.bin"
        progress: list[int] = []
        first = asyncio.ensure_future(
            self.client.get("files/large.bin", to=target, progress=lambda seen: progress.append(seen.done))
        )
        await past(progress, MIB)
        with self.assertRaises(gantry_client.FileInUseError) as caught:
            await self.client.get("files/1.bin", to=target, correlation="order-7")
        self.assertEqual(caught.exception.correlation, "order-7")
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)


async def past(progress: list[int], offset: int) -> None:
    """Waits until the download has reached the offset."""
    deadline = time.monotonic() + 60
    while not progress or progress[-1] < offset:
        if time.monotonic() > deadline:
            raise AssertionError(f"not past {offset} within 60 s")
        await asyncio.sleep(0.01)


if __name__ == "__main__":
    unittest.main()
