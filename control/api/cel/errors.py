"""What goes wrong with expressions: when they are compiled, with where and why, and when they are run."""

from __future__ import annotations

from dataclasses import dataclass

ISSUES_MAX = 100
SNIPPET_MAX = 16384
"""A line longer than this is not shown."""
ENDLESS = 1 << 62
"""A cost that is no limit."""
NOWHERE = -1
"""The place of what is wrong with an expression as a whole."""


class CelError(ValueError):
    """An expression cannot be compiled, or fails over these values; the text says why."""

    cost = 0
    """What it cost until it failed."""


class LimitError(CelError):
    """An expression cost more than it may."""


class BudgetError(CelError):
    """Expressions cost more than they may together."""


class TooLongError(Exception):
    """Evaluations cost more than may be spent where they were begun."""


@dataclass(frozen=True, slots=True)
class Issue:
    """One thing that is wrong, and where: the offset of a character."""

    at: int
    text: str


class CompileError(CelError):
    """An expression is no expression, or its types do not fit."""

    def __init__(self, source: str, issues: list[Issue]) -> None:
        self.issues = sorted(issues, key=lambda issue: issue.at)
        shown = [_shown(source, issue) for issue in self.issues[:ISSUES_MAX]]
        if len(issues) > ISSUES_MAX:
            shown.append(f"{len(issues) - ISSUES_MAX} more errors were truncated")
        super().__init__("\n".join(shown))


def _shown(source: str, issue: Issue) -> str:
    """Return an issue as Kubernetes shows it: a line of text, the line that is meant, and a mark under the place."""
    if issue.at == NOWHERE:
        return f"ERROR: <input>:-1:0: {issue.text}"
    before = source[: issue.at]
    number, column = before.count("\n") + 1, issue.at - (before.rfind("\n") + 1)
    text = f"ERROR: <input>:{number}:{column + 1}: {issue.text}"
    line = source.split("\n")[number - 1].replace("\t", " ")
    if len(line.encode()) > SNIPPET_MAX:
        return text
    marks = "".join("." if character.isascii() else "．" for character in line[:column])
    under = "＾" if column < len(line) and not line[column].isascii() else "^"
    return f"{text}\n | {line}\n | {marks}{under}"
