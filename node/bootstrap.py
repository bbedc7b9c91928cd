"""Joins the cluster: from a bootstrap token to a client certificate and a kubeconfig, and keeps both certificates."""

from __future__ import annotations

import asyncio
import logging
import random
from dataclasses import replace

from cryptography import x509

from control.api.status import ApiError
from control.client import certificates, kubeconfig
from control.client.certificates import CertificateError, CertificateFiles
from control.client.client import Client
from control.client.kubeconfig import Kubeconfig, KubeconfigError, Material
from node.config import KubeletConfig

log = logging.getLogger(__name__)

CLIENT_BASENAME = "kubelet-client"
SERVING_BASENAME = "kubelet-server"
RETRY_S = 1.0
ROTATION_CHECK_S = 600.0
GROUP = "system:nodes"


def user_of(node_name: str) -> str:
    """Return the user that a node is."""
    return f"system:node:{node_name}"


async def join(config: KubeletConfig) -> Kubeconfig:
    """Return the node's own kubeconfig, asking for its certificate with the bootstrap token where there is none."""
    if config.kubeconfig.exists() and not _has_run_out(config):
        return kubeconfig.load(config.kubeconfig)
    if config.bootstrap_kubeconfig is None:
        raise KubeconfigError(f"{config.kubeconfig}: missing or outdated, and no --bootstrap-kubeconfig is given")
    first = kubeconfig.load(config.bootstrap_kubeconfig)
    client = first.client("kubelet-bootstrap")
    try:
        files = await _until_signed(config, client)
    finally:
        await client.close()
    own = replace(
        first,
        client_certificate=Material(path=files.certificate.absolute()),
        client_key=Material(path=files.key.absolute()),
        token=Material(),
    )
    kubeconfig.write(config.kubeconfig, own, user_name=user_of(config.node_name))
    log.info("joined the cluster node=%s kubeconfig=%s", config.node_name, config.kubeconfig)
    return kubeconfig.load(config.kubeconfig)


async def _until_signed(config: KubeletConfig, client: Client) -> CertificateFiles:
    """Ask until the certificate is there: the API server may not be up yet when a node boots."""
    while True:
        try:
            return await _client_certificate(config, client)
        except (ApiError, CertificateError) as error:
            log.warning("cannot get the client certificate, retrying error=%s", error)
            await asyncio.sleep(RETRY_S)


async def _client_certificate(config: KubeletConfig, client: Client) -> CertificateFiles:
    return await certificates.request_certificate(
        client,
        certificates.CLIENT_KUBELET,
        user_of(config.node_name),
        [GROUP],
        certificates.USAGES_CLIENT,
        directory=config.cert_dir,
        basename=CLIENT_BASENAME,
    )


def _has_run_out(config: KubeletConfig) -> bool:
    """Tell whether the certificate that we once asked for is no longer valid."""
    from datetime import UTC, datetime

    path = config.cert_dir / f"{CLIENT_BASENAME}.crt"
    if config.bootstrap_kubeconfig is None or not path.exists():
        return False
    return x509.load_pem_x509_certificate(path.read_bytes()).not_valid_after_utc <= datetime.now(UTC)


async def serving_certificate(config: KubeletConfig, client: Client, addresses: list[str]) -> CertificateFiles:
    """Return the certificate of port 10250: the given one, one signed by the cluster, or a self-signed one."""
    if config.tls_cert_file is not None and config.tls_private_key_file is not None:
        return CertificateFiles(config.tls_cert_file, config.tls_private_key_file)
    if not config.rotate_server_certificates:
        return await asyncio.to_thread(self_signed, config, addresses)
    return await certificates.request_certificate(
        client,
        certificates.SERVING_KUBELET,
        user_of(config.node_name),
        [GROUP],
        certificates.USAGES_SERVING,
        directory=config.cert_dir,
        basename=SERVING_BASENAME,
        dns_names=[config.node_name],
        ip_addresses=addresses,
    )


def self_signed(config: KubeletConfig, addresses: list[str]) -> CertificateFiles:
    """Make a certificate that only says who we claim to be."""
    import ipaddress
    from datetime import UTC, datetime, timedelta

    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.x509.oid import NameOID

    files = CertificateFiles(config.cert_dir / "kubelet.crt", config.cert_dir / "kubelet.key")
    if files.certificate.exists() and files.key.exists():
        return files
    key = certificates.make_key()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, config.node_name)])
    names: list[x509.GeneralName] = [x509.DNSName(config.node_name)]
    names += [x509.IPAddress(ipaddress.ip_address(address)) for address in addresses]
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(days=365))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(key, hashes.SHA256())
    )
    kubeconfig.write_private(files.key, certificates.key_pem(key))
    kubeconfig.write_private(files.certificate, certificate.public_bytes(serialization.Encoding.PEM))
    return files


def _is_ours(config: KubeletConfig) -> bool:
    return (config.cert_dir / f"{CLIENT_BASENAME}.crt").exists()


async def rotate_forever(config: KubeletConfig, client: Client) -> None:
    """Ask for a new client certificate when most of the old one's life is over; the file is read anew by itself."""
    while True:
        await asyncio.sleep(ROTATION_CHECK_S * (0.8 + 0.4 * random.random()))
        if not _is_ours(config):
            continue  # the identity was given to us and is not ours to renew
        try:
            await _client_certificate(config, client)
        except (ApiError, CertificateError) as error:
            log.warning("cannot renew the client certificate error=%s", error)
