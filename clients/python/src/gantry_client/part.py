"""The part file: a download's bytes beside their target until they are verified.

While `folder/name` is being downloaded, `folder/.name.gantry-py-part` contains the bytes and
`folder/.name.gantry-py-part.json` (the sidecar) describes them. `commit` verifies the bytes, makes them durable and
renames the part file over the target, which is unchanged until then.

The sidecar's first line describes the bytes. Marks are appended to it: a length of the part file and the CRC of that
many bytes. A download resumes from the last valid mark, so that damage costs only what follows it. Bytes without a mark
are never used.

A checkpoint makes the bytes durable before it appends its mark. Other marks count only until the machine restarts,
which the kernel's boot id reveals: after a crash of the machine a mark may exist without its bytes.

Everything here blocks: call it on a thread.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
import zlib
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Optional

from . import crc
from .errors import FileInUseError, GantryError, PartFileError
from .protocol import ObjectInfo, read_object
from .verify import Verification, Verifier

try:
    import fcntl
except ImportError:  # pragma: no cover -- not a POSIX system
    fcntl = None  # type: ignore[assignment]

_FORMAT = 2
_SUFFIX = ".gantry-py-part"
_NAME_MAX_BYTES = 255
_SIDECAR_MAX_BYTES = 4 * 1024 * 1024
_CHECKPOINT_BYTES = 128 * 1024 * 1024
# The minimum distance of marks, in bytes, and their maximum number. In a large download, the distance is larger.
_MARK_BYTES = 1024 * 1024
_MARKS_MAX = 4096
_READ_BYTES = 1024 * 1024
_LOCK_ATTEMPTS = 16


@dataclass(frozen=True)
class Wanted:
    """The request. Only bytes of the same request are resumed."""

    store: str
    key: str
    start: int
    end: Optional[int]
    if_match: Optional[str]
    version_id: Optional[str]


@dataclass(frozen=True)
class _Sidecar:
    wanted: Wanted
    object: ObjectInfo
    start: int
    end: int
    boot: Optional[str]


@dataclass(frozen=True)
class _Mark:
    """The CRC of the first `length` bytes of the part file."""

    length: int
    crc64nvme: int
    is_durable: bool


class PartFile:
    """The locked part file of one target. Close it in any case."""

    def __init__(self, target: Path, wanted: Wanted, resume: bool) -> None:
        """Locks the part file, and reads the bytes of an earlier download if it is to be resumed.

        Raises `FileInUseError` and `PartFileError`.
        """
        self._fd = -1
        self._target = _resolved(target)
        self._part, self._sidecar_path = _names(self._target)
        self._wanted = wanted
        self._keep = True
        self._written = 0
        self._sidecar: Optional[_Sidecar] = None
        self._sidecar_fd = -1
        self._marks: list[_Mark] = []
        self._marked = self._durable = 0
        self._verifier: Optional[Verifier] = None
        try:
            self._fd = self._lock()
        except OSError as error:
            raise PartFileError(f"can't open {self._part}: {error.strerror}") from error

        #: The version of the kept bytes; `None` if there are none.
        self.found: Optional[ObjectInfo] = None
        try:
            if resume:
                self._examine()
        except (OSError, GantryError):
            self.found = None

    @property
    def target(self) -> Path:
        """The file that will be replaced, with symbolic links followed."""
        return self._target

    @property
    def offset(self) -> int:
        """The absolute offset of the next byte, once something was found or begun."""
        return (self._sidecar.start if self._sidecar else self._wanted.start) + self._written

    def begin(self, info: ObjectInfo, start: int, end: int) -> None:
        """Starts to write at `offset`, or at `start` if nothing is resumed."""
        try:
            if self.found is None or self._sidecar is None:
                self._start_over(info, start, end)
            else:
                # The marks of the kept bytes count from now on, so the bytes must be durable.
                os.fsync(self._fd)
                self._place(self._sidecar, [*self._marks[:-1], replace(self._marks[-1], is_durable=True)])
            self._take_mode(at_least=stat.S_IRUSR | stat.S_IWUSR)
        except OSError as error:
            raise PartFileError(f"can't write {self._part}: {error.strerror}") from error

    def discard_found(self) -> None:
        """Discards the kept bytes: the download starts over."""
        self.found = None
        self._written = 0
        self._sidecar = None
        self._marks = []

    def write(self, data: bytes, data_crc64nvme: int) -> None:
        """Writes the next bytes, whose CRC-64/NVME is given."""
        assert self._sidecar is not None and self._verifier is not None, "begin comes first"
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(self._fd, rest) :]
        except OSError as error:
            self._seek(self._written)
            raise PartFileError(f"can't write {self._part}: {error.strerror}") from error

        self._verifier.update(data, data_crc64nvme)
        self._written += len(data)
        if self._written - self._durable >= _CHECKPOINT_BYTES:
            self._checkpoint()
        elif self._written - self._marked >= max(_MARK_BYTES, (self._sidecar.end - self._sidecar.start) // _MARKS_MAX):
            self._note()

    def commit(self) -> Verification:
        """Verifies the bytes, makes them durable and renames them over the target.

        Raises `IntegrityError`, which discards the bytes, and `PartFileError`, which keeps them.
        """
        assert self._verifier is not None, "begin comes first"
        try:
            verification = self._verifier.finish()
        except GantryError:
            self._keep = False
            raise

        try:
            if os.fstat(self._fd).st_size != self._written or not self._is_in_place():
                raise PartFileError(f"{self._part} was changed by another process")
            os.fsync(self._fd)
            self._take_mode(at_least=0)
            os.rename(self._part, self._target)
            _remove(self._sidecar_path)
            _sync_folder(self._target.parent)
        except OSError as error:
            raise PartFileError(f"can't put {self._target} in place: {error.strerror}") from error
        return verification

    def suspend(self) -> None:
        """Makes the bytes durable, so that they can be resumed even after a restart of the machine."""
        if self._sidecar is None or self._verifier is None or not self._is_in_place():
            return
        if self._written > self._durable:
            self._checkpoint()

    def close(self) -> None:
        """Releases the lock. Removes the part file if it has no bytes or if they are wrong."""
        if self._fd < 0:
            return
        try:
            if self._is_in_place():
                if self._keep and os.fstat(self._fd).st_size > 0:
                    self._note()
                else:
                    _remove(self._sidecar_path)
                    _remove(self._part)
        except OSError:
            pass
        finally:
            os.close(self._fd)
            self._fd = -1
            self._close_sidecar()

    def _lock(self) -> int:
        if fcntl is None:
            raise PartFileError("downloads to a file need a POSIX system; use stream() here")
        for _ in range(_LOCK_ATTEMPTS):
            fd = _open_private(self._part, os.O_RDWR | os.O_CREAT)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(fd)
                raise FileInUseError(f"another download writes to {self._target}") from None
            except OSError:
                os.close(fd)
                raise
            # Its last owner may have renamed or removed it before the lock was taken.
            self._fd = fd
            if self._is_in_place():
                return fd
            os.close(fd)
        raise FileInUseError(f"another download writes to {self._target}")

    def _is_in_place(self) -> bool:
        """Returns whether the open file still has its name, and no other one."""
        try:
            there = os.lstat(self._part)
        except FileNotFoundError:
            return False
        here = os.fstat(self._fd)
        return (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino) and here.st_nlink == 1

    def _examine(self) -> None:
        """Reuses the bytes of an earlier download, if they belong to this request and match their marks."""
        found = _read_sidecar(self._sidecar_path)
        if found is None or found[0].wanted != self._wanted:
            return
        sidecar, marks = found
        if sidecar.boot is None or sidecar.boot != _boot_id():
            durable = max((mark.length for mark in marks if mark.is_durable), default=0)
            marks = [mark for mark in marks if mark.length <= durable]

        verifier, held = self._read(sidecar, marks)
        if len(held) < len(marks):
            # The verifier has read bytes that are not used.
            verifier, held = self._read(sidecar, held)
        if not held:
            return
        self._sidecar = sidecar
        self._verifier = verifier
        self._marks = held
        self._written = held[-1].length
        self.found = sidecar.object
        os.ftruncate(self._fd, self._written)
        self._seek(self._written)

    def _read(self, sidecar: _Sidecar, marks: list[_Mark]) -> tuple[Verifier, list[_Mark]]:
        """Reads the bytes that the marks cover, and returns the marks before the first one that is wrong."""
        verifier = _verifier(sidecar.object, sidecar.start, sidecar.end)
        held: list[_Mark] = []
        position = 0
        self._seek(0)
        for mark in marks:
            while position < mark.length:
                data = os.read(self._fd, min(_READ_BYTES, mark.length - position))
                if not data:
                    return verifier, held
                verifier.update(data, crc.crc64nvme(data))
                position += len(data)
            if verifier.crc64nvme != mark.crc64nvme:
                return verifier, held
            held.append(mark)
        return verifier, held

    def _start_over(self, info: ObjectInfo, start: int, end: int) -> None:
        os.ftruncate(self._fd, 0)
        self._seek(0)
        self._written = 0
        self._verifier = _verifier(info, start, end)
        self._place(_Sidecar(self._wanted, info, start, end, _boot_id()), [])

    def _place(self, sidecar: _Sidecar, marks: list[_Mark]) -> None:
        """Puts a sidecar with these marks in place: after a crash it is the old or the new one."""
        self._close_sidecar()
        self._sidecar = replace(sidecar, boot=_boot_id())
        self._sidecar_fd = _write_sidecar(self._sidecar_path, self._sidecar, marks)
        self._marked = self._durable = marks[-1].length if marks else 0

    def _close_sidecar(self) -> None:
        if self._sidecar_fd >= 0:
            os.close(self._sidecar_fd)
            self._sidecar_fd = -1

    def _checkpoint(self) -> None:
        try:
            os.fsync(self._fd)
            self._append(is_durable=True)
            os.fsync(self._sidecar_fd)
            self._durable = self._written
        except OSError as error:
            # The system may have dropped what it could not write.
            self._keep = False
            raise PartFileError(f"can't make {self._part} durable: {error.strerror}") from error

    def _note(self) -> None:
        """Marks the bytes so far. A mark that can't be written costs only itself."""
        if self._sidecar_fd >= 0 and self._written > self._marked:
            try:
                self._append(is_durable=False)
            except OSError:
                self._marked = self._written

    def _append(self, is_durable: bool) -> None:
        assert self._sidecar is not None and self._verifier is not None, "begin comes first"
        os.write(self._sidecar_fd, _line(_Mark(self._written, self._verifier.crc64nvme, is_durable)))
        self._marked = self._written

    def _seek(self, offset: int) -> None:
        os.lseek(self._fd, offset, os.SEEK_SET)

    def _take_mode(self, at_least: int) -> None:
        """Gives the part file the permission bits of the file that it will replace."""
        try:
            mode = stat.S_IMODE(os.stat(self._target).st_mode) & 0o777
        except FileNotFoundError:
            return
        if stat.S_IMODE(os.fstat(self._fd).st_mode) != mode | at_least:
            os.fchmod(self._fd, mode | at_least)


def _verifier(info: ObjectInfo, start: int, end: int) -> Verifier:
    is_whole = start == 0 and end == info.size
    return Verifier(info.checksum if is_whole else None, end - start)


def _resolved(target: Path) -> Path:
    """Follows symbolic links, and checks that a regular file is or can be there."""
    try:
        path = Path(os.path.realpath(target))
        if path.exists() and not path.is_file():
            raise PartFileError(f"{path} is not a regular file")
        if not path.parent.is_dir():
            raise PartFileError(f"there is no folder {path.parent}")
    except (OSError, ValueError) as error:
        raise PartFileError(f"invalid path {str(target)!r}: {error}") from error
    return path


def _names(target: Path) -> tuple[Path, Path]:
    stem = os.fsencode(target.name)
    longest = _NAME_MAX_BYTES - len(f".{_SUFFIX}.json.new")
    if len(stem) > longest:
        digest = hashlib.sha256(stem).hexdigest()[:16].encode()
        stem = stem[: longest - len(digest) - 1] + b"~" + digest
    part = target.with_name(f".{os.fsdecode(stem)}{_SUFFIX}")
    return part, part.with_name(f"{part.name}.json")


def _open_private(path: Path, flags: int) -> int:
    """Opens a file that only this user can have created: regular, with a single name, not behind a link."""
    fd = os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, 0o666)
    status = os.fstat(fd)
    is_ours = stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid() and status.st_nlink <= 1
    if not is_ours:
        os.close(fd)
        raise OSError(errno.EPERM, "not a regular file of this user with a single name", str(path))
    return fd


def _line(mark: _Mark) -> bytes:
    """Returns a mark as a line. It starts with a line break, since the previous line may have been torn."""
    text = f"{mark.length} {mark.crc64nvme:016x} {int(mark.is_durable)}"
    return f"\n{text} {zlib.crc32(text.encode()):08x}".encode()


def _read_line(line: bytes, length_max: int) -> Optional[_Mark]:
    """Parses a mark. Returns `None` for a line that is torn or damaged."""
    try:
        length, value, is_durable, _ = line.split(b" ")
        mark = _Mark(int(length), int(value, 16), is_durable == b"1")
    except ValueError:
        return None
    return mark if _line(mark)[1:] == line and 0 < mark.length <= length_max else None


def _read_sidecar(path: Path) -> Optional[tuple[_Sidecar, list[_Mark]]]:
    """Reads the sidecar. Returns it and its marks, in ascending order of length.

    Returns `None` if there is none, or if this version of the package does not support its format.
    """
    try:
        fd = _open_private(path, os.O_RDONLY)
        with open(fd, "rb") as file:
            header, *lines = file.read(_SIDECAR_MAX_BYTES).split(b"\n")
        body = json.loads(header)
        if body.pop("format") != _FORMAT:
            return None
        info = read_object(body.pop("object"))
        sidecar = _Sidecar(wanted=Wanted(**body.pop("wanted")), object=info, **body)
        is_sound = all(isinstance(number, int) for number in (sidecar.start, sidecar.end))
        if not (is_sound and 0 <= sidecar.start <= sidecar.end <= info.size):
            return None
    except (OSError, ValueError, TypeError, KeyError, AttributeError, GantryError):
        return None
    found = (_read_line(line, sidecar.end - sidecar.start) for line in lines)
    marks = {mark.length: mark for mark in found if mark is not None}
    return sidecar, [marks[length] for length in sorted(marks)]


def _write_sidecar(path: Path, sidecar: _Sidecar, marks: list[_Mark]) -> int:
    """Replaces the sidecar, and returns its descriptor, to append marks to."""
    body = {"format": _FORMAT, **asdict(sidecar)}
    checksum = sidecar.object.checksum
    if checksum is not None:
        body["object"]["checksum"]["parts"] = [{"count": count, "size": size} for count, size in checksum.parts]

    scratch = path.with_name(f"{path.name}.new")
    _remove(scratch)
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(scratch, flags, 0o600)
    try:
        rest = memoryview(json.dumps(body).encode() + b"".join(map(_line, marks)))
        while rest:
            rest = rest[os.write(fd, rest) :]
        if marks:
            os.fsync(fd)
        os.rename(scratch, path)
    except OSError:
        os.close(fd)
        raise
    return fd


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    except OSError as error:
        # Some network file systems don't support this.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(fd)


def _boot_id() -> Optional[str]:
    """Returns the id of the current boot of the machine. Source: random(4)."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip() or None
    except OSError:
        return None
