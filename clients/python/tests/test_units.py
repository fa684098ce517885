"""Tests without servers: checksums, messages, the part file."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import os
import tempfile
import threading
import unittest
import zlib
from pathlib import Path
from typing import Any
from unittest import mock

from gantry_client import ChangedError, FileInUseError, IntegrityError, MalformedError, ObjectInfo, PartFileError
from gantry_client import crc, protocol
from gantry_client.part import PartFile, Wanted
from gantry_client.protocol import Checksum
from gantry_client.tasks import in_thread, stop
from gantry_client.verify import Verifier

TRANSFER = "0f8fad5b-d9cb-469f-a165-70867728950e"


class Threads(unittest.IsolatedAsyncioTestCase):
    async def test_a_call_ends_after_its_work_on_a_thread_even_if_it_is_cancelled(self) -> None:
        started, release, undone = threading.Event(), threading.Event(), []

        def work() -> str:
            started.set()
            release.wait(10)
            return "result"

        call = asyncio.ensure_future(in_thread(work, undo=undone.append))
        while not started.is_set():
            await asyncio.sleep(0)
        for _ in range(3):
            call.cancel()
            await asyncio.sleep(0)
            self.assertFalse(call.done())

        release.set()
        with self.assertRaises(asyncio.CancelledError):
            await call
        self.assertEqual(undone, ["result"])


    async def test_stopping_waits_for_tasks_even_if_it_is_cancelled_itself(self) -> None:
        release = asyncio.Event()

        async def stubborn() -> None:
            while not release.is_set():
                try:
                    await release.wait()
                except asyncio.CancelledError:
                    pass

        task = asyncio.ensure_future(stubborn())
        await asyncio.sleep(0)
        stopping = asyncio.ensure_future(stop(task))
        for _ in range(3):
            await asyncio.sleep(0)
            stopping.cancel()
        await asyncio.sleep(0)
        self.assertFalse(stopping.done())

        release.set()
        with self.assertRaises(asyncio.CancelledError):
            await stopping
        self.assertTrue(task.done())


class Crcs(unittest.TestCase):
    def test_check_values(self) -> None:
        self.assertEqual(crc.folding_crc64nvme(b"123456789"), 0xAE8B14860A799888)
        self.assertEqual(crc.folding_crc32c(b"123456789"), 0xE3069283)
        self.assertEqual(crc.crc64nvme(b"123456789"), 0xAE8B14860A799888)

    def test_folding_equals_the_plain_loop_at_all_lengths(self) -> None:
        reference = crc.FoldingCrc(32, 0xEDB88320)
        for length in [*range(300), 4095, 4096, 65_535, 65_537, 200_001]:
            data = os.urandom(length)
            self.assertEqual(reference(data), zlib.crc32(data), length)
            half = length // 2
            self.assertEqual(reference(data[half:], reference(data[:half])), zlib.crc32(data), length)
            joined = reference.joined(zlib.crc32(data[:half]), zlib.crc32(data[half:]), length - half)
            self.assertEqual(joined, zlib.crc32(data), length)

    def test_folding_equals_awscrt(self) -> None:
        if crc.IMPLEMENTATION != "awscrt":
            self.skipTest("awscrt is not installed")
        for length in (0, 1, 63, 64, 65, 127, 128, 129, 4097, 520_192):
            data = os.urandom(length)
            self.assertEqual(crc.folding_crc64nvme(data, 99), crc.crc64nvme(data, 99))
            self.assertEqual(crc.folding_crc32c(data, 99), crc.crc32c(data, 99))


class Verification(unittest.TestCase):
    data = os.urandom(10_000)
    damaged = data[:-1] + bytes([data[-1] ^ 1])
    digests = {
        "crc64nvme": lambda data: crc.folding_crc64nvme(data).to_bytes(8, "big"),
        "crc32c": lambda data: crc.folding_crc32c(data).to_bytes(4, "big"),
        "crc32": lambda data: zlib.crc32(data).to_bytes(4, "big"),
        "sha1": lambda data: hashlib.sha1(data).digest(),
        "sha256": lambda data: hashlib.sha256(data).digest(),
    }

    def verify(self, checksum: Checksum, data: bytes) -> str:
        verifier = Verifier(checksum, len(data))
        for offset in range(0, len(data), 777):
            chunk = data[offset : offset + 777]
            verifier.update(chunk, crc.crc64nvme(chunk))
        return str(verifier.finish())

    def test_every_algorithm_verifies_the_whole(self) -> None:
        for algorithm, digest in self.digests.items():
            with self.subTest(algorithm):
                value = base64.b64encode(digest(self.data)).decode()
                checksum = Checksum(algorithm, "full_object", value)
                self.assertEqual(self.verify(checksum, self.data), f"{algorithm} (full_object)")
                with self.assertRaises(IntegrityError):
                    self.verify(checksum, self.damaged)

    def test_every_algorithm_verifies_parts(self) -> None:
        for algorithm, digest in self.digests.items():
            with self.subTest(algorithm):
                parts = [self.data[:4000], self.data[4000:8000], self.data[8000:], b""]
                value = base64.b64encode(digest(b"".join(map(digest, parts)))).decode()
                checksum = Checksum(algorithm, "composite", value, ((2, 4000), (1, 2000), (1, 0)))
                self.assertEqual(self.verify(checksum, self.data), f"{algorithm} (composite of 4 parts)")
                with self.assertRaises(IntegrityError):
                    self.verify(checksum, self.damaged)

    def test_a_checksum_that_cannot_be_checked_verifies_the_transport_only(self) -> None:
        for checksum in (
            Checksum("md5", "full_object", "AAAA"),
            Checksum("crc32", "composite", "AAAAAA=="),
            Checksum("crc32", "other", "AAAAAA=="),
        ):
            with self.subTest(checksum):
                self.assertEqual(self.verify(checksum, self.data), "transport only")

    def test_an_invalid_checksum_is_reported_as_invalid_and_not_as_a_mismatch(self) -> None:
        for checksum in (
            Checksum("sha256", "full_object", "AAAA"),
            Checksum("sha256", "full_object", "*"),
            Checksum("crc32", "full_object", ""),
            Checksum("crc32", "full_object", "AAAAAA"),
            Checksum("crc32", "full_object", "AAAAAB=="),
            Checksum("crc32", "full_object", "AAAAAA==\n"),
            Checksum("crc32", "full_object", "\u00e4AAAAA=="),
            Checksum("crc32", "composite", "AAAA"),
            Checksum("crc32", "composite", "AAAA", ((1, 10_000),)),
            Checksum("crc32", "composite", "AAAAAA==", ((1, 9_999),)),
            Checksum("crc32", "composite", "AAAAAA==", ((2**62, 0), (1, 10_000))),
        ):
            with self.subTest(checksum):
                text = self.verify(checksum, self.data)
                self.assertEqual(text, f"transport only: the stated {checksum.algorithm} is invalid")


class Messages(unittest.TestCase):
    def accepted(self, **changes: Any) -> protocol.Message:
        body = {
            "transfer": TRANSFER, "instance": "i", "control": f"gantry.v1.ctl.i.{TRANSFER}", "key": "k", "size": 10,
            "etag": "e", "metadata": {}, "start": 0, "end": 10, "credit": 10, "window_max": 10, "chunk_max": 8,
            "beat_ms": 1000, "idle_ms": 15000, **changes,
        }
        headers = {"Gantry-Type": "accepted", "Gantry-Transfer": TRANSFER}
        return protocol.read_message("gantry", headers, json.dumps(body).encode())

    def test_timers_are_bounded(self) -> None:
        for given, beat_s, idle_s in ((0, 0.05, 1.0), (2**60, 10.0, 3600.0), (2_000, 2.0, 2.0)):
            accepted = self.accepted(beat_ms=given, idle_ms=given)
            assert isinstance(accepted, protocol.Accepted)
            self.assertEqual((accepted.beat_s, accepted.idle_s), (beat_s, idle_s))
        error = protocol.read_error(b'{"code": "busy", "message": "", "retryable": true, "retry_after_ms": 99999999}')
        self.assertEqual(error.retry_after_s, 60.0)

    def test_bad_members_are_rejected(self) -> None:
        for changes in (
            {"size": -1}, {"size": 1.5}, {"size": True}, {"size": 2**63}, {"size": None}, {"size": 5}, {"start": 11},
            {"chunk_max": 0}, {"key": 1}, {"instance": "a.b"}, {"instance": ""}, {"transfer": "other"},
            {"metadata": {"a": 1}}, {"checksum": []}, {"checksum": {"algorithm": "crc32"}}, {"control": "a.b"},
            {"checksum": {"algorithm": "crc32", "kind": "full_object", "value": "A" * 177}}, {"beat_ms": 1e3},
            {"key": "\ud800"}, {"metadata": {"\udfff": ""}}, {"content_type": "\ud800"},
            {"etag": ""}, {"etag": "a\x9b"}, {"etag": "\ud800"}, {"etag": "e" * 1025}, {"version_id": "\r"},
        ):
            with self.subTest(changes), self.assertRaises(MalformedError):
                self.accepted(**changes)

    def test_a_version_may_contain_anything_but_control_characters(self) -> None:
        accepted = self.accepted(etag="\u00a0\u200b", version_id="\U0010ffff")
        assert isinstance(accepted, protocol.Accepted)
        self.assertEqual((accepted.object.etag, accepted.object.version_id), ("\u00a0\u200b", "\U0010ffff"))

    def test_unknown_members_are_ignored(self) -> None:
        self.assertIsInstance(self.accepted(news=1), protocol.Accepted)

    def test_an_optional_member_that_is_null_is_absent(self) -> None:
        names = ("version_id", "last_modified", "content_type", "metadata", "checksum")
        accepted = self.accepted(**dict.fromkeys(names))
        assert isinstance(accepted, protocol.Accepted)
        self.assertEqual((accepted.object.metadata, accepted.object.checksum), ({}, None))
        checksum = {"algorithm": "crc32", "kind": "full_object", "value": "AAAAAA==", "parts": None}
        accepted = self.accepted(checksum=checksum)
        assert isinstance(accepted, protocol.Accepted) and accepted.object.checksum is not None
        self.assertEqual(accepted.object.checksum.parts, ())

    def test_an_error_that_cannot_be_read_is_internal(self) -> None:
        without_retryable = b'{"code": "not_found", "message": "m"}'
        error = {"code": "denied", "message": "m", "retryable": False}
        changes: list[dict[str, object]] = [
            {"message": 5}, {"message": None}, {"message": "\ud800"}, {"code": ["denied"]}, {"retryable": 0},
            {"retryable": "false"}, {"retry_after_ms": -1}, {"retry_after_ms": 1.5}, {"retry_after_ms": True},
        ]
        changed = [json.dumps({**error, **change}).encode() for change in changes]
        changed += [json.dumps(error).encode().replace(b'"m"', b'"\xff"'), json.dumps(error).encode("utf-16")]
        for payload in (b"", b"{", b"[]", b"[" * 100_000, b'{"code": 1}', b"\xff", without_retryable, *changed):
            error = protocol.read_error(payload)
            self.assertEqual((error.code, error.retryable), ("internal", True))

    def test_numbers_in_headers_are_plain_digits(self) -> None:
        good = {"Gantry-Type": "chunk", "Gantry-Transfer": TRANSFER, "Gantry-Seq": "0", "Gantry-Offset": "10",
                "Gantry-Crc": "0123456789abcdef"}
        self.assertIsInstance(protocol.read_message("gantry", good, b"x"), protocol.Chunk)
        odd = ("", "+1", "-1", "1_0", " 1", "1 ", "1\n", "01", "\u0661", "1.0", "0x1", str(2**63))
        for name, values in (
            ("Gantry-Seq", odd),
            ("Gantry-Offset", odd),
            ("Gantry-Crc", ("", "0" * 15, "0" * 17, "0123456789ABCDEF", "0x" + "0" * 14, "+" + "0" * 15, "0" * 15 + "\n")),
        ):
            for value in values:
                with self.subTest(name, value=value), self.assertRaises(MalformedError):
                    protocol.read_message("gantry", {**good, name: value}, b"x")

    def test_a_page_keeps_to_its_bounds(self) -> None:
        entry = {"key": "k", "size": 1}
        good = {"entries": [entry], "prefixes": ["p/"], "next": "t" * 8192}
        self.assertEqual(len(protocol.read_page(good, 2).entries), 1)
        for changes in ({"entries": [entry, entry]}, {"next": "t" * 8193}, {"prefixes": ["\ud800"]}, {"prefixes": [1]}):
            with self.subTest(changes), self.assertRaises(MalformedError):
                protocol.read_page({**good, **changes}, 2)

    def test_an_error_of_a_known_code_has_its_class(self) -> None:
        error = protocol.read_error(b'{"code": "changed", "message": "m", "retryable": false}')
        self.assertIsInstance(error, ChangedError)


class Parts(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.target = self.folder / "a.bin"
        self.part = self.folder / ".a.bin.gantry-py-part"
        self.sidecar = self.folder / ".a.bin.gantry-py-part.json"
        self.wanted = Wanted("s", "k", 0, None, None, None)
        self.data = os.urandom(1000)
        value = base64.b64encode(zlib.crc32(self.data).to_bytes(4, "big")).decode()
        self.info = ObjectInfo("k", 1000, "e", checksum=Checksum("crc32", "full_object", value))

    def open(self, wanted: Wanted | None = None) -> PartFile:
        part = PartFile(self.target, wanted or self.wanted, resume=True)
        self.addCleanup(part.close)
        return part

    def write(self, part: PartFile, data: bytes) -> None:
        part.write(data, crc.crc64nvme(data))

    def mark_every(self, count: int) -> None:
        patch = mock.patch("gantry_client.part._MARK_BYTES", count)
        patch.start()
        self.addCleanup(patch.stop)

    def half(self) -> None:
        part = self.open()
        part.begin(self.info, 0, 1000)
        self.write(part, self.data[:500])
        part.close()

    def test_it_resumes_and_keeps_the_mode_of_the_target(self) -> None:
        self.target.write_bytes(b"old")
        self.target.chmod(0o640)
        self.half()
        self.assertEqual(self.target.read_bytes(), b"old")

        part = self.open()
        self.assertEqual((part.found, part.offset), (self.info, 500))
        part.begin(self.info, 0, 1000)
        self.write(part, self.data[500:])
        self.assertEqual(str(part.commit()), "crc32 (full_object)")
        part.close()

        self.assertEqual(self.target.read_bytes(), self.data)
        self.assertEqual(self.target.stat().st_mode & 0o777, 0o640)
        self.assertEqual(os.listdir(self.folder), ["a.bin"])

    def test_other_bytes_are_not_resumed(self) -> None:
        self.half()
        for wanted in (Wanted("t", "k", 0, None, None, None), Wanted("s", "k", 1, None, None, None)):
            part = self.open(wanted)
            self.assertIsNone(part.found)
            part.close()

    def test_after_a_restart_of_the_machine_only_the_checkpoint_counts(self) -> None:
        part = self.open()
        part.begin(self.info, 0, 1000)
        self.write(part, self.data[:300])
        part.suspend()
        self.write(part, self.data[300:500])
        part.close()
        header, marks = self.sidecar.read_text().split("\n", 1)
        self.sidecar.write_text(json.dumps({**json.loads(header), "boot": "another"}) + "\n" + marks)

        self.assertEqual(self.open().offset, 300)

    def test_damage_costs_only_what_follows_the_last_mark_before_it(self) -> None:
        self.mark_every(100)
        for at, offset in ((0, 0), (99, 0), (100, 100), (250, 200), (499, 400)):
            self.part.unlink(missing_ok=True)
            part = self.open()
            part.begin(self.info, 0, 1000)
            for start in range(0, 500, 100):
                self.write(part, self.data[start : start + 100])
            part.close()
            damaged = bytearray(self.part.read_bytes())
            damaged[at] ^= 1
            self.part.write_bytes(damaged)

            part = self.open()
            self.assertEqual(part.offset, offset, at)
            part.begin(self.info, 0, 1000)
            self.write(part, self.data[offset:])
            self.assertEqual(str(part.commit()), "crc32 (full_object)")
            part.close()

    def test_bytes_without_a_mark_are_not_used(self) -> None:
        self.half()
        with open(self.part, "ab") as file:
            file.write(self.data[500:600])
        self.assertEqual(self.open().offset, 500)

    def test_a_damaged_mark_is_ignored(self) -> None:
        self.mark_every(250)
        part = self.open()
        part.begin(self.info, 0, 1000)
        self.write(part, self.data[:250])
        self.write(part, self.data[250:500])
        part.close()
        good = self.sidecar.read_bytes()
        for bad, offset in ((good[:-1], 250), (good[:-1] + b"x", 250), (good + b"\n9", 500)):
            self.sidecar.write_bytes(bad)
            part = PartFile(self.target, self.wanted, resume=True)
            self.assertEqual(part.offset, offset)
            self.part.write_bytes(self.data[:500])
            part.close()

    def test_damaged_bytes_are_not_resumed(self) -> None:
        part = self.open()
        part.begin(self.info, 0, 1000)
        self.write(part, self.data[:500])
        part.suspend()
        part.close()
        self.part.write_bytes(b"x" * 500)

        self.assertIsNone(self.open().found)

    def test_a_malformed_sidecar_is_ignored(self) -> None:
        for text in ("", "{", "[]", "{}", '{"format": 1}', '{"format": 2}', '{"format":2,"object":{},"wanted":{}}'):
            self.half()
            self.sidecar.write_text(text)
            part = self.open()
            self.assertIsNone(part.found, text)
            part.close()

    def test_one_download_at_a_time(self) -> None:
        self.open()
        with self.assertRaises(FileInUseError):
            self.open()

    def test_links_and_special_files_in_place_of_the_part_are_refused(self) -> None:
        victim = self.folder / "victim"
        victim.write_bytes(b"precious")
        for put in (
            lambda: self.part.symlink_to(victim),
            lambda: os.link(victim, self.part),
            lambda: os.mkfifo(self.part),
            lambda: self.part.mkdir(),
        ):
            put()
            with self.assertRaises(PartFileError):
                self.open()
            self.part.rmdir() if self.part.is_dir() and not self.part.is_symlink() else self.part.unlink()
        self.assertEqual(victim.read_bytes(), b"precious")

    def test_a_sidecar_behind_a_link_is_ignored(self) -> None:
        self.half()
        elsewhere = self.folder / "elsewhere.json"
        self.sidecar.rename(elsewhere)
        self.sidecar.symlink_to(elsewhere)
        self.assertIsNone(self.open().found)

    def test_a_link_as_target_is_followed(self) -> None:
        real = self.folder / "real.bin"
        self.target.symlink_to(real)
        part = self.open()
        part.begin(self.info, 0, 1000)
        self.write(part, self.data)
        part.commit()
        part.close()
        self.assertTrue(self.target.is_symlink())
        self.assertEqual(real.read_bytes(), self.data)

    def test_a_folder_or_a_device_as_target_is_refused(self) -> None:
        for target in (self.folder, Path("/dev/null"), self.folder / "none" / "a"):
            with self.assertRaises(PartFileError):
                PartFile(target, self.wanted, resume=True)

    def test_a_part_that_was_replaced_meanwhile_is_not_renamed(self) -> None:
        part = self.open()
        part.begin(self.info, 0, 1000)
        self.write(part, self.data)
        self.part.unlink()
        self.part.write_bytes(b"x" * 1000)
        with self.assertRaises(PartFileError):
            part.commit()
        self.assertFalse(self.target.exists())

    def test_the_longest_names_fit(self) -> None:
        self.target = self.folder / ("ä" * 127)
        part = self.open()
        part.begin(self.info, 0, 1000)
        self.write(part, self.data)
        part.commit()
        part.close()
        self.assertEqual(os.listdir(self.folder), [self.target.name])


if __name__ == "__main__":
    unittest.main()
