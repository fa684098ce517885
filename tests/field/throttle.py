"""A TCP proxy that passes at most so many bytes per second to the client, for links that are slow, long, cut or
silent."""

import queue
import socket
import struct
import threading
import time

PIECE_BYTES, BUFFER_BYTES = 16 * 1024, 64 * 1024
# A link without a limit costs the machine less with larger pieces.
UNLIMITED = 1 << 50
LARGE_BYTES = 64 * 1024
# Closing resets the connection.
RESET = struct.pack("ii", 1, 0)
# On a very slow link, pieces are smaller, so that bytes arrive evenly.
PIECES_PER_S = 50


class Throttle:
    """Passes connections on to `target`. With `up`, the bytes to the target are slow, otherwise those from it. All bytes
    arrive `delay_s` later."""

    def __init__(self, target, bytes_per_s, up=False, delay_s=0):
        self.target, self.bytes_per_s, self.up, self.delay_s = target, bytes_per_s, up, delay_s
        self.passed = 0
        # Without it, connections stay open and carry nothing, like an unplugged cable.
        self.passes = threading.Event()
        self.passes.set()
        self.is_cut = False
        self.sockets = set()
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
            server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_BYTES)
            try:
                if self.is_cut:
                    raise ConnectionRefusedError
                server.connect(self.target)
            except OSError:
                reset(client)
                continue
            self.sockets |= {client, server}
            threading.Thread(target=self._pass, args=(client, server, self.up), daemon=True).start()
            threading.Thread(target=self._pass, args=(server, client, not self.up), daemon=True).start()

    def _pass(self, source, sink, is_slow):
        largest = PIECE_BYTES if self.bytes_per_s < UNLIMITED else LARGE_BYTES
        piece_bytes = min(largest, max(256, self.bytes_per_s // PIECES_PER_S))
        # Twice as many pieces as the delay holds back at the link's rate, so that a sink that takes nothing is felt.
        on_the_way = queue.Queue(1 + int(2 * self.delay_s * self.bytes_per_s / piece_bytes))
        threading.Thread(target=self._deliver, args=(on_the_way, source, sink), daemon=True).start()

        due = time.monotonic()
        try:
            while data := source.recv(piece_bytes):
                on_the_way.put((time.monotonic() + self.delay_s, data))
                if is_slow:
                    self.passed += len(data)
                    due = max(due, time.monotonic() - 0.1) + len(data) / self.bytes_per_s
                    time.sleep(max(0, due - time.monotonic()))
        except OSError:
            pass
        on_the_way.put((time.monotonic() + self.delay_s, b""))

    def _deliver(self, on_the_way, source, sink):
        data = None
        try:
            while data != b"":
                due, data = on_the_way.get()
                time.sleep(max(0, due - time.monotonic()))
                self.passes.wait()
                sink.sendall(data)
        except OSError:
            pass
        for end in (source, sink):
            self.sockets.discard(end)
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        # The reader ends now, but may wait for a place in the queue.
        while data != b"":
            _, data = on_the_way.get()

    def cut(self):
        """Resets all connections, and new ones at once, until `restore`."""
        self.is_cut = True
        for end in list(self.sockets):
            reset(end)

    def hold(self):
        """Carries nothing until `restore`, and resets no connection."""
        self.passes.clear()

    def restore(self):
        self.is_cut = False
        self.passes.set()

    def close(self):
        self.listener.close()


def reset(end):
    try:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        # A thread may be reading from it, which a mere `close` does not end.
        end.shutdown(socket.SHUT_RDWR)
        end.close()
    except OSError:
        pass
