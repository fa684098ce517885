#!/usr/bin/env python3
"""Downloads one object from a Gantry relay: bare_consumer.py NATS_URL STORE KEY FILE

The minimum that a consumer must do (docs/PROTOCOL.md): it checks the order, the CRC and the counts, gives credit for
what it has written, and fails on anything else. Needs `pip install nats-py awscrt`.
"""

import asyncio
import json
import sys

import nats
from awscrt.checksums import crc64nvme

WINDOW = 4 * 520_192  # four of the largest chunks


async def download(nc, store, key, file):
    inbox = nc.new_inbox()
    messages = await nc.subscribe(inbox)
    accepted, chunks, offset, credit = None, 0, 0, WINDOW
    request = {"key": key, "credit": credit, "chunk_max": nc.max_payload - 4096}
    await nc.publish(f"gantry.v1.get.{store}", json.dumps(request).encode(), reply=inbox)
    try:
        while True:
            message = await messages.next_msg(timeout=30 if accepted else 3)
            headers = message.headers or {}
            kind, transfer = headers.get("Gantry-Type"), headers.get("Gantry-Transfer")
            if kind == "beat" and not accepted:
                continue
            if kind == "accepted" and not accepted:
                accepted = json.loads(message.data)
                control = f"gantry.v1.ctl.{accepted['instance']}.{transfer}"
                if (accepted["control"], accepted["key"], accepted["start"]) != (control, key, 0):
                    raise RuntimeError(f"not what was requested: {accepted}")
            elif kind not in ("chunk", "beat", "end") or not accepted or transfer != accepted["transfer"]:
                raise RuntimeError(f"the transfer failed: {headers} {message.data[:200]}")
            elif kind == "end":
                if json.loads(message.data) != {"chunks": chunks, "bytes": offset} or offset != accepted["size"]:
                    raise RuntimeError(f"the end counts {message.data}, got {chunks} chunks and {offset} bytes")
                return accepted
            elif (int(headers["Gantry-Seq"]), int(headers["Gantry-Offset"])) != (chunks, offset):
                raise RuntimeError(f"chunk {chunks} was lost")
            elif kind == "chunk":
                if crc64nvme(message.data) != int(headers["Gantry-Crc"], 16) or offset + len(message.data) > credit:
                    raise RuntimeError(f"chunk {chunks} is not what the relay sent")
                file.write(message.data)
                chunks, offset = chunks + 1, offset + len(message.data)
            if headers.get("Gantry-Wait") == "credit":
                credit = offset + WINDOW
                await nc.publish(accepted["control"], json.dumps({"credit": credit}).encode(), reply=inbox)
    finally:
        await messages.unsubscribe()  # The relay notices, and stops.


async def main(url, store, key, path):
    nc = await nats.connect(url, allow_reconnect=False)
    with open(path, "wb") as file:
        await download(nc, store, key, file)
    await nc.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
