"""A request's place at the log of the job that answers it. Knows no queue's terms and no answer."""

from typing import Self

from api.broker import Broker
from api.delivery import Reader
from workers import contract


class Seat:
    """Taken before the job is in the queue, so that nothing of it is missed.

    `close` ends it, or the end of a `with` block, unless `is_kept` is set there. Raises ApiError
    when there is no room.
    """

    def __init__(
        self, broker: Broker, job: contract.Job, queue: str, *, wakes_at_end: bool
    ) -> None:
        self.job = job
        self.is_gone = False  # the client left
        self.is_earlier = False  # the job was there before this request
        self.is_kept = False
        self._broker = broker
        self._queue = queue
        self._wakes_at_end = wakes_at_end
        self._is_queued = False
        self.reader = self._open(job)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if not self.is_kept:
            self.close()

    def rejoin(self) -> None:
        """The job is an earlier one: it is read from its beginning."""
        self.is_earlier = self._is_queued = True
        self._broker.relay.ask(self.reader)

    def settle(self, job: contract.Job) -> None:
        """The job is in the queue, or an earlier one answers in its stead: that is read from its
        beginning.
        """
        if job.id != self.job.id:
            earlier = self._open(job)
            self._broker.release(self.reader, self.job.home)
            self.reader = earlier
            self.rejoin()
        self.job = job
        self._is_queued = True
        if self.is_gone:
            self.reader.leave()

    def leave(self) -> None:
        """The client closed its connection."""
        self.is_gone = True
        self.reader.leave()

    def close(self) -> None:
        """Let go of the log. A job whose client left is cancelled, unless it runs on by itself.
        When this process stops, a stream lives on for its client to resume; whoever waits for a
        whole answer asks again, which is another job.
        """
        reader = self.reader
        is_wanted = self.job.is_detached or (reader.is_drained and self.job.stream)
        self._broker.release(reader, self.job.home)
        if self._is_queued and not reader.is_over and not is_wanted:
            self._broker.cancel_soon(self.job, self._queue)

    def _open(self, job: contract.Job) -> Reader:
        reader = Reader(job.id, wakes_at_end=self._wakes_at_end)
        self._broker.open(reader, job.home)
        return reader
