"""A TCP proxy on loopback whose link can be cut, stalled, throttled and delayed, and can corrupt HTTP."""

import asyncio
import socket

PIECE_BYTES = 256 << 10
# The size of a piece on a slow link: small enough for a steady flow.
SLOW_PIECE_BYTES = 16 << 10
# Bytes that a delayed link may hold, so that several pieces can be in flight.
KEPT_PIECES = 8


class Proxy:
    """Forwards connections to `port`. Faults apply to open and new connections."""

    def __init__(self, port, up=None, down=None):
        self.upstream_port = port
        # For each new connection, these create the functions that receive the forwarded bytes, in each direction.
        self.up, self.down = up, down
        self.port = None
        # The link's rate, and its rate while it is throttled.
        self.rate_bytes_per_s = None
        self.slow_bytes_per_s = None
        self.delay_s = 0.0
        # The active HTTP fault, from http_faults.
        self.http_fault = None
        self.bytes_up = self.bytes_down = 0
        self._passing = asyncio.Event()
        self._passing.set()
        self._refusing = False
        self._links = set()
        self._free_at = {"up": 0.0, "down": 0.0}
        self._server = None

    async def start(self):
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, limit=PIECE_BYTES)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def close(self):
        self._server.close()
        self.cut()
        while self._links:
            await asyncio.sleep(0.01)

    @property
    def connections(self):
        return len(self._links)

    def cut(self):
        """Resets every connection."""
        for link in list(self._links):
            link.cut()

    def refuse(self, refusing):
        """Resets every connection, and each new connection at once."""
        self._refusing = refusing
        if refusing:
            self.cut()

    def hold(self, holding):
        """Forwards nothing and closes nothing, like an unplugged cable, until it is repaired."""
        if holding:
            self._passing.clear()
        else:
            self._passing.set()

    async def _accept(self, reader, writer):
        if self._refusing:
            return writer.transport.abort()
        link = Link(self, reader, writer)
        self._links.add(link)
        try:
            await link.run()
        finally:
            self._links.discard(link)

    async def gate(self):
        await self._passing.wait()

    async def pace(self, way, count):
        """Waits for as long as the bytes would take at the link's rate."""
        rate = self.slow_bytes_per_s or self.rate_bytes_per_s
        if not rate:
            return
        now = asyncio.get_running_loop().time()
        self._free_at[way] = max(self._free_at[way], now) + count / rate
        await asyncio.sleep(self._free_at[way] - now)

    def piece_bytes(self):
        return SLOW_PIECE_BYTES if self.slow_bytes_per_s else PIECE_BYTES


class Link:
    """One connection through a proxy."""

    def __init__(self, proxy, reader, writer):
        self.proxy = proxy
        self.near = (reader, writer)
        self.far = None
        # The state of the proxy's HTTP fault for this connection.
        self.meddler = None
        self.meddles_for = None
        self.task = asyncio.current_task()

    def cut(self):
        for _, writer in filter(None, (self.near, self.far)):
            writer.transport.abort()
        self.task.cancel()

    async def run(self):
        try:
            await self.proxy.gate()
            self.far = await asyncio.open_connection("127.0.0.1", self.proxy.upstream_port, limit=PIECE_BYTES)
            for _, writer in (self.near, self.far):
                writer.transport.set_write_buffer_limits(high=PIECE_BYTES)
                writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            # When one direction ends, the other ends too: neither NATS nor HTTP uses half-closed connections.
            ways = [asyncio.ensure_future(self._pump("up", self.near[0], self.far[1], self.proxy.up)),
                    asyncio.ensure_future(self._pump("down", self.far[0], self.near[1], self.proxy.down))]
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.gather(*ways, return_exceptions=True)
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            for _, writer in filter(None, (self.near, self.far)):
                writer.close()

    async def _pump(self, way, reader, writer, make_told):
        """Forwards pieces in order, each when it is due."""
        queue = asyncio.Queue(KEPT_PIECES)
        reading = asyncio.ensure_future(self._read(reader, queue))
        told = make_told() if make_told else None
        loop = asyncio.get_running_loop()
        try:
            while True:
                due, piece = await queue.get()
                if not piece:
                    return
                if due > loop.time():
                    await asyncio.sleep(due - loop.time())
                await self.proxy.pace(way, len(piece))
                await self.proxy.gate()
                if told:
                    told(piece)
                piece, last = self._meddle(way, piece)
                if way == "down":
                    self.proxy.bytes_down += len(piece)
                else:
                    self.proxy.bytes_up += len(piece)
                writer.write(piece)
                await writer.drain()
                if last:
                    return
        except OSError:
            return
        finally:
            reading.cancel()

    def _meddle(self, way, piece):
        """The part of a piece to forward, and whether to close the connection afterwards."""
        if self.meddles_for is not self.proxy.http_fault:
            self.meddles_for = self.proxy.http_fault
            self.meddler = self.meddles_for.begin() if self.meddles_for else None
        if not self.meddler:
            return piece, False
        if way == "down":
            return self.meddler.response(piece)
        answer = self.meddler.request(piece)
        if answer is None:
            return piece, False
        self.near[1].write(answer)
        return b"", True

    async def _read(self, reader, queue):
        loop = asyncio.get_running_loop()
        piece = b"."
        while piece:
            await self.proxy.gate()
            try:
                piece = await reader.read(self.proxy.piece_bytes())
            except OSError:
                piece = b""
            await queue.put((loop.time() + self.proxy.delay_s, piece))
