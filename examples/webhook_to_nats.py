#!/usr/bin/env python3
"""Publishes the body of each HTTP POST to a NATS subject: for servers that announce objects by webhook, such as SeaweedFS.

    webhook_to_nats.py SUBJECT [--nats HOST:PORT] [--listen HOST:PORT] [--stream NAME]

With --stream, the events are stored in this JetStream stream, which is created if it does not exist. A POST is answered
with 200 once the event is stored (without --stream, once nats-server has it), and with 503 otherwise, so that the sender
tries again. It needs nothing but Python, and knows neither TLS nor credentials of NATS.
"""

import argparse
import http.server
import json
import socket
import sys
import threading

BODY_MAX_BYTES = 1 << 20
WITHIN_S = 5
INBOX = "_INBOX.webhook"


class Nats:
    """A connection for one request at a time."""

    def __init__(self, address):
        self.socket = socket.create_connection(address, timeout=WITHIN_S)
        self.lines = self.socket.makefile("rb")
        self.lines.readline()  # INFO
        connect = {"verbose": False, "name": "webhook_to_nats", "headers": True, "no_responders": True}
        self.socket.sendall(f"CONNECT {json.dumps(connect)}\r\nSUB {INBOX} 1\r\nPING\r\n".encode())
        self.until_pong()

    def until_pong(self):
        while (line := self.lines.readline()) != b"PONG\r\n":
            if not line or line.startswith(b"-ERR"):
                raise OSError(f"nats-server: {line.decode().strip() or 'connection closed'}")
            if line == b"PING\r\n":
                self.socket.sendall(b"PONG\r\n")

    def publish(self, subject, body):
        self.socket.sendall(b"PUB %s %d\r\n%s\r\nPING\r\n" % (subject.encode(), len(body), body))
        self.until_pong()

    def request(self, subject, body):
        """Publishes, and returns the answer."""
        self.socket.sendall(b"PUB %s %s %d\r\n%s\r\n" % (subject.encode(), INBOX.encode(), len(body), body))
        while True:
            line = self.lines.readline()
            if line.startswith(b"MSG "):
                answer = json.loads(self.lines.read(int(line.split()[-1]) + 2))
                if "error" in answer:
                    raise OSError(f"JetStream: {answer['error'].get('description')}")
                return answer
            if line.startswith(b"HMSG "):
                raise OSError("nobody answers: no stream stores the subject, or JetStream is not enabled")
            if line == b"PING\r\n":
                self.socket.sendall(b"PONG\r\n")
            elif not line or line.startswith(b"-ERR"):
                raise OSError(f"nats-server: {line.decode().strip() or 'connection closed'}")


class Publisher:
    """Publishes events, and connects again if the connection is lost."""

    def __init__(self, address, subject, stream):
        self.address, self.subject, self.stream = address, subject, stream
        self.nats, self.lock = None, threading.Lock()

    def publish(self, body):
        with self.lock:
            try:
                if self.nats is None:
                    self.nats = self.connect()
                (self.nats.request if self.stream else self.nats.publish)(self.subject, body)
            except (OSError, ValueError):
                self.nats = None
                raise

    def connect(self):
        nats = Nats(self.address)
        if self.stream:
            # Has no effect if the stream exists with this configuration.
            config = {"name": self.stream, "subjects": [self.subject], "storage": "file", "max_age": 7 * 86400 * 10**9}
            nats.request(f"$JS.API.STREAM.CREATE.{self.stream}", json.dumps(config).encode())
        return nats


def handler(publisher):
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            length = int(self.headers.get("Content-Length", -1))
            if not 0 <= length <= BODY_MAX_BYTES:
                return self.answer(413)
            try:
                publisher.publish(self.rfile.read(length))
            except (OSError, ValueError) as error:
                print(f"not published: {error}", file=sys.stderr, flush=True)
                return self.answer(503)
            self.answer(200)

        def answer(self, status):
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()
            self.close_connection = status == 413

        def log_message(self, *_):
            pass

    return Handler


def address(text):
    host, port = text.rsplit(":", 1)
    return host, int(port)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("subject")
    parser.add_argument("--nats", type=address, default="127.0.0.1:4222", metavar="HOST:PORT")
    parser.add_argument("--listen", type=address, default="127.0.0.1:8099", metavar="HOST:PORT")
    parser.add_argument("--stream", help="the JetStream stream that stores the events")
    args = parser.parse_args()

    publisher = Publisher(args.nats, args.subject, args.stream)
    publisher.nats = publisher.connect()
    server = http.server.ThreadingHTTPServer(args.listen, handler(publisher))
    print(f"listening on {args.listen[0]}:{args.listen[1]}, publishing to {args.subject}", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        pass


if __name__ == "__main__":
    main()
