"""Conversations with an API server: requests, and what an original of Kubernetes answered to each.

A file of tests/golden/custom holds one of them. Its requests are written by hand, its answers by ``record``:

    - ask: POST /apis/example.com/v1/namespaces/default/boats
      send: {…}                  # a body as JSON; or text: …, with type: … for another content type than JSON
      accept: …                  # and headers: {…} for others
      keep: {version: metadata.resourceVersion}     # for {version} in later requests
      gives: {code: 201, body: {…}}                 # warnings, type and text only where there are such

``differs: why`` marks an answer that is not ours, on purpose or yet. ``events: N`` reads a watch until it has told so much (the original until it ends). ``until: established`` asks again
until the definition that is read says so. What no two servers have in common (uids, times, revisions) is masked.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import yaml

FOLDER = Path(__file__).parents[3] / "golden" / "custom"
DEADLINE_S = 5.0
_UID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")
_AGE = re.compile(r"^\d+(ms|s|m\d*s?)$")
_REVISION = re.compile(
    r"(resource version: |current: |resourceVersion in precondition: |resourceVersion in object meta: )\d+",
    re.IGNORECASE,
)
_WARNING = re.compile(r'299 (?:\S+) "((?:[^"\\]|\\.)*)"')
_NOT_FOUND = json.dumps({
    "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "reason": "NotFound", "code": 404,
    "message": "the server could not find the requested resource",
}).encode()  # fmt: skip
_STANDING_ALONE = "apiextensions-apiserver"
"""The program's name for itself; what is the same code in kube-apiserver bears that name."""
_TEXTS = ("text/", "application/yaml")


@dataclass(frozen=True)
class Reply:
    """What came back, as it came."""

    code: int
    headers: Mapping[str, list[str]]
    body: bytes


class Speaker(Protocol):
    """Somebody who carries requests to a server."""

    async def ask(self, method: str, url: str, headers: Mapping[str, str], body: bytes) -> Reply:
        """Send a request and return the answer."""

    async def watch(self, url: str, headers: Mapping[str, str], count: int | None) -> Reply:
        """Read a watch to its end or to its ``count``-th event."""


@dataclass
class Conversation:
    """Requests in their order; ``gives`` of each is what the original answered."""

    path: Path
    about: str
    requests: list[dict[str, Any]]
    kept: dict[str, str] = field(default_factory=dict)

    async def say(self, speaker: Speaker, request: dict[str, Any], *, record: bool = False) -> dict[str, Any]:
        """Send one request; return the answer with what is masked in it."""
        method, _, url = self._filled(request["ask"]).partition(" ")
        headers = {"content-type": request.get("type", "application/json"), "accept": request.get("accept", "")}
        headers.update(request.get("headers", {}))
        headers = {name: self._filled(value) for name, value in headers.items() if value}
        if "text" in request:
            body = self._filled(request["text"]).encode() * request.get("times", 1)
        else:
            body = self._filled(json.dumps(request["send"])).encode() if "send" in request else b""
        if "events" in request:
            count = None if record else len(request["gives"].get("events", ())) or None
            reply = await speaker.watch(url, headers, count)
        else:
            reply = await speaker.ask(method, url, headers, body)
            deadline = asyncio.get_running_loop().time() + DEADLINE_S
            while not _is_there(request.get("until", ""), reply) and asyncio.get_running_loop().time() < deadline:
                await asyncio.sleep(0.01)
                reply = await speaker.ask(method, url, headers, body)
        for name, path in request.get("keep", {}).items() if reply.code < 300 else ():
            self.kept[name] = str(_at(json.loads(reply.body), path))
        return told(reply, "events" in request)

    def _filled(self, text: str) -> str:
        for name, value in self.kept.items():
            text = text.replace("{" + name + "}", value)
        return text


def conversations() -> list[Conversation]:
    """Return all that are kept."""
    return [load(path) for path in sorted(FOLDER.glob("*.yaml"))]


def load(path: Path) -> Conversation:
    """Read one."""
    found = yaml.load(path.read_text(), Loader=yaml.CSafeLoader)
    return Conversation(path, found["about"], found["requests"])


def store(conversation: Conversation) -> None:
    """Write one with its answers."""
    made = {"about": conversation.about, "requests": conversation.requests}
    conversation.path.write_text(yaml.dump(made, Dumper=_Dumper, sort_keys=False, width=110, allow_unicode=True))


class _Dumper(yaml.CSafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


def _is_there(wanted: str, reply: Reply) -> bool:
    if not wanted or wanted.isdecimal():
        return not wanted or str(reply.code) == wanted
    if reply.code != 200:
        return False
    status = json.loads(reply.body).get("status") or {}
    states = {entry["type"]: entry["status"] for entry in status.get("conditions") or ()}
    match wanted:
        case "established":
            return states.get("Established") == "True"
        case "named":
            return "NamesAccepted" in states and "Established" in states
        case "terminating":
            return "Terminating" in states
        case short_name_or_version:
            names = status.get("acceptedNames") or {}
            held = [*(names.get("shortNames") or ()), *(status.get("storedVersions") or ())]
            return short_name_or_version in held


def _at(value: Any, path: str) -> Any:
    for part in path.split("."):
        value = value[int(part)] if isinstance(value, list) else value.get(part, "nothing")
    return value


def told(reply: Reply, is_watch: bool = False) -> dict[str, Any]:
    """Return what an answer says, without what differs between any two servers."""
    made: dict[str, Any] = {"code": reply.code}
    content_type = ", ".join(reply.headers.get("content-type", ()))
    if content_type != "application/json":
        made["type"] = content_type
    warnings = [text for value in reply.headers.get("warning", ()) for text in _WARNING.findall(value)]
    if warnings:
        made["warnings"] = [mask_text(text.replace('\\"', '"')) for text in warnings]
    if is_watch and reply.code == 200:
        events = [masked(json.loads(line)) for line in reply.body.splitlines() if line]
        while events and events[-1].get("type") == "BOOKMARK" and "annotations" not in events[-1]["object"]["metadata"]:
            events.pop()
        made["events"] = events
    elif reply.body == b"404 page not found\n":
        # Where no handler is, the original leaves the protocol; its clients make of it what we send.
        made = told(Reply(404, {"content-type": ["application/json"]}, _NOT_FOUND))
    elif "protobuf" in content_type or "cbor" in content_type:
        made["text"] = "(binary)"
    elif content_type.startswith(_TEXTS) or b"\n" in reply.body.strip():
        made["text"] = mask_text(reply.body.decode())
    elif reply.body:
        made["body"] = _in_order(masked(json.loads(reply.body)))
    return made


def _in_order(body: Any) -> Any:
    """Sort the causes of a refusal: the original goes through fields in no order."""
    causes = (body.get("details") or {}).get("causes") or () if isinstance(body, dict) else ()
    if len(causes) > 1 and " is invalid: [" in body.get("message", ""):
        body["details"]["causes"] = sorted(causes, key=lambda cause: json.dumps(cause, sort_keys=True))
        body["message"] = body["message"].partition(" is invalid: [")[0] + " is invalid: […]"
    return body


_HIDDEN = {
    "uid": "(uid)", "resourceVersion": "(version)", "creationTimestamp": "(time)", "deletionTimestamp": "(time)",
    "lastTransitionTime": "(time)", "time": "(time)", "continue": "(continue)",
}  # fmt: skip


def masked(value: Any) -> Any:
    """Return JSON with uids, revisions, times and tokens masked."""
    if isinstance(value, dict):
        made = {
            name: _HIDDEN[name] if name in _HIDDEN and each and isinstance(each, str) else masked(each)
            for name, each in value.items()
        }
        if isinstance(owners := made.get("managedFields"), list):
            # Their order is that of seconds.
            for entry in owners:
                if isinstance(entry, dict) and entry.get("manager") == _STANDING_ALONE:
                    entry["manager"] = "kube-apiserver"
            made["managedFields"] = sorted(owners, key=lambda entry: json.dumps(entry, sort_keys=True))
        base = made.get("generateName")
        if base and isinstance(made.get("name"), str) and made["name"].startswith(base):
            made["name"] = base + "(random)"
        return made
    if isinstance(value, list):
        return [masked(each) for each in value]
    return mask_text(value) if isinstance(value, str) else value


def mask_text(text: str) -> str:
    """Return text with uids, revisions and times masked."""
    text = _REVISION.sub(r"\1(version)", _TIME.sub("(time)", _UID.sub("(uid)", text)))
    return "(age)" if _AGE.match(text) else text
