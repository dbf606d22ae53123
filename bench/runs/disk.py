"""The file system, with care: files that are replaced as a whole or not at all, appends that are on the disk, locks.

Whatever the system refuses becomes one line: StoreError for writing, RunFolderError for what the user can mend.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.errors import RunFolderError, StoreError

LOCK_FILE = ".lock"


def make_folder(path: Path) -> None:
    """Make a folder and those above it, where they are not there yet."""
    try:
        with storing(path):
            path.mkdir(parents=True, exist_ok=True)
    except StoreError as error:
        if isinstance(error.__cause__, FileExistsError | NotADirectoryError):
            raise RunFolderError(f"{path} cannot be made: a file of that name is in the way") from error
        raise


def lock_folder(path: Path) -> int:
    """Take a folder's lock and return the file descriptor that holds it.

    The system gives the lock back when the descriptor is closed, however the process ends.
    """
    with storing(path / LOCK_FILE):
        fd = os.open(path / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        with storing(path / LOCK_FILE):
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except StoreError as error:
        holder = os.pread(fd, 20, 0).decode(errors="replace").strip() or "unknown"
        os.close(fd)
        if isinstance(error.__cause__, BlockingIOError):
            raise RunFolderError(
                f"{path} is in use by another process (pid {holder}); wait for it or stop it"
            ) from None
        raise
    with contextlib.suppress(OSError):  # who holds the lock is only said in messages
        os.ftruncate(fd, 0)
        os.pwrite(fd, b"%d\n" % os.getpid(), 0)
    return fd


def open_journal(path: Path) -> int:
    """Open a file to append to, make it if it is not there, and hold it as `lock_folder` holds a folder.

    Raises:
        StoreError: it cannot be opened, or another process holds it.
    """
    with storing(path):
        fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            sync_folder(path.parent)
        except BaseException:
            os.close(fd)
            raise
    return fd


def is_held(path: Path) -> bool:
    """Whether a process holds the file at `path`, see `open_journal`."""
    with storing(path):
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(fd)
    return False


def read_bytes(file: Path) -> bytes:
    """A file's bytes; none where there is no file."""
    try:
        return file.read_bytes()
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise RunFolderError(f"{file} cannot be read: {error.strerror or error}") from error


def append_bytes(fd: int, path: Path, data: bytes) -> None:
    """Append `data` to the file at `path`, open as `fd`, in one piece, and wait until the disk has it.

    Raises:
        StoreError: it could not be written. What a short write left behind is cut off again if that is possible.
    """
    with storing(path):
        size = os.fstat(fd).st_size
        try:
            _write_all(fd, data)
            os.fsync(fd)
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(fd, size)
            raise


def write_json(path: Path, value: Any) -> None:
    """Write `value` as JSON to `path`, readable, atomically."""
    write_atomically(path, json.dumps(value, allow_nan=False, indent=2, ensure_ascii=True).encode() + b"\n")


def write_atomically(path: Path, data: bytes) -> None:
    """Replace the file at `path` by `data`: whoever looks, even after a crash, sees the old or the new one, whole."""
    draft = path.with_name(path.name + ".draft")
    with storing(path):
        try:
            fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
            try:
                _write_all(fd, data)
                os.fsync(fd)
            finally:
                os.close(fd)
            draft.replace(path)
        except OSError:
            with contextlib.suppress(OSError):
                draft.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Wait until the disk has the names in a folder: a file that was renamed or made is only then there for good."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextlib.contextmanager
def storing(path: Path) -> Iterator[None]:
    """Turn an operating system's error into a StoreError about `path`."""
    try:
        yield
    except OSError as error:
        code = errno.errorcode.get(error.errno or 0, "unknown error")
        raise StoreError(
            f"{path} cannot be written: {error.strerror or error} ({code}); "
            "what was written before is kept, and the same command continues from there"
        ) from error


def _write_all(fd: int, data: bytes) -> None:
    """One write, and more where the system took only a part."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]
