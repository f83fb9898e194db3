"""The store goes away in mid-sweep: rows wait for it, and where it stays away nothing that was acknowledged is lost."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import pytest

from raybench.declare.plan import Plan, build_plan
from raybench.declare.space import load_space
from raybench.driver.messages import LegEvent, Note
from raybench.driver.recorder import Recorder
from raybench.errors import StorageError
from raybench.ledger.dataset import Ledger
from raybench.stores import remotepath
from raybench.stores.storage import to_path
from tests.ledger.test_dataset import MEASUREMENT
from tests.storage.store import Store

pytestmark = pytest.mark.slow


@pytest.fixture
def plan() -> Plan:
    return build_plan(*load_space("quickstart", {"setting.model": "lenet", "repeats": "2"}), sweep="friday")


def start(plan: Plan, uri: str, folder: Path) -> Recorder:
    recorder = Recorder(
        plan.model_dump_json(), uri, "question: {}\n", f"sqlite:///{folder}/m.db", str(folder / "a"), {},
        str(folder / "running.json"),
    )  # fmt: skip
    recorder.next_block(0)
    recorder.block_began(0)
    return recorder


def record(recorder: Recorder, leg_id: str) -> None:
    recorder.begin("group", leg_id)
    recorder.record("group", leg_id, replace(MEASUREMENT, first_loss=1.0))


def test_a_row_waits_for_a_store_that_comes_back(store: Store, bucket: str, plan: Plan, tmp_path: Path) -> None:
    uri = store.uri(f"{bucket}/quickstart/friday")
    recorder = start(plan, uri, tmp_path)
    first, second, *_ = [leg.leg_id for leg in plan.trials[0].legs]
    record(recorder, first)
    store.door.shut(after=3000)  # in the middle of the row
    threading.Timer(8.0, store.door.open).start()
    record(recorder, second)
    assert store.door.bytes_left > 3000
    news = recorder.news(0)
    assert news.trouble == ""
    assert next(event.text for event in news.events if isinstance(event, Note)).startswith("a row waited ")
    assert Ledger(to_path(uri)).leg_ids() == {first, second}


def test_where_it_stays_away_the_sweep_ends_and_goes_on_later(
    store: Store, bucket: str, plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remotepath, "PATIENCE_SECONDS", 0.5)
    uri = store.uri(f"{bucket}/quickstart/friday")
    recorder = start(plan, uri, tmp_path)
    first, second, third, *_ = [leg.leg_id for leg in plan.trials[0].legs]
    record(recorder, first)
    store.door.shut(after=3000)
    record(recorder, second)
    trouble = recorder.news(0).trouble
    assert trouble.startswith(f"s3://{bucket}/quickstart/friday/leg-{second}.parquet?"), trouble
    assert "\n" not in trouble
    assert not recorder.begin("group", third)
    assert [event.leg_id for event in recorder.news(0).events if isinstance(event, LegEvent)] == [first]

    store.door.open()
    names = [name.rpartition("/")[2] for name in store.names(bucket)]
    assert sorted(name for name in names if name.endswith(".parquet")) == [f"leg-{first}.parquet"]
    (tmp_path / "running.json").unlink()  # as the end of a sweep takes it away
    again = start(plan, uri, tmp_path)
    assert again.next_group(0).legs[0] == second
    record(again, second)
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
