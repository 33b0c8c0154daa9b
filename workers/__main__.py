"""`python -m workers`: one worker. Knows exit codes: 0 stopped, 1 failed, 2 cannot start."""

import asyncio
import sys

import uvloop

from engine.errors import LoadError
from workers.assembly import run_worker
from workers.config import WorkerConfig
from workers.engine_process import EngineDied
from workers.environment import SettingError, load
from workers.logs import configure


def main() -> int:
    """Run until stopped; a bad setting or model is one sentence on stderr and exit code 2."""
    try:
        config = load(WorkerConfig)
        configure(config.log)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(run_worker(config))
    except (SettingError, LoadError) as error:
        return _refuse(error, 2)
    except EngineDied as error:
        return _refuse(error, 1)
    except KeyboardInterrupt:
        return 130
    return 0


def _refuse(error: Exception, code: int) -> int:
    sys.stderr.write(f"tramontane worker: {error}\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
