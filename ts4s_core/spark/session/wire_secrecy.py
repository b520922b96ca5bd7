"""Whether Spark encrypts what it sends to other hosts: a task's closure holds the store's keys where a step needs them.

Training is spared where its workers meet at the driver: its keys come over that encrypted channel. Where they meet in rank 0's
process, the keys travel with the job, and what ranks tell each other by Spark's gathering is as secret as Spark's calls are.
"""

from __future__ import annotations

from collections.abc import Callable

from ts4s_core.settings import StorageSettings

#: What makes Spark encrypt its calls, and what each of them needs beside it.
_ENCRYPTING = (
    ("spark.network.crypto.enabled", "spark.authenticate"),
    ("spark.authenticate.enableSaslEncryption", "spark.authenticate"),
    ("spark.ssl.rpc.enabled", "spark.ssl.rpc.enabled"),
)
_LOOPBACK = ("127.", "::1", "[::1]", "localhost")


def keys_in_clear(conf: Callable[[str], str], master: str, storage: StorageSettings) -> str:
    """One line for a user who gives a store's keys to executors over a network that Spark does not encrypt; else nothing.

    Args:
        conf: a value of Spark's configuration, empty where it has none.
        master: the cluster's address.
        storage: where the keys would be.
    """
    given = [f"storage.{name}" for name in ("key", "secret") if getattr(storage, name) is not None]
    one_host = master.startswith("local") or conf("spark.driver.host").startswith(_LOOPBACK)
    encrypted = any(conf(name).lower() == conf(needed).lower() == "true" for name, needed in _ENCRYPTING)
    if not given or one_host or encrypted:
        return ""
    return (
        f"{' and '.join(given)} travel to the executors of {master} in clear: Spark encrypts nothing there. On a network that "
        "others can read set spark.authenticate=true and spark.network.crypto.enabled=true, or give executors a role of their own"
    )
