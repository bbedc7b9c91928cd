"""What functions and operators there are, with the types they take and give, as tables.

A line names an overload: ``id(types it takes) what it gives``; a dot before the id marks one that is called on its
first argument. Capital letters are types that a call decides.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

from control.api.cel.types import Type, read_type

_LINE = re.compile(r"(\.?)([\w-]+)\((.*)\) (\S.*)")
COMPARABLE = ("int", "uint", "double", "bool", "duration", "timestamp", "string", "bytes")
SUMMABLE = ("int", "uint", "double", "duration")


@dataclass(frozen=True, slots=True)
class Overload:
    """One way to call a function; ``unknowns`` are the names of the types that a call decides."""

    id: str
    function: str
    parameters: tuple[Type, ...]
    result: Type
    is_member: bool
    unknowns: tuple[str, ...]


_ORDER = """
{0}_bool(bool, bool) bool
{0}_int64(int, int) bool
{0}_int64_double(int, double) bool
{0}_int64_uint64(int, uint) bool
{0}_uint64(uint, uint) bool
{0}_uint64_double(uint, double) bool
{0}_uint64_int64(uint, int) bool
{0}_double(double, double) bool
{0}_double_int64(double, int) bool
{0}_double_uint64(double, uint) bool
{0}_string(string, string) bool
{0}_bytes(bytes, bytes) bool
{0}_timestamp(timestamp, timestamp) bool
{0}_duration(duration, duration) bool
"""
_TIME = """
.timestamp_to_{0}(timestamp) int
.timestamp_to_{0}_with_tz(timestamp, string) int
"""
_CLOCK = _TIME + ".duration_to_{0}(duration) int\n"


def _arithmetic(name: str, *kinds: str) -> str:
    shown = {"int": "int64", "uint": "uint64"}
    return "\n".join(f"{name}_{shown.get(kind, kind)}({kind}, {kind}) {kind}" for kind in kinds)


_STANDARD: dict[str, str] = {
    "_?_:_": "conditional(bool, A, A) A",
    "_&&_": "logical_and(bool, bool) bool",
    "_||_": "logical_or(bool, bool) bool",
    "!_": "logical_not(bool) bool",
    "@not_strictly_false": "not_strictly_false(bool) bool",
    "_==_": "equals(A, A) bool",
    "_!=_": "not_equals(A, A) bool",
    "_<_": _ORDER.format("less"),
    "_<=_": _ORDER.format("less_equals"),
    "_>_": _ORDER.format("greater"),
    "_>=_": _ORDER.format("greater_equals"),
    "_+_": """
add_bytes(bytes, bytes) bytes
add_double(double, double) double
add_duration_duration(duration, duration) duration
add_duration_timestamp(duration, timestamp) timestamp
add_timestamp_duration(timestamp, duration) timestamp
add_int64(int, int) int
add_list(list(A), list(A)) list(A)
add_string(string, string) string
add_uint64(uint, uint) uint""",
    "_/_": _arithmetic("divide", "double", "int", "uint"),
    "_%_": _arithmetic("modulo", "int", "uint"),
    "_*_": _arithmetic("multiply", "double", "int", "uint"),
    "-_": "negate_double(double) double\nnegate_int64(int) int",
    "_-_": """
subtract_double(double, double) double
subtract_duration_duration(duration, duration) duration
subtract_int64(int, int) int
subtract_timestamp_duration(timestamp, duration) timestamp
subtract_timestamp_timestamp(timestamp, timestamp) duration
subtract_uint64(uint, uint) uint""",
    "_[_]": """
index_list(list(A), int) A
index_map(map(A, B), A) B
optional_list_index_int(optional(list(V)), int) optional(V)
optional_map_index_value(optional(map(K, V)), K) optional(V)""",
    "@in": "in_list(A, list(A)) bool\nin_map(A, map(A, B)) bool",
    "size": """
size_bytes(bytes) int
.bytes_size(bytes) int
size_list(list(A)) int
.list_size(list(A)) int
size_map(map(A, B)) int
.map_size(map(A, B)) int
size_string(string) int
.string_size(string) int""",
    "type": "type(A) type(A)",
    "bool": "bool_to_bool(bool) bool\nstring_to_bool(string) bool",
    "bytes": "bytes_to_bytes(bytes) bytes\nstring_to_bytes(string) bytes",
    "double": "double_to_double(double) double\nint64_to_double(int) double\nstring_to_double(string) double\n"
    "uint64_to_double(uint) double",
    "duration": "duration_to_duration(duration) duration\nstring_to_duration(string) duration",
    "dyn": "to_dyn(A) dyn",
    "int": """
int64_to_int64(int) int
double_to_int64(double) int
duration_to_int64(duration) int
string_to_int64(string) int
timestamp_to_int64(timestamp) int
uint64_to_int64(uint) int""",
    "string": """
string_to_string(string) string
bool_to_string(bool) string
bytes_to_string(bytes) string
double_to_string(double) string
duration_to_string(duration) string
int64_to_string(int) string
timestamp_to_string(timestamp) string
uint64_to_string(uint) string
cidr_to_string(cidr) string
ip_to_string(ip) string""",
    "timestamp": "timestamp_to_timestamp(timestamp) timestamp\nint64_to_timestamp(int) timestamp\n"
    "string_to_timestamp(string) timestamp",
    "uint": "uint64_to_uint64(uint) uint\ndouble_to_uint64(double) uint\nint64_to_uint64(int) uint\n"
    "string_to_uint64(string) uint",
    "contains": ".contains_string(string, string) bool",
    "endsWith": ".ends_with_string(string, string) bool",
    "startsWith": ".starts_with_string(string, string) bool",
    "matches": "matches(string, string) bool\n.matches_string(string, string) bool",
    "getFullYear": _TIME.format("year"),
    "getMonth": _TIME.format("month"),
    "getDayOfYear": _TIME.format("day_of_year"),
    "getDayOfMonth": _TIME.format("day_of_month"),
    "getDate": _TIME.format("day_of_month_1_based"),
    "getDayOfWeek": _TIME.format("day_of_week"),
    "getHours": _CLOCK.format("hours"),
    "getMinutes": _CLOCK.format("minutes"),
    "getSeconds": _CLOCK.format("seconds"),
    "getMilliseconds": _CLOCK.format("milliseconds"),
}
_OPTIONAL: dict[str, str] = {
    "optional.of": "optional_of(V) optional(V)",
    "optional.ofNonZeroValue": "optional_ofNonZeroValue(V) optional(V)",
    "optional.none": "optional_none() optional(V)",
    "value": ".optional_value(optional(V)) V",
    "hasValue": ".optional_hasValue(optional(V)) bool",
    "or": ".optional_or_optional(optional(V), optional(V)) optional(V)",
    "orValue": ".optional_orValue_value(optional(V), V) V",
    "_?._": "select_optional_field(dyn, string) optional(V)",
    "_[?_]": """
list_optindex_optional_int(list(V), int) optional(V)
optional_list_optindex_optional_int(optional(list(V)), int) optional(V)
map_optindex_optional_value(map(K, V), K) optional(V)
optional_map_optindex_optional_value(optional(map(K, V)), K) optional(V)""",
    "first": ".list_first(list(V)) optional(V)",
    "last": ".list_last(list(V)) optional(V)",
    "optional.unwrap": "optional_unwrap(list(optional(V))) list(V)",
    "unwrapOpt": ".optional_unwrapOpt(list(optional(V))) list(V)",
}
_STRINGS: dict[str, str] = {
    "charAt": ".string_char_at_int(string, int) string",
    "indexOf": ".string_index_of_string(string, string) int\n.string_index_of_string_int(string, string, int) int\n"
    ".list_a_index_of_int(list(A), A) int",
    "lastIndexOf": ".string_last_index_of_string(string, string) int\n"
    ".string_last_index_of_string_int(string, string, int) int\n.list_a_last_index_of_int(list(A), A) int",
    "lowerAscii": ".string_lower_ascii(string) string",
    "replace": ".string_replace_string_string(string, string, string) string\n"
    ".string_replace_string_string_int(string, string, string, int) string",
    "split": ".string_split_string(string, string) list(string)\n"
    ".string_split_string_int(string, string, int) list(string)",
    "substring": ".string_substring_int(string, int) string\n.string_substring_int_int(string, int, int) string",
    "trim": ".string_trim(string) string",
    "upperAscii": ".string_upper_ascii(string) string",
    "format": ".string_format(string, list(dyn)) string",
    "strings.quote": "strings_quote(string) string",
    "join": ".list_join(list(string)) string\n.list_join_string(list(string), string) string",
    "find": ".string_find_string(string, string) string",
    "findAll": ".string_find_all_string(string, string) list(string)\n"
    ".string_find_all_string_int(string, string, int) list(string)",
}


def _each(line: str, kinds: tuple[str, ...]) -> str:
    return "\n".join(line.format(kind) for kind in kinds)


_LISTS: dict[str, str] = {
    "isSorted": _each(".list_{0}_is_sorted_bool(list({0})) bool", COMPARABLE),
    "sum": _each(".list_{0}_sum_{0}(list({0})) {0}", SUMMABLE),
    "max": _each(".list_{0}_max_{0}(list({0})) {0}", COMPARABLE),
    "min": _each(".list_{0}_min_{0}(list({0})) {0}", COMPARABLE),
    "slice": ".list_slice(list(T), int, int) list(T)",
    "flatten": ".list_flatten(list(list(T))) list(T)\n.list_flatten_int(list(dyn), int) list(dyn)",
    "sort": _each(".list_{0}_sort(list({0})) list({0})", COMPARABLE),
    "@sortByAssociatedKeys": _each(".list_{0}_sortByAssociatedKeys(list(T), list({0})) list(T)", COMPARABLE),
    "lists.range": "lists_range(int) list(int)",
    "reverse": ".list_reverse(list(T)) list(T)",
    "distinct": ".list_distinct(list(T)) list(T)",
    "sets.contains": "list_sets_contains_list(list(T), list(T)) bool",
    "sets.equivalent": "list_sets_equivalent_list(list(T), list(T)) bool",
    "sets.intersects": "list_sets_intersects_list(list(T), list(T)) bool",
    "cel.@mapInsert": "map_insert_key_value(map(K, V), K, V) map(K, V)\nmap_insert_map(map(K, V), map(K, V)) map(K, V)",
}
_KUBERNETES: dict[str, str] = {
    "url": "string_to_url(string) url",
    "isURL": "is_url_string(string) bool",
    "getScheme": ".url_get_scheme(url) string",
    "getHost": ".url_get_host(url) string",
    "getHostname": ".url_get_hostname(url) string",
    "getPort": ".url_get_port(url) string",
    "getEscapedPath": ".url_get_escaped_path(url) string",
    "getQuery": ".url_get_query(url) map(string, list(string))",
    "quantity": "string_to_quantity(string) quantity",
    "isQuantity": "is_quantity_string(string) bool",
    "sign": "quantity_sign(quantity) int",
    "isGreaterThan": ".quantity_is_greater_than(quantity, quantity) bool\n.semver_is_greater_than(semver, semver) bool",
    "isLessThan": ".quantity_is_less_than(quantity, quantity) bool\n.semver_is_less_than(semver, semver) bool",
    "compareTo": ".quantity_compare_to(quantity, quantity) int\n.semver_compare_to(semver, semver) int",
    "asApproximateFloat": ".quantity_get_float(quantity) double",
    "asInteger": ".quantity_get_int(quantity) int",
    "isInteger": ".quantity_is_integer(quantity) bool",
    "add": ".quantity_add(quantity, quantity) quantity\n.quantity_add_int(quantity, int) quantity",
    "sub": ".quantity_sub(quantity, quantity) quantity\n.quantity_sub_int(quantity, int) quantity",
    "semver": "string_to_semver(string) semver\nstring_bool_to_semver(string, bool) semver",
    "isSemver": "is_semver_string(string) bool\nis_semver_string_bool(string, bool) bool",
    "major": ".semver_major(semver) int",
    "minor": ".semver_minor(semver) int",
    "patch": ".semver_patch(semver) int",
    "ip": "string_to_ip(string) ip\n.cidr_ip(cidr) ip",
    "isIP": "is_ip(string) bool",
    "ip.isCanonical": "ip_is_canonical(string) bool",
    "family": ".ip_family(ip) int",
    "isUnspecified": ".ip_is_unspecified(ip) bool",
    "isLoopback": ".ip_is_loopback(ip) bool",
    "isLinkLocalMulticast": ".ip_is_link_local_multicast(ip) bool",
    "isLinkLocalUnicast": ".ip_is_link_local_unicast(ip) bool",
    "isGlobalUnicast": ".ip_is_global_unicast(ip) bool",
    "cidr": "string_to_cidr(string) cidr",
    "isCIDR": "is_cidr(string) bool",
    "containsIP": ".cidr_contains_ip_string(cidr, string) bool\n.cidr_contains_ip_ip(cidr, ip) bool",
    "containsCIDR": ".cidr_contains_cidr_string(cidr, string) bool\n.cidr_contains_cidr(cidr, cidr) bool",
    "prefixLength": ".cidr_prefix_length(cidr) int",
    "masked": ".cidr_masked(cidr) cidr",
    "format.named": "format-named(string) optional(format)",
    "validate": ".format-validate(format, string) optional(list(string))",
    "path": ".authorizer_path(authorizer, string) pathcheck",
    "group": ".authorizer_group(authorizer, string) groupcheck",
    "serviceAccount": ".authorizer_serviceaccount(authorizer, string, string) authorizer",
    "resource": ".groupcheck_resource(groupcheck, string) resourcecheck",
    "subresource": ".resourcecheck_subresource(resourcecheck, string) resourcecheck",
    "namespace": ".resourcecheck_namespace(resourcecheck, string) resourcecheck",
    "name": ".resourcecheck_name(resourcecheck, string) resourcecheck",
    "fieldSelector": ".authorizer_fieldselector(resourcecheck, string) resourcecheck",
    "labelSelector": ".authorizer_labelselector(resourcecheck, string) resourcecheck",
    "check": ".pathcheck_check(pathcheck, string) decision\n.resourcecheck_check(resourcecheck, string) decision",
    "errored": ".decision_errored(decision) bool",
    "error": ".decision_error(decision) string",
    "allowed": ".decision_allowed(decision) bool",
    "reason": ".decision_reason(decision) string",
}
FORMAT_NAMES = (
    "dns1123Label", "dns1123Subdomain", "dns1035Label", "qualifiedName", "dns1123LabelPrefix", "dns1123SubdomainPrefix",
    "dns1035LabelPrefix", "labelValue", "uri", "uuid", "byte", "date", "datetime",
)  # fmt: skip
_FORMATS = {f"format.{name}": f"format-{name}() format" for name in FORMAT_NAMES}
PATCHES = {"jsonpatch.escapeKey": "string_jsonpatch_escapeKey_string(string) string"}
"""What expressions of mutations have beside the others."""


@cache
def functions() -> dict[str, tuple[Overload, ...]]:
    """Return the functions of all environments, with those of mutations."""
    tables = (_STANDARD, _OPTIONAL, _STRINGS, _LISTS, _KUBERNETES, _FORMATS, PATCHES)
    return {
        name: tuple(_overload(name, line) for line in lines.split("\n") if line)
        for table in tables
        for name, lines in table.items()
    }


def _overload(function: str, line: str) -> Overload:
    match = _LINE.fullmatch(line)
    assert match is not None, line
    dot, name, taken, given = match.groups()
    parameters = tuple(read_type(each) for each in _parts(taken))
    result = read_type(given)
    unknowns: list[str] = []
    for found in (*parameters, result):
        _gather(found, unknowns)
    return Overload(name, function, parameters, result, bool(dot), tuple(dict.fromkeys(unknowns)))


def _parts(text: str) -> list[str]:
    parts, depth, begin = [], 0, 0
    for at, character in enumerate(text):
        depth += {"(": 1, ")": -1}.get(character, 0)
        if character == "," and depth == 0:
            parts.append(text[begin:at])
            begin = at + 1
    return [each.strip() for each in (*parts, text[begin:]) if each.strip()]


def _gather(found: Type, unknowns: list[str]) -> None:
    if found.kind == "parameter":
        unknowns.append(found.name)
    for inner in found.parameters:
        _gather(inner, unknowns)
