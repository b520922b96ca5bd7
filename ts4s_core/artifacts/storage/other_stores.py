"""Addresses that are neither folders nor S3: gs://, abfs://, hdfs:// and whatever else fsspec has a library for."""

from __future__ import annotations

from typing import Any

import fsspec

from ts4s_core.errors import SettingsError
from ts4s_core.settings import StorageSettings
from ts4s_core.settings.spark_conf import by_name

#: The package of each scheme, and what it needs besides; fsspec names some of them only.
_PACKAGES = {
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "abfs": "adlfs",
    "abfss": "adlfs",
    "az": "adlfs",
    "sftp": "paramiko",
    "ssh": "paramiko",
    "smb": "smbprotocol",
    "oss": "ossfs",
    "oci": "ocifs",
    "hf": "huggingface_hub",
}
#: pyarrow has the client of Hadoop's, and looks for the cluster's own library in its host's installation.
_HADOOP = "Hadoop's libhdfs on every host: HADOOP_HOME, CLASSPATH=$(hadoop classpath --glob) and, if need be, ARROW_LIBHDFS_DIR"


def other_filesystem(uri: str, storage: StorageSettings, *, setting: str) -> tuple[Any, str]:
    """A new filesystem of an address, and the path in it. ``storage.options`` are the filesystem's.

    Args:
        uri: the address.
        storage: has the options.
        setting: which one has the address, for errors.

    Raises:
        SettingsError: naming the package that is missing.
    """
    scheme = uri.partition("://")[0]
    # No instance and no listing cache: objects must be seen as they are; and a connection does not cross a fork.
    options: dict[str, Any] = {"use_listings_cache": False, "skip_instance_cache": True}
    try:
        fs, path = fsspec.core.url_to_fs(
            uri, **options, **{name: _value(text) for name, text in by_name(storage.options).items()}
        )
    except ImportError as exc:
        package = _PACKAGES.get(scheme)
        remedy = f"pip install {package}, here and on every host of the cluster" if package else "Install what serves it"
        raise SettingsError(
            f"{setting} {uri} needs the package {package or scheme}, which is not installed ({exc}): {remedy}"
        ) from exc
    except ValueError as exc:
        raise SettingsError(
            f"{setting} {uri} cannot be served: {exc}. Use a folder, s3:// or another address of fsspec's"
        ) from exc
    except TypeError as exc:
        raise SettingsError(
            f"{setting} {uri} does not take storage.options {list(storage.options)}: {exc}. Correct them"
        ) from exc
    except OSError as exc:
        remedy = f"It needs {_HADOOP}" if scheme == "hdfs" else "Check the address, and the network of this host"
        raise SettingsError(f"{setting} {uri} cannot be reached: {str(exc).splitlines()[0]}. {remedy}") from exc
    return fs, str(path)


def _value(text: str) -> str | int | float | bool:
    """An option as its library wants it: a number or a truth value where it is written as one."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
