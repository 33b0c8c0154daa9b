"""Names of keys and channels in Redis, in one place. Knows no values.

The scripts in `lua/` build some of them themselves; `lua/queue.lua` lists what a queue is made of.
"""

# arq's own key names (arq.constants); the API writes them without importing arq.
ARQ_JOB_PREFIX = "arq:job:"
LEASE_PREFIX = "arq:in-progress:"


def job_key(job_id: str) -> str:
    """HASH: `spec` (the Job), and what the scripts note of its life."""
    return f"job:{job_id}"


def log_key(job_id: str) -> str:
    """LIST: the token log."""
    return f"log:{job_id}"


def cancel_key(job_id: str) -> str:
    """STRING: a client gave the job up; outlives a worker that never saw the message."""
    return f"cancel:{job_id}"


def lease_key(job_id: str) -> str:
    """STRING with expiry: `{worker}:{attempt}` of the attempt that may write."""
    return LEASE_PREFIX + job_id


def arq_job_key(job_id: str) -> str:
    """STRING: arq's own record of the job."""
    return ARQ_JOB_PREFIX + job_id


def queue_key(model: str) -> str:
    """ZSET: all jobs of one model that have not ended, scored by enqueue time in ms."""
    return f"q:{model}"


def wake_channel(queue: str) -> str:
    """Channel that wakes the workers of a queue."""
    return f"wake:{queue}"


def control_channel(queue: str) -> str:
    """Channel that carries cancelled job ids to the workers of a queue."""
    return f"ctl:{queue}"


def api_channel(api: str) -> str:
    """Channel that carries step batches to one API process."""
    return f"api:{api}"


WORKERS_KEY = "workers"  # ZSET: worker id -> Redis time of its last heartbeat
MODELS_KEY = "models"  # HASH: model name -> ModelCard
MODELS_SEEN_KEY = "models:seen"  # ZSET: model name -> Redis time of its last heartbeat


def worker_key(worker: str) -> str:
    """STRING with expiry: the worker's Heartbeat."""
    return f"worker:{worker}"


CHORES_KEY = "chores"  # ZSET: what API processes have to do, by due time in ms
CHORES_CHANNEL = "chores"  # wakes them
WAKE_UP = b"1"  # what wakes; no batch of log entries is this
DEAD_KEY = "dead"  # ZSET: dead letters, by when they died in ms


def leases_key(queue: str) -> str:
    """ZSET: the queue's running jobs, by the end of their lease in ms."""
    return f"{queue}:leases"


def class_key(queue: str, service_class: str) -> str:
    """ZSET: the queue's waiting jobs of a class, by when they came in ms."""
    return f"{queue}:class:{service_class}"


def tenants_key(queue: str) -> str:
    """HASH: how many of the queue's jobs each tenant has."""
    return f"{queue}:tenants"


def idempotency_key(tenant: str, key: str) -> str:
    """HASH with expiry: `digest` of the body that came with the key, and `job`, what it began."""
    return f"idem:{tenant}:{key}"


def limit_key(tenant: str) -> str:
    """HASH with expiry: a tenant's token buckets."""
    return f"limit:{tenant}"


def arq_retry_key(job_id: str) -> str:
    """STRING: arq's count of a job's attempts."""
    return f"arq:retry:{job_id}"


def isq_key(model: str) -> str:
    """HASH: which weights the model's workers are to have (`lua/isq.lua` lists its fields)."""
    return f"isq:{model}"


def isq_turn_key(model: str) -> str:
    """STRING with expiry: the worker that loads other weights now."""
    return f"turn:{isq_key(model)}"


def isq_channel(queue: str) -> str:
    """Channel that tells the workers of a queue to look at which weights they are to have."""
    return f"isq:{queue}"


def re_isq_key(change_id: str) -> str:
    """HASH: one change of weights, and what became of it in each worker."""
    return f"re_isq:{change_id}"
