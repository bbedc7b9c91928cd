"""TLS of the client side: contexts that follow their files."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ServerTLS:
    """PEM files of a server."""

    cert_file: Path
    key_file: Path
    trusted_ca_file: Path | None = None
    client_cert_auth: bool = False
    """Whether clients must show a certificate of the trusted CA."""
    crl_file: Path | None = None
    """Certificates of the CA that count no more."""
    version_min: ssl.TLSVersion = ssl.TLSVersion.TLSv1_2
    version_max: ssl.TLSVersion = ssl.TLSVersion.MAXIMUM_SUPPORTED
    ciphers: str = ""
    """OpenSSL's names, for TLS 1.2; empty for its choice."""


class Certificates:
    """The TLS context of a server; a renewed certificate is used from the next connection on."""

    def __init__(self, tls: ServerTLS, protocols: Sequence[str] = ("h2", "http/1.1")) -> None:
        self._tls = tls
        self._protocols = list(protocols)
        optional = (tls.trusted_ca_file, tls.crl_file)
        self._files = [tls.cert_file, tls.key_file, *(file for file in optional if file is not None)]
        self._versions = self._look()
        self._current = self._make()
        self.context = self._current
        """What listeners are given; each handshake then takes the current one."""
        self.context.sni_callback = self._choose

    def _look(self) -> tuple[tuple[int, int], ...]:
        stats = [file.stat() for file in self._files]
        return tuple((stat.st_mtime_ns, stat.st_ino) for stat in stats)

    def _make(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version, context.maximum_version = self._tls.version_min, self._tls.version_max
        if self._tls.ciphers:
            context.set_ciphers(self._tls.ciphers)
        # A resumed session would outlive the files that it was opened with.
        context.num_tickets = 0
        context.options |= ssl.OP_NO_TICKET
        context.set_alpn_protocols(self._protocols)
        context.load_cert_chain(self._tls.cert_file, self._tls.key_file)
        if self._tls.trusted_ca_file is not None:
            context.load_verify_locations(self._tls.trusted_ca_file)
        if self._tls.crl_file is not None:
            context.load_verify_locations(self._tls.crl_file)
            context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
        if self._tls.client_cert_auth:
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    def _choose(self, connection: Any, name: str | None, context: ssl.SSLContext) -> None:
        """Have a new connection use the files as they are now."""
        try:
            versions = self._look()
            if versions != self._versions:
                self._current = self._make()
                self._versions = versions
                log.info("certificate reloaded cert_file=%s", self._tls.cert_file)
        except (OSError, ssl.SSLError) as error:
            log.warning("certificate not reloaded cert_file=%s reason=%s", self._tls.cert_file, error)
        if connection.context is not self._current:
            connection.context = self._current


def common_name(certificate: dict[str, Any] | None) -> str:
    """The subject's common name in a verified certificate; empty without one."""
    for attributes in (certificate or {}).get("subject", ()):
        for name, value in attributes:
            if name == "commonName":
                return str(value)
    return ""
