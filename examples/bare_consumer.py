"""Downloads one object: bare_consumer.py NATS_URL STORE KEY FILE. Needs `pip install nats-py awscrt`."""

import asyncio, json, re, sys

import nats
from awscrt.checksums import crc64nvme

WINDOW = 4 * 520_192  # how much may arrive before it is reported as written: at most 48 MiB for a whole connection
HEADERS = ["Gantry-Type", "Gantry-Transfer", "Gantry-Seq", "Gantry-Offset", "Gantry-Crc", "Gantry-Wait"]
CONTROL = re.compile(r"gantry\.v1\.ctl\.([A-Za-z0-9_-]{1,64})\.([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})")


async def download(nc, store, key, file):
    inbox = nc.new_inbox()
    messages = await nc.subscribe(inbox)
    request = {"key": key, "window": WINDOW, "chunk_max": nc.max_payload - 4096}
    await nc.publish(f"gantry.v1.get.{store}", json.dumps(request).encode(), reply=inbox)
    accepted, chunks, written, reported, waits = None, 0, 0, 0, 0
    try:
        while True:
            message = await messages.next_msg(timeout=10)  # a relay is never silent for so many seconds
            kind, transfer, sequence, offset, crc, wait = map((message.headers or {}).get, HEADERS)
            if kind == "beat" and not accepted:
                continue  # the relay is opening the object
            if kind == "accepted" and not accepted:
                accepted = json.loads(message.data)
                require(is_requested(accepted, transfer, key), "not what was requested", message)
                continue
            is_ours = accepted and transfer == accepted["transfer"] and kind in ("chunk", "beat", "end")
            require(is_ours, "the transfer failed", message)
            if kind == "end":
                is_complete = integers(json.loads(message.data), "chunks", "bytes") == [chunks, written]
                return require(is_complete and written == accepted["end"], "the end counts something else", message)
            require((sequence, offset) == (str(chunks), str(written)), "a chunk was lost", message)
            if kind == "chunk":
                chunks, written = chunks + 1, written + len(message.data)
                is_allowed = message.data and written <= min(reported + accepted["credit"], accepted["end"])
                is_intact = crc == f"{crc64nvme(message.data):016x}"
                require(is_allowed and is_intact, "a chunk is damaged, empty or too long", message)
                await asyncio.to_thread(file.write, message.data)  # meanwhile the connection is read
            waits = waits + 1 if wait == "credit" else 0
            if waits > 1 or written - reported >= (1 if waits else max(1, accepted["credit"] // 2)):
                reported = written
                await nc.publish(accepted["control"], json.dumps({"written": written}).encode(), reply=inbox)
    finally:
        await messages.unsubscribe()  # the relay notices, and stops


def is_requested(accepted, transfer, key):
    start, end, size, credit = integers(accepted, "start", "end", "size", "credit")
    names = accepted["instance"], accepted["transfer"]
    is_own = names[1] == transfer and names == CONTROL.fullmatch(accepted["control"]).groups()
    return is_own and accepted["key"] == key and (start, end) == (0, size) and credit <= WINDOW


def integers(body, *names):
    values = [body[name] for name in names]
    return values if all(type(value) is int for value in values) else None  # a bool is an int, too


def require(holds, problem, message):
    if not holds:
        raise RuntimeError(f"{problem}: {message.headers} {message.data[:200]}")


async def main(url, store, key, path):
    async with await nats.connect(url, allow_reconnect=False) as nc:
        with open(path, "wb") as file:
            await download(nc, store, key, file)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
