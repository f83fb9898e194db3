"""The store goes away in mid-sweep: rows wait for it, and where it stays away nothing that was acknowledged is lost."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import pytest

from raybench import outcome as outcomes
from raybench.errors import StorageError
from raybench.ledger import Ledger
from raybench.plan import Plan, build_plan
from raybench.recorder import Recorder
from raybench.space import load_space
from raybench.storage import to_path
from tests.storage.store import Store
from tests.test_ledger import MEASUREMENT

pytestmark = pytest.mark.slow


@pytest.fixture
def plan() -> Plan:
    return build_plan(*load_space("quickstart", {"setting.model": "lenet", "repeats": "2"}), sweep="friday")


def start(plan: Plan, uri: str, folder: Path) -> Recorder:
    recorder = Recorder(
        plan.model_dump_json(), uri, "question: {}\n", f"sqlite:///{folder}/m.db", str(folder / "a"), {},
        str(folder / "running.json"),
    )  # fmt: skip
    recorder.trial_began(plan.trials[0].trial_id)
    return recorder


def record(recorder: Recorder, leg_id: str) -> None:
    recorder.begin("group", leg_id)
    recorder.record("group", leg_id, outcomes.to_dict(replace(MEASUREMENT, first_loss=1.0)))


def test_a_row_waits_for_a_store_that_comes_back(store: Store, bucket: str, plan: Plan, tmp_path: Path) -> None:
    uri = store.uri(f"{bucket}/quickstart/friday")
    recorder = start(plan, uri, tmp_path)
    first, second, *_ = [leg.leg_id for leg in plan.trials[0].legs]
    record(recorder, first)
    store.door.shut(after=3000)  # in the middle of the row
    threading.Timer(8.0, store.door.open).start()
    record(recorder, second)
    assert store.door.bytes_left > 3000
    assert Ledger(to_path(uri)).leg_ids() == {first, second}


def test_a_file_that_cannot_be_fetched_is_not_taken_for_damaged(store: Store, bucket: str, plan: Plan) -> None:
    ledger = Ledger(to_path(store.uri(bucket)))
    ledger.add("s", "quickstart", *plan.legs()[0], MEASUREMENT)
    (file,) = to_path(store.uri(bucket)).glob("*.parquet")
    store.door.shut()
    with pytest.raises(StorageError) as caught:
        ledger.set_aside()
    assert caught.value.passing
    with pytest.raises(StorageError), file.readable():
        pass
    store.door.open()
    assert ledger.set_aside() == []
