"""Rules of paths in file systems."""

from __future__ import annotations

from control.api.validation.faults import Faults


def check_no_backsteps(text: str, path: str, faults: Faults) -> None:
    """Check that a path does not climb."""
    if ".." in text.split("/"):
        faults.invalid(path, text, "must not contain '..'")


def check_inner_path(text: str, path: str, faults: Faults) -> None:
    """Check a path that must stay below another one."""
    if text.startswith("/"):
        faults.invalid(path, text, "must be a relative path")
    check_no_backsteps(text, path, faults)


def check_reserved_path(text: str, path: str, faults: Faults) -> None:
    """Check a path that must stay below another one, and must not begin as the kubelet's own files do."""
    check_inner_path(text, path, faults)
    if text.startswith("..") and not text.startswith("../"):
        faults.invalid(path, text, "must not start with '..'")
