"""A session that is a client of a Spark Connect server: no JVM here, no Java, nothing of the cluster's started or ended.

The server's application has its configuration already; what a session can still set is Spark SQL's.
"""

from __future__ import annotations

import hashlib
import os
import socket
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ts4s_core.errors import SettingsError, SparkError
from ts4s_core.settings import SparkSettings

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

#: How addresses of such servers begin.
SCHEME = "sc://"
_PORT = 15002
_REACH_LIMIT_S = 10.0
#: With one of these, gRPC goes by a proxy, and the server itself need not be reachable.
_PROXIES = ("grpc_proxy", "https_proxy", "http_proxy")
#: Of the session, unless the user says otherwise: as sessions of ts4s are everywhere.
_DEFAULTS = {"spark.sql.session.timeZone": "UTC"}


def connect(spark: SparkSettings, conf: Mapping[str, str]) -> SparkSession:
    """A new session of the server in ``spark.master``.

    Args:
        spark: the server's address, and perhaps its token as ``secret``.
        conf: the user's configuration.

    Raises:
        SettingsError: if the server's application cannot be given some of the configuration any more.
        SparkError: if the server cannot be reached.
    """
    _reach(spark.master)
    from pyspark.sql import SparkSession

    url = spark.master
    if spark.secret is not None:
        url += f"{'' if ';' in url else '/'};token={spark.secret.get_secret_value()}"
    session = SparkSession.builder.remote(url).create()
    refused = []
    for name, value in {**_DEFAULTS, **conf}.items():
        try:
            session.conf.set(name, value)
        except Exception as exc:  # of a class that versions name differently
            refused.append(f"{name} ({str(exc).splitlines()[0][:200]})")
    if refused:
        session.stop()
        raise SettingsError(
            f"spark.conf {', '.join(refused)} cannot be set by a client of {spark.master}: its application has started already. "
            "Set it where the server is started"
        )
    return session


def is_alive(session: SparkSession) -> bool:
    """Whether the server still knows a session; raises what its client makes of one that it does not reach."""
    return not session.is_stopped and bool(session.conf.get("spark.sql.session.timeZone"))  # type: ignore[attr-defined]


class SentFiles:
    """Files that every executor has, for functions that run there.

    They go to the server as a file of the session, once: a message of Spark Connect, which a function is part of, has a limit.
    """

    def __init__(self, name: str, files: Mapping[str, bytes]) -> None:
        self._name = name
        self._files: Mapping[str, bytes] | None = files

    def __getstate__(self) -> dict[str, Any]:
        """Without the files, where a function is sent."""
        return {"_name": self._name, "_files": None}

    @property
    def value(self) -> Mapping[str, bytes]:
        """The files by name."""
        if self._files is None:
            from pyspark import SparkFiles

            with zipfile.ZipFile(SparkFiles.get(self._name)) as archive:
                self._files = {name: archive.read(name) for name in archive.namelist()}
        return self._files


def send_files(session: SparkSession, files: Mapping[str, bytes], folder: Path) -> SentFiles:
    """Send files to the executors of a session.

    Args:
        session: the session.
        files: by name.
        folder: for the file that is sent, until this program ends.
    """
    digest = hashlib.sha256()
    for name in sorted(files):
        digest.update(f"{name} {hashlib.sha256(files[name]).hexdigest()}\n".encode())
    # A name is taken once a session, for one content.
    path = folder / f"ts4s-{digest.hexdigest()[:32]}.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(files):
            archive.writestr(zipfile.ZipInfo(name), files[name])
    session.addArtifacts(str(path), file=True)  # type: ignore[attr-defined]
    path.unlink()
    return SentFiles(path.name, files)


def _reach(master: str) -> None:
    """Refuse a server that nobody answers for, which gRPC would try to reach for ten minutes.

    Raises:
        SparkError: if there is no connection.
    """
    address = urlsplit(master.partition(";")[0])
    if any(os.environ.get(name) or os.environ.get(name.upper()) for name in _PROXIES):
        return
    try:
        socket.create_connection((address.hostname or "", address.port or _PORT), timeout=_REACH_LIMIT_S).close()
    except (OSError, ValueError) as exc:
        raise SparkError(
            f"Spark Connect server {master} cannot be reached: {exc}. Check the address in spark.master, and that the server "
            "runs (sbin/start-connect-server.sh of Spark)"
        ) from exc
