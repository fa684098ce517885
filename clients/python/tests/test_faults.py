"""Downloads from a scripted relay that breaks the rules of the protocol."""

from __future__ import annotations

import asyncio
import os
import time
import unittest
from unittest import mock

import gantry_client
from fake_relay import FakeRelay, Script, Transfer, correct
from harness import AsyncTest, Harness

DATA = os.urandom(10_000)

# Whatever takes less was not triggered by a timeout of `without_timeouts`, however busy the machine is.
AT_ONCE_S = 15.0

# Lets no silence of the relay count as a fault.
without_timeouts = mock.patch.multiple("gantry_client.download", _STALL_S=30.0, _ANSWER_S=30.0)


class WithFakeRelay(AsyncTest):
    @classmethod
    def setUpClass(cls) -> None:
        cls.harness = Harness()
        cls.addClassCleanup(cls.harness.close)
        cls.nats = cls.harness.nats()

    async def asyncSetUp(self) -> None:
        await super().asyncSetUp()
        self.client = await gantry_client.connect(self.nats.url, patience_s=25)
        self.addAsyncCleanup(self.client.close)

    async def relay(self, *scripts: Script) -> FakeRelay:
        relay = FakeRelay(DATA, *scripts)
        await relay.start(self.nats.url)
        self.addAsyncCleanup(relay.close)
        return relay

    async def read(self, **options: object) -> gantry_client.Result:
        """Reads the object, compares it and returns the result."""
        received = bytearray()
        stream = self.client.stream("fake/a.bin", **options)
        async for chunk in stream:
            received += chunk
        self.assertEqual(bytes(received), DATA[stream.result.start : stream.result.end])
        return stream.result


class NeverEnds(WithFakeRelay):
    async def test_a_relay_that_only_sends_beats_is_given_up(self) -> None:
        async def beats(transfer: Transfer) -> None:
            for _ in range(40):
                await transfer.send("beat", seq=transfer.sequence, offset=transfer.offset, wait="store")
                await asyncio.sleep(0.1)

        async def before_acceptance(transfer: Transfer) -> None:
            await beats(transfer)

        async def after_a_chunk(transfer: Transfer) -> None:
            await transfer.accept()
            await transfer.chunk()
            await beats(transfer)

        for script in (before_acceptance, after_a_chunk):
            client = await gantry_client.connect(self.nats.url, patience_s=1)
            self.addAsyncCleanup(client.close)
            relay = await self.relay(script)
            began = time.monotonic()
            with self.subTest(script=script.__name__), self.assertRaisesRegex(gantry_client.StalledError, "nothing new"):
                async for _ in client.stream("fake/a.bin"):
                    pass
            self.assertLess(time.monotonic() - began, 3)
            await relay.close()


class WithRecovery(WithFakeRelay):
    async def check(
        self, script: Script, *, from_offset: int, cancels: bool = True, within_s: float = AT_ONCE_S
    ) -> None:
        """Expects that the rest is requested once, from this offset and pinned to the version."""
        relay = await self.relay(script, correct)
        began = time.monotonic()

        result = await self.read()

        self.assertLess(time.monotonic() - began, within_s)
        self.assertEqual(result.recoveries, 1)
        self.assertEqual(str(result.verification), "crc64nvme (full_object)")
        again = relay.requests[1]
        self.assertEqual(again["start"], from_offset)
        self.assertEqual(again.get("if_match"), '"v1"' if relay.requests[0] is not again and from_offset else None)
        await self.client._link._nc.flush()
        await relay.nc.flush()
        self.assertEqual(any(control.get("cancel") for control in relay.controls), cancels)
        await relay.close()


@without_timeouts
class Recovers(WithRecovery):
    async def test_a_lost_chunk(self) -> None:
        async def script(transfer: Transfer) -> None:
            await transfer.accept()
            await transfer.chunk()
            await transfer.chunk(lost=True)
            await transfer.rest()
            await transfer.finish()

        await self.check(script, from_offset=1000)

    async def test_a_lost_last_chunk_that_a_beat_reveals(self) -> None:
        async def script(transfer: Transfer) -> None:
            await transfer.accept()
            await transfer.chunk()
            await transfer.chunk(lost=True)
            await transfer.send("beat", seq=transfer.sequence, offset=transfer.offset, wait="store")

        await self.check(script, from_offset=1000)

    async def test_a_wrong_crc(self) -> None:
        async def script(transfer: Transfer) -> None:
            await transfer.accept()
            await transfer.chunk()
            await transfer.chunk(crc="0" * 16)

        await self.check(script, from_offset=1000)

    async def test_a_malformed_header(self) -> None:
        async def script(transfer: Transfer) -> None:
            await transfer.accept()
            await transfer.chunk()
            await transfer.chunk(seq="one")

        await self.check(script, from_offset=1000)

    async def test_a_wrong_offset(self) -> None:
        async def script(transfer: Transfer) -> None:
            await transfer.accept()
            await transfer.chunk()
            await transfer.chunk(offset=1001)

        await self.check(script, from_offset=1000)

    async def test_wrong_counts_at_the_end(self) -> None:
        async def script(transfer: Transfer) -> None:
            await transfer.accept()
            await transfer.rest()
            await transfer.finish(chunks=11)

        await self.check(script, from_offset=10_000)

    async def test_an_end_before_the_last_byte(self) -> None:
        async def script(transfer: Transfer) -> None:
            await transfer.accept()
            await transfer.chunk()
            await transfer.finish()

        await self.check(script, from_offset=1000)

    async def test_an_unknown_type(self) -> None:
        async def script(transfer: Transfer) -> None:
            await transfer.accept()
            await transfer.chunk()
            await transfer.send("riddle")

        await self.check(script, from_offset=1000)

    async def test_a_lost_acceptance(self) -> None:
        async def script(transfer: Transfer) -> None:
            await transfer.chunk()

        await self.check(script, from_offset=0, cancels=False)

    async def test_goaway(self) -> None:
        async def script(transfer: Transfer) -> None:
            await transfer.accept()
            await transfer.chunk()
            await transfer.send("goaway")

        await self.check(script, from_offset=1000, cancels=False)

    async def test_a_retryable_error(self) -> None:
        async def script(transfer: Transfer) -> None:
            await transfer.accept()
            await transfer.chunk()
            await transfer.error("store_unavailable", True, retry_after_ms=300)

        began = time.monotonic()
        await self.check(script, from_offset=1000, cancels=False)
        self.assertGreaterEqual(time.monotonic() - began, 0.3)

    async def test_an_unknown_error_code_that_is_retryable(self) -> None:
        async def script(transfer: Transfer) -> None:
            await transfer.accept()
            await transfer.chunk()
            await transfer.error("sunspots", True)

        await self.check(script, from_offset=1000, cancels=False)

    async def test_an_acceptance_with_another_control_subject(self) -> None:
        for control in ("payments.transfer", "gantry.v1.ctl.fake.other", "gantry.v1.ctl.*.>"):
            with self.subTest(control=control):

                async def script(transfer: Transfer, control: str = control) -> None:
                    await transfer.accept(control=control)
                    await transfer.rest()

                await self.check(script, from_offset=0, cancels=False)

    async def test_an_acceptance_of_another_range(self) -> None:
        async def script(transfer: Transfer) -> None:
            await transfer.accept(start=1)

        await self.check(script, from_offset=0)

    async def test_an_acceptance_with_larger_chunks_than_requested(self) -> None:
        async def script(transfer: Transfer) -> None:
            await transfer.accept(chunk_max=2**40)
            await transfer.rest()
            await transfer.finish()

        await self.check(script, from_offset=0)

    async def test_an_empty_chunk(self) -> None:
        async def script(transfer: Transfer) -> None:
            await transfer.accept()
            await transfer.chunk()
            await transfer.send("chunk", b"", seq=1, offset=1000, crc="0" * 16)

        await self.check(script, from_offset=1000)


class RecoversFromSilence(WithRecovery):
    async def test_silence(self) -> None:
        async def script(transfer: Transfer) -> None:
            await transfer.accept()
            await transfer.chunk()

        await self.check(script, from_offset=1000, cancels=False, within_s=6)

    async def test_no_answer_at_all(self) -> None:
        async def script(transfer: Transfer) -> None:
            pass

        await self.check(script, from_offset=0, cancels=False, within_s=4)


@without_timeouts
class OtherRules(WithFakeRelay):
    async def test_repeats_are_ignored(self) -> None:
        async def script(transfer: Transfer) -> None:
            await transfer.accept()
            await transfer.chunk()
            first = DATA[:1000]
            await transfer.send("chunk", first, seq=0, offset=0, crc="0" * 16)
            await transfer.accept()
            await transfer.rest()
            await transfer.finish()

        await self.relay(script)
        self.assertEqual((await self.read()).recoveries, 0)

    async def test_messages_of_another_transfer_are_ignored(self) -> None:
        async def script(transfer: Transfer) -> None:
            await transfer.accept()
            other = Transfer(transfer.relay, transfer.request, transfer.inbox)
            await other.chunk()
            await other.send("goaway")
            await transfer.rest()
            await transfer.finish()

        await self.relay(script)
        self.assertEqual((await self.read()).recoveries, 0)

    async def test_a_dead_relay_is_detected_before_the_silence_timeout(self) -> None:
        async def script(transfer: Transfer) -> None:
            # Nobody listens on this control subject.
            transfer.control = transfer.control.replace("fake", "gone")
            await transfer.accept(instance="gone", beat_ms=200)
            await transfer.chunk()

        relay = await self.relay(script, correct)
        began = time.monotonic()
        await self.read()
        self.assertLess(time.monotonic() - began, AT_ONCE_S)
        self.assertEqual(relay.requests[1]["start"], 1000)

    async def test_a_relay_that_sends_is_not_dead_although_nobody_receives_control_messages(self) -> None:
        async def script(transfer: Transfer) -> None:
            transfer.control = transfer.control.replace("fake", "deaf")
            await transfer.accept(instance="deaf", idle_ms=1000)
            for _ in range(4):
                await transfer.chunk()
                await asyncio.sleep(0.3)
            await transfer.rest()
            await transfer.finish()

        relay = await self.relay(script)
        self.assertEqual((await self.read()).recoveries, 0)
        self.assertEqual(len(relay.requests), 1)

    async def test_a_beat_for_credit_is_answered(self) -> None:
        answered = asyncio.Event()

        async def script(transfer: Transfer) -> None:
            await transfer.accept()
            known = len(transfer.relay.controls)
            await transfer.send("beat", seq=0, offset=0, wait="credit")
            while len(transfer.relay.controls) == known:
                await asyncio.sleep(0.01)
            answered.set()
            await transfer.rest()
            await transfer.finish()

        await self.relay(script)
        await self.read()
        self.assertTrue(answered.is_set())

    async def test_bytes_beyond_credit_are_refused(self) -> None:
        async def script(transfer: Transfer) -> None:
            await transfer.accept(chunk_max=2000)
            transfer.chunk_len = 2000
            await transfer.chunk()

        async def obedient(transfer: Transfer) -> None:
            await transfer.accept()
            await transfer.chunk()
            while all(control.get("credit", 0) < 2000 for control in transfer.relay.controls):
                await asyncio.sleep(0.01)
            await transfer.rest()
            await transfer.finish()

        client = await gantry_client.connect(self.nats.url, window=1000, windows_total=1000)
        self.addAsyncCleanup(client.close)
        self.client = client
        relay = await self.relay(script, obedient)
        began = time.monotonic()
        self.assertEqual((await self.read(end=2000)).recoveries, 1)
        self.assertLess(time.monotonic() - began, AT_ONCE_S)
        self.assertEqual([request["credit"] for request in relay.requests], [1000, 1000])

    async def test_another_version_fails_as_changed(self) -> None:
        async def script(transfer: Transfer) -> None:
            await transfer.accept()
            await transfer.chunk()
            await transfer.send("goaway")

        async def newer(transfer: Transfer) -> None:
            await transfer.accept(etag='"v2"')

        await self.relay(script, newer)
        with self.assertRaises(gantry_client.ChangedError):
            await self.read()

    async def test_another_checksum_of_the_same_version_is_not_accepted(self) -> None:
        async def script(transfer: Transfer) -> None:
            await transfer.accept()
            await transfer.chunk()
            await transfer.send("goaway")

        async def other(transfer: Transfer) -> None:
            await transfer.accept(checksum={"algorithm": "crc64nvme", "kind": "full_object", "value": "AAAAAAAAAAA="})
            await transfer.rest()
            await transfer.finish()

        relay = await self.relay(script, other, correct)
        self.assertEqual((await self.read()).recoveries, 2)
        self.assertEqual([request["start"] for request in relay.requests], [0, 1000, 1000])

    async def test_a_wrong_checksum_fails_and_leaves_no_file(self) -> None:
        relay = await self.relay(correct)
        relay.checksum = {"algorithm": "crc64nvme", "kind": "full_object", "value": "AAAAAAAAAAA="}
        with self.assertRaises(gantry_client.IntegrityError):
            await self.read()
        target = self.harness.folder / "wrong.bin"
        with self.assertRaises(gantry_client.IntegrityError):
            await self.client.get("fake/a.bin", to=target)
        self.assertEqual([name for name in os.listdir(target.parent) if "wrong.bin" in name], [])

    async def test_an_error_that_is_final_is_raised_at_once(self) -> None:
        async def script(transfer: Transfer) -> None:
            await transfer.accept()
            await transfer.error("denied", False)

        relay = await self.relay(script)
        with self.assertRaises(gantry_client.DeniedError) as caught:
            await self.read(correlation="order-7")
        self.assertEqual(len(relay.requests), 1)
        self.assertEqual((caught.exception.correlation, relay.requests[0]["context"]), ("order-7", "order-7"))

    async def test_all_requests_and_log_lines_of_a_download_have_one_id(self) -> None:
        async def script(transfer: Transfer) -> None:
            await transfer.accept()
            await transfer.chunk()
            await transfer.error("busy\u001b[2J" + "x" * 10_000, True)

        relay = await self.relay(script, correct)
        with self.assertLogs("gantry_client", "INFO") as logs:
            result = await self.read()

        ids = {request["context"] for request in relay.requests} | {record.correlation for record in logs.records}
        self.assertEqual((ids, len(relay.requests)), ({result.correlation}, 2))
        accepted, again, accepted_again = logs.output
        self.assertIn(f"[{result.correlation}]: requesting the rest from offset 1000", again)
        self.assertIn(str(result.transfer), accepted_again)
        self.assertNotIn(str(result.transfer), accepted)
        self.assertTrue(again.isprintable() and len(again) < 1000, again)

    async def test_a_relay_that_always_fails_is_abandoned(self) -> None:
        async def script(transfer: Transfer) -> None:
            await transfer.error("busy", True, retry_after_ms=100)

        await self.relay(script)
        self.client._patience_s = 1.0
        with self.assertRaises(gantry_client.BusyError) as caught:
            await asyncio.wait_for(self.read(), 20)
        self.assertTrue(caught.exception.retryable)

    async def test_a_slow_reader_is_not_mistaken_for_a_stalled_relay(self) -> None:
        self.client._patience_s = 0.5
        relay = await self.relay(correct)
        received = b""
        async for chunk in self.client.stream("fake/a.bin"):
            await asyncio.sleep(0.2)
            received += chunk
        self.assertEqual(received, DATA)
        self.assertEqual(len(relay.requests), 1)


class Denied(AsyncTest):
    async def test_a_denied_subject_is_reported_at_once(self) -> None:
        harness = Harness()
        self.addCleanup(harness.close)
        server = harness.nats()
        server.kill()
        permissions = '{publish: ["gantry.v1.get.mine"], subscribe: ["_INBOX.>"]}'
        server._config.write_text(
            f"authorization {{ users: [ {{user: u, password: p, permissions: {permissions}}} ] }}\n"
        )
        server.start()
        async with await gantry_client.connect(server.url, user="u", password="p") as client:
            for call in (client.get("other/a", to=harness.folder / "a"), client.stat("other/a")):
                with self.assertRaises(gantry_client.PermissionDeniedError):
                    await asyncio.wait_for(call, 5)


if __name__ == "__main__":
    unittest.main()
