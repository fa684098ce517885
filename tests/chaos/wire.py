"""Parses the data that nats-server sends to a consumer: which bytes arrived, when, and from which relay."""

import json
import time

# The maximum length of our control lines and headers.
HEAD_MAX_BYTES = 64 << 10


class Reader:
    """Parses the bytes of one connection and reports each piece of a chunk to `meter`."""

    def __init__(self, meter):
        self.meter = meter
        self._head = bytearray()
        # The remaining length of a payload, and whether it is a chunk's.
        self._left = 0
        self._in_chunk = False
        # The transfer whose `accepted` is being read, and the part of its body that has arrived.
        self._accepted = None

    def feed(self, piece):
        view = memoryview(piece)
        while view:
            if self._left:
                count = min(self._left, len(view))
                # The line end after the payload does not belong to the object.
                of_object = max(0, self._left - 2) - max(0, self._left - count - 2)
                self._left -= count
                if self._in_chunk and of_object:
                    self.meter.bytes_came(of_object)
                if self._accepted:
                    self._read_accepted(view[:of_object])
                view = view[count:]
            else:
                view = self._read_head(view)

    def _read_head(self, view):
        """Collects a control line and its headers; returns the bytes that follow."""
        before = len(self._head)
        self._head += view[:HEAD_MAX_BYTES]
        line_end = self._head.find(b"\r\n")
        if line_end < 0:
            return view[HEAD_MAX_BYTES:]
        words = bytes(self._head[:line_end]).split()
        head_len = line_end + 2
        if words[:1] == [b"HMSG"]:
            headers_len, total_len = int(words[-2]), int(words[-1])
            head_len += headers_len
            if len(self._head) < head_len:
                return view[HEAD_MAX_BYTES:]
            self._left = total_len - headers_len + 2
            self._in_chunk = self._note(words, bytes(self._head[line_end + 2:head_len]), total_len - headers_len)
        elif words[:1] == [b"MSG"]:
            self._left, self._in_chunk = int(words[-1]) + 2, False
        self._head.clear()
        return view[head_len - before:]

    def _read_accepted(self, piece):
        """Records which relay accepted the request, once the message is complete."""
        transfer, body = self._accepted
        body += piece
        if self._left <= 2:
            self.meter.accepted(transfer, json.loads(bytes(body))["instance"])
            self._accepted = None

    def _note(self, words, headers, payload_len):
        """Reports the start of a chunk; returns whether the message is a chunk."""
        fields = dict(line.split(": ", 1) for line in headers.decode().split("\r\n")[1:] if ": " in line)
        if fields.get("Gantry-Type") == "accepted":
            self._accepted = (fields["Gantry-Transfer"], bytearray())
        if fields.get("Gantry-Type") != "chunk":
            return False
        self.meter.chunk_begins(int(fields["Gantry-Offset"]), payload_len, fields["Gantry-Transfer"])
        return True


class Meter:
    """Counts a download's bytes over all its connections, and records how long none arrived."""

    def __init__(self):
        # The end of the contiguous bytes, the number of all bytes, and the number of redundant ones.
        self.high = self.received = self.twice = 0
        self.transfer = self.instance = None
        # The relay of each transfer whose first chunk has not arrived yet.
        self._instances = {}
        self.transfers = 0
        self.last_new_at = None
        self.since = time.monotonic()
        self.longest_gap_s = 0.0
        self._next = 0

    def reader(self):
        return Reader(self)

    def accepted(self, transfer, instance):
        self._instances[transfer] = instance

    def chunk_begins(self, offset, payload_len, transfer):
        if transfer != self.transfer:
            self.transfer, self.instance = transfer, self._instances.pop(transfer, "")
            self.transfers += 1
        self._next = offset

    def bytes_came(self, count):
        begin, self._next = self._next, self._next + count
        # The consumer discards bytes after a gap and fetches them again.
        new = max(0, self._next - self.high) if begin <= self.high else 0
        self.received += count
        self.twice += count - new
        if new:
            self.high = self._next
            self._new_bytes()

    def _new_bytes(self):
        now = time.monotonic()
        self.longest_gap_s = max(self.longest_gap_s, now - max(self.last_new_at or 0.0, self.since))
        self.last_new_at = now

    def watch(self):
        """Starts recording gaps."""
        self.since, self.longest_gap_s = time.monotonic(), 0.0

    def silent_s(self):
        return time.monotonic() - max(self.last_new_at or 0.0, self.since)
