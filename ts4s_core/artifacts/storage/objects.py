"""Writing to an object store through fsspec; s3fs for S3.

An object appears whole or not at all, and there is no rename: a version's files are put at their place, and the manifest,
created last, makes them a version.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import fsspec

from ts4s_core.artifacts.storage.other_stores import other_filesystem
from ts4s_core.artifacts.storage.s3_parts import PieceClient
from ts4s_core.artifacts.storage.storage_types import unchecked
from ts4s_core.artifacts.storage.transfer import BytesCallback, ignore_bytes, upload
from ts4s_core.artifacts.versions.refs import MANIFEST, TEMPORARY
from ts4s_core.artifacts.versions.verified import hash_file
from ts4s_core.errors import ConflictError, LeaseHeldError, StoreError
from ts4s_core.retries import Backoff, retried
from ts4s_core.settings import StorageSettings

log = logging.getLogger(__name__)
CONNECT_TIMEOUT_S = 10
READ_TIMEOUT_S = 60
ATTEMPTS_PER_CALL = 4
WRITER = "ts4s-writer"
#: Writes of an object that a server without conditional writes does not hold as it was written.
CREATIONS = Backoff(tries=3, first_s=0.2, factor=5.0)
#: Conditional writes of an object while another one of it is under way.
CONFLICTS = Backoff(tries=8, first_s=0.05)


class Upload(NamedTuple):
    """A multipart upload that was begun: the object's path in the store, the server's name for it, when it was begun."""

    path: str
    upload_id: str
    begun: float


def open_objects(settings: StorageSettings) -> tuple[Any, str, ObjectFiles]:
    """A filesystem of this process's own (s3fs must not cross a fork), the root path in it, and its write side.

    Raises:
        SettingsError: if no installed library serves the scheme.
    """
    scheme, _, rest = settings.uri.partition("://")
    if scheme != "s3":
        fs, path = other_filesystem(settings.uri, settings, setting="storage.uri")
        root = path.rstrip("/")
        return fs, root, ObjectFiles(fs, root)
    fs, root = s3_filesystem(settings), rest.strip("/")
    return fs, root, S3Files(fs, root, aws=settings.endpoint_url is None, pieces=PieceClient(s3_options(settings)))


def s3_filesystem(settings: StorageSettings) -> Any:
    """A new s3fs; without its caches of instances and listings, because objects must be seen as they are."""
    return fsspec.filesystem("s3", use_listings_cache=False, skip_instance_cache=True, **s3_options(settings))


def s3_options(settings: StorageSettings) -> dict[str, Any]:
    """Options of s3fs: addressing, checksums, retries, keys (without them, the usual AWS chain)."""
    config: dict[str, Any] = {
        "connect_timeout": CONNECT_TIMEOUT_S,
        "read_timeout": READ_TIMEOUT_S,
        # Back-off with jitter on 5xx, SlowDown and lost connections; s3fs repeats that in turn.
        "retries": {"mode": "standard", "total_max_attempts": ATTEMPTS_PER_CALL},
    }
    client: dict[str, Any] = {}
    if settings.endpoint_url:
        # Servers other than AWS seldom answer to bucket host names, nor know the newer checksums.
        config["s3"] = {"addressing_style": "path"}
        config["request_checksum_calculation"] = "when_required"
        config["response_checksum_validation"] = "when_required"
    if settings.region:
        client["region_name"] = settings.region
    return {
        "key": settings.key.get_secret_value() if settings.key else None,
        "secret": settings.secret.get_secret_value() if settings.secret else None,
        "endpoint_url": settings.endpoint_url,
        "config_kwargs": config,
        "client_kwargs": client,
    }


class _NotWholeError(StoreError):
    """An object is not there as it was written."""


class ObjectFiles:
    """The write side of any object store that fsspec knows; creation is guarded by a lease (see ``Storage.create``)."""

    def __init__(self, fs: Any, root: str) -> None:
        self._fs = fs
        self._root = root

    @property
    def conditional_writes(self) -> bool:
        """False: an unknown store promises nothing."""
        return False

    def write(self, path: str, data: bytes) -> None:
        """Write an object, over an older one if there is one."""
        self._fs.pipe_file(f"{self._root}/{path}", data)

    def create(self, path: str, data: bytes, *, check: Callable[[], None] = unchecked) -> None:
        """Write an object that must not exist, for who holds the store's lease.

        Nothing ties the look to the write here. A writer that is stopped just between them writes over what its successor
        wrote. So each writes a candidate of its own first, under a name that nobody else has; where another's candidate lies
        already, of somebody who may wake, it lets its own lie too (``gc`` removes it); and whoever finds that the lease was
        lost after all puts the other's candidate back.

        Args:
            path: the object.
            data: its content.
            check: asked right before each write, and after the last one; raises if the lease was lost.

        Raises:
            ConflictError: if it exists, or somebody else wrote it meanwhile.
            LeaseHeldError: if the lease was lost, and nobody else wrote it.
            StoreError: if the server does not hold what it said it took.
        """
        full, candidate = f"{self._root}/{path}", f"{_candidates(path)}{uuid.uuid4().hex}"
        if self._fs.exists(full):
            raise already_there(path)
        self.write(candidate, data)
        others = self._candidates_beside(candidate, path)
        written = False
        try:
            self._create_whole(path, data, check=check)
            written = True
            check()
        except LeaseHeldError as exc:
            if written and self._put_back(path, candidate):
                raise already_there(path) from exc
            raise
        finally:
            if not (others and written):
                self.delete(candidate)

    def _create_whole(self, path: str, data: bytes, *, check: Callable[[], None]) -> None:
        def write() -> None:
            check()
            self.write(path, data)
            try:
                there = bytes(self._fs.cat_file(f"{self._root}/{path}"))
            except FileNotFoundError:
                there = b""
            if there != data:
                if not data.startswith(there):
                    raise already_there(path)
                raise _NotWholeError(f"{path} was written {CREATIONS.tries} times, and is not there whole. Look at the server")

        # A server may still clear an attempt away that broke off, and with it the object that the next attempt wrote (rclone's).
        retried(
            write, backoff=CREATIONS, is_transient=lambda exc: isinstance(exc, _NotWholeError), what=f"{path} is not there whole"
        )

    def _put_back(self, path: str, own: str) -> bool:
        """Write what a successor wrote over what came too late, or take that away; whether there was a successor."""
        others = self._candidates_beside(own, path)
        if not others:
            self.delete(path)
            return False
        log.warning("%s was written too late, over what somebody else had written there: that is put back", path)
        self.write(path, bytes(self._fs.cat_file(others[0])))
        return True

    def _candidates_beside(self, own: str, path: str) -> list[str]:
        """Full paths of the candidates of others for a path."""
        folder, _, start = f"{self._root}/{_candidates(path)}".rpartition("/")
        names = [str(found).rpartition("/")[2] for found in self._fs.ls(folder, detail=False)]
        return sorted(
            f"{folder}/{name}" for name in names if name.startswith(start) and f"{folder}/{name}" != f"{self._root}/{own}"
        )

    def put(self, path: str, local: Path, on_bytes: BytesCallback = ignore_bytes) -> tuple[int, str]:
        """Upload a file; returns its size and sha256."""
        size, sha256 = hash_file(local)
        self._fs.put_file(str(local), f"{self._root}/{path}")
        on_bytes(size, size)
        return size, sha256

    def read_range(self, path: str, start: int, end: int) -> bytes:
        """Bytes of an object."""
        return bytes(self._fs.cat_file(f"{self._root}/{path}", start=start, end=end))

    def move(self, source: str, target: str) -> None:
        """Copy on the server and remove the source: no store of objects has a rename."""
        self._fs.cp_file(f"{self._root}/{source}", f"{self._root}/{target}")
        self.delete(source)

    def delete(self, path: str, *, prune: bool = False) -> None:
        """Remove an object; none there is no error. There are no folders to prune."""
        if self._fs.exists(f"{self._root}/{path}"):
            self._fs.rm_file(f"{self._root}/{path}")

    def delete_tree(self, folder: str) -> None:
        """Remove every object below a folder: its reservation first, so that its writer learns of it, and its manifest."""
        found = self._fs.find(f"{self._root}/{folder}")
        first = (TEMPORARY, MANIFEST)
        for path in sorted(found, key=lambda path: (not path.rpartition("/")[2].startswith(first), path)):
            self._fs.rm_file(path)

    def stage(self, folder: str) -> str:
        """A version is built in place."""
        return folder

    def unfinished_uploads(self) -> list[Upload]:
        """None: stores in general have no such uploads."""
        return []

    def abort_upload(self, upload: Upload) -> None:
        """Does nothing."""


class S3Files(ObjectFiles):
    """The write side of S3 and of servers that speak its language."""

    def __init__(self, fs: Any, root: str, *, aws: bool, pieces: PieceClient) -> None:
        super().__init__(fs, root)
        self._aws = aws
        self._pieces = pieces

    @functools.cached_property
    def conditional_writes(self) -> bool:  # type: ignore[override]
        """Whether the server honours conditions on a PUT: AWS does; of others it is asked, and nothing is left there."""
        if self._aws:
            return True
        # At the bucket's top, where a server on a file system makes no folders for it; below the prefix if that is all we may.
        honoured = self._refuses_by_condition(self._root.partition("/")[0])
        if not honoured:
            log.warning(
                "this S3 server has no conditional writes: ts4s lets one writer at a time create manifests and registry entries, "
                "by a lease object below leases/_store/"
            )
        return honoured

    def _refuses_by_condition(self, key_root: str) -> bool:
        """Send a PUT that no server can carry out: its MD5 is wrong, and its If-Match names a version of an object that is not.

        A server that knows conditions refuses it for the condition (404 or 412), any other for the MD5. A server that looks
        at the MD5 first counts as one without conditions, which is slower, never wrong.
        """
        from botocore.exceptions import ClientError  # type: ignore[import-untyped]

        bucket, _, prefix = key_root.partition("/")
        key = "/".join(part for part in (prefix, f".ts4s-no-such-object-{uuid.uuid4().hex}") if part)
        try:
            self._fs.call_s3("put_object", Bucket=bucket, Key=key, Body=b"x", IfMatch='"0"', ContentMD5="A" * 22 + "==")
        except (OSError, ClientError) as exc:
            code = _code(exc)
            if code in ("PreconditionFailed", "NoSuchKey", "412", "404"):
                return True
            if code in ("BadDigest", "InvalidDigest", "NotImplemented", "InvalidRequest", "InvalidArgument", "400", "501"):
                return False
            if code in ("AccessDenied", "403") and key_root != self._root:
                return self._refuses_by_condition(self._root)
            raise
        raise StoreError(
            f"S3 server of bucket {bucket} took {key}, whose MD5 was wrong: artifacts are not safe there. Use another one"
        )

    def create(self, path: str, data: bytes, *, check: Callable[[], None] = unchecked) -> None:
        """Write an object that must not exist; atomic where the server has conditional writes."""
        if not self.conditional_writes:
            super().create(path, data, check=check)
            return
        full, writer = f"{self._root}/{path}", uuid.uuid4().hex

        def write() -> None:
            try:
                self._fs.pipe_file(full, data, mode="create", Metadata={WRITER: writer})
            except OSError as exc:
                if not (isinstance(exc, FileExistsError) or _code(exc) in ("PreconditionFailed", "412")):
                    raise
                # The first attempt may have arrived and only its answer been lost: the object then bears our own mark.
                if self._writer_of(full) != writer:
                    raise already_there(path) from exc

        # AWS says so while another conditional write of this object is under way: who wins is not known yet.
        retried(
            write,
            backoff=CONFLICTS,
            is_transient=lambda exc: isinstance(exc, OSError) and _code(exc) in ("ConditionalRequestConflict", "409"),
            what=f"{path} is being written by another",
        )

    def put(self, path: str, local: Path, on_bytes: BytesCallback = ignore_bytes) -> tuple[int, str]:
        """Upload a file in parallel parts, with bounded memory."""
        return upload(self._fs, self._pieces, local, f"{self._root}/{path}", on_bytes=on_bytes)

    def read_range(self, path: str, start: int, end: int) -> bytes:
        """Bytes of an object, while other threads get others."""
        return self._pieces.read(f"{self._root}/{path}", start, end)

    def unfinished_uploads(self) -> list[Upload]:
        """Multipart uploads that were begun and neither completed nor aborted; their parts lie on the server unseen."""
        from botocore.exceptions import ClientError

        bucket, _, root = self._root.partition("/")
        prefix = f"{root}/" if root else ""
        found: list[Upload] = []
        marker: dict[str, str] = {}
        while True:
            try:
                page = self._fs.call_s3("list_multipart_uploads", Bucket=bucket, Prefix=prefix, **marker)
            except (ClientError, OSError) as exc:
                log.info("this server does not list unfinished uploads: %s", exc)
                return found
            for entry in page.get("Uploads", []):
                path = entry["Key"].removeprefix(prefix)
                found.append(Upload(path, entry["UploadId"], entry["Initiated"].timestamp()))
            if not page.get("IsTruncated"):
                return found
            marker = {"KeyMarker": page["NextKeyMarker"], "UploadIdMarker": page["NextUploadIdMarker"]}

    def abort_upload(self, upload: Upload) -> None:
        """Give an unfinished upload up: the server deletes its parts."""
        bucket, _, key = f"{self._root}/{upload.path}".partition("/")
        with contextlib.suppress(FileNotFoundError):  # finished or aborted meanwhile
            self._fs.call_s3("abort_multipart_upload", Bucket=bucket, Key=key, UploadId=upload.upload_id)

    def try_upload(self, path: str) -> None:
        """Begin a multipart upload and abort it."""
        bucket, _, key = f"{self._root}/{path}".partition("/")
        begun = self._pieces.call("create_multipart_upload", Bucket=bucket, Key=key)["UploadId"]
        self._pieces.call("abort_multipart_upload", Bucket=bucket, Key=key, UploadId=begun)

    def delete(self, path: str, *, prune: bool = False) -> None:
        """Remove an object; S3 takes none there for success."""
        self._fs.rm_file(f"{self._root}/{path}")

    def _writer_of(self, full: str) -> str:
        bucket, _, key = full.partition("/")
        try:
            head = self._fs.call_s3("head_object", Bucket=bucket, Key=key)
        except FileNotFoundError:
            return ""  # somebody else's, and deleted since
        return str(head.get("Metadata", {}).get(WRITER, ""))


def _code(exc: BaseException) -> str:
    """What the server called an error, or nothing."""
    from botocore.exceptions import ClientError

    cause = exc.__cause__ if isinstance(exc.__cause__, ClientError) else exc
    return str(cause.response.get("Error", {}).get("Code", "")) if isinstance(cause, ClientError) else ""


def _candidates(path: str) -> str:
    """Beginning of the names under which writers keep what they are about to create at a path."""
    folder, _, name = path.rpartition("/")
    return f"{folder}/{TEMPORARY}{name}." if folder else f"{TEMPORARY}{name}."


def already_there(path: str) -> ConflictError:
    """The error of a create that came too late."""
    return ConflictError(f"{path} exists already: it is create-only and somebody else wrote it first")
