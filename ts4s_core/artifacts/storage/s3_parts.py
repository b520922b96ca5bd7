"""Pieces of large objects of S3, over botocore's blocking client: threads sign, copy and receive them side by side.

s3fs does that work on its one event loop, which keeps one core busy and no more; all that is small stays with it.
"""

from __future__ import annotations

import threading
from typing import Any

from ts4s_core.retries import Backoff, retried

#: Tries of one request: back-off with jitter on 5xx, SlowDown and lost connections, 20 s at most between two.
ATTEMPTS = 10
#: Before an answer that broke off within its body, which botocore does not ask for again, is asked for again.
BODIES = Backoff(tries=5, first_s=0.1, factor=4.0)


class _BodyBrokenError(OSError):
    """An answer broke off within its body."""


class PieceClient:
    """A client with the options of s3fs (``objects.s3_options``); connects at the first request; any thread may use it."""

    def __init__(self, options: dict[str, Any]) -> None:
        self._options = options
        self._lock = threading.Lock()
        self._made: Any = None

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """One request of S3's, as ``upload_part``.

        Raises:
            OSError: what the server answered, in s3fs's translation: ``FileNotFoundError``, ``PermissionError`` and others.
        """
        from botocore.exceptions import ClientError  # type: ignore[import-untyped]
        from s3fs.errors import translate_boto_error  # type: ignore[import-untyped]

        try:
            answer: dict[str, Any] = getattr(self._client(), method)(**params)
        except ClientError as exc:
            raise translate_boto_error(exc) from exc
        return answer

    def read(self, path: str, start: int, end: int) -> bytes:
        """Bytes ``[start, end)`` of an object that has them.

        Raises:
            OSError: see :meth:`call`.
        """
        from botocore.exceptions import HTTPClientError, IncompleteReadError

        bucket, _, key = path.partition("/")

        def read() -> bytes:
            body = self.call("get_object", Bucket=bucket, Key=key, Range=f"bytes={start}-{end - 1}")["Body"]
            try:
                with body:
                    return bytes(body.read())
            except (HTTPClientError, IncompleteReadError) as exc:
                raise _BodyBrokenError(str(exc)) from exc

        return retried(
            read, backoff=BODIES, is_transient=lambda exc: isinstance(exc, _BodyBrokenError), what=f"the body of {path} broke off"
        )

    def _client(self) -> Any:
        with self._lock:
            if self._made is None:
                from botocore.config import Config  # type: ignore[import-untyped]
                from botocore.session import Session  # type: ignore[import-untyped]

                options = self._options
                retries = {"mode": "standard", "total_max_attempts": ATTEMPTS}
                self._made = Session().create_client(
                    "s3",
                    endpoint_url=options["endpoint_url"],
                    aws_access_key_id=options["key"],
                    aws_secret_access_key=options["secret"],
                    config=Config(**{**options["config_kwargs"], "retries": retries}),
                    **options["client_kwargs"],
                )
            return self._made
