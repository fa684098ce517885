"""A relay in Python that dies at a chosen stage, or lies about its objects. It serves one store from memory."""

import base64
import hashlib
import json
import socket
import threading
import uuid

from wire import Connection

CHUNK_BYTES = 64 << 10
# CRC-64/NVME, reflected. Source: "Integrity" in docs/PROTOCOL.md.
POLYNOMIAL = 0x9A6C9329AC4BC9B5
TABLE = []
for byte in range(256):
    for _ in range(8):
        byte = byte >> 1 ^ (POLYNOMIAL if byte & 1 else 0)
    TABLE.append(byte)

# When it dies, in the order of a transfer.
STAGES = ("before accepted", "after accepted", "amid chunks", "before the end")


def crc64nvme(data):
    crc = 0xFFFFFFFFFFFFFFFF
    for value in data:
        crc = TABLE[(crc ^ value) & 0xFF] ^ crc >> 8
    return crc ^ 0xFFFFFFFFFFFFFFFF


class Content:
    """An object: its bytes, cut into chunks with their CRCs, and how it is lied about."""

    def __init__(self, body, lie=None):
        self.body, self.lie = body, lie
        # By their bytes, since this implementation takes a second for a few MB.
        self.crcs = {}
        self.etag = f'"{uuid.uuid4().hex}"'
        self.checksum = base64.b64encode(hashlib.sha256(body).digest()).decode()

    def crc(self, data):
        if data not in self.crcs:
            self.crcs[data] = crc64nvme(data)
        return self.crcs[data]

    def describe(self, key, is_stat):
        """What a relay states about the object."""
        value = self.checksum
        if self.lie == "checksum":
            value = base64.b64encode(bytes(32)).decode()
        size = len(self.body)
        if self.lie == "too large" or self.lie == "too large in accepted" and not is_stat:
            size += 1000
        if self.lie == "too small":
            size -= 1000
        etag = f'"{uuid.uuid4().hex}"' if self.lie == "another version each time" else self.etag
        checksum = {"algorithm": "sha256", "kind": "full_object", "value": value}
        return {"key": "other" if self.lie == "another key" else key, "size": size, "etag": etag, "metadata": {},
                "checksum": checksum}


class Liar(threading.Thread):
    """A relay of one store. `dies_at` is the stage at which it dies next, and then it returns after a moment."""

    def __init__(self, url, store):
        super().__init__(daemon=True)
        self.url, self.store = url, store
        self.contents, self.dies_at, self.deaths, self.is_silent = {}, None, 0, False
        self.started, self.is_over = threading.Event(), False
        self.start()

    def run(self):
        while not self.is_over:
            self.instance, self.transfers = uuid.uuid4().hex, {}
            self.connection = Connection(self.url)
            for operation in ("get", "stat", "list"):
                self.connection.subscribe(f"gantry.v1.{operation}.{self.store} gantry")
            self.connection.subscribe(f"gantry.v1.ctl.{self.instance}.*")
            self.connection.waiting()
            self.started.set()
            try:
                while True:
                    self.handle(*self.message())
            except (OSError, EOFError, ValueError):
                pass

    def message(self):
        """Returns the subject, the reply subject and the payload of the next message."""
        stream = self.connection.stream
        while True:
            line = stream.readline()
            if not line:
                raise EOFError
            words = line.decode().split()
            if words[0] == "PING":
                self.connection._send(b"PONG\r\n")
            elif words[0] in ("MSG", "HMSG"):
                lengths = 1 if words[0] == "MSG" else 2
                payload = stream.read(int(words[-1]) + 2)[:-2]
                head = int(words[-2]) if lengths == 2 else 0
                reply = words[3] if len(words) - lengths > 3 else None
                return words[1], reply, payload[head:]

    def handle(self, subject, reply, payload):
        words = subject.split(".")
        body = json.loads(payload or b"{}")
        if self.is_silent:
            return
        if words[2] == "ctl":
            return self.control(words[-1], body)

        content = self.contents.get(body.get("key"))
        if content is None:
            text = f"no object {body.get('key')!r}"
            error = {"code": "not_found", "message": text, "retryable": False}
            kind = [("Gantry-Type", "error")] if words[2] == "get" else []
            return self.send(reply, [*kind, ("Nats-Service-Error", text), ("Nats-Service-Error-Code", "404")],
                             json.dumps(error).encode())
        if words[2] == "stat":
            return self.send(reply, [], json.dumps(content.describe(body["key"], True)).encode())
        self.accept(reply, body, content)

    def accept(self, reply, body, content):
        self.die_if("before accepted")
        transfer = str(uuid.uuid4())
        described = content.describe(body["key"], False)
        start = body.get("start", 0)
        end = min(body.get("end") or described["size"], described["size"])
        credit = body.get("credit") or start + body.get("window", 2 << 20)
        if content.lie == "another range":
            start += 1
        accepted = {**described, "transfer": transfer, "instance": self.instance, "start": start, "end": end,
                    "control": f"gantry.v1.ctl.{self.instance}.{transfer}", "credit": min(credit, end),
                    "window_max": 64 << 20, "chunk_max": min(body.get("chunk_max", CHUNK_BYTES), CHUNK_BYTES),
                    "beat_ms": 1000, "idle_ms": 30000}
        if content.lie == "another control subject":
            accepted["control"] += "0"
        payload = b"not JSON" if content.lie == "no JSON" else json.dumps(accepted).encode()
        self.send(reply, [("Gantry-Type", "accepted"), ("Gantry-Transfer", transfer)], payload)
        self.die_if("after accepted")
        self.transfers[transfer] = {"reply": reply, "content": content, "offset": start, "end": end, "seq": 0,
                                    "from": start, "chunk_max": accepted["chunk_max"]}
        self.control(transfer, {"credit": credit})

    def control(self, transfer, body):
        state = self.transfers.get(transfer)
        if not state or body.get("cancel"):
            return self.transfers.pop(transfer, None)
        content, credit = state["content"], body.get("credit", 0)
        # A lie about the size shows in what is sent.
        end = min(state["end"], len(content.body)) if content.lie != "too small" else len(content.body)
        while state["offset"] < min(credit, end):
            length = min(state["chunk_max"], min(credit, end) - state["offset"])
            self.chunk(state, transfer, content.body[state["offset"]:state["offset"] + length])
            if state["offset"] - state["from"] >= (state["end"] - state["from"]) // 2:
                self.die_if("amid chunks")
        if state["offset"] >= end:
            self.die_if("before the end")
            counts = {"chunks": state["seq"], "bytes": state["offset"] - state["from"]}
            self.send(state["reply"], [("Gantry-Type", "end"), ("Gantry-Transfer", transfer)], json.dumps(counts).encode())
            self.transfers.pop(transfer)

    def chunk(self, state, transfer, data):
        lie = state["content"].lie
        if lie == "wrong bytes":
            data = bytes([data[0] ^ 1]) + data[1:]
        crc = state["content"].crc(data)
        if lie == "wrong CRCs":
            crc ^= 1
        offset = state["offset"] + (1 if lie == "wrong offsets" else 0)
        self.send(state["reply"], [("Gantry-Type", "chunk"), ("Gantry-Transfer", transfer), ("Gantry-Seq", state["seq"]),
                                   ("Gantry-Offset", offset), ("Gantry-Crc", f"{crc:016x}")], data)
        state["offset"] += len(data)
        state["seq"] += 1

    def send(self, subject, headers, payload):
        head = "".join(["NATS/1.0\r\n", *(f"{name}: {value}\r\n" for name, value in headers), "\r\n"]).encode()
        if headers:
            self.connection._send(f"HPUB {subject} {len(head)} {len(head) + len(payload)}\r\n".encode()
                                  + head + payload + b"\r\n")
        else:
            self.connection._send(f"PUB {subject} {len(payload)}\r\n".encode() + payload + b"\r\n")

    def die_if(self, stage):
        if self.dies_at == stage:
            self.dies_at = None
            self.deaths += 1
            self.close()
            raise EOFError

    def close(self):
        try:
            self.connection.socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self.connection.socket.close()

    def end(self):
        self.is_over = True
        self.close()
