"""torchrun's legs refuse a ledger that holds the same places measured differently, as a sweep does."""

from __future__ import annotations

from pathlib import Path

import pytest

from raybench.declare.plan import build_plan
from raybench.declare.space import load_space
from raybench.errors import UserError
from raybench.ledger.dataset import Ledger
from raybench.ledger.outcome import Failure
from raybench.training.__main__ import main


def test_a_ledger_of_another_protocol_is_refused(tmp_path: Path) -> None:
    values = {"repeats": "1"}
    one = build_plan(*load_space("quickstart", values), sweep="s")
    other = build_plan(*load_space("quickstart", values | {"protocol.steps": "7"}), sweep="s")
    trial = one.trials[0]
    Ledger(tmp_path).add("s", one.space, trial, trial.legs[0], Failure(kind="crashed", message="a test"))
    path = tmp_path / "plan.json"
    path.write_text(other.model_dump_json())
    with pytest.raises(UserError, match=r"with another protocol.*ledger=FOLDER"):
        main([str(path), f"ledger={tmp_path}"])
