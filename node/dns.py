"""PURE: a pod's resolver configuration, hostname and hosts file."""

from __future__ import annotations

from collections.abc import Sequence

from control.api import meta
from control.api.meta import Object
from node import pod_spec
from node.runtime import DnsConfig

SEARCHES_MAX = 32
SERVERS_MAX = 3
HOSTNAME_MAX = 63
HOSTS_HEAD = "# Kubernetes-managed hosts file.\n"
HOSTS_HEAD_NODE = "# Kubernetes-managed hosts file (host network).\n"


def parse_resolv_conf(text: str) -> DnsConfig:
    """Read a resolv.conf."""
    servers: list[str] = []
    searches: list[str] = []
    options: list[str] = []
    for line in text.splitlines():
        words = line.split()
        if not words or words[0][0] in "#;":
            continue
        if words[0] == "nameserver" and len(words) > 1:
            servers.append(words[1])
        elif words[0] in ("search", "domain"):
            searches = [word.rstrip(".") or "." for word in words[1:]]
        elif words[0] == "options":
            options = words[1:]
    return DnsConfig(tuple(servers), tuple(searches), tuple(options))


def pod_dns(pod: Object, cluster_dns: Sequence[str], cluster_domain: str, node: DnsConfig) -> DnsConfig:
    """Return the pod's resolver configuration by its dnsPolicy and dnsConfig."""
    spec = pod["spec"]
    policy = spec.get("dnsPolicy") or "ClusterFirst"
    if policy == "ClusterFirst" and pod_spec.host_network(pod):
        policy = "Default"
    if policy in ("ClusterFirst", "ClusterFirstWithHostNet") and not cluster_dns:
        policy = "Default"
    if policy == "None":
        base = DnsConfig()
    elif policy == "Default":
        base = node
    else:
        namespace = meta.namespace(pod)
        own = (f"{namespace}.svc.{cluster_domain}", f"svc.{cluster_domain}", cluster_domain)
        base = DnsConfig(tuple(cluster_dns), own + node.searches, ("ndots:5",))
    return _merged(base, spec.get("dnsConfig") or {})


def _merged(base: DnsConfig, wish: Object) -> DnsConfig:
    options = dict(_split(option) for option in base.options)
    for entry in wish.get("options") or ():
        options[entry["name"]] = entry.get("value")
    return DnsConfig(
        servers=_unique([*base.servers, *(wish.get("nameservers") or ())])[:SERVERS_MAX],
        searches=_unique([*base.searches, *(wish.get("searches") or ())])[:SEARCHES_MAX],
        options=tuple(name if value is None else f"{name}:{value}" for name, value in options.items()),
    )


def _split(option: str) -> tuple[str, str | None]:
    name, colon, value = option.partition(":")
    return name, value if colon else None


def _unique(words: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(words))


def hostname(pod: Object) -> str:
    """Return the pod's hostname, cut to what the kernel takes."""
    name = pod["spec"].get("hostname") or meta.name(pod)
    return str(name)[:HOSTNAME_MAX].rstrip("-.")


def domain(pod: Object, cluster_domain: str) -> str:
    """Return the pod's domain, empty without a subdomain."""
    subdomain = pod["spec"].get("subdomain")
    return f"{subdomain}.{meta.namespace(pod)}.svc.{cluster_domain}" if subdomain else ""


def hosts_file(pod: Object, ips: Sequence[str], cluster_domain: str, node_hosts: str = "") -> str:
    """Return the pod's /etc/hosts: the node's own for host network, else its addresses and names."""
    if pod_spec.host_network(pod):
        text = HOSTS_HEAD_NODE + node_hosts
    else:
        text = HOSTS_HEAD + (
            "127.0.0.1\tlocalhost\n"
            "::1\tlocalhost ip6-localhost ip6-loopback\n"
            "fe00::0\tip6-localnet\n"
            "fe00::0\tip6-mcastprefix\n"
            "fe00::1\tip6-allnodes\n"
            "fe00::2\tip6-allrouters\n"
        )
        full = domain(pod, cluster_domain)
        names = f"{hostname(pod)}.{full}\t{hostname(pod)}" if full else hostname(pod)
        text += "".join(f"{ip}\t{names}\n" for ip in ips)
    aliases = pod["spec"].get("hostAliases") or ()
    if aliases:
        text += "\n# Entries added by HostAliases.\n"
        text += "".join("\t".join([entry["ip"], *entry.get("hostnames", ())]) + "\n" for entry in aliases)
    return text
