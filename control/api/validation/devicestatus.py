"""Rules of the status of claims to devices: what was allocated, for whom, and what is told of it."""

from __future__ import annotations

from typing import Any

from control.api.meta import Object
from control.api.validation import ip_forms, names
from control.api.validation.deviceclaims import (
    CONFIGS_MAX,
    RequestNames,
    check_configuration,
    check_raw,
    check_request_reference,
    check_request_references,
    request_names,
)
from control.api.validation.devices import (
    check_binding_conditions,
    check_list,
    check_pool_name,
    check_set,
    check_share,
)
from control.api.validation.faults import IMMUTABLE, Faults
from control.api.validation.forms import check_conditions, check_driver_name, metadata_of
from control.api.validation.internal import internal
from control.api.validation.nodeselectors import check_node_selector

_RESERVED_MAX, _RESULTS_MAX, _CONDITIONS_MAX, _ADDRESSES_MAX = 256, 32, 8, 16
_DATA_BYTES_MAX = 10 * 1024
_INTERFACE_LETTERS_MAX, _HARDWARE_LETTERS_MAX = 256, 128
_Device = tuple[Any, Any, Any, Any]


def check_device_claim_status(new: Object, old: Object, faults: Faults) -> None:
    """Check the status of a ResourceClaim."""
    now, was = new.get("status") or {}, old.get("status") or {}
    known = request_names((new.get("spec") or {}).get("devices") or {})
    reserved, allocation = now.get("reservedFor") or [], now.get("allocation")
    check_set(reserved, _RESERVED_MAX, _check_consumer, "uid", "status.reservedFor", faults)
    _check_devices(now, faults)
    if reserved and allocation is None:
        faults.forbidden("status.reservedFor", "may not be specified when `allocated` is not set")
    elif metadata_of(new).get("deletionTimestamp") and not _is_within(reserved, was.get("reservedFor") or []):
        text = "new entries may not be added while `deallocationRequested` or `deletionTimestamp` are set"
        faults.forbidden("status.reservedFor", text)
    if allocation is None:
        return
    if was.get("allocation") is not None:
        if allocation != was["allocation"]:
            shown = internal("resource.v1.AllocationResult", allocation)
            faults.invalid("status.allocation", shown, IMMUTABLE)
    else:
        _check_allocation(allocation, known, faults)


def _is_within(entries: list[Any], others: list[Any]) -> bool:
    return all(entry in others for entry in entries)


def _check_consumer(consumer: dict[str, Any], path: str, faults: Faults) -> None:
    for field in ("resource", "name", "uid"):
        if not consumer.get(field):
            faults.required(f"{path}.{field}")


def _device(entry: dict[str, Any]) -> _Device:
    return entry.get("driver"), entry.get("pool"), entry.get("device"), entry.get("shareID")


def _check_devices(status: dict[str, Any], faults: Faults) -> None:
    results = ((status.get("allocation") or {}).get("devices") or {}).get("results") or ()
    allocated = {_device(entry) for entry in results}
    seen: set[_Device] = set()
    for index, entry in enumerate(status.get("devices") or ()):
        here, device = f"status.devices[{index}]", _device(entry)
        _check_device(entry, device, allocated, here, faults)
        if device in seen:
            faults.duplicate(here, _shown(device))
        seen.add(device)


def _shown(device: _Device) -> str:
    return "/".join(str(part) for part in device if part is not None)


def _check_device(entry: dict[str, Any], device: _Device, allocated: set[_Device], path: str, faults: Faults) -> None:
    check_driver_name(entry.get("driver") or "", f"{path}.driver", faults)
    check_pool_name(entry.get("pool") or "", f"{path}.pool", faults)
    faults.invalid_all(f"{path}.device", entry.get("device") or "", names.dns_label(entry.get("device") or ""))
    if (share := entry.get("shareID")) is not None:
        check_share(share, f"{path}.shareID", faults)
    if device not in allocated:
        faults.invalid(path, _shown(device), "must be an allocated device in the claim")
    conditions = entry.get("conditions") or []
    if len(conditions) > _CONDITIONS_MAX:
        faults.too_many(f"{path}.conditions", len(conditions), _CONDITIONS_MAX)
    check_conditions(conditions, f"{path}.conditions", faults)
    if entry.get("data") is not None:
        check_raw(entry["data"], f"{path}.data", faults, _DATA_BYTES_MAX)
    if network := entry.get("networkData"):
        _check_network(network, f"{path}.networkData", faults)


def _check_network(network: dict[str, Any], path: str, faults: Faults) -> None:
    for field, most in (("interfaceName", _INTERFACE_LETTERS_MAX), ("hardwareAddress", _HARDWARE_LETTERS_MAX)):
        if len(network.get(field) or "") > most:
            faults.too_long(f"{path}.{field}", most)
    addresses = network.get("ips") or []
    if len(addresses) > _ADDRESSES_MAX:
        faults.too_many(f"{path}.ips", len(addresses), _ADDRESSES_MAX)
        return
    for index, address in enumerate(addresses):
        faults.invalid_all(f"{path}.ips[{index}]", address, ip_forms.canonical_interface(address))
    for index, address in enumerate(addresses):
        if address in addresses[:index]:
            faults.duplicate(f"{path}.ips[{index}]", address)


def _check_allocation(allocation: dict[str, Any], known: RequestNames, faults: Faults) -> None:
    devices, path = allocation.get("devices") or {}, "status.allocation.devices"

    def check_result(result: dict[str, Any], path: str, faults: Faults) -> None:
        check_request_reference(result.get("request") or "", known, f"{path}.request", faults)
        check_driver_name(result.get("driver") or "", f"{path}.driver", faults)
        check_pool_name(result.get("pool") or "", f"{path}.pool", faults)
        faults.invalid_all(f"{path}.device", result.get("device") or "", names.dns_label(result.get("device") or ""))
        check_binding_conditions(result, path, faults)
        if (share := result.get("shareID")) is not None:
            check_share(share, f"{path}.shareID", faults)

    def check_config(config: dict[str, Any], path: str, faults: Faults) -> None:
        faults.one_of(f"{path}.source", config.get("source"), ["FromClaim", "FromClass"])
        check_request_references(config.get("requests"), known, f"{path}.requests", faults)
        check_configuration(config, path, faults)

    check_list(devices.get("results"), _RESULTS_MAX, check_result, f"{path}.results", faults)
    check_list(devices.get("config"), 2 * CONFIGS_MAX, check_config, f"{path}.config", faults)
    if (selector := allocation.get("nodeSelector")) is not None:
        check_node_selector(selector, "status.allocation.nodeSelector", faults)
