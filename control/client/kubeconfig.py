"""Read and write kubeconfig files, and turn one into a client.

Files are the standard ones. Our gRPC hub stands beside the REST address as a cluster extension, which other
programs ignore:

    clusters:
    - name: lab
      cluster:
        server: https://10.1.0.11:6443
        certificate-authority-data: …
        extensions:
        - name: raftsman.dev/hub
          extension: {server: "10.1.0.11:6444,10.1.0.12:6444"}

Certificates, keys and tokens may stand in the file or beside it; those beside it are read anew for each new
connection, so that a rotated certificate is picked up without a restart.
"""

from __future__ import annotations

import base64
import binascii
import os
import ssl
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from control.client.client import Client

HUB_EXTENSION = "raftsman.dev/hub"
SERVICE_ACCOUNT_DIRECTORY = Path("/var/run/secrets/kubernetes.io/serviceaccount")


class KubeconfigError(Exception):
    """A kubeconfig file that cannot be used; the text says what is wrong and where."""


@dataclass(frozen=True)
class Material:
    """Bytes that stand in the kubeconfig, or the path of a file that holds them and may be replaced."""

    data: bytes | None = None
    path: Path | None = None

    def __bool__(self) -> bool:
        return self.data is not None or self.path is not None

    def read(self) -> bytes | None:
        """Return the bytes as they are now, or None when nothing is configured."""
        if self.data is not None:
            return self.data
        return self.path.read_bytes() if self.path is not None else None

    def stamp(self) -> tuple[int, int]:
        """Return what changes whenever the file is replaced."""
        if self.path is None:
            return (0, 0)
        try:
            status = self.path.stat()
        except FileNotFoundError:
            return (0, 0)
        return (status.st_mtime_ns, status.st_ino)


@dataclass(frozen=True)
class Kubeconfig:
    """Where one API server is and who we are to it: a kubeconfig's current context."""

    server: str
    """The REST address, https://host:port."""
    hub: tuple[str, ...] = ()
    """The gRPC hub's addresses, host:port; empty for an API server without one."""
    certificate_authority: Material = field(default_factory=Material)
    client_certificate: Material = field(default_factory=Material)
    client_key: Material = field(default_factory=Material)
    token: Material = field(default_factory=Material)
    insecure_skip_tls_verify: bool = False
    tls_server_name: str = ""
    namespace: str = "default"

    def stamp(self) -> tuple[tuple[int, int], ...]:
        """Return what changes whenever a credential file is replaced."""
        return tuple(
            m.stamp() for m in (self.certificate_authority, self.client_certificate, self.client_key, self.token)
        )

    def bearer_token(self) -> str | None:
        """Return the bearer token as it is now."""
        token = self.token.read()
        return token.decode().strip() if token else None

    def client(self, user_agent: str = "raftsman") -> Client:
        """Return a client over the hub where one is named, else over REST."""
        from control.client.connect import connect  # the transports import this module

        return connect(self, user_agent)

    def ssl_context(self) -> ssl.SSLContext | None:
        """Return a TLS context with the credentials as they are now, or None for plain HTTP."""
        if not self.server.startswith("https://"):
            return None
        authority = self.certificate_authority.read()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        if authority is not None:
            context.load_verify_locations(cadata=authority.decode())
        else:
            context.load_default_certs()
        if self.insecure_skip_tls_verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        certificate, key = self.client_certificate.read(), self.client_key.read()
        if certificate is not None and key is not None:
            _load_pair(context, certificate, key)
        context.set_alpn_protocols(["http/1.1"])
        return context


def _load_pair(context: ssl.SSLContext, certificate: bytes, key: bytes) -> None:
    """Load a certificate and its key from memory; ssl takes files only, so both go through a private one."""
    with tempfile.NamedTemporaryFile(prefix="raftsman-", suffix=".pem") as file:
        file.write(certificate.rstrip() + b"\n" + key)
        file.flush()
        context.load_cert_chain(file.name)


def load(path: str | Path, context: str = "") -> Kubeconfig:
    """Read a kubeconfig file and return its current (or the named) context."""
    import yaml  # here, since API servers know kubeconfigs' types and read none

    path = Path(path)
    try:
        document = yaml.load(path.read_bytes(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except FileNotFoundError:
        raise KubeconfigError(f"{path}: no such kubeconfig file") from None
    except yaml.YAMLError as error:
        raise KubeconfigError(f"{path}: not YAML: {error}") from None
    if not isinstance(document, dict):
        raise KubeconfigError(f"{path}: not a kubeconfig: expected a map")
    try:
        return parse(document, path.parent, context)
    except KubeconfigError as error:
        raise KubeconfigError(f"{path}: {error}") from None


def parse(document: Mapping[str, Any], directory: Path, context: str = "") -> Kubeconfig:
    """Return the current (or the named) context of a kubeconfig document; relative paths start at `directory`."""
    name = context or document.get("current-context") or ""
    entry = _named(document, "contexts", "context", str(name))
    cluster = _named(document, "clusters", "cluster", str(entry.get("cluster", "")))
    user = _named(document, "users", "user", str(entry["user"])) if entry.get("user") else {}
    server = str(cluster.get("server", "")).rstrip("/")
    if not server.startswith(("https://", "http://")):
        raise KubeconfigError(f"cluster {entry.get('cluster')!r}: server must be an http(s) URL, not {server!r}")
    token = _material(user, "", "tokenFile", directory)
    if user.get("token"):
        token = Material(data=str(user["token"]).encode())
    return Kubeconfig(
        server=server,
        hub=_hub(cluster),
        certificate_authority=_material(cluster, "certificate-authority-data", "certificate-authority", directory),
        client_certificate=_material(user, "client-certificate-data", "client-certificate", directory),
        client_key=_material(user, "client-key-data", "client-key", directory),
        token=token,
        insecure_skip_tls_verify=bool(cluster.get("insecure-skip-tls-verify", False)),
        tls_server_name=str(cluster.get("tls-server-name", "")),
        namespace=str(entry.get("namespace") or "default"),
    )


def in_cluster(directory: Path = SERVICE_ACCOUNT_DIRECTORY, environ: Mapping[str, str] = os.environ) -> Kubeconfig:
    """Return the configuration of a program that runs in a pod, from its ServiceAccount's volume."""
    host, port = environ.get("KUBERNETES_SERVICE_HOST", ""), environ.get("KUBERNETES_SERVICE_PORT", "443")
    if not host:
        raise KubeconfigError("not in a pod: KUBERNETES_SERVICE_HOST is not set")
    return Kubeconfig(
        server=f"https://{f'[{host}]' if ':' in host else host}:{port}",
        certificate_authority=Material(path=directory / "ca.crt"),
        token=Material(path=directory / "token"),
    )


def _named(document: Mapping[str, Any], listing: str, key: str, name: str) -> Mapping[str, Any]:
    for entry in document.get(listing) or ():
        if isinstance(entry, dict) and entry.get("name") == name:
            value = entry.get(key)
            return value if isinstance(value, dict) else {}
    raise KubeconfigError(f"no entry named {name!r} in {listing}")


def _hub(cluster: Mapping[str, Any]) -> tuple[str, ...]:
    for extension in cluster.get("extensions") or ():
        if isinstance(extension, dict) and extension.get("name") == HUB_EXTENSION:
            server = (extension.get("extension") or {}).get("server", "")
            return tuple(address.strip() for address in str(server).split(",") if address.strip())
    return ()


def _material(entry: Mapping[str, Any], data_key: str, path_key: str, directory: Path) -> Material:
    if data_key and entry.get(data_key):
        try:
            return Material(data=base64.b64decode(entry[data_key], validate=True))
        except (binascii.Error, ValueError):
            raise KubeconfigError(f"{data_key} is not base64") from None
    if entry.get(path_key):
        return Material(path=directory / str(entry[path_key]))
    return Material()


def render(config: Kubeconfig, *, cluster_name: str = "raftsman", user_name: str = "user") -> str:
    """Return a kubeconfig document for one cluster and one user."""
    cluster: dict[str, Any] = {"server": config.server}
    cluster |= _entry(config.certificate_authority, "certificate-authority-data", "certificate-authority")
    if config.insecure_skip_tls_verify:
        cluster["insecure-skip-tls-verify"] = True
    if config.tls_server_name:
        cluster["tls-server-name"] = config.tls_server_name
    if config.hub:
        cluster["extensions"] = [{"name": HUB_EXTENSION, "extension": {"server": ",".join(config.hub)}}]
    user = _entry(config.client_certificate, "client-certificate-data", "client-certificate")
    user |= _entry(config.client_key, "client-key-data", "client-key")
    if config.token.data is not None:
        user["token"] = config.token.data.decode()
    elif config.token.path is not None:
        user["tokenFile"] = str(config.token.path)
    context = {"cluster": cluster_name, "user": user_name}
    if config.namespace != "default":
        context["namespace"] = config.namespace
    name = f"{user_name}@{cluster_name}"
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": cluster_name, "cluster": cluster}],
        "users": [{"name": user_name, "user": user}],
        "contexts": [{"name": name, "context": context}],
        "current-context": name,
        "preferences": {},
    }
    import yaml

    return yaml.safe_dump(document, sort_keys=False)


def write(path: str | Path, config: Kubeconfig, *, cluster_name: str = "raftsman", user_name: str = "user") -> None:
    """Write a kubeconfig file, readable by its owner only."""
    write_private(Path(path), render(config, cluster_name=cluster_name, user_name=user_name).encode())


def write_private(path: Path, data: bytes) -> None:
    """Put a file in place at once and whole, with mode 0600."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # mkstemp makes it 0600
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _entry(material: Material, data_key: str, path_key: str) -> dict[str, Any]:
    if material.data is not None:
        return {data_key: base64.b64encode(material.data).decode()}
    if material.path is not None:
        return {path_key: str(material.path)}
    return {}
