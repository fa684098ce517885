"""A TCP proxy that passes at most so many bytes per second to the client, for links that are slow."""

import socket
import threading
import time

PIECE_BYTES = 16 * 1024
# On a very slow link, pieces are smaller, so that bytes arrive evenly.
PIECES_PER_S = 50


class Throttle:
    """Passes connections on to `target`. With `up`, the bytes to the target are slow, otherwise those from it."""

    def __init__(self, target, bytes_per_s, up=False):
        self.target, self.bytes_per_s, self.up = target, bytes_per_s, up
        self.passed = 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            server = socket.socket()
            # Small buffers, so that the slow side is felt at once.
            server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
            server.connect(self.target)
            threading.Thread(target=self._pass, args=(client, server, self.up), daemon=True).start()
            threading.Thread(target=self._pass, args=(server, client, not self.up), daemon=True).start()

    def _pass(self, source, sink, is_slow):
        due = time.monotonic()
        piece_bytes = min(PIECE_BYTES, max(256, self.bytes_per_s // PIECES_PER_S))
        try:
            while data := source.recv(piece_bytes):
                sink.sendall(data)
                if is_slow:
                    self.passed += len(data)
                    due = max(due, time.monotonic() - 0.1) + len(data) / self.bytes_per_s
                    time.sleep(max(0, due - time.monotonic()))
        except OSError:
            pass
        for end in (source, sink):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def close(self):
        self.listener.close()
