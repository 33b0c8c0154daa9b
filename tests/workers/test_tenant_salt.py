"""A tenant learns nothing of another's prompts from the prefix cache: from the job to the block."""

from engine.messages import SequenceRequest
from tests.engine.hash_model import drain, make_engine
from tests.workers.test_job_run import Table
from tests.workers.wire import make_job
from workers.engine_frames import HEADER_BYTES, Add, decode_commands, frame

PROMPT = [3, 1, 4, 1, 5, 9, 2, 6, 5]  # two whole blocks of four and one token


def engine_s_request(text, tenant: str) -> SequenceRequest:
    """A tenant's job as it arrives in the engine process."""
    job = make_job(prompts=[PROMPT], tenant=tenant, max_tokens=4)
    (request,) = Table(text, job).door.added
    (command,) = decode_commands(frame([Add(request)])[HEADER_BYTES:])
    assert isinstance(command, Add)
    return command.request


async def test_tenants_share_no_prefix_blocks(text):
    engine = make_engine()
    cached = []
    for tenant in ("acme", "rival", "", "acme", "rival", ""):
        engine.add(request := engine_s_request(text, tenant))
        cached.append(drain(engine)[request.id][0].cached_tokens)
    assert cached == [0, 0, 0, 8, 8, 8]
