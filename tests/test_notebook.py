"""The notebook of examples/ runs from top to bottom in a process of its own, and shows what it says it shows."""

from __future__ import annotations

import os
from typing import Any

import pytest

from tests.conftest import ROOT, command_environment

pytest.importorskip("ipykernel", reason="no ipykernel (it is of the extra `test`)")


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """The notebook's cells after a run in its own folder; the run raises where a cell does."""
    import nbformat
    from nbclient import NotebookClient

    quiet = tmp_path_factory.mktemp("jupyter")
    saved = dict(os.environ)
    os.environ.update(command_environment(), JUPYTER_PLATFORM_DIRS="1", IPYTHONDIR=str(quiet))
    try:
        notebook = nbformat.read(ROOT / "examples" / "ledger.ipynb", as_version=4)
        client = NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(ROOT / "examples")}})
        client.execute()
    finally:
        os.environ.clear()
        os.environ.update(saved)
    return list(notebook.cells)


def shown(cells: list[Any], source: str) -> dict[str, str]:
    """What the cell that contains `source` shows, by MIME type; printed text as `stdout`."""
    (cell,) = [cell for cell in cells if cell.cell_type == "code" and source in cell.source]
    data: dict[str, str] = {}
    for output in cell.outputs:
        data |= {output.name: output.text} if output.output_type == "stream" else output.data
    return data


def test_the_notebook_shows_answer_table_and_figure(cells: list[Any]) -> None:
    answer = " ".join(shown(cells, "answer = analyse")["text/html"].split())
    assert "hurts: it takes 1.25 times as long as ddp" in answer
    assert answer.count("it takes 1.25 times") == 1
    assert "it takes 1.25 times" in shown(cells, "print(analyse(")["stdout"]
    assert "<table" in shown(cells, "table[columns]")["text/html"]
    assert "image/png" in shown(cells, 'figures["forest"]')
    assert shown(cells, "value_counts")["text/plain"] == "({'undecided': 25, 'hurts': 2}, 'hurts', 0.802)"
    assert "DOUBTS" in shown(cells, "ranked")["stdout"]


def test_the_notebook_ships_without_outputs() -> None:
    text = (ROOT / "examples" / "ledger.ipynb").read_text(encoding="utf-8")
    assert '"outputs": []' in text
    assert "output_type" not in text
