"""One driver a sweep also where the ledger is in a store."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from raybench.errors import UserError
from raybench.ledger import lock
from raybench.ledger.lock import sweep_lock
from raybench.stores.storage import to_path
from tests.conftest import command_environment
from tests.storage.store import Store

HOLD = (
    "import sys, time; from raybench.stores.storage import to_path; from raybench.ledger.lock import sweep_lock\n"
    + ("with sweep_lock(to_path(sys.argv[1])):\n    print('held', flush=True); time.sleep(60)")
)


def claims(store: Store, bucket: str) -> list[str]:
    return [name for name in store.names(bucket) if name.endswith(".json")]


def test_the_second_is_refused_until_the_first_is_dead(store: Store, bucket: str) -> None:
    uri = store.uri(f"{bucket}/space/friday")
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, uri], stdout=subprocess.PIPE, text=True, env=command_environment()
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        refused = pytest.raises(UserError, match=rf"sweep=friday is being run by process {holder.pid} on .*10 minutes")
        with refused, sweep_lock(to_path(uri)):
            pass
        assert len(claims(store, bucket)) == 1
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    with sweep_lock(to_path(uri)):
        (claim,) = claims(store, bucket)
        assert claim.startswith("space/friday/_lock/")
    assert claims(store, bucket) == []


def other_claim(store: Store, bucket: str, **changes: Any) -> None:
    """A claim of a machine that nobody here knows."""
    claim = {"holder": "process 7 on elsewhere", "machine": "elsewhere", "process": os.getpid(), "started": "1"}
    store.client("s3").put_object(Bucket=bucket, Key="friday/_lock/other.json", Body=json.dumps(claim | changes))


def test_the_claim_of_another_machine_counts_while_it_is_fresh(
    store: Store, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "_AT_ONCE_SECONDS", -1.0)
    other_claim(store, bucket)
    folder = to_path(store.uri(f"{bucket}/friday"))
    with pytest.raises(UserError, match="process 7 on elsewhere"), sweep_lock(folder):
        pass
    monkeypatch.setattr(lock, "STALE_SECONDS", -1.0)
    with sweep_lock(folder):
        assert len(claims(store, bucket)) == 1
    assert claims(store, bucket) == []


def test_of_several_at_once_one_at_most_has_it(store: Store, bucket: str) -> None:
    inside: list[int] = []
    to_be_seen = threading.Event()

    def enter(_: int) -> int:
        try:
            with sweep_lock(to_path(store.uri(f"{bucket}/friday"))):
                inside.append(1)
                most = len(inside)
                to_be_seen.wait(0.3)
                inside.pop()
                return most
        except UserError:
            return 0

    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(enter, range(3)))
    assert max(found) <= 1
    assert claims(store, bucket) == []


def test_a_claim_is_refreshed_while_it_is_held(store: Store, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "_REFRESH_SECONDS", 0.05)
    with sweep_lock(to_path(store.uri(f"{bucket}/friday"))):
        (claim,) = claims(store, bucket)
        store.client("s3").delete_object(Bucket=bucket, Key=claim)
        deadline = time.monotonic() + 30
        while claims(store, bucket) != [claim]:
            assert time.monotonic() < deadline
    assert claims(store, bucket) == []
