"""Secrets in addresses are refused, by name of the setting, and shown nowhere."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ts4s_core.addresses import problem_of, without_query, without_secrets
from ts4s_core.errors import SettingsError, StoreError
from ts4s_core.settings import load_settings
from ts4s_core.settings.groups import Group
from ts4s_core.settings.root import ADDRESSES, Settings

ROOT = Path(__file__).resolve().parents[2]
PLANTED = "planted-s3cret"
WITH_SECRETS = [
    f"https://user:{PLANTED}@host/data.csv",
    f"https://{PLANTED}@host/data.csv",
    f"HTTPS://user:{PLANTED}@host:8443/x",
    f"https://user:{PLANTED}/with/slash@host/x",
    f"https://user:a@{PLANTED}@host/x",
    f"s3://KEY:{PLANTED}@bucket/prefix",
    f"ftp://:{PLANTED}@host/x",
    f"sftp://user:{PLANTED}@host/x",
    f"jdbc:postgresql://user:{PLANTED}@host/db",
    f"jdbc:derby:/db;user=me;password={PLANTED}",
    f"jdbc:oracle:thin:me/{PLANTED}@//host:1521/db",
    f"sftp://user%3A{PLANTED}@host/x",
    f"abfss://container:{PLANTED}@account.dfs.core.windows.net/x",
    f"simplecache::https://user:{PLANTED}@host/x.csv",
    f"zip://inner.csv::https://user:{PLANTED}@host/x.zip",
    f"https://bucket.s3.amazonaws.com/x.csv?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Signature={PLANTED}",
    f"https://bucket.s3.amazonaws.com/x.csv?X-Amz-Credential={PLANTED}",
    f"https://storage.googleapis.com/b/x?X-Goog-Signature={PLANTED}",
    f"https://account.blob.core.windows.net/c/x.csv?sv=2024&sig={PLANTED}",
    f"https://host/x.csv?access_token={PLANTED}",
    f"https://host/x.csv?v=1&apikey={PLANTED}",
    f"https://host/x.csv#token={PLANTED}",
    f"s3://bucket/x.csv?AWSAccessKeyId={PLANTED}",
]
WITHOUT = [
    "artifacts",
    "user@host",
    "/data/a@b.csv",
    "s3://bucket/pre/fix",
    "s3://bucket/part-?.csv",
    "s3://bucket/a@b:c/x.csv",
    "https://host:8443/a@b/x.csv",
    "https://host/x.csv?download=true&v=3",
    "abfss://container@account.dfs.core.windows.net/x",
    "sftp://user@host/x.csv",
    "hdfs://name@node:9000/x",
    "spark://host:7077",
]


@pytest.mark.parametrize("address", WITH_SECRETS)
def test_an_address_with_a_secret_is_refused_without_showing_it(address: str) -> None:
    problem = problem_of("data.source", address)
    assert problem is not None
    assert problem.startswith("data.source holds ")
    assert "TS4S_STORAGE__KEY" in problem
    for shown in (
        problem,
        without_secrets(f"cannot open {address!r}: refused"),
        str(StoreError(f"no {address}")),
        without_query(address),
    ):
        assert PLANTED not in shown


@pytest.mark.parametrize("address", WITHOUT)
def test_an_address_without_one_is_taken_and_shown_whole(address: str) -> None:
    assert problem_of("data.source", address) is None
    assert without_secrets(f"in {address} there") == f"in {address} there"


def test_what_is_kept_of_an_address_has_no_query() -> None:
    assert without_query("https://host/x.csv?download=true#a") == "https://host/x.csv"
    assert without_query("s3://bucket/part-?.csv") == "s3://bucket/part-?.csv"


def test_every_setting_that_is_a_text_is_an_address_or_is_named_here() -> None:
    """A new setting has to be put on one of the two lists."""
    texts = {
        (group, name)
        for group, holder in Settings.model_fields.items()
        if isinstance(holder.annotation, type) and issubclass(holder.annotation, Group)
        for name, field in holder.annotation.model_fields.items()
        if field.annotation in (str, str | None)
    }
    no_address = {
        ("data", "text_column"),
        ("data", "id_column"),
        ("data", "label_column"),
        ("data", "csv_escape"),
        ("data", "query"),
        ("evaluate", "words"),
        ("storage", "region"),
        ("generate", "prompt"),
    }
    assert texts - no_address == set(ADDRESSES)


@pytest.mark.parametrize(("group", "name"), ADDRESSES)
def test_each_setting_is_checked_whichever_way_it_comes(group: str, name: str, tmp_path: Path) -> None:
    address = f"https://user:{PLANTED}@host/x"
    config = tmp_path / "c.toml"
    config.write_text(f'[{group}]\n{name} = "{address}"\n')
    ways = [
        lambda: load_settings({group: {name: address}}, environ={}),
        lambda: load_settings({}, environ={f"TS4S_{group}__{name}".upper(): address}),
        lambda: load_settings({}, config=config, environ={}),
    ]
    for way in ways:
        with pytest.raises(SettingsError) as refused:
            way()
        assert f"{group}.{name}" in str(refused.value)
        assert PLANTED not in str(refused.value)


def test_the_command_line_refuses_them_everywhere_and_leaves_nothing(tmp_path: Path) -> None:
    address = f"https://user:{PLANTED}@host/x"
    commands = [
        ["prepare", "--data.source", address],
        ["predict", "--model", "demo", "--data.source", "x.tsv", "--output", address],
        ["models", "promote", "demo", "v", "--reason", f"see {address}"],
        ["prepare", "--data.source", "x.tsv", "--spark.conf", f"spark.eventLog.dir={address}"],
        ["prepare", "--data.source", f"https://h/x.csv?X-Amz-Signature={PLANTED}"],
    ]
    for words in commands:
        done = subprocess.run(
            [sys.executable, "-m", "flows.cli", *words],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1), done.stderr
        assert "holds " in done.stderr
        assert PLANTED not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_value_that_is_cut_in_a_message_shows_no_part_of_its_secret() -> None:
    with pytest.raises(SettingsError) as refused:
        load_settings({"storage": {"endpoint_url": f"ftp://{PLANTED * 20}:x@host"}}, environ={})
    assert PLANTED[:7] not in str(refused.value)
