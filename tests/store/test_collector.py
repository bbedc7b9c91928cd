"""The garbage collector rests while a member works, and not for ever."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from store import collector


@pytest.fixture
def thresholds() -> Iterator[None]:
    before = gc.get_threshold()
    yield
    gc.set_threshold(*before)
    gc.enable()
    gc.unfreeze()


@pytest.mark.parametrize(
    ("since_s", "changes", "due"),
    [(10.0, 0, False), (301.0, 1, False), (301.0, 0, True), (3599.0, 9, False), (3600.0, 9, True)],
)
def test_everything_is_walked_through_in_quiet_moments_or_after_an_hour(
    since_s: float, changes: int, due: bool
) -> None:
    assert collector.is_due(since_s, changes) == due


def test_a_loaded_state_is_left_alone_and_young_garbage_is_found(thresholds: None) -> None:
    collector.hold()
    assert not gc.isenabled()
    collector.calm()
    assert gc.isenabled()
    assert gc.get_freeze_count() > 0
    young, _, everything = gc.get_threshold()
    assert 0 < young < 100_000
    assert everything == collector.NEVER
