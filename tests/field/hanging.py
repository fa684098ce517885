"""A directory that can hang: a file system in user space without dependencies (Linux; needs root and /dev/fuse).

It serves the folder's files `x` (5 bytes). While it hangs, every operation on it blocks.
"""

import ctypes
import errno
import os
import stat
import struct
import threading

# From include/uapi/linux/fuse.h.
LOOKUP, FORGET, GETATTR, OPEN, READ, STATFS, RELEASE = 1, 2, 3, 14, 15, 17, 18
FLUSH, INIT, OPENDIR, READDIR, RELEASEDIR, INTERRUPT, BATCH_FORGET = 25, 26, 27, 28, 29, 36, 42

IN_HEADER = struct.Struct("<IIQQIIIHH")
OUT_HEADER = struct.Struct("<IiQ")
ROOT, FILE = 1, 2
CONTENT = b"hello"

MNT_DETACH = 2
LIBC = ctypes.CDLL(None, use_errno=True)


class HangingDirectory:
    """Mounts the directory at `path` until it is closed."""

    def __init__(self, path):
        self.path = str(path)
        self.runs = threading.Event()
        self.runs.set()
        self.device = os.open("/dev/fuse", os.O_RDWR)
        options = f"fd={self.device},rootmode=40000,user_id=0,group_id=0,allow_other".encode()
        if LIBC.mount(b"gantry-test", self.path.encode(), b"fuse", 0, options) != 0:
            raise OSError(ctypes.get_errno(), f"can't mount {self.path}")
        threading.Thread(target=self._serve, daemon=True).start()

    def hang(self):
        self.runs.clear()

    def resume(self):
        self.runs.set()

    def close(self):
        self.resume()
        LIBC.umount2(self.path.encode(), MNT_DETACH)
        # Ends all requests that are still waiting.
        os.close(self.device)

    def _serve(self):
        while True:
            try:
                request = os.read(self.device, 1 << 20)
            except OSError as error:
                if error.errno in (errno.EINTR, errno.EAGAIN, errno.ENOENT):
                    continue
                return
            threading.Thread(target=self._answer, args=(request,), daemon=True).start()

    def _answer(self, request):
        _, opcode, unique, node, *_ = IN_HEADER.unpack_from(request)
        arguments = request[IN_HEADER.size:]
        if opcode in (FORGET, BATCH_FORGET):
            return
        if opcode == INTERRUPT:
            # The process that waits for this request is being killed. Without an answer it would stay until the
            # unmount.
            self._reply(*struct.unpack_from("<Q", arguments), errno.EINTR, b"")
            return
        if opcode != INIT:
            self.runs.wait()
        self._reply(unique, *answer(opcode, node, arguments))

    def _reply(self, unique, code, body):
        try:
            os.write(self.device, OUT_HEADER.pack(OUT_HEADER.size + len(body), -code, unique) + body)
        except OSError:
            pass  # Already interrupted, or unmounted.


def answer(opcode, node, arguments):
    """Returns an error number, or 0, and the body of the answer."""
    if opcode == INIT:
        _, minor, readahead, _ = struct.unpack_from("<IIII", arguments)
        body = struct.pack("<IIIIHHIIHHI28x", 7, min(minor, 31), readahead, 0, 64, 48, 1 << 16, 1, 16, 0, 0)
        return 0, body
    if opcode == GETATTR:
        return 0, struct.pack("<QII", 0, 0, 0) + attributes(node)
    if opcode == LOOKUP:
        if arguments.rstrip(b"\0") != b"x":
            return errno.ENOENT, b""
        return 0, struct.pack("<QQQQII", FILE, 0, 0, 0, 0, 0) + attributes(FILE)
    if opcode in (OPEN, OPENDIR):
        return 0, struct.pack("<QII", 0, 1, 0)
    if opcode == READ:
        _, offset, size = struct.unpack_from("<QQI", arguments)
        return 0, CONTENT[offset:offset + size]
    if opcode == READDIR:
        _, offset, _ = struct.unpack_from("<QQI", arguments)
        entries = [entry(ROOT, 1, b".", 4), entry(ROOT, 2, b"..", 4), entry(FILE, 3, b"x", 8)]
        return 0, b"".join(entries[offset:])
    if opcode in (RELEASE, RELEASEDIR, FLUSH):
        return 0, b""
    return errno.ENOSYS, b""


def attributes(node):
    mode = stat.S_IFDIR | 0o755 if node == ROOT else stat.S_IFREG | 0o644
    size = 0 if node == ROOT else len(CONTENT)
    return struct.pack("<QQQQQQIIIIIIIIII", node, size, 1, 0, 1, 1, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)


def entry(node, offset, name, kind):
    return struct.pack("<QQII", node, offset, len(name), kind) + name.ljust(-(-len(name) // 8) * 8, b"\0")
