"""In every Python process that finds this folder on its path: a calendar clock that a test can set back.

The clock is behind by as many seconds as the file RAYBENCH_TEST_CLOCK is long. It is the clock that Python shows, to
raybench, Ray and MLflow alike; Ray's compiled parts and the files' own times keep the machine's, which others use too.
"""

import os
import time

_FILE = os.environ.get("RAYBENCH_TEST_CLOCK", "")


def _set(real: float) -> float:
    try:
        return real - os.stat(_FILE).st_size
    except OSError:
        return real


if _FILE:
    _seconds, _nanoseconds = time.time, time.time_ns
    time.time = lambda: _set(_seconds())
    time.time_ns = lambda: int(_set(_nanoseconds() / 1e9) * 1e9)
