"""What a CNI call answers: results by version, and the configuration that makes a runtime call at all: pure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from net.cni import plan as plans
from net.cni.plan import HOST_MAC, Plan
from net.cni.spec import SUPPORTED_VERSIONS


def result(version: str, plan: Plan, previous: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return ADD's result; a previous plugin's result is kept and added to."""
    base = previous or {}
    interfaces = list(base.get("interfaces") or ())
    host: dict[str, Any] = {"name": plan.host_interface, "mac": HOST_MAC}
    inside: dict[str, Any] = {"name": plan.attachment.interface, "mac": plan.mac, "sandbox": plan.namespace_path}
    if version == "1.1.0":
        host["mtu"] = inside["mtu"] = plan.mtu
    ips: list[dict[str, Any]] = []
    routes: list[dict[str, Any]] = []
    for place in plan.places:
        address: dict[str, Any] = {
            "interface": len(interfaces) + 1,
            "address": f"{place.address}/{place.prefix_length}",
            "gateway": place.gateway,
        }
        # Only the versions before 1.0 say what the address itself says.
        ips.append(address | {"version": str(place.version)} if version.startswith("0.") else address)
        routes.append({"dst": plans.DEFAULTS[place.version], "gw": place.gateway})
    return {
        **base,
        "cniVersion": version,
        "interfaces": [*interfaces, host, inside],
        "ips": [*(base.get("ips") or ()), *ips],
        "routes": [*(base.get("routes") or ()), *routes],
        "dns": base.get("dns") or {},
    }


def missing_addresses(plan: Plan, previous: dict[str, Any] | None) -> list[str]:
    """Return, in words, what CHECK's previous result lacks; nothing where the runtime sends none."""
    listed = [entry.get("address") or "" for entry in (previous or {}).get("ips") or () if isinstance(entry, dict)]
    ours = [f"{place.address}/{place.prefix_length}" for place in plan.places]
    return [f"the previous result lacks {address}" for address in ours if listed and address not in listed]


def loopback_result(version: str, namespace_path: str) -> dict[str, Any]:
    """Return the result of the loopback plugin."""
    address: dict[str, Any] = {"interface": 0, "address": "127.0.0.1/8"}
    if version.startswith("0."):
        address["version"] = "4"
    lo = {"name": "lo", "mac": "00:00:00:00:00:00", "sandbox": namespace_path}
    return {"cniVersion": version, "interfaces": [lo], "ips": [address], "routes": [], "dns": {}}


def version_result(asked: str) -> dict[str, Any]:
    """Return VERSION's result, in the version that was asked for where we speak it."""
    spoken = asked if asked in SUPPORTED_VERSIONS else SUPPORTED_VERSIONS[-1]
    return {"cniVersion": spoken, "supportedVersions": list(SUPPORTED_VERSIONS)}


def answer(told: dict[str, Any] | None, exit_code: int) -> bytes:
    """Return the bytes that go back to the shim; None is success without output."""
    body = b"" if told is None else json.dumps(told, separators=(",", ":")).encode()
    return str(exit_code).encode() + body


def configuration_list(version: str, versions: Sequence[str], plugin: str, network: str) -> dict[str, Any]:
    """Return the network configuration that a runtime loads.

    A runtime of specification 1.1 takes the highest of `cniVersions` that it knows; an older one knows
    `cniVersion` alone.
    """
    capabilities = {"portMappings": True, "bandwidth": True}
    return {
        "cniVersion": version,
        "cniVersions": list(versions),
        "name": network,
        "plugins": [{"type": plugin, "capabilities": capabilities}],
    }
