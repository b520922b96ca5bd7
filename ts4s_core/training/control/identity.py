"""The certificate of one attempt: workers know the control server by its fingerprint, and nothing else vouches for it."""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import os
import ssl
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass

_NAME = "ts4s control server"
#: Nobody looks at the dates: a certificate ends with its attempt, and hosts' clocks differ.
_VALID = datetime.timedelta(days=3650)


@dataclass(frozen=True)
class Identity:
    """What a control server proves who it is with.

    Attributes:
        context: for its end of connections; the private key is in it and nowhere else.
        fingerprint: SHA-256 of the certificate.
    """

    context: ssl.SSLContext
    fingerprint: str


def new_identity() -> Identity:
    """A key pair and its certificate, made for one attempt by whichever process listens."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, _NAME)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _VALID)
        .not_valid_after(now + _VALID)
        .sign(key, hashes.SHA256())
    )
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ) + certificate.public_bytes(serialization.Encoding.PEM)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.num_tickets = 0  # nobody comes back
    with _private_file(secret) as path:
        context.load_cert_chain(path)
    return Identity(context, fingerprint_of(certificate.public_bytes(serialization.Encoding.DER)))


def fingerprint_of(certificate: bytes | None) -> str:
    """SHA-256 of a certificate in DER."""
    return hashlib.sha256(certificate or b"").hexdigest()


def client_context() -> ssl.SSLContext:
    """For a worker's end: any certificate is taken, because the fingerprint is compared afterwards."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


@contextlib.contextmanager
def _private_file(content: bytes) -> Iterator[str]:
    """A path for a library that takes a key by no other way: memory on Linux, elsewhere a file that its owner alone can read."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("ts4s-identity")
        try:
            os.write(descriptor, content)
            yield f"/proc/self/fd/{descriptor}"
        finally:
            os.close(descriptor)
        return
    with tempfile.NamedTemporaryFile(prefix="ts4s-") as file:
        file.write(content)
        file.flush()
        yield file.name
