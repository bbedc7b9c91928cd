"""etcd's flags that mean nothing here, or cannot be honoured: named, so that nobody believes in what does not happen.

Flags *without effect* are taken and logged, because the member behaves well without them. *Refused* ones would change
what users may rely on; a member does not start with them.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import click

log = logging.getLogger(__name__)

_NO_BBOLT = "there is no bbolt file"
_NO_PROXY = "the v2 proxy is not part of the store"
_NO_DISCOVERY = "members are named by --initial-cluster or added by etcdctl member add"
_NO_TRACING = "no traces are sent; /metrics has the figures"
_MEMBER_URI = "members are known by the URI raftsman://member/NAME in their certificates"


@dataclass(frozen=True)
class Foreign:
    """One flag of etcd's."""

    name: str
    reason: str
    is_switch: bool = False
    harmless: tuple[str, ...] = ("",)
    """Values that are taken although the flag is refused: those that ask for what is so anyway."""
    is_refused: bool = False


def _ignored(reason: str, *names: str) -> tuple[Foreign, ...]:
    return tuple(Foreign(name, reason) for name in names)


def _ignored_switch(reason: str, *names: str) -> tuple[Foreign, ...]:
    return tuple(Foreign(name, reason, is_switch=True) for name in names)


def _refused(name: str, reason: str, *harmless: str) -> Foreign:
    return Foreign(name, reason, harmless=("", *harmless), is_refused=True)


def _refused_switch(name: str, reason: str, *, harmless: bool = False) -> Foreign:
    return Foreign(name, reason, is_switch=True, harmless=(str(harmless),), is_refused=True)


WITHOUT_EFFECT = (
    *_ignored(_NO_BBOLT, "backend-bbolt-freelist-type", "backend-batch-interval", "backend-batch-limit"),
    *_ignored(_NO_BBOLT, "experimental-backend-bbolt-freelist-type"),
    *_ignored(_NO_BBOLT, "experimental-bootstrap-defrag-threshold-megabytes"),
    *_ignored_switch(_NO_BBOLT, "experimental-txn-mode-write-with-shared-buffer"),
    *_ignored_switch("defragmentation stops nothing", "experimental-stop-grpc-service-on-defrag"),
    *_ignored("two snapshots are kept, and the log back to the older one", "max-snapshots", "max-wals"),
    *_ignored("connections between members have bounds of their own", "raft-read-timeout", "raft-write-timeout"),
    *_ignored_switch("there is no JSON gateway; pages for probes are always served", "enable-grpc-gateway"),
    *_ignored("browsers are not served: there is no JSON gateway", "cors", "host-whitelist"),
    *_ignored_switch("a listening address is taken over at once", "socket-reuse-address"),
    *_ignored_switch("elections begin after a whole timeout", "initial-election-tick-advance"),
    *_ignored("passwords are hashed by scrypt", "bcrypt-cost"),
    *_ignored("all metrics are always served", "metrics"),
    *_ignored("lines have one form", "logger", "log-format"),
    *_ignored_switch("it went with etcd 3.4; say --log-level=debug", "debug"),
    *_ignored("it went with etcd 3.4; say --log-level", "log-package-levels"),
    *_ignored("nothing rotates: --enable-log-rotation is refused", "log-rotation-config-json"),
    *_ignored("the store has no v2 API", "v2-deprecation"),
    *_ignored_switch("compaction frees in small steps", "experimental-compact-hash-check-enabled"),
    *_ignored("compaction frees in small steps", "experimental-compaction-batch-limit"),
    *_ignored("compaction frees in small steps", "experimental-compaction-sleep-interval"),
    *_ignored("members are compared by etcdctl endpoint hashkv", "experimental-compact-hash-check-time"),
    *_ignored("members are compared by etcdctl endpoint hashkv", "experimental-corrupt-check-time"),
    *_ignored_switch("the log and every snapshot are checked at each start", "experimental-initial-corrupt-check"),
    *_ignored_switch(
        "a new leader gives every lease its full time",
        *("experimental-enable-lease-checkpoint", "experimental-enable-lease-checkpoint-persist"),
    ),
    *_ignored(
        "there is no downgrade to check for, and nothing is timed one by one",
        *("experimental-downgrade-check-time", "experimental-warning-apply-duration"),
        "experimental-warning-unary-request-duration",
    ),
    *_ignored("a member serves as soon as it has a leader", "experimental-wait-cluster-ready-timeout"),
    *_ignored_switch(_MEMBER_URI, "experimental-peer-skip-client-san-verification"),
    *_ignored(_MEMBER_URI, "peer-client-cert-file", "peer-client-key-file", "client-cert-file", "client-key-file"),
    *_ignored(
        _NO_TRACING,
        *("experimental-distributed-tracing-address", "experimental-distributed-tracing-service-name"),
        *("experimental-distributed-tracing-instance-id", "experimental-distributed-tracing-sampling-rate"),
    ),
    *_ignored(_NO_PROXY, "proxy-failure-wait", "proxy-refresh-interval", "proxy-dial-timeout"),
    *_ignored(_NO_PROXY, "proxy-write-timeout", "proxy-read-timeout", "discovery-fallback"),
)
REFUSED = (
    _refused("wal-dir", "log and snapshots share --data-dir; make member/raft in it a mount of the faster disk"),
    _refused("discovery", _NO_DISCOVERY),
    _refused("discovery-proxy", _NO_DISCOVERY),
    _refused("discovery-srv", _NO_DISCOVERY),
    _refused("discovery-srv-name", _NO_DISCOVERY),
    _refused("proxy", _NO_PROXY, "off"),
    _refused("experimental-enable-v2v3", "the store has no v2 API"),
    _refused_switch("enable-v2", "the store has no v2 API"),
    _refused_switch("pre-vote", "a member always asks whether it would win before it stands", harmless=True),
    _refused_switch("peer-auto-tls", "members prove who they are: give --peer-cert-file, --peer-key-file and a CA"),
    _refused("peer-cert-allowed-cn", _MEMBER_URI),
    _refused("peer-cert-allowed-hostname", _MEMBER_URI),
    _refused("peer-crl-file", "revoked members are removed from the cluster: etcdctl member remove"),
    _refused("client-cert-allowed-hostname", "give users roles instead: the certificate's common name is the user"),
    _refused_switch("socket-reuse-port", "two members at one address would share its clients at random"),
    _refused_switch("force-new-cluster", "save a snapshot and make a new cluster of it: raftsman store restore"),
    _refused_switch("enable-pprof", "there is no Go to profile; py-spy attaches to the process"),
    _refused_switch("enable-log-rotation", "have systemd or logrotate do it"),
    _refused_switch("experimental-enable-distributed-tracing", _NO_TRACING),
    _refused_switch("experimental-memory-mlock", "the whole state is in memory; turn swap off instead"),
    _refused("auth-token", "tokens are the store's own, signed by a key that all members share", "simple"),
)


def add_to(command: click.Command) -> None:
    """Have a command take the flags; help does not show them."""
    for flag in (*WITHOUT_EFFECT, *REFUSED):
        kind = click.BOOL if flag.is_switch else click.STRING
        command.params.append(click.Option([f"--{flag.name}"], type=kind, hidden=True, help=flag.reason))


def take(flags: dict[str, object]) -> None:
    """Take the flags out of those given: log what has no effect, refuse what cannot be honoured."""
    for flag in (*WITHOUT_EFFECT, *REFUSED):
        value = flags.pop(flag.name.replace("-", "_"), None)
        if value is None or (flag.is_refused and str(value) in flag.harmless):
            continue
        if flag.is_refused:
            raise click.UsageError(f"--{flag.name} is not supported: {flag.reason}")
        log.info("flag without effect flag=--%s reason=%s", flag.name, flag.reason)


def table() -> str:
    """All of them as text, for people."""
    lines = []
    for title, flags in (("Taken, without effect", WITHOUT_EFFECT), ("Refused", REFUSED)):
        lines += [title, *(f"  --{flag.name:<55} {flag.reason}" for flag in flags), ""]
    return "\n".join(lines)
