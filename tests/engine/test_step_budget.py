"""How large a step may be after one that did not fit."""

from engine.step_budget import StepBudget


def num_until(budget: StepBudget, now: int) -> int:
    """Good steps until so many tokens may be in one."""
    count = 0
    while budget.now != now:
        budget.note_good()
        count += 1
        assert count < 1 << 20
    return count


def test_a_step_that_does_not_fit_halves_what_the_next_may_have():
    budget = StepBudget(2048)
    budget.shrink(2048)
    assert budget.now == 1024
    budget.shrink(33)
    assert budget.now == 16
    budget.shrink(3)
    assert budget.now == 1


def test_steps_that_fit_bring_it_back_by_and_by_and_never_above_what_is_set():
    budget = StepBudget(100)
    budget.shrink(60)
    first = num_until(budget, 60)
    assert first > 1
    assert num_until(budget, 100) == first
    for _ in range(1000):
        budget.note_good()
    assert budget.now == 100


def test_a_return_that_fails_is_tried_half_as_often():
    budget = StepBudget(64)
    budget.shrink(64)
    first = num_until(budget, 64)
    budget.shrink(64)
    second = num_until(budget, 64)
    budget.shrink(64)
    assert (second, num_until(budget, 64)) == (2 * first, 4 * first)


def test_a_bad_moment_costs_no_patience_however_small_steps_became():
    budget = StepBudget(64)
    budget.shrink(64)
    first = num_until(budget, 64)
    fresh = StepBudget(64)
    for num_tokens in (64, 32, 16, 8):
        fresh.shrink(num_tokens)
    assert num_until(fresh, 64) == 4 * first


def test_it_is_tried_again_at_last_however_often_that_failed():
    budget = StepBudget(8)
    for _ in range(40):
        budget.shrink(8)
        num_until(budget, 8)
    budget.shrink(8)
    assert num_until(budget, 8) <= 1 << 14
