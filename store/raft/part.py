"""What the parts of a member's Raft core know of the whole: one base class that they share."""

from __future__ import annotations


class Part:
    """Name what the core answers, for the parts that ask it: `RaftCore` overrides every one of these."""

    @property
    def member_id(self) -> int:
        """This member."""
        raise AssertionError("the core knows")

    @property
    def term(self) -> int:
        """The current term."""
        raise AssertionError("the core knows")

    @property
    def is_leader(self) -> bool:
        """Whether this member leads."""
        raise AssertionError("the core knows")

    @property
    def commit_index(self) -> int:
        """Highest committed index known."""
        raise AssertionError("the core knows")

    @property
    def applied_index(self) -> int:
        """Highest index applied."""
        raise AssertionError("the core knows")

    @property
    def term_started(self) -> bool:
        """Whether an entry of the current term has been applied."""
        raise AssertionError("the core knows")
