"""What S3 servers answer to a conditional write, in the words of AWS and of others."""

from __future__ import annotations

from typing import Any

import pytest
from botocore.exceptions import ClientError
from s3fs.errors import translate_boto_error

from ts4s_core.artifacts.storage import objects
from ts4s_core.artifacts.storage.objects import WRITER, ObjectFiles, S3Files
from ts4s_core.artifacts.storage.s3_parts import PieceClient
from ts4s_core.artifacts.versions.refs import TEMPORARY
from ts4s_core.errors import ConflictError, StoreError
from ts4s_core.retries import Backoff


def answered(code: str, **more: str) -> OSError:
    error = translate_boto_error(ClientError({"Error": {"Code": code, "Message": "no", **more}}, "PutObject"))
    assert isinstance(error, OSError)
    return error


class Server:
    """Answers writes with the errors given, one after the other; keeps what was written when there are none left."""

    def __init__(self, *errors: OSError, keeps_first: bool = False) -> None:
        self._errors = list(errors)
        self._keeps_first = keeps_first
        self.writes = 0
        self.mark: str | None = "somebody"

    def pipe_file(self, path: str, data: bytes, *, mode: str, Metadata: dict[str, str]) -> None:  # noqa: N803
        assert (path, mode) == ("bucket/a.json", "create")
        self.writes += 1
        if self._keeps_first or not self._errors:
            self.mark = Metadata[WRITER]
        if self._errors:
            raise self._errors.pop(0)

    def call_s3(self, method: str, **_place: Any) -> dict[str, Any]:
        assert method == "head_object"
        if self.mark is None:
            raise FileNotFoundError
        return {"Metadata": {WRITER: self.mark}}


EXISTS = [
    answered("PreconditionFailed", Condition="If-None-Match"),  # AWS
    answered("PreconditionFailed"),  # servers that do not say which condition
    answered("412"),
]


@pytest.mark.parametrize("error", EXISTS)
def test_an_object_that_is_there_is_a_conflict(error: OSError) -> None:
    with pytest.raises(ConflictError, match=r"a\.json exists already"):
        S3Files(Server(error), "bucket", aws=True, pieces=PieceClient({})).create("a.json", b"1")


@pytest.mark.parametrize("error", EXISTS)
def test_our_own_write_whose_answer_was_lost_is_none(error: OSError) -> None:
    server = Server(error, keeps_first=True)
    S3Files(server, "bucket", aws=True, pieces=PieceClient({})).create("a.json", b"1")
    assert server.writes == 1  # what was taken the first time is not written again


def test_an_object_that_was_deleted_since_is_still_a_conflict() -> None:
    server = Server(EXISTS[0])
    server.mark = None
    with pytest.raises(ConflictError):
        S3Files(server, "bucket", aws=True, pieces=PieceClient({})).create("a.json", b"1")


def test_a_write_that_is_under_way_elsewhere_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "CONFLICTS", Backoff(tries=3, first_s=0.0))
    server = Server(answered("ConditionalRequestConflict"), answered("ConditionalRequestConflict"))
    S3Files(server, "bucket", aws=True, pieces=PieceClient({})).create("a.json", b"1")
    assert server.writes == 3
    busy = Server(*[answered("ConditionalRequestConflict", Message="ConditionalRequestConflict")] * 3)
    with pytest.raises(OSError, match="ConditionalRequestConflict"):
        S3Files(busy, "bucket", aws=True, pieces=PieceClient({})).create("a.json", b"1")


def test_other_failures_are_not_taken_for_conflicts() -> None:
    with pytest.raises(PermissionError):
        S3Files(Server(answered("AccessDenied")), "bucket", aws=True, pieces=PieceClient({})).create("a.json", b"1")


class Forgetful:
    """A server without conditional writes that does not keep what it took the first times."""

    def __init__(self, forgets: int, *, keeps: bytes | None = None) -> None:
        self._forgets, self._keeps = forgets, keeps
        self.writes = 0
        self.held: bytes | None = None

    def exists(self, path: str) -> bool:
        return TEMPORARY not in path and self.held is not None

    def pipe_file(self, path: str, data: bytes) -> None:
        if TEMPORARY in path:
            return  # the candidate
        self.writes += 1
        self.held = data if self.writes > self._forgets else self._keeps

    def ls(self, _folder: str, *, detail: bool) -> list[str]:
        assert not detail
        return []

    def cat_file(self, _path: str) -> bytes:
        if self.held is None:
            raise FileNotFoundError
        return self.held


@pytest.mark.parametrize("keeps", [None, b"ab"], ids=["nothing", "its beginning"])
def test_an_object_that_the_server_lost_is_written_again(monkeypatch: pytest.MonkeyPatch, keeps: bytes | None) -> None:
    monkeypatch.setattr(objects, "CREATIONS", Backoff(tries=3, first_s=0.0))
    server = Forgetful(2, keeps=keeps)
    ObjectFiles(server, "bucket").create("a.json", b"abc")
    assert (server.writes, server.held) == (3, b"abc")


def test_a_server_that_keeps_nothing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "CREATIONS", Backoff(tries=3, first_s=0.0))
    with pytest.raises(StoreError, match=r"a\.json was written 3 times, and is not there whole"):
        ObjectFiles(Forgetful(9), "bucket").create("a.json", b"abc")


def test_what_somebody_else_wrote_meanwhile_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "CREATIONS", Backoff(tries=3, first_s=0.0))
    server = Forgetful(9, keeps=b"another's")
    with pytest.raises(ConflictError):
        ObjectFiles(server, "bucket").create("a.json", b"abc")
    assert server.writes == 1
