"""Says who does which chore: ends of jobs, webhooks, batches, jobs that waited too long.

Knows the wiring only.
"""

import functools
import time

from api.auth import Gate
from api.batch.assembly import Batching, batching
from api.batch.state import BatchState
from api.chores import MAX_RUNNING
from api.generation import Generation
from api.hooks.endings import ENDED_KIND, Endings, batch_notice
from api.hooks.webhooks import HOOK_KIND, Webhooks
from api.job_store import WAIT_KIND

BATCH_KIND = "batch"
MAX_BATCHES = MAX_RUNNING // 2  # checking a long file may take minutes; the other chores go on


def in_background(generation: Generation, gate: Gate) -> Batching:
    """Give the process's chores their handlers; returns the files and batches.

    Raises SettingError for webhook settings that will never work.
    """
    broker = generation.broker
    hooks = Webhooks(
        broker.redis,
        broker.call,
        generation.config,
        lambda tenant: gate.tenant(tenant).webhook_secret,
    )
    endings = Endings(broker.redis, broker.call, hooks.announce)
    parts = batching(generation, functools.partial(_tell_of_batch, hooks))
    endings.on_line = parts.results.on_line
    broker.chores.register(ENDED_KIND, endings.handle)
    broker.chores.register(HOOK_KIND, hooks.deliver)
    broker.chores.register(BATCH_KIND, parts.run.handle, most=MAX_BATCHES)
    broker.chores.register(WAIT_KIND, generation.jobs.expire_wait)
    return parts


async def _tell_of_batch(hooks: Webhooks, state: BatchState) -> None:
    batch = state.batch
    if batch.webhook:
        await hooks.announce(
            batch_notice(
                batch.id,
                status=state.status,
                tenant=batch.tenant,
                url=batch.webhook,
                ended_s=int(time.time()),
            )
        )
