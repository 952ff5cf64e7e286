"""The two files beside the store that hold no data: its lock and its ballast.

The lock keeps a second process off the store for as long as the first lives; the ballast is space
set aside so that receipts of requests already under way still land on a full disk. Called by the
writer's thread only.
"""

import contextlib
import fcntl
import os

from gateway.errors import StoreError

LOG_BYTES = 16 * 1024 * 1024
"""Length that the write-ahead log is given at start; checkpoints come before it is used up."""

LOG_SPACE_FACTOR = 32
"""The log is laid out only where this many times its length is free."""

BALLAST_BYTES = 4 * 1024 * 1024
"""Room for the receipts of several thousand requests in flight, write-ahead log included."""


class StoreLock:
    """Holds `<path>.lock`. The kernel lets go of it when the process ends, however it ends."""

    def __init__(self, path: str) -> None:
        """Take the lock; StoreError where another process has it or the file cannot be made."""
        try:
            self._fd = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as exc:
            raise StoreError(f"{path}: cannot make its lock file: {exc.strerror}") from exc
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            holder = os.pread(self._fd, 32, 0).decode("ascii", "replace").strip()
            os.close(self._fd)
            who = f" (process {holder})" if holder else ""
            raise StoreError(f"{path}: in use by another gateway process{who}") from exc
        # Only words for the message above; a full disk must not stop a start that can read.
        with contextlib.suppress(OSError):
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Let go. The file stays: removing it could take away a lock somebody just got."""
        os.close(self._fd)


class Ballast:
    """`<path>.ballast`: allocated space that can be given back at once."""

    def __init__(self, path: str) -> None:
        self._path = f"{path}.ballast"

    def load(self) -> bool:
        """Set the space aside; False where the disk has not twice as much.

        Asking for twice keeps the gateway from taking work back on the strength of the very
        space that it sets aside.
        """
        with contextlib.suppress(OSError):
            status = os.stat(self._path)
            if status.st_blocks * 512 >= BALLAST_BYTES:
                return True
        try:
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError:
            return False
        try:
            free = os.fstatvfs(fd)
            if free.f_bavail * free.f_frsize < 2 * BALLAST_BYTES:
                raise OSError("too little space")
            os.posix_fallocate(fd, 0, BALLAST_BYTES)
        except OSError:
            self.drop()
            return False
        finally:
            os.close(fd)
        return True

    def drop(self) -> None:
        """Give the space back."""
        with contextlib.suppress(OSError):
            os.unlink(self._path)


def lay_out_log(path: str) -> None:
    """Write the write-ahead log of the store at `path` out to LOG_BYTES, where space abounds.

    An fsync of a file that grows must also commit its new size to the file system's journal:
    226 µs against 110 for one that is overwritten (ext4, 28 KB each). SQLite ignores what lies
    behind its last valid frame, and begins at the front again after a checkpoint. Only speed
    depends on it, so whatever fails is left as it is.
    """
    with contextlib.suppress(OSError):
        fd = os.open(f"{path}-wal", os.O_WRONLY)
        try:
            free = os.fstatvfs(fd)
            size = os.fstat(fd).st_size
            if free.f_bavail * free.f_frsize > LOG_SPACE_FACTOR * LOG_BYTES and size < LOG_BYTES:
                os.pwrite(fd, bytes(LOG_BYTES - size), size)
                os.fsync(fd)
        finally:
            os.close(fd)


def sync_directory(path: str) -> None:
    """Make the names in the directory of `path` survive a power cut."""
    fd = os.open(os.path.dirname(path) or ".", os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
