"""The door to expressions: a text in, a program out that is run over JSON-shaped values.

What expressions may name, and of which types that is, is an environment. What they may cost is bounded as Kubernetes
bounds it, so that no expression holds the server for long.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from types import MappingProxyType
from typing import Any

from control.api.cel.checker import Checker
from control.api.cel.constants import constant_issues, functions_of
from control.api.cel.declarations import PATCHES, functions
from control.api.cel.errors import CelError, CompileError, LimitError
from control.api.cel.frame import LIMIT_TEXT, Frame, Step
from control.api.cel.parser import parse
from control.api.cel.planner import plan
from control.api.cel.syntax import Node
from control.api.cel.types import DYN, Type

EXPRESSION_CHARACTERS_MAX = 100_000
REMEMBERED = 2048
MESSAGE_MAX = 5120
CALL_COST_MAX = 1_000_000
"""What one evaluation may cost."""
BUDGET = 10_000_000
"""What all evaluations for one object, or for one binding of a policy, may cost together."""
CONDITIONS_BUDGET = 2_500_000
"""What the match conditions of one webhook or policy may cost together."""
_RECURSION = 10_000
"""Trees of expressions are up to 250 deep, and a step on the way down takes more than one call."""
if sys.getrecursionlimit() < _RECURSION:
    sys.setrecursionlimit(_RECURSION)
__all__ = ["CelError", "CompileError", "LimitError"]


@dataclass(frozen=True)
class Environment:
    """What expressions may name: variables and structures with their types, and beside the usual functions others."""

    variables: Mapping[str, Type]
    structures: Mapping[str, Type] = field(default_factory=dict)
    patches: bool = False
    """Whether there are the functions of mutations."""
    binds: bool = False
    """Whether there is ``cel.bind``."""


class Program:
    """A compiled expression."""

    def __init__(self, text: str, node: Node) -> None:
        self.text = text
        self.node = node
        self._planned: tuple[Step, bool] | None = None

    @cached_property
    def asks(self) -> bool:
        """Whether it asks the authorizer."""
        return "check" in functions_of(self.node)

    @property
    def type(self) -> Type:
        """The type of what it yields, as far as that is known before it runs."""
        return self.node.type

    def plan(self) -> tuple[Step, bool]:
        """Return how the expression is run; raises CelError where its constants are already at fault."""
        if self._planned is None:
            self._planned = plan(self.node)
        return self._planned

    def run(self, values: Mapping[str, Any]) -> Any:
        """Return what the expression yields over its variables; raises CelError."""
        return self.spend(values, CALL_COST_MAX)[0]

    def spend(self, values: Mapping[str, Any], limit: int) -> tuple[Any, int]:
        """Return what the expression yields, and what that cost; raises CelError, LimitError where it costs more."""
        step, writes = self._planned or self.plan()
        frame = Frame({**values} if writes or type(values) is not dict else values, limit)
        try:
            found = step(frame)
            if frame.left < 0:
                raise LimitError(LIMIT_TEXT)
        except CelError as error:
            error.cost = limit - frame.left
            raise
        except (RecursionError, TypeError, ValueError, ArithmeticError, LookupError) as error:
            failure = CelError(" ".join(str(error).split())[:MESSAGE_MAX])
            failure.cost = limit - frame.left
            raise failure from None
        return found, limit - frame.left


@lru_cache(maxsize=REMEMBERED)
def compile_expression(text: str, variables: tuple[str, ...]) -> Program:
    """Return an expression over variables of which no type is known, ready to be run; raises CelError."""
    return compile_in(text, _dynamic(variables))


@lru_cache(maxsize=16)
def _dynamic(variables: tuple[str, ...]) -> Environment:
    return Environment(MappingProxyType(dict.fromkeys(variables, DYN)), binds=True)


def compile_in(text: str, environment: Environment) -> Program:
    """Return an expression ready to be run; raises CompileError with all that is wrong with it."""
    if len(text) > EXPRESSION_CHARACTERS_MAX:
        limit = f"size: {len(text)}, limit {EXPRESSION_CHARACTERS_MAX}"
        raise CelError(f"expression code point size exceeds limit: {limit}")
    node = parse(text, binds=environment.binds)
    known = functions()
    if not environment.patches:
        known = {name: overloads for name, overloads in known.items() if name not in PATCHES}
    checker = Checker(environment.variables, known, environment.structures)
    checker.run(node)
    issues = checker.issues or constant_issues(node)
    if issues:
        raise CompileError(text, issues)
    return Program(text, node)
