"""What evaluations may cost together, and how much of that may be spent where they are begun.

An evaluation that is long is not cut short for that: TooLongError says that it is to be run aside, from its beginning.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from control.api.cel.callcosts import CHECK_COST
from control.api.cel.environment import CALL_COST_MAX, Program
from control.api.cel.errors import BudgetError, CelError, LimitError, TooLongError
from control.api.cel.frame import Purse

EXHAUSTED_TEXT = "validation failed due to running out of cost budget, no further validation rules will be run"
_ASKING = 2 * CHECK_COST
"""What an expression may spend on asking the authorizer, which is quick, whatever it is said to cost."""


class Meter:
    """Runs programs that share a budget."""

    def __init__(self, budget: int, purse: Purse | None = None) -> None:
        self.left = budget
        self._purse = purse or Purse()

    def run(self, program: Program, values: Mapping[str, Any]) -> Any:
        """Return what a program yields; raises CelError, of it LimitError and BudgetError, and TooLongError."""
        purse, asking = self._purse, _ASKING if program.asks else 0
        limit = min(CALL_COST_MAX, purse.left + asking)
        try:
            found, cost = program.spend(values, limit)
        except CelError as error:
            if isinstance(error, LimitError) and limit < CALL_COST_MAX:
                raise TooLongError from None
            self._take(error.cost, asking)
            raise
        self._take(cost, asking)
        return found

    def _take(self, cost: int, asking: int) -> None:
        self._purse.left -= max(cost - asking, 0)
        if self._purse.left < 0:
            raise TooLongError
        if cost > self.left:
            self.left = -1
            raise BudgetError(EXHAUSTED_TEXT)
        self.left -= cost
