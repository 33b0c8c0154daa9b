"""What one worker is made of, passed to whoever needs it. Builds and runs nothing itself."""

from typing import TYPE_CHECKING, NamedTuple

from engine.messages import EngineInfo
from engine.text.text_model import TextModel
from workers.config import WorkerConfig
from workers.engine_process import EngineProcess
from workers.grammar_trial import GrammarTrial
from workers.heartbeat import Pulse
from workers.lease import Leases
from workers.redis_link import Scripts
from workers.runs import Runs
from workers.token_log import TokenLog

if TYPE_CHECKING:
    from workers.job_spans import JobSpans


class Service(NamedTuple):
    """The parts of a worker. `worker` is its id, `queue` the key it takes jobs from."""

    config: WorkerConfig
    worker: str
    queue: str
    text: TextModel
    info: EngineInfo
    engine: EngineProcess
    scripts: Scripts
    token_log: TokenLog
    leases: Leases
    runs: Runs
    pulse: Pulse
    grammars: GrammarTrial
    spans: "JobSpans | None" = None  # where traces are wanted
