"""EncryptionConfiguration: what is read, and what is refused in which words."""

from __future__ import annotations

import base64
import contextlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from control.apiserver.config import ConfigurationError
from control.apiserver.encryption import configuration
from control.apiserver.encryption.configuration import ProviderSettings, parse, read

SECRET = base64.b64encode(bytes(32)).decode()
KEYS = {"keys": [{"name": "one", "secret": SECRET}]}
KMS = {"apiVersion": "v2", "name": "plugin", "endpoint": "unix:///run/kms.sock"}


def document(*entries: Any) -> dict[str, Any]:
    return {"apiVersion": "apiserver.config.k8s.io/v1", "kind": "EncryptionConfiguration", "resources": list(entries)}


def entry(*resources: str, providers: Any = None) -> dict[str, Any]:
    return {"resources": list(resources), "providers": [{"aescbc": KEYS}] if providers is None else providers}


def test_all_that_may_be_said_is_read() -> None:
    found = parse(
        document(
            entry("secrets", "pandas.bears.example", providers=[{"aesgcm": KEYS}, {"secretbox": KEYS}]),
            entry("*.apps", providers=[{"kms": {**KMS, "timeout": "1m30s"}}, {"identity": {}}]),
            entry("*.*"),
        )
    )
    assert [each.resources for each in found] == [
        (("", "secrets"), ("bears.example", "pandas")),
        (("apps", "*"),),
        (("*", "*"),),
    ]
    assert found[0].providers[1] == ProviderSettings("secretbox", (("one", bytes(32)),))
    assert found[1].providers == (
        ProviderSettings("kms", (), "plugin", "unix:///run/kms.sock", 90.0),
        ProviderSettings("identity"),
    )


def kms(**changes: Any) -> dict[str, Any]:
    return document(entry("secrets", providers=[{"kms": {**KMS, **changes}}]))


def keyed(kind: str, **key: Any) -> dict[str, Any]:
    return document(entry("secrets", providers=[{kind: {"keys": [key]}}]))


PATH = "resources[0].providers[0]"
REFUSED: dict[str, tuple[Any, str]] = {
    "not ours": ({"apiVersion": "v1", "kind": "Pod"}, "expected apiVersion apiserver.config.k8s.io/v1"),
    "empty": (document(), "resources: Required value: at least one resources is required"),
    "no resources": (document(entry()), "resources[0].resources: Required value: at least one resources[0].resources"),
    "no providers": (document(entry("secrets", providers=[])), "resources[0].providers: Required value: at least one"),
    "unknown provider": (
        document(entry("secrets", providers=[{"rot13": {}}])),
        'strict decoding error: unknown field "resources[0].providers[0].rot13"',
    ),
    "no provider": (
        document(entry("secrets", providers=[{}])),
        f"{PATH}: Invalid value: {{}}: provider does not contain any of the expected providers: KMS, AESGCM, AESCBC,",
    ),
    "two providers": (
        document(entry("secrets", providers=[{"aescbc": KEYS, "identity": {}}])),
        "more than one provider specified in a single element, should split into different list elements",
    ),
    "no keys": (
        document(entry("secrets", providers=[{"aescbc": {"keys": []}}])),
        f"{PATH}.aescbc.keys: Required value: at least one keys is required",
    ),
    "no name": (keyed("aescbc", secret=SECRET), "keys[0].name: Required value: name is a mandatory field for a key"),
    "no secret": (keyed("aescbc", name="a"), "keys[0].secret: Required value: secret is a mandatory field for a key"),
    "no base64": (
        keyed("aesgcm", name="a", secret="!"),
        f'{PATH}.aesgcm.keys[0].secret: Invalid value: "REDACTED": secrets must be base64 encoded',
    ),
    "short": (
        keyed("secretbox", name="a", secret="AAAA"),
        f'{PATH}.secretbox.keys[0].secret: Invalid value: "REDACTED":'
        " secret is not of the expected length, got 3, expected one of [32]",
    ),
    "kms v1": (kms(apiVersion="v1"), "KMSv1 is deprecated"),
    "kms without version": (kms(apiVersion=""), "KMSv1 is deprecated"),
    "kms v3": (kms(apiVersion="v3"), "for KMS provider, only v1 and v2 are supported"),
    "kms cachesize": (kms(cachesize=5), "Invalid value: 5: cachesize is not supported in v2"),
    "kms no name": (kms(name=""), f"{PATH}.kms.name: Required value: name is a mandatory field for a provider"),
    "kms colon": (kms(name="a:b"), "invalid KMS provider name a:b, must not contain ':'"),
    "kms scheme": (kms(endpoint="tcp://x"), 'unsupported scheme "tcp" for KMS provider, only unix is supported'),
    "kms no endpoint": (kms(endpoint=""), "endpoint is a mandatory field for a kms"),
    "kms timeout": (kms(timeout="-3s"), 'timeout: Invalid value: "-3s": timeout should be a positive value'),
    "kms twice": (
        document(entry("secrets", providers=[{"kms": KMS}, {"kms": KMS}])),
        "duplicate KMS provider name plugin, names must be unique",
    ),
    "capital": (document(entry("Secrets")), "resource name should not contain capital letters"),
    "star": (document(entry("*")), "use '*.' to encrypt all the resources from core API group or *.*"),
    "no API": (document(entry("apiserveripinfo")), "resources which do not have REST API/s cannot be encrypted"),
    "events group": (document(entry("events.events.k8s.io")), "Use 'events' instead in the config file"),
    "extensions": (document(entry("ingresses.extensions")), "'extensions' group has been removed"),
    "across groups": (document(entry("secrets.*")), "encrypting the same resource across groups is not supported"),
    "twice": (document(entry("secrets", "secrets")), "the same resource cannot be specified multiple times"),
    "overlap": (document(entry("secrets", "*.")), "using overlapping resources such as 'secrets' and '*.'"),
    "overlap with all": (document(entry("a.b", "*.*")), "using overlapping resources such as 'secrets' and '*.'"),
    "masked by group": (document(entry("*."), entry("secrets")), 'resource "secrets" is masked by earlier rule "*."'),
    "masked by all": (document(entry("*.*"), entry("a.b")), 'resource "a.b" is masked by earlier rule "*.*"'),
    "several at once": (
        document(entry("Secrets", providers=[{"aescbc": {"keys": []}}])),
        "[resources[0].resources[0]: Invalid value",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_wrong_is_told_in_kubernetes_words(case: str) -> None:
    written, text = REFUSED[case]
    with pytest.raises(ConfigurationError) as raised:
        parse(written)
    assert text in str(raised.value)
    assert SECRET not in str(raised.value)


@pytest.mark.parametrize(
    ("text", "told"),
    [(None, "error reading encryption provider configuration file"), ("", "is empty"), ("a: [", "error decoding")],
    ids=["missing", "empty", "no YAML"],
)
def test_files_that_cannot_be_read_are_named(tmp_path: Path, text: str | None, told: str) -> None:
    path = tmp_path / "encryption.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigurationError) as raised:
        read(path)
    assert told in str(raised.value)
    assert str(path) in str(raised.value)


def test_core_wildcard_is_the_core_group() -> None:
    assert configuration.group_resource("*.") == ("", "*")
    assert configuration.group_resource("deployments.apps") == ("apps", "deployments")


ANYTHING: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.sampled_from(["secrets", "*.*", "unix:///x", "3s", "v2", SECRET]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "resources",
                    "providers",
                    "kms",
                    "aescbc",
                    "identity",
                    "keys",
                    "name",
                    "secret",
                    "timeout",
                    "apiVersion",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=20,
)


@settings(max_examples=50)
@given(resources=ANYTHING)
def test_whatever_stands_there_is_read_or_refused(resources: Any) -> None:
    with contextlib.suppress(ConfigurationError):
        parse({**document(), "resources": resources})
