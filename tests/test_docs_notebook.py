"""The notebook of the documentation has no outputs, and runs."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from jaxstyle.network.arrays import Params

PATH = Path(__file__).parents[1] / "docs" / "tutorial.ipynb"


@pytest.fixture
def notebook() -> nbformat.NotebookNode:
    return nbformat.read(PATH, as_version=4)


def test_outputs_are_stripped(notebook: nbformat.NotebookNode) -> None:
    nbformat.validate(notebook)
    for cell in notebook.cells:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None
    assert {*notebook.metadata} == {"kernelspec", "language_info"}


@pytest.mark.slow
def test_it_runs(notebook: nbformat.NotebookNode, imagenet: Params) -> None:
    tagged = {tag: cell for cell in notebook.cells for tag in cell.metadata.get("tags", ())}
    names = [line.split(" =")[0] for line in tagged["parameters"].source.splitlines()]
    assert names == ["SIZE", "EVALUATIONS"]
    tagged["parameters"].source = "SIZE, EVALUATIONS = 64, 5"
    resources = {"metadata": {"path": str(PATH.parent)}}
    NotebookClient(notebook, timeout=300, resources=resources).execute()
    shown = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    pictures = [output for output in shown if "image/png" in output.get("data", {})]
    assert len(pictures) == 5
    progress = [
        output.data["text/markdown"]
        for output in shown
        if "text/markdown" in output.get("data", {})
    ]
    assert len(progress) == 2
    assert "scale 0, evaluation 5: loss" in progress[0]
