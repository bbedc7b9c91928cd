"""A cover that is taken away is missed: by simulated lives, or by a test of its own."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from tests.simulation.lives import Life
from tests.simulation.mutants import MUTANTS, Mutant
from tests.simulation.profiles import profile_of


def seeds(mutant: Mutant) -> Iterator[int]:
    """The first lives of the kinds that find the mutant."""
    wanted = (seed for seed in itertools.count() if profile_of(seed).name in mutant.kinds)
    return itertools.islice(wanted, mutant.seeds_max)


def found_at(mutant: Mutant) -> int | None:
    """The first seed whose life goes wrong."""
    for seed in seeds(mutant):
        try:
            with mutant.at_work():
                Life(seed).live()
        except Exception:  # noqa: BLE001 - whatever is noticed is noticed
            return seed
    return None


@pytest.mark.slow
@pytest.mark.parametrize("mutant", [one for one in MUTANTS if one.seeds_max], ids=lambda one: one.name)
def test_simulated_lives_miss_a_cover(mutant: Mutant) -> None:
    seed = found_at(mutant)
    print(f"{mutant.name}: found at seed {seed}")
    assert seed is not None, f"{mutant.what}, and nobody notices"


@pytest.mark.parametrize("mutant", [one for one in MUTANTS if one.test], ids=lambda one: one.name)
def test_a_cover_has_a_test_of_its_own(mutant: Mutant) -> None:
    assert mutant.test is not None
    mutant.test()
    with pytest.raises(AssertionError), mutant.at_work():
        mutant.test()


def test_every_defect_has_a_mutant() -> None:
    covered = {mutant.name.partition("-")[0] for mutant in MUTANTS}
    assert {f"d{number}" for number in range(1, 13)} <= covered
