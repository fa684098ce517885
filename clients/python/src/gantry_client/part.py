"""The part file: a download's bytes beside their target until they are verified.

During a download of `folder/name` there are two files: `folder/.name.gantry-py-part` contains the bytes, and
`folder/.name.gantry-py-part.json`, the sidecar, describes them. `commit` verifies the bytes, makes them durable and
renames them over the target, which is unchanged until then.

Bytes are written in order, so after a crash of this process the part file's length is the number of valid bytes. This
does not hold after a crash of the machine. The sidecar therefore records the kernel's boot id and a checkpoint: how
many bytes are durable, and their CRC. After a restart of the machine, only those bytes are used.

Everything here blocks: call it on a thread.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
from dataclasses import asdict, dataclass
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

_FORMAT = 1
_SUFFIX = ".gantry-py-part"
_NAME_MAX_BYTES = 255
_SIDECAR_MAX_BYTES = 4 * 1024 * 1024
_CHECKPOINT_BYTES = 128 * 1024 * 1024
_READ_BYTES = 1024 * 1024
_LOCK_ATTEMPTS = 16


@dataclass(frozen=True)
class Wanted:
    """Identifies a download by its request. Only bytes of the same request are resumed."""

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
    durable: int = 0
    durable_crc: int = 0


class PartFile:
    """The locked part file of one target. Close it in any case."""

    def __init__(self, target: Path, wanted: Wanted, resume: bool) -> None:
        """Locks the part file, and reads the state of an earlier download if that should be resumed.

        Raises `FileInUseError` and `PartFileError`.
        """
        self._fd = -1
        self._target = _resolved(target)
        self._part, self._sidecar_path = _names(self._target)
        self._wanted = wanted
        self._keep = True
        self._written = 0
        self._sidecar: Optional[_Sidecar] = None
        self._verifier: Optional[Verifier] = None
        try:
            self._fd = self._lock()
        except OSError as error:
            raise PartFileError(f"can't open {self._part}: {error.strerror}") from error

        #: The version of the bytes that an earlier download left; `None` if there are none.
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
        """The absolute offset of the next byte, once bytes were found or `begin` was called."""
        return (self._sidecar.start if self._sidecar else self._wanted.start) + self._written

    def begin(self, info: ObjectInfo, start: int, end: int) -> None:
        """Starts to write at `offset`, or at `start` if nothing is resumed."""
        try:
            if self.found is None or self._sidecar is None:
                self._start_over(info, start, end)
            elif self._sidecar.boot != _boot_id():
                # From now on the length is trusted again, so the bytes that it covers must be durable.
                self._checkpoint()
            self._take_mode(at_least=stat.S_IRUSR | stat.S_IWUSR)
        except OSError as error:
            raise PartFileError(f"can't write {self._part}: {error.strerror}") from error

    def discard_found(self) -> None:
        """Discards the bytes that were found: the download starts from the beginning."""
        self.found = None
        self._written = 0
        self._sidecar = None

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
        if self._written - self._sidecar.durable >= _CHECKPOINT_BYTES:
            self._checkpoint()

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
        if self._written > self._sidecar.durable:
            self._checkpoint()

    def close(self) -> None:
        """Releases the lock. Removes the part file if it has no bytes or if they are wrong."""
        if self._fd < 0:
            return
        try:
            if self._is_in_place() and not (self._keep and os.fstat(self._fd).st_size > 0):
                _remove(self._sidecar_path)
                _remove(self._part)
        except OSError:
            pass
        finally:
            os.close(self._fd)
            self._fd = -1

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
        """Returns whether the open file still has its name, and no other name."""
        try:
            there = os.lstat(self._part)
        except FileNotFoundError:
            return False
        here = os.fstat(self._fd)
        return (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino) and here.st_nlink == 1

    def _examine(self) -> None:
        """Resumes from what an earlier download left, if it belongs to this object and its bytes are reliable."""
        sidecar = _read_sidecar(self._sidecar_path)
        if sidecar is None or sidecar.wanted != self._wanted:
            return
        length = os.fstat(self._fd).st_size
        if not sidecar.durable <= length <= sidecar.end - sidecar.start:
            return
        usable = length if sidecar.boot is not None and sidecar.boot == _boot_id() else sidecar.durable
        if usable == 0:
            return

        verifier = _verifier(sidecar.object, sidecar.start, sidecar.end)
        self._seek(0)
        position = 0
        while position < usable:
            # A block ends at the checkpoint, so that the CRC up to there can be compared.
            limit = sidecar.durable if position < sidecar.durable else usable
            data = os.read(self._fd, min(_READ_BYTES, limit - position))
            if not data:
                return
            verifier.update(data, crc.crc64nvme(data))
            position += len(data)
            if position == sidecar.durable and verifier.crc64nvme != sidecar.durable_crc:
                return

        self._sidecar = sidecar
        self._verifier = verifier
        self._written = usable
        self.found = sidecar.object
        os.ftruncate(self._fd, usable)

    def _start_over(self, info: ObjectInfo, start: int, end: int) -> None:
        os.ftruncate(self._fd, 0)
        self._seek(0)
        self._written = 0
        self._verifier = _verifier(info, start, end)
        self._sidecar = _Sidecar(self._wanted, info, start, end, _boot_id())
        _write_sidecar(self._sidecar_path, self._sidecar)

    def _checkpoint(self) -> None:
        assert self._sidecar is not None and self._verifier is not None, "begin comes first"
        try:
            os.fsync(self._fd)
            values = {**self._sidecar.__dict__, "boot": _boot_id()}
            values.update(durable=self._written, durable_crc=self._verifier.crc64nvme)
            self._sidecar = _Sidecar(**values)
            _write_sidecar(self._sidecar_path, self._sidecar)
        except OSError as error:
            # The system may have dropped bytes that it could not write, so the length is no longer reliable.
            self._keep = False
            raise PartFileError(f"can't make {self._part} durable: {error.strerror}") from error

    def _seek(self, offset: int) -> None:
        os.lseek(self._fd, offset, os.SEEK_SET)

    def _take_mode(self, at_least: int) -> None:
        """Sets the part file's permission bits to those of the file that it will replace."""
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
    """Follows symbolic links, and checks that the target is a regular file or can become one."""
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
    """Opens a file that only this user can have put there: regular, with a single name, not behind a link."""
    fd = os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, 0o666)
    status = os.fstat(fd)
    is_ours = stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid() and status.st_nlink <= 1
    if not is_ours:
        os.close(fd)
        raise OSError(errno.EPERM, "not a regular file of this user with a single name", str(path))
    return fd


def _read_sidecar(path: Path) -> Optional[_Sidecar]:
    """Returns `None` if there is no sidecar that this version of the package can read."""
    try:
        fd = _open_private(path, os.O_RDONLY)
        with open(fd, "rb") as file:
            body = json.loads(file.read(_SIDECAR_MAX_BYTES))
        if body.pop("format") != _FORMAT:
            return None
        info = read_object(body.pop("object"))
        sidecar = _Sidecar(wanted=Wanted(**body.pop("wanted")), object=info, **body)
        numbers = (sidecar.start, sidecar.end, sidecar.durable, sidecar.durable_crc)
        is_sound = all(isinstance(number, int) and number >= 0 for number in numbers)
        return sidecar if is_sound and sidecar.start <= sidecar.end <= info.size else None
    except (OSError, ValueError, TypeError, KeyError, AttributeError, GantryError):
        return None


def _write_sidecar(path: Path, sidecar: _Sidecar) -> None:
    """Replaces the sidecar atomically: after a crash, either the old or the new one exists."""
    body = {"format": _FORMAT, **asdict(sidecar)}
    checksum = sidecar.object.checksum
    if checksum is not None:
        body["object"]["checksum"]["parts"] = [{"count": count, "size": size} for count, size in checksum.parts]

    scratch = path.with_name(f"{path.name}.new")
    _remove(scratch)
    fd = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with open(fd, "wb") as file:
        file.write(json.dumps(body).encode())
        file.flush()
        if sidecar.durable > 0:
            os.fsync(fd)
    os.rename(scratch, path)


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    except OSError as error:
        # Some network file systems do not support this.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(fd)


def _boot_id() -> Optional[str]:
    """Identifies this run of the kernel. Source: random(4)."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip() or None
    except OSError:
        return None
