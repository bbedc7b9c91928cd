"""Mutual TLS between members, by files that may be renewed: each new connection uses them as they are then."""

from __future__ import annotations

import logging
import ssl
from typing import Any

from store.raft.contract import TLSFiles

logger = logging.getLogger(__name__)


def server_context(files: TLSFiles) -> ssl.SSLContext:
    """Return the TLS settings for peers that dial this member; they follow the files."""
    context = current = _context(ssl.PROTOCOL_TLS_SERVER, files)
    seen = _versions(files)

    def choose(connection: Any, name: str | None, first: ssl.SSLContext) -> None:
        nonlocal current, seen
        try:
            versions = _versions(files)
            if versions != seen:
                current = _context(ssl.PROTOCOL_TLS_SERVER, files)
                seen = versions
                logger.info("peer certificate reloaded: file=%s", files.cert_file)
        except OSError as error:
            logger.warning("peer certificate not reloaded: file=%s reason=%s", files.cert_file, error)
        if connection.context is not current:
            connection.context = current

    context.sni_callback = choose
    return context


def client_context(files: TLSFiles) -> ssl.SSLContext:
    """Return the TLS settings for dialling a peer once; it is known by its member name, not by a host name."""
    return _context(ssl.PROTOCOL_TLS_CLIENT, files)


def _context(protocol: int, files: TLSFiles) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # A resumed session would outlive the files that it was opened with.
    context.options |= ssl.OP_NO_TICKET
    if protocol == ssl.PROTOCOL_TLS_SERVER:
        context.num_tickets = 0
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(files.trusted_ca_file)
    context.load_cert_chain(files.cert_file, files.key_file)
    return context


def _versions(files: TLSFiles) -> tuple[tuple[int, int], ...]:
    stats = [file.stat() for file in (files.cert_file, files.key_file, files.trusted_ca_file)]
    return tuple((one.st_mtime_ns, one.st_ino) for one in stats)
