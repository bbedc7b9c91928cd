"""Other servers' OpenAPI v2 documents as parts of ours: the paths of one group version, and what these need.

A definition that another server words differently than we do gets another name, as kube-apiserver gives it one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from control.api.patch import DEPTH_MAX

DEFINITIONS, PARAMETERS = "#/definitions/", "#/parameters/"
METHODS = frozenset({"get", "put", "post", "delete", "options", "head", "patch"})


class ForeignDocumentError(ValueError):
    """A document is none; the text says why."""


def part_of(document: Any, prefixes: Iterable[str], known: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a document's paths below some prefixes and the definitions that they need, named apart from known ones.

    Raises ForeignDocumentError.
    """
    if not isinstance(document, dict) or not isinstance(document.get("paths"), dict):
        raise ForeignDocumentError("the document has no paths")
    wanted = tuple(f"{prefix}/" for prefix in prefixes)
    parameters = _mapping(document.get("parameters"))
    paths = {
        path: _path_item(item, parameters)
        for path, item in document["paths"].items()
        if isinstance(item, dict) and f"{path}/".startswith(wanted)
    }
    definitions = _needed(paths, _mapping(document.get("definitions")))
    names = _names(definitions, known)
    made = {names[name]: _renamed(found, names) for name, found in definitions.items()}
    return _renamed(paths, names), {name: found for name, found in made.items() if name not in known}


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _path_item(item: dict[str, Any], parameters: Mapping[str, Any]) -> dict[str, Any]:
    made: dict[str, Any] = {key: _operation(value, parameters) for key, value in item.items() if key in METHODS}
    if shared := _parameters(item.get("parameters"), parameters):
        made["parameters"] = shared
    return made


def _operation(found: Any, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return an operation with all that every operation has here."""
    operation = _mapping(found)
    responses = {str(code): _response(answer) for code, answer in _mapping(operation.get("responses")).items()}
    return {
        **operation,
        "produces": _texts(operation.get("produces")),
        "schemes": _texts(operation.get("schemes")),
        "consumes": _texts(operation.get("consumes")),
        "tags": _texts(operation.get("tags")),
        "parameters": _parameters(operation.get("parameters"), parameters),
        "responses": responses,
    }


def _texts(value: Any) -> list[str]:
    return [each for each in value if isinstance(each, str)] if isinstance(value, list) else []


def _response(found: Any) -> dict[str, Any]:
    answer = _mapping(found)
    return {"description": str(answer.get("description") or ""), "schema": _mapping(answer.get("schema"))}


def _parameters(value: Any, shared: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return parameters, those that stand elsewhere in the document put where they are named."""
    made = []
    for each in value if isinstance(value, list) else ():
        found = _mapping(each)
        if reference := found.get("$ref"):
            found = _mapping(shared.get(str(reference).removeprefix(PARAMETERS)))
        if found.get("in") == "body" and isinstance(found.get("name"), str):
            made.append({**found, "schema": _mapping(found.get("schema"))})
        elif found.get("in") in ("path", "query") and isinstance(found.get("name"), str):
            made.append({**found, "type": str(found.get("type") or "string")})
    return made


def references(value: Any, depth: int = 0) -> set[str]:
    """Return the names of all definitions that a value refers to."""
    if depth > DEPTH_MAX:
        raise ForeignDocumentError("the document is nested too deeply")
    if isinstance(value, list):
        return {name for each in value for name in references(each, depth + 1)}
    if not isinstance(value, dict):
        return set()
    found = {name for each in value.values() for name in references(each, depth + 1)}
    target = value.get("$ref")
    if isinstance(target, str) and target.startswith(DEFINITIONS):
        found.add(target.removeprefix(DEFINITIONS))
    return found


def _needed(paths: Mapping[str, Any], definitions: Mapping[str, Any]) -> dict[str, Any]:
    """Return the definitions that paths refer to, and those behind them."""
    open_names = references(dict(paths))
    needed: dict[str, Any] = {}
    while open_names:
        name = open_names.pop()
        if name in needed or not isinstance(definitions.get(name), dict):
            continue
        needed[name] = definitions[name]
        open_names |= references(definitions[name]) - needed.keys()
    return needed


def _names(definitions: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, str]:
    """Return under which name each definition goes into ours."""
    names: dict[str, str] = {}
    for name, found in definitions.items():
        chosen, number = name, 2
        while chosen in known and known[chosen] != found:
            chosen, number = f"{name}_v{number}", number + 1
        names[name] = chosen
    return names


def _renamed(value: Any, names: Mapping[str, str]) -> Any:
    if isinstance(value, list):
        return [_renamed(each, names) for each in value]
    if not isinstance(value, dict):
        return value
    made = {key: _renamed(each, names) for key, each in value.items()}
    target = value.get("$ref")
    if isinstance(target, str) and target.startswith(DEFINITIONS):
        name = target.removeprefix(DEFINITIONS)
        made["$ref"] = DEFINITIONS + names.get(name, name)
    return made
