"""The one door to the CEL library: an expression in, a program out that is run over JSON-shaped values.

Variables are dynamic: whether a field exists shows when the program runs, not when it is compiled. The library is
imported with the first expression: most API servers never meet one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

EXPRESSION_BYTES_MAX = 16 << 10
REMEMBERED = 2048
MESSAGE_MAX = 5120
LIBRARY_ERRORS = (ValueError, TypeError, RuntimeError, ArithmeticError, LookupError)


class CelError(ValueError):
    """An expression cannot be compiled, or fails over these values; the text says why."""


class Program:
    """A compiled expression."""

    def __init__(self, text: str, expression: Any) -> None:
        self.text = text
        self._expression = expression

    def run(self, values: Mapping[str, Any]) -> Any:
        """Return what the expression yields over its variables; raises CelError."""
        try:
            found = self._expression.eval(data=dict(values))
            if found.type().name() == "ERROR":
                raise CelError(_line(found.plain_value()))
            return found.plain_value()
        except CelError:
            raise
        except LIBRARY_ERRORS as error:
            raise CelError(_line(error)) from None


_MISSING = re.compile(r'NOT_FOUND: Key not found in map : "?([^"]*)"?')


def _line(error: object) -> str:
    text = _MISSING.sub(r"no such key: \1", str(error).removeprefix("INVALID_ARGUMENT: ").strip())
    return " ".join(text.split())[:MESSAGE_MAX]


@lru_cache(maxsize=REMEMBERED)
def compile_expression(text: str, variables: tuple[str, ...]) -> Program:
    """Return an expression ready to be run; raises CelError."""
    if len(text.encode()) > EXPRESSION_BYTES_MAX:
        raise CelError(f"expressions may not be longer than {EXPRESSION_BYTES_MAX} bytes")
    try:
        return Program(text, _environment(variables).compile(text))
    except LIBRARY_ERRORS as error:
        raise CelError(_line(error)) from None


@lru_cache(maxsize=16)
def _environment(variables: tuple[str, ...]) -> Any:
    # Timestamps and durations are known to it once these are.
    from cel_expr_python import cel
    from cel_expr_python.ext import ext_bindings, ext_encoders, ext_math, ext_optional, ext_strings
    from google.protobuf import duration_pb2, timestamp_pb2  # noqa: F401

    from control.api.cel import library

    extensions = [
        ext_optional.ExtOptional(),
        ext_strings.ExtStrings(),
        ext_math.ExtMath(),
        ext_encoders.ExtEncoders(),
        ext_bindings.ExtBindings(),
        library.extension(cel),
    ]
    return cel.NewEnv(variables=dict.fromkeys(variables, cel.Type.DYN), extensions=extensions)
