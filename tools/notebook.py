"""Write examples/tutorial.ipynb: docs/start.md as a notebook, text and code, executed, with its pictures.

python tools/notebook.py             # from a checkout
"""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parent.parent
PAGE, NOTEBOOK = ROOT / "docs" / "start.md", ROOT / "examples" / "tutorial.ipynb"


def cells(text: str) -> list[nbformat.NotebookNode]:
    """The parts of a page, one after the other; Python blocks become code."""
    parts = re.split(r"```python\n(.*?)```", text, flags=re.DOTALL)
    code, prose = nbformat.v4.new_code_cell, nbformat.v4.new_markdown_cell
    made = [(code if index % 2 else prose)(part.strip()) for index, part in enumerate(parts) if part.strip()]
    for number, cell in enumerate(made):
        cell["id"] = f"cell-{number}"
    return made


def build() -> nbformat.NotebookNode:
    """The page as a notebook, not yet executed; links lead to the page's neighbours."""
    text = re.sub(r"\]\((?!http)([\w/]+\.md)", r"](../docs/\1", PAGE.read_text())
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return nbformat.v4.new_notebook(cells=cells(text), metadata={"kernelspec": kernel})


def execute(notebook: nbformat.NotebookNode, folder: Path = ROOT) -> nbformat.NotebookNode:
    """Run every cell in ``folder``; what the run itself leaves out of a notebook (times, paths) is left out."""
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(folder)}}).execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
    notebook.metadata.pop("language_info", None)
    return notebook


def main() -> None:
    NOTEBOOK.write_text(nbformat.writes(execute(build())) + "\n")
    print(NOTEBOOK.relative_to(ROOT))


if __name__ == "__main__":
    main()
