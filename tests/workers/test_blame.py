"""Who starts when, and who is blamed: the lane by itself."""

import pytest
from hypothesis import given, strategies as st

from workers.blame import PROBATION_TOKENS, Lane, Verdict


def lane_of(**crashes: int) -> Lane[str]:
    lane = Lane[str]()
    for job, count in crashes.items():
        lane.enter(job, count)
    return lane


def start_all(lane: Lane[str]) -> list[str]:
    """Who may start now."""
    started = []
    while (job := lane.next()) is not None:
        started.append(job)
    return started


class TestTheWayIn:
    def test_new_jobs_start_at_once_in_order(self):
        assert start_all(lane_of(a=0, b=0, c=0)) == ["a", "b", "c"]

    def test_a_suspect_makes_its_first_token_while_nobody_else_waits_for_one(self):
        lane = lane_of(new=0, suspect=1)
        assert start_all(lane) == ["suspect"]
        lane.note("suspect", 1)
        assert start_all(lane) == ["new"]

    def test_a_suspect_waits_until_those_before_it_have_a_token(self):
        lane = lane_of(new=0)
        assert start_all(lane) == ["new"]
        lane.enter("suspect", 1)
        lane.enter("later", 0)
        assert start_all(lane) == []
        lane.note("new", 1)
        assert start_all(lane) == ["suspect"]
        lane.note("suspect", 1)
        assert start_all(lane) == ["later"]

    def test_suspects_of_one_crash_follow_each_other_token_by_token(self):
        lane = lane_of(a=1, b=1, c=1)
        assert start_all(lane) == ["a"]
        lane.note("a", 1)
        assert start_all(lane) == ["b"]
        lane.note("b", 1)
        assert start_all(lane) == ["c"]

    def test_suspects_of_two_crashes_are_on_probation_one_at_a_time(self):
        lane = lane_of(a=2, b=2)
        assert start_all(lane) == ["a"]
        lane.note("a", PROBATION_TOKENS - 1)
        assert start_all(lane) == []
        lane.note("a", PROBATION_TOKENS)
        assert start_all(lane) == ["b"]

    def test_a_suspect_of_three_crashes_stays_on_probation_to_its_end(self):
        lane = lane_of(a=3, b=3)
        assert start_all(lane) == ["a"]
        lane.note("a", 1000)
        assert start_all(lane) == []
        lane.leave("a")
        assert start_all(lane) == ["b"]

    def test_the_least_suspicious_go_first(self):
        lane = lane_of(c=3, b=2, a=1, z=1)
        order = []
        while lane.is_waiting:
            (job,) = start_all(lane)
            order.append(job)
            lane.note(job, PROBATION_TOKENS)
        assert order == ["a", "z", "b", "c"]

    def test_new_jobs_flow_beside_a_probation(self):
        lane = lane_of(a=3)
        start_all(lane)
        lane.note("a", 1)
        lane.enter("b", 3)
        lane.enter("new", 0)
        assert start_all(lane) == ["new"]

    def test_who_leaves_while_it_waits_is_never_started(self):
        lane = lane_of(a=1, b=1, c=0)
        start_all(lane)
        lane.leave("b")
        lane.note("a", 1)
        assert start_all(lane) == ["c"]


class TestTheVerdict:
    def test_an_engine_that_dies_empty_has_no_culprit(self):
        assert lane_of(a=1).judge().blamed == frozenset()

    def test_without_suspects_all_that_had_started_may_have_done_it(self):
        lane = lane_of(a=0, b=0)
        start_all(lane)
        lane.note("a", 500)
        verdict = lane.judge()
        assert verdict.blamed == {"a", "b"}
        assert verdict.fate("a", 0) == "crashed"

    def test_who_waits_is_innocent(self):
        lane = lane_of(a=1, b=1, c=0)
        start_all(lane)
        assert lane.judge().blamed == {"a"}
        assert lane.judge().fate("b", 1) == "innocent"

    def test_a_suspect_that_dies_at_its_first_token_did_it_alone(self):
        lane = lane_of(neighbour=0)
        start_all(lane)
        lane.note("neighbour", 1)
        lane.enter("suspect", 1)
        assert start_all(lane) == ["suspect"]
        verdict = lane.judge()
        assert verdict.blamed == {"suspect"}
        assert verdict.fate("suspect", 1) == "dead"
        assert verdict.fate("neighbour", 0) == "innocent"

    def test_an_innocent_on_probation_is_not_killed_for_a_newcomer_s_deed(self):
        lane = lane_of(suspect=1)
        start_all(lane)
        lane.note("suspect", 3)
        lane.enter("poison", 0)
        start_all(lane)
        verdict = lane.judge()
        assert verdict.blamed == {"suspect", "poison"}
        assert verdict.fate("suspect", 1) == "crashed"

    def test_proven_neighbours_of_a_probation_are_not_blamed(self):
        lane = lane_of(suspect=1)
        start_all(lane)
        lane.note("suspect", 3)
        lane.enter("new", 0)
        start_all(lane)
        lane.note("new", 1)
        assert lane.judge().blamed == {"suspect"}

    def test_a_passed_probation_counts_as_any_job(self):
        lane = lane_of(a=1, b=0)
        start_all(lane)
        lane.note("a", PROBATION_TOKENS)
        start_all(lane)
        lane.note("b", 1)
        assert lane.judge().blamed == {"a", "b"}

    @pytest.mark.parametrize(
        ("others", "crashes", "fate"),
        [
            (0, 0, "crashed"),
            (0, 1, "dead"),
            (3, 1, "crashed"),
            (3, 3, "crashed"),
            (3, 4, "dead"),
        ],
    )
    def test_two_crashes_alone_or_five_in_company_are_the_end(self, others, crashes, fate):
        verdict = Verdict(frozenset(["j", *map(str, range(others))]))
        assert verdict.fate("j", crashes) == fate


@given(st.integers(1, 12), st.data())
def test_a_job_that_kills_every_engine_is_found_at_the_second_and_no_other_dies(num_jobs, data):
    counts = dict.fromkeys([f"j{n}" for n in range(num_jobs)], 0)
    poison = data.draw(st.sampled_from(sorted(counts)))
    for _ in range(2):
        lane = lane_of(**counts)
        started = start_all(lane)
        while poison not in started:
            for job in started:
                lane.note(job, 1)
            started += start_all(lane)
        verdict = lane.judge()
        fates = {job: verdict.fate(job, count) for job, count in counts.items()}
        assert not [job for job, fate in fates.items() if fate == "dead" and job != poison]
        if fates[poison] == "dead":
            return
        counts = {job: count + (fates[job] == "crashed") for job, count in counts.items()}
    raise AssertionError("the poison is still at large")
