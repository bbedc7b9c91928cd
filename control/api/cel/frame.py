"""What one evaluation of an expression works with: the values of names, and what it may yet spend."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from control.api.cel.errors import ENDLESS, LimitError

LIMIT_TEXT = "operation cancelled: actual cost limit exceeded"
STEPS_FACTOR = 5
"""So many steps may comparisons take for each unit of the limit, whatever they are said to cost."""


class Frame:
    """The values of names, of variables and of loops, and the cost that is left."""

    __slots__ = ("left", "steps_left", "values")

    def __init__(self, values: dict[str, Any], limit: int) -> None:
        self.values = values
        self.left = limit
        self.steps_left = STEPS_FACTOR * limit

    def spend(self, cost: int) -> None:
        """Take a cost from what is left; raises LimitError where that is not enough."""
        self.left -= cost
        if self.left < 0:
            raise LimitError(LIMIT_TEXT)

    def walk(self, steps: int) -> None:
        """Count the steps of a comparison; raises LimitError where there were too many."""
        self.steps_left -= steps
        if self.steps_left < 0:
            raise LimitError(LIMIT_TEXT)


Step = Callable[[Frame], Any]
"""Yields the value of a part of an expression."""


class Purse:
    """What may be spent where evaluations are begun."""

    def __init__(self, most: int = ENDLESS) -> None:
        self.left = most
