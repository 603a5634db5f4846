"""The notebook of examples/ runs from top to bottom in a kernel of its own, and is kept without outputs."""

import os
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

PATH = Path(__file__).parents[2] / "examples" / "quickstart.ipynb"
TIMEOUT_S = 300
"""For one cell, on a busy machine."""


@pytest.fixture
def notebook() -> nbformat.NotebookNode:
    found: nbformat.NotebookNode = nbformat.read(PATH, as_version=4)
    return found


def test_it_is_kept_without_outputs(notebook: nbformat.NotebookNode) -> None:
    """Outputs of a user's own run may hold faces; a diff is to show what was written, not what came out."""
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.outputs == [] and cell.execution_count is None for cell in cells)
    assert not any(cell.get("attachments") for cell in notebook.cells)


def test_it_runs(notebook: nbformat.NotebookNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)  # where the command agegender is
    client = NotebookClient(notebook, timeout=TIMEOUT_S, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()  # raises with the cell and its traceback where one fails
    shown = [
        output["data"]["text/html"]
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
        if "text/html" in output.get("data", {})
    ]
    assert sum("<svg" in html for html in shown) == 2, "eda's histogram and predict's pyramid"
    assert sum('<img src="data:image/jpeg' in html for html in shown) == 1
    assert any("not_an_image" in html for html in shown)
    assert list((tmp_path / "out" / "predictions").glob("part-*.parquet"))
    assert (tmp_path / "out" / "eda" / "report.html").is_file()
