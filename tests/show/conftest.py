"""A report of the rich ledger, written once."""

from __future__ import annotations

from pathlib import Path

import pytest

from raybench.report import main
from tests.show.ledgers import rich_ledger


@pytest.fixture(scope="session")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return rich_ledger(tmp_path_factory.mktemp("ledger") / "friday")


@pytest.fixture(scope="session")
def written(ledger: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the report, with a ladder."""
    out = tmp_path_factory.mktemp("report")
    assert main([str(ledger), f"out={out}", "ladder=ddp,zero1,zero3"]) == 0
    return out
