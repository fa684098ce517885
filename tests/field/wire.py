"""A hand-written consumer: plain core NATS over a socket, so that a test controls what the consumer omits."""

import json
import re
import socket
import threading
import time
import uuid


class Connection:
    """A connection to nats-server."""

    def __init__(self, url):
        host, port = re.match(r"nats://(.+):(\d+)", url).groups()
        self.socket = socket.create_connection((host, int(port)), timeout=60)
        self.stream = self.socket.makefile("rb")
        self.stream.readline()
        self._send(b'CONNECT {"headers":true,"verbose":false,"no_responders":true}\r\n')
        self.subscriptions = 0

    def _send(self, data):
        self.socket.sendall(data)

    def ask(self, subject, body):
        """Sends a request, and returns the subject of its answers."""
        inbox = f"_INBOX.{uuid.uuid4().hex}"
        self.subscriptions += 1
        payload = json.dumps(body).encode()
        self._send(f"SUB {inbox} {self.subscriptions}\r\nPUB {subject} {inbox} {len(payload)}\r\n".encode()
                   + payload + b"\r\n")
        return inbox

    def subscribe(self, subject):
        self.subscriptions += 1
        self._send(f"SUB {subject} {self.subscriptions}\r\n".encode())

    def publish(self, subject, body):
        payload = json.dumps(body).encode()
        self._send(f"PUB {subject} {len(payload)}\r\n".encode() + payload + b"\r\n")

    def next(self):
        """Returns the header block and the payload of the next message."""
        while True:
            line = self.stream.readline()
            if not line:
                raise EOFError("nats-server closed the connection")
            words = line.split()
            if words[0] == b"PING":
                self._send(b"PONG\r\n")
            elif words[0] == b"HMSG":
                head, total = int(words[-2]), int(words[-1])
                message = self.stream.read(total + 2)[:-2]
                return message[:head].decode(), message[head:]
            elif words[0] == b"MSG":
                return "", self.stream.read(int(words[-1]) + 2)[:-2]
            elif words[0] == b"-ERR":
                raise OSError(line.decode())

    def get(self, store, key):
        """Downloads an object, and returns its bytes and the time that it took, in seconds."""
        began = time.perf_counter()
        self.ask(f"gantry.v1.get.{store}", {"key": key, "credit": 1 << 20})
        received = b""
        while True:
            head, payload = self.next()
            if "Gantry-Type: chunk" in head:
                received += payload
            elif "Gantry-Type: end" in head:
                return received, time.perf_counter() - began
            elif "Gantry-Type: error" in head:
                raise OSError(payload.decode())

    def close(self):
        self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()


class Stalled(threading.Thread):
    """A consumer that takes `credit` bytes and then gives no more credit, but stays alive."""

    def __init__(self, url, store, key, credit):
        super().__init__(daemon=True)
        self.connection, self.credit, self.taken = Connection(url), credit, 0
        self.connection.ask(f"gantry.v1.get.{store}", {"key": key, "credit": credit, "keeps_alive": True})
        self.start()

    def run(self):
        spoken_at, control = time.monotonic(), None
        try:
            while True:
                head, payload = self.connection.next()
                if "Gantry-Type: accepted" in head:
                    control = json.loads(payload)["control"]
                elif "Gantry-Type: chunk" in head:
                    self.taken += len(payload)
                # A blocked relay sends beats, so there are always messages.
                if control and time.monotonic() - spoken_at > 3:
                    self.connection.publish(control, {"credit": self.credit})
                    spoken_at = time.monotonic()
        except (OSError, EOFError, ValueError):
            pass
