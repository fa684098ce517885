"""A scripted relay that can drop, repeat, corrupt and forge messages."""

from __future__ import annotations

import asyncio
import base64
import json
import uuid
from collections.abc import Awaitable, Callable
from typing import Any, Optional

import nats
from gantry_client import crc
from nats.aio.msg import Msg

Script = Callable[["Transfer"], Awaitable[None]]


class FakeRelay:
    """Serves one object in the store `fake`. The next script answers each `get`; the last one is used repeatedly."""

    def __init__(self, data: bytes, *scripts: Script) -> None:
        self.data = data
        self.scripts = list(scripts)
        self.etag = '"v1"'
        self.checksum: Optional[dict[str, Any]] = full_object(data)

        #: The bodies of all `get` requests.
        self.requests: list[dict[str, Any]] = []

        #: The bodies of all control messages.
        self.controls: list[dict[str, Any]] = []
        self.tasks: list[asyncio.Task[None]] = []
        self._subscribed = asyncio.Event()

    async def start(self, url: str) -> None:
        """Subscribes."""
        self.nc = await nats.connect(url)
        await self.nc.subscribe("gantry.v1.get.fake", cb=self._serve)
        await self.nc.subscribe("gantry.v1.ctl.fake.*", cb=self._control)

        # `flush` can overtake the subscriptions in nats-py's buffer, but a published message can't.
        await self.nc.publish("gantry.v1.ctl.fake.ready")
        await self._subscribed.wait()

    async def close(self) -> None:
        """Disconnects."""
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        if not self.nc.is_closed:
            await self.nc.close()

    async def _serve(self, message: Msg) -> None:
        request = json.loads(message.data)
        self.requests.append(request)
        script = self.scripts.pop(0) if len(self.scripts) > 1 else self.scripts[0]
        self.tasks.append(asyncio.ensure_future(script(Transfer(self, request, message.reply))))

    async def _control(self, message: Msg) -> None:
        # An empty message is nats-server's report that an inbox is gone.
        self._subscribed.set()
        if message.data:
            self.controls.append(json.loads(message.data))


class Transfer:
    """The interface through which a script sends messages."""

    def __init__(self, relay: FakeRelay, request: dict[str, Any], inbox: str, chunk: int = 1000) -> None:
        self.relay = relay
        self.request = request
        self.inbox = inbox
        self.id = str(uuid.uuid4())
        self.control = f"gantry.v1.ctl.fake.{self.id}"
        self.start = request.get("start", 0)
        self.end = min(request.get("end", len(relay.data)), len(relay.data))
        self.chunk_len = chunk
        self.sequence = 0
        self.offset = self.start

    async def send(self, kind: str, payload: bytes = b"", **headers: object) -> None:
        """Sends one message."""
        fields = {"Gantry-Type": kind, "Gantry-Transfer": self.id}
        fields.update({f"Gantry-{name.capitalize()}": str(value) for name, value in headers.items()})
        await self.relay.nc.publish(self.inbox, payload, reply=self.control, headers=fields)

    async def accept(self, **changes: Any) -> None:
        """Sends `accepted`, with some members changed."""
        body = {
            "transfer": self.id,
            "instance": "fake",
            "control": self.control,
            "key": self.request["key"],
            "size": len(self.relay.data),
            "etag": self.relay.etag,
            "metadata": {},
            "start": self.start,
            "end": self.end,
            "credit": self.request["credit"],
            "window_max": 32 << 20,
            "chunk_max": self.chunk_len,
            "beat_ms": 1000,
            "idle_ms": 15000,
            **({"checksum": self.relay.checksum} if self.relay.checksum else {}),
            **changes,
        }
        await self.send("accepted", json.dumps(body).encode())

    async def chunk(self, *, lost: bool = False, **headers: object) -> None:
        """Sends the next chunk, with some headers changed, or only counts it."""
        payload = self.relay.data[self.offset : min(self.offset + self.chunk_len, self.end)]
        fields = {"seq": self.sequence, "offset": self.offset, "crc": f"{crc.crc64nvme(payload):016x}", **headers}
        self.sequence += 1
        self.offset += len(payload)
        if not lost:
            await self.send("chunk", payload, **fields)

    async def rest(self) -> None:
        """Sends all remaining chunks."""
        while self.offset < self.end:
            await self.chunk()

    async def finish(self, **changes: Any) -> None:
        """Sends `end`."""
        await self.send(
            "end", json.dumps({"chunks": self.sequence, "bytes": self.offset - self.start, **changes}).encode()
        )

    async def error(self, code: str, retryable: bool, **more: Any) -> None:
        """Sends an error."""
        body = {"code": code, "message": f"as scripted: {code}", "retryable": retryable, **more}
        await self.send("error", json.dumps(body).encode())


async def correct(transfer: Transfer) -> None:
    """A script that behaves correctly."""
    await transfer.accept()
    await transfer.rest()
    await transfer.finish()


def full_object(data: bytes) -> dict[str, Any]:
    """The checksum of the data, as stored by a store."""
    value = base64.b64encode(crc.crc64nvme(data).to_bytes(8, "big")).decode()
    return {"algorithm": "crc64nvme", "kind": "full_object", "value": value}
