"""Who may start in the engine, and who is to blame when it dies. Knows no engine, clock or Redis.

A job that kills engines does it again at the very next token, for an attempt begins where the one
before ended. So a job that was in an engine when it died, a suspect, makes its first token while no
other job waits for one: if the engine dies now, it was this job. Then it is on probation for some
tokens more, since the log may end a little before the deadly one.

    crashes so far      first token     on probation
    1                   alone           PROBATION_TOKENS, while other suspects begin theirs
    2                   alone           PROBATION_TOKENS, and no other suspect with it
    3 and more          alone           to its end, and no other suspect with it

Jobs without a crash run beside all that; they wait only while somebody makes a first token alone.
"""

from collections.abc import Hashable, Iterator
from typing import Any, Generic, Literal, NamedTuple, TypeVar

PROBATION_TOKENS = 16
ALONE_FROM = 2  # crashes after which a suspect shares its probation with no other one
TO_THE_END_FROM = 3
MAX_CRASHES = 2  # of a job that was to blame alone the last time
MAX_SHARED_CRASHES = 5  # of any job

T = TypeVar("T", bound=Hashable)

# crashed: it may have been this job; the next attempt is on probation. dead: it was.
Fate = Literal["innocent", "crashed", "dead"]


class Verdict(NamedTuple, Generic[T]):
    """Who was blamed for an engine's death."""

    blamed: frozenset[T]

    def fate(self, job: T, crashes: int) -> Fate:
        """What becomes of a job that had `crashes` before this one."""
        if job not in self.blamed:
            return "innocent"
        limit = MAX_CRASHES if len(self.blamed) == 1 else MAX_SHARED_CRASHES
        return "dead" if crashes + 1 >= limit else "crashed"


class Lane(Generic[T]):
    """The way into one engine. Jobs enter, are handed out by `next`, are noted, and leave."""

    def __init__(self) -> None:
        self._fresh: dict[T, None] = {}
        self._suspects: dict[T, int] = {}  # by crashes; those that wait
        self._started: dict[T, int] = {}
        self._probation: dict[T, int] = {}  # by crashes; those that run
        self._unproven: dict[T, None] = {}  # started, and without a token since

    @property
    def num_started(self) -> int:
        """Jobs that are in the engine."""
        return len(self._started)

    @property
    def is_waiting(self) -> bool:
        """True if a job waits to be started."""
        return bool(self._fresh or self._suspects)

    def watched(self) -> Iterator[T]:
        """The jobs whose tokens matter: to be noted whenever they have made some."""
        yield from self._unproven
        yield from (job for job in self._probation if job not in self._unproven)

    def enter(self, job: T, crashes: int) -> None:
        """A job wants to start; engines died under it `crashes` times."""
        if crashes:
            self._suspects[job] = crashes
        else:
            self._fresh[job] = None

    def next(self) -> T | None:
        """The job to start now, if there is one; ask again until there is none."""
        suspect = self._next_suspect()
        if suspect is not None:
            return None if self._unproven else self._start(suspect)
        if self._fresh and not any(job in self._unproven for job in self._probation):
            return self._start(next(iter(self._fresh)))
        return None

    def _next_suspect(self) -> T | None:
        """The one with the fewest crashes, unless those on probation must stay by themselves."""
        if not self._suspects or any(c >= ALONE_FROM for c in self._probation.values()):
            return None
        job = min(self._suspects, key=self._suspects.__getitem__)
        is_alone = self._suspects[job] >= ALONE_FROM
        return None if is_alone and self._probation else job

    def _start(self, job: T) -> T:
        self._fresh.pop(job, None)
        crashes = self._started[job] = self._suspects.pop(job, 0)
        self._unproven[job] = None
        if crashes:
            self._probation[job] = crashes
        return job

    def note(self, job: T, num_tokens: int) -> None:
        """The job has made so many tokens, at least one, since it was started."""
        self._unproven.pop(job, None)
        crashes = self._probation.get(job, 0)
        if num_tokens >= PROBATION_TOKENS and crashes < TO_THE_END_FROM:
            self._probation.pop(job, None)

    def leave(self, job: T) -> None:
        """The job has ended, or goes on elsewhere."""
        lists: tuple[dict[T, Any], ...] = (
            self._fresh,
            self._suspects,
            self._started,
            self._probation,
            self._unproven,
        )
        for jobs in lists:
            jobs.pop(job, None)

    def judge(self) -> Verdict[T]:
        """The engine has died: who may have done it? Nobody that had not been started."""
        alone = [job for job in self._probation if job in self._unproven]
        if alone:  # it began its first token alone
            return Verdict(frozenset(alone))
        if self._probation:  # one of them, or one that was new
            return Verdict(frozenset(self._probation) | frozenset(self._unproven))
        return Verdict(frozenset(self._started))
