"""Secrets in addresses: one check for every address that a user gives, and what may be shown and kept of one.

An address ends in manifests, logs, lists of bad rows and Prefect's parameters, so a password before an ``@`` and a signed query
are refused before anything is written; and whatever text is shown goes through :func:`without_secrets`, because libraries quote
addresses in their errors.
"""

from __future__ import annotations

import re

#: Where the name before an ``@`` is an account or a container, not a secret.
_NAMED = frozenset({"sftp", "ssh", "hdfs", "webhdfs", "abfs", "abfss", "wasb", "wasbs", "smb"})
_SECRET_NAME = re.compile(r"(?i)sign|secret|passw|pwd|token|credential|key|auth|jwt|\A(sig|sas|code|policy|session|pass|hmac)\Z")
_BEFORE_AT = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://([^\s'\"]*)@")
_QUERY = re.compile(r"([?&;#])([^\s'\"?&;#=]+)=([^\s'\"&;#]+)")
_S3 = re.compile(r"\As3[an]?://", re.IGNORECASE)
_JDBC = "jdbc:"
#: A login of Oracle's, which stands before the @ of what has no ``//`` yet.
_ORACLE = re.compile(r"(jdbc:oracle:\w+:)[^@\s'\"]+@")
_PORT = re.compile(r"[^:]*:\d*\Z")
_REMEDY = (
    "leave them out. The keys of a store go into TS4S_STORAGE__KEY and TS4S_STORAGE__SECRET, or come from the usual AWS chain, a "
    "database's login into JDBC_USER and JDBC_PASSWORD; what only such an address gives is to be downloaded first"
)


def in_one_scheme(address: str) -> str:
    """An address of S3 as ``s3://``, whatever Hadoop's connector of the day is called; any other as it is."""
    return _S3.sub("s3://", address)


def problem_of(setting: str, address: str) -> str | None:
    """What is wrong with an address that holds a secret, without that secret; None if it holds none.

    Args:
        setting: what the user calls it, as in ``data.source``.
        address: a path or URL, or several joined by ``::`` as fsspec takes them.
    """
    if not _is_address(address):
        return None
    shown = without_secrets(address)
    for part in address.split("::"):
        if _ORACLE.search(part) or any(_is_secret(*found.groups()) for found in _BEFORE_AT.finditer(part)):
            return f"{setting} holds a user name or keys before an @ ({shown}): {_REMEDY}"
        for _mark, name, _value in _QUERY.findall(part if part.startswith(_JDBC) else part.partition("://")[2]):
            if _SECRET_NAME.search(name):
                return f"{setting} holds a signature or a key in its query ({shown}): {_REMEDY}"
    return None


def without_secrets(text: str) -> str:
    """Text whose addresses show ``***`` in place of what may be a secret."""
    if not _is_address(text):
        return text
    text = _ORACLE.sub(r"\1***@", text)
    hidden = _BEFORE_AT.sub(lambda found: f"{found[1]}://***@" if _is_secret(found[1], found[2]) else found[0], text)
    return _QUERY.sub(lambda found: f"{found[1]}{found[2]}=***" if _SECRET_NAME.search(found[2]) else found[0], hidden)


def _is_address(text: str) -> bool:
    return "://" in text or _JDBC in text


def without_query(address: str) -> str:
    """An address without its query, as manifests and logs record it."""
    scheme = address.partition("://")[0].lower()
    return without_secrets(re.split(r"[?#]", address, maxsplit=1)[0] if scheme in ("http", "https") else address)


def _is_secret(scheme: str, before: str) -> bool:
    """Whether what stands between ``://`` and an ``@`` is more than a host, a port and a path, or a plain name."""
    first, slash, _rest = before.partition("/")
    if slash and (":" not in first or _PORT.match(first)):
        return False
    return bool(before) and (scheme.lower() not in _NAMED or ":" in before or "%3a" in before.lower())
