from __future__ import annotations

import pytest

from ts4s_core.settings import StorageSettings
from ts4s_core.spark.session.wire_secrecy import keys_in_clear

KEYS = StorageSettings(uri="s3://bucket", key="KEY", secret="HUSH")
CLUSTER = {"spark.driver.host": "10.0.0.7"}
AUTHENTICATED = CLUSTER | {"spark.authenticate": "true"}


def told(conf: dict[str, str], *, master: str = "spark://10.0.0.7:7077", storage: StorageSettings = KEYS) -> str:
    return keys_in_clear(lambda name: conf.get(name, ""), master, storage)


def test_keys_that_others_can_read_are_told_by_name_and_never_shown():
    line = told(CLUSTER)
    assert line.startswith("storage.key and storage.secret travel to the executors of spark://10.0.0.7:7077 in clear")
    assert "spark.network.crypto.enabled=true" in line
    assert "KEY" not in line
    assert "HUSH" not in line
    assert told(AUTHENTICATED) == line
    # Encryption without authentication is none: Spark ignores it.
    assert told(CLUSTER | {"spark.network.crypto.enabled": "true"}) == line


@pytest.mark.parametrize(
    ("conf", "options"),
    [
        (AUTHENTICATED | {"spark.network.crypto.enabled": "True"}, {}),
        (AUTHENTICATED | {"spark.authenticate.enableSaslEncryption": "true"}, {}),
        (CLUSTER | {"spark.ssl.rpc.enabled": "true"}, {}),
        ({"spark.driver.host": "127.0.0.1"}, {}),
        ({"spark.driver.host": "[::1]"}, {}),
        (CLUSTER, {"master": "local[2]"}),
        (CLUSTER, {"storage": StorageSettings(uri="s3://bucket")}),
    ],
)
def test_nothing_is_said_where_nobody_reads_a_key(conf: dict[str, str], options: dict):
    assert told(conf, **options) == ""
