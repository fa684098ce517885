"""HTTP faults of an S3 server, injected by a proxy: error responses, cut bodies, wrong lengths."""

import re

METHODS = (b"GET ", b"HEAD ")
# Smaller responses are lists, errors and empty objects, which pass unchanged.
BODY_BYTES_MIN = 64 << 10
HEAD_BYTES_MAX = 64 << 10


class Refuse:
    """Answers every request with an S3 error in place of the server."""

    def __init__(self, status, code):
        body = f"<?xml version=\"1.0\" encoding=\"UTF-8\"?><Error><Code>{code}</Code><Message>chaos</Message></Error>"
        self.body = body.encode()
        self.head = (f"HTTP/1.1 {status}\r\nContent-Type: application/xml\r\nContent-Length: {len(self.body)}\r\n"
                     "Connection: close\r\n\r\n").encode()

    def begin(self):
        return RefuseOne(self)


class RefuseOne:
    def __init__(self, refuse):
        self.refuse = refuse

    def request(self, piece):
        """Returns the answer to give in place of the server, if any."""
        if not piece.startswith(METHODS):
            return None
        return self.refuse.head + (b"" if piece.startswith(b"HEAD ") else self.refuse.body)

    def response(self, piece):
        """Returns the bytes to pass on, and whether to close the connection afterwards."""
        return piece, False


class Shorten:
    """Ends every body after `keep_bytes`. With `honest`, the headers announce the original length. Otherwise they
    announce the shorter one, but only for ranges: a whole object of another length is, in HTTP, another object."""

    def __init__(self, keep_bytes, honest):
        self.keep_bytes, self.honest = keep_bytes, honest

    def begin(self):
        return ShortenOne(self)


class ShortenOne:
    def __init__(self, shorten):
        self.shorten = shorten
        self.head = bytearray()
        # The remaining bytes of the body to pass on, once the headers are complete. None if the body is not cut.
        self.left = None
        self.in_head = False

    def request(self, piece):
        if piece.startswith(METHODS):
            self.head.clear()
            self.in_head, self.left = piece.startswith(b"GET "), None
        return None

    def response(self, piece):
        if self.in_head:
            self.head += piece
            head_len = self.head.find(b"\r\n\r\n") + 4
            if head_len < 4 and len(self.head) < HEAD_BYTES_MAX:
                return b"", False
            piece, self.in_head = self._first(bytes(self.head[:head_len]), bytes(self.head[head_len:])), False
            return piece, self.left == 0
        if self.left is None:
            return piece, False
        piece = piece[:self.left]
        self.left -= len(piece)
        return piece, self.left == 0

    def _first(self, head, body):
        """Returns the headers to pass on, and the part of the body that arrived with them."""
        length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
        if not length or int(length.group(1)) < max(BODY_BYTES_MIN, self.shorten.keep_bytes + 1):
            return head + body
        if not self.shorten.honest and not head.startswith(b"HTTP/1.1 206 "):
            return head + body
        if not self.shorten.honest:
            head = head[:length.start(1)] + str(self.shorten.keep_bytes).encode() + head[length.end(1):]
        body = body[:self.shorten.keep_bytes]
        self.left = self.shorten.keep_bytes - len(body)
        return head + body
