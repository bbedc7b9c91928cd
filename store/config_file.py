"""``--config-file``: etcd's YAML, whose keys are the flags' names, made into flags."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from store.config import ConfigError

_SECTIONS = {"client-transport-security": "", "peer-transport-security": "peer-"}
_IN_SECTIONS = {"cert-file", "key-file", "client-cert-file", "client-key-file", "client-cert-auth", "trusted-ca-file"}
_IN_SECTIONS |= {"auto-tls", "allowed-cn", "allowed-hostname"}
_OTHER_NAMES = {"peer-allowed-cn": "peer-cert-allowed-cn", "peer-allowed-hostname": "peer-cert-allowed-hostname"}
_OTHER_NAMES |= {"allowed-hostname": "client-cert-allowed-hostname"}


def arguments(file: Path) -> list[str]:
    """The flags that a configuration file stands for; as with etcd, it replaces flags and environment."""
    try:
        content = yaml.safe_load(file.read_text())
    except OSError as error:
        raise ConfigError(f"--config-file {file} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"--config-file {file} is no YAML: {' '.join(str(error).split())}") from error
    if content is None:
        return []
    if not isinstance(content, Mapping):
        raise ConfigError(f"--config-file {file} must hold names and values")
    found: list[str] = []
    for name, value in content.items():
        if name in _SECTIONS:
            if not isinstance(value, Mapping):
                raise ConfigError(f"{name} in {file} must hold names and values")
            unknown = sorted(set(map(str, value)) - _IN_SECTIONS)
            if unknown:
                raise ConfigError(f"{name} in {file} knows no {', '.join(unknown)}")
            for part, inner in value.items():
                flag = f"{_SECTIONS[name]}{part}"
                found += _argument(_OTHER_NAMES.get(flag, flag), inner)
        else:
            found += _argument(str(name), value)
    return found


def _argument(name: str, value: Any) -> list[str]:
    if value is None or value == "":
        return []
    if isinstance(value, bool):
        return [f"--{name}={str(value).lower()}"]
    if isinstance(value, list):
        value = ",".join(map(str, value))
    return [f"--{name}={value}"]
