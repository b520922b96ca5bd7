"""Addresses of other stores: options reach their library, and what is missing is named."""

from __future__ import annotations

from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from ts4s_core.artifacts.storage.storage import Storage
from ts4s_core.data.files import SourceFiles
from ts4s_core.errors import SettingsError, SourceError
from ts4s_core.settings import StorageSettings

GIVEN: list[dict[str, Any]] = []


class Bucket(MemoryFileSystem):
    """A store in this process that takes options, as libraries of other stores do."""

    protocol = "bucket"
    store: dict[str, Any] = {}

    def __init__(self, project: str, retries: int = 3, secure: bool = True, **options: Any) -> None:
        super().__init__(**options)
        GIVEN.append({"project": project, "retries": retries, "secure": secure})


@pytest.fixture(autouse=True)
def registered() -> None:
    fsspec.register_implementation("bucket", Bucket, clobber=True)
    GIVEN.clear()
    Bucket.store.clear()


def test_options_reach_the_filesystem_of_store_and_data() -> None:
    settings = StorageSettings(uri="bucket://name/ts4s", options=("project=mine", "retries=5", "secure=false"))
    storage = Storage.open(settings)
    storage.create("a/b.json", b"{}")
    assert storage.read_bytes("a/b.json") == b"{}"
    assert [entry.path for entry in storage.list()] == ["a/b.json"]
    (found,), single = SourceFiles("bucket://name/ts4s/a/b.json", settings).find()
    assert (found.size, single) == (2, True)
    assert {tuple(given.items()) for given in GIVEN} == {(("project", "mine"), ("retries", 5), ("secure", False))}


def test_options_that_it_does_not_take_are_said() -> None:
    with pytest.raises(SettingsError, match=r"storage\.uri bucket://name/x does not take storage\.options .*project"):
        Storage.open(StorageSettings(uri="bucket://name/x"))


@pytest.mark.parametrize(
    ("address", "package"),
    [("gs://bucket/x", "gcsfs"), ("abfs://c@account.dfs.core.windows.net/x", "adlfs"), ("az://c/x", "adlfs")],
)
def test_a_missing_package_is_named(address: str, package: str) -> None:
    with pytest.raises(SettingsError, match=rf"storage\.uri .* needs the package {package}, which is not installed.*pip install"):
        Storage.open(StorageSettings(uri=address))
    with pytest.raises(SettingsError, match=rf"data\.source .* needs the package {package}"):
        SourceFiles(address, StorageSettings()).find()


def test_hadoop_without_its_library_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HADOOP_HOME", "CLASSPATH", "ARROW_LIBHDFS_DIR"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(SettingsError, match=r"data\.source hdfs://host:8020/x cannot be reached: .*libhdfs") as refused:
        SourceFiles("hdfs://host:8020/x", StorageSettings()).find()
    assert "\n" not in str(refused.value)


def test_a_hub_that_may_not_be_asked_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(SourceError, match=r"hf://datasets/nobody/nothing@main cannot be read: .*offline mode"):
        SourceFiles("hf://datasets/nobody/nothing@main", StorageSettings()).find()
