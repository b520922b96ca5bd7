"""A real device without hard links: a FUSE file system over a folder, spoken to the kernel as its protocol says, for root alone.

``python tests/linkless_folder.py BACK MOUNT`` serves until it is unmounted. Links and renames with flags are answered with
"not implemented", as many network shares do; the kernel then gives EPERM and EINVAL to programs.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import stat
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

MNT_DETACH = 2
MAX_WRITE = 2**17
_IN, _ENTRY, _ATTR = struct.Struct("<IIQQIIIHH"), struct.Struct("<QQQQII"), struct.Struct("<QQQQQQIIIIIIIIII")
_LIBC = ctypes.CDLL(None, use_errno=True)


@contextlib.contextmanager
def linkless_folder(folder: Path) -> Iterator[Path]:
    """Mount one below a folder; skips where that is not allowed."""
    back, mount = folder / "back", folder / "mount"
    back.mkdir()
    mount.mkdir()
    if os.geteuid() or not os.access("/dev/fuse", os.R_OK | os.W_OK):
        pytest.skip("mounting a file system without hard links needs root and /dev/fuse")
    with subprocess.Popen([sys.executable, __file__, str(back), str(mount)], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        said = server.stdout.readline().strip()
        try:
            if said != "mounted":
                pytest.skip(f"this system mounts no file system: {said}")
            yield mount
        finally:
            _LIBC.umount2(os.fsencode(mount), MNT_DETACH)
            server.kill()


class Linkless:
    """The nodes of the file system: each by the number of its parent and its name, so that a renamed folder takes all along."""

    def __init__(self, back: str) -> None:
        self._back = back
        self._places: dict[int, tuple[int, str]] = {}
        self._numbers: dict[tuple[int, str], int] = {}
        self._next = 2
        self.calls: dict[int, Callable[[int, bytes], bytes]] = {
            1: self.lookup, 3: lambda node, _: self.attributes(node), 4: self.change, 9: self.mkdir, 10: self.unlink,
            11: self.rmdir, 12: self.rename, 14: self.open, 15: self.read, 16: self.write, 17: lambda *_: self.room(),
            18: self.release, 20: self.flush, 25: lambda *_: b"", 27: lambda *_: struct.pack("<QII", 0, 0, 0), 28: self.list,
            29: lambda *_: b"", 30: lambda *_: b"", 34: lambda *_: b"", 35: self.create,
        }  # fmt: skip

    def path(self, node: int) -> str:
        if node == 1:
            return self._back
        parent, name = self._places[node]
        return f"{self.path(parent)}/{name}"

    def entry(self, parent: int, name: str) -> bytes:
        place = (parent, name)
        if place not in self._numbers:
            os.lstat(f"{self.path(parent)}/{name}")
            self._numbers[place], self._next = self._next, self._next + 1
            self._places[self._numbers[place]] = place
        node = self._numbers[place]
        return _ENTRY.pack(node, 0, 0, 0, 0, 0) + self._attributes(node)

    def _attributes(self, node: int) -> bytes:
        found = os.lstat(self.path(node))
        seconds = [int(moment) for moment in (found.st_atime, found.st_mtime, found.st_ctime)]
        rest = [moment % 10**9 for moment in (found.st_atime_ns, found.st_mtime_ns, found.st_ctime_ns)]
        owner = (found.st_mode, found.st_nlink, found.st_uid, found.st_gid)
        return _ATTR.pack(node, found.st_size, found.st_blocks, *seconds, *rest, *owner, 0, 4_096, 0)

    def attributes(self, node: int) -> bytes:
        return struct.pack("<QII", 0, 0, 0) + self._attributes(node)

    def lookup(self, node: int, data: bytes) -> bytes:
        return self.entry(node, _text(data))

    def change(self, node: int, data: bytes) -> bytes:
        valid, _, _, size = struct.unpack_from("<IIQQ", data)
        if valid & 8:
            os.truncate(self.path(node), size)
        if valid & 1:
            os.chmod(self.path(node), stat.S_IMODE(struct.unpack_from("<I", data, 68)[0]))
        return self.attributes(node)

    def mkdir(self, node: int, data: bytes) -> bytes:
        name = _text(data[8:])
        os.mkdir(f"{self.path(node)}/{name}", struct.unpack_from("<I", data)[0] & 0o777)
        return self.entry(node, name)

    def unlink(self, node: int, data: bytes) -> bytes:
        os.unlink(f"{self.path(node)}/{_text(data)}")
        return self._forget(node, _text(data))

    def rmdir(self, node: int, data: bytes) -> bytes:
        os.rmdir(f"{self.path(node)}/{_text(data)}")
        return self._forget(node, _text(data))

    def _forget(self, parent: int, name: str) -> bytes:
        self._numbers.pop((parent, name), None)
        return b""

    def rename(self, node: int, data: bytes) -> bytes:
        (to,) = struct.unpack_from("<Q", data)
        old, new = (part.decode() for part in data[8:].split(b"\0")[:2])
        os.rename(f"{self.path(node)}/{old}", f"{self.path(to)}/{new}")
        self._forget(to, new)
        moved = self._numbers.pop((node, old), None)
        if moved is not None:
            self._numbers[(to, new)], self._places[moved] = moved, (to, new)
        return b""

    def open(self, node: int, data: bytes) -> bytes:
        flags = struct.unpack_from("<I", data)[0] & (os.O_ACCMODE | os.O_TRUNC)
        return struct.pack("<QII", os.open(self.path(node), flags), 0, 0)

    def create(self, node: int, data: bytes) -> bytes:
        flags, mode = struct.unpack_from("<II", data)
        name = _text(data[16:])
        kept = flags & (os.O_ACCMODE | os.O_TRUNC | os.O_EXCL) | os.O_CREAT
        handle = os.open(f"{self.path(node)}/{name}", kept, mode & 0o777)
        return self.entry(node, name) + struct.pack("<QII", handle, 0, 0)

    def read(self, _node: int, data: bytes) -> bytes:
        handle, offset, size = struct.unpack_from("<QQI", data)
        return os.pread(handle, size, offset)

    def write(self, _node: int, data: bytes) -> bytes:
        handle, offset, size = struct.unpack_from("<QQI", data)
        return struct.pack("<II", os.pwrite(handle, data[40 : 40 + size], offset), 0)

    def release(self, _node: int, data: bytes) -> bytes:
        os.close(struct.unpack_from("<Q", data)[0])
        return b""

    def flush(self, _node: int, data: bytes) -> bytes:
        os.fsync(struct.unpack_from("<Q", data)[0])
        return b""

    def list(self, node: int, data: bytes) -> bytes:
        _, offset, size = struct.unpack_from("<QQI", data)
        found = b""
        for place, name in list(enumerate([".", "..", *sorted(os.listdir(self.path(node)))], start=1))[offset:]:
            encoded = name.encode()
            one = struct.pack("<QQII", 1, place, len(encoded), 0) + encoded
            one += b"\0" * (-len(one) % 8)
            if len(found) + len(one) > size:
                break
            found += one
        return found

    def room(self) -> bytes:
        found = os.statvfs(self._back)
        counts = (found.f_blocks, found.f_bfree, found.f_bavail, found.f_files, found.f_ffree)
        return struct.pack("<QQQQQIIII24x", *counts, found.f_bsize, 255, found.f_frsize, 0)


def _text(data: bytes) -> str:
    return data.split(b"\0", 1)[0].decode()


def serve(back: str, mount: str) -> None:
    """Mount, say so, and answer the kernel until it is unmounted."""
    device = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={device},rootmode=40000,user_id=0,group_id=0".encode()
    if _LIBC.mount(b"linkless", os.fsencode(mount), b"fuse.linkless", 0, options):
        sys.stdout.write(f"{os.strerror(ctypes.get_errno())}\n")
        return
    sys.stdout.write("mounted\n")
    sys.stdout.flush()
    system = Linkless(back)
    while True:
        try:
            request = os.read(device, MAX_WRITE + 4_096)
        except OSError:  # unmounted
            return
        _, call, unique, node, *_ = _IN.unpack_from(request)
        data = request[_IN.size :]
        if call in (2, 42, 36):  # forget, interrupt: no answer is wanted
            continue
        error, answer = 0, b""
        try:
            if call == 26:  # the beginning: an old version of the protocol, which has all that is used here
                answer = struct.pack("<IIIIHHIIHHI28x", 7, 31, 2**17, 0, 12, 9, MAX_WRITE, 1, 32, 0, 0)
            elif call in system.calls:
                answer = system.calls[call](node, data)
            else:
                error = errno.ENOSYS
        except OSError as exc:
            error = exc.errno or errno.EIO
        with contextlib.suppress(OSError):  # the caller was killed
            os.write(device, struct.pack("<IiQ", 16 + len(answer), -error, unique) + answer)


if __name__ == "__main__":
    serve(sys.argv[1], sys.argv[2])
