"""Downloads one object: bare_consumer.py NATS_URL STORE KEY FILE. Needs `pip install nats-py awscrt`."""

import asyncio, json, re, sys

import nats
from awscrt.checksums import crc64nvme

WINDOW = 4 * 520_192  # how much may arrive before it is reported as written: at most 48 MiB for a whole connection
SILENCE_S = 10


async def download(nc, store, key, file):
    inbox = nc.new_inbox()
    messages = await nc.subscribe(inbox)
    request = {"key": key, "window": WINDOW, "chunk_max": nc.max_payload - 4096}
    await nc.publish(f"gantry.v1.get.{store}", json.dumps(request).encode(), reply=inbox)
    accepted, chunks, written, reported, waits = None, 0, 0, 0, 0
    try:
        while True:
            message = await messages.next_msg(timeout=SILENCE_S)
            headers = message.headers or {}
            kind, transfer = headers.get("Gantry-Type"), headers.get("Gantry-Transfer")
            if kind == "beat" and not accepted:
                continue  # the relay is opening the object
            if kind == "accepted" and not accepted:
                accepted = json.loads(message.data)
                require(is_requested(accepted, transfer, key), "not what was requested", message)
                window = accepted["credit"]  # less than was requested if the relay limits it
            else:
                is_expected = accepted and transfer == accepted["transfer"] and kind in ("chunk", "beat", "end")
                require(is_expected, "the transfer failed", message)
            if kind == "end":
                end = json.loads(message.data)
                is_complete = (end["chunks"], end["bytes"]) == (chunks, written) and written == accepted["end"]
                return require(is_complete, "the end counts something else", message)
            if kind in ("chunk", "beat"):
                position = int(headers["Gantry-Seq"]), int(headers["Gantry-Offset"])
                require(position == (chunks, written), "a chunk was lost", message)
            if kind == "chunk":
                chunks, written = chunks + 1, written + len(message.data)
                require(written <= min(reported + window, accepted["end"]), "more than was allowed", message)
                require(crc64nvme(message.data) == int(headers["Gantry-Crc"], 16), "a chunk is damaged", message)
                await asyncio.to_thread(file.write, message.data)  # meanwhile the connection is read
            waits = waits + 1 if headers.get("Gantry-Wait") == "credit" else 0
            if waits > 1 or written - reported >= (1 if waits else max(1, window // 2)):
                reported = written
                await nc.publish(accepted["control"], json.dumps({"written": written}).encode(), reply=inbox)
    finally:
        await messages.unsubscribe()  # the relay notices, and stops


def is_requested(accepted, transfer, key):
    control = f"gantry.v1.ctl.{accepted['instance']}.{transfer}"
    has_forms = re.fullmatch(r"[0-9a-f-]{36}", transfer) and re.fullmatch(r"[A-Za-z0-9_-]{1,64}", accepted["instance"])
    is_own = has_forms and accepted["transfer"] == transfer
    is_whole = accepted["start"] == 0 and accepted["end"] == accepted["size"] and accepted["credit"] <= WINDOW
    return is_own and is_whole and accepted["control"] == control and accepted["key"] == key


def require(holds, problem, message):
    if not holds:
        raise RuntimeError(f"{problem}: {message.headers} {message.data[:200]}")


async def main(url, store, key, path):
    nc = await nats.connect(url, allow_reconnect=False)
    with open(path, "wb") as file:
        await download(nc, store, key, file)
    await nc.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
