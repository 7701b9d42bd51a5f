"""What ours is compared with, as a process: `python -m tests.benchmarks.subject NAME`.

Settings come from `SCOOTER_…` variables.
"""

import sys
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Final

import uvloop

from gateway.logs import set_up_logs
from gateway.settings import Settings, read_settings
from tests.benchmarks.baseline import run_baseline
from tests.benchmarks.upserts import run_upserts

SUBJECTS: Final[dict[str, Callable[[Settings], Coroutine[Any, Any, None]]]] = {
    "baseline": partial(run_baseline, inserts=True),
    "baseline_without_insert": partial(run_baseline, inserts=False),
    "upsert_each": partial(run_upserts, batched=False),
    "upsert_batched": partial(run_upserts, batched=True),
}

if __name__ == "__main__":
    settings = read_settings()
    set_up_logs(settings)
    uvloop.run(SUBJECTS[sys.argv[1]](settings))
