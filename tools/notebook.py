"""Write examples/tutorial.ipynb: docs/start.md as a notebook, text and code, executed, with its pictures.

python tools/notebook.py             # from a checkout
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nbformat import NotebookNode

ROOT = Path(__file__).resolve().parent.parent
PAGE, NOTEBOOK = ROOT / "docs" / "start.md", ROOT / "examples" / "tutorial.ipynb"


def parts() -> list[tuple[bool, str]]:
    """The page, cell by cell: whether it is code, and its text; links and pictures are the page's."""
    text = re.sub(r"\]\((?!http)([\w/]+\.(?:md|jpg|png))", r"](../docs/\1", PAGE.read_text())
    split = re.split(r"```python\n(.*?)```", text, flags=re.DOTALL)
    return [(index % 2 == 1, part.strip()) for index, part in enumerate(split) if part.strip()]


def build() -> NotebookNode:
    """The page as a notebook, not yet executed."""
    from nbformat import v4

    cells = [(v4.new_code_cell if code else v4.new_markdown_cell)(text) for code, text in parts()]
    for number, cell in enumerate(cells):
        cell["id"] = f"cell-{number}"
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})


def execute(notebook: NotebookNode, folder: Path = ROOT) -> NotebookNode:
    """Run every cell in ``folder``; what the run itself leaves in a notebook (times, paths) is left out."""
    from nbclient import NotebookClient

    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(folder)}}).execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
    notebook.metadata.pop("language_info", None)
    return notebook


def main() -> None:
    import nbformat

    NOTEBOOK.write_text(nbformat.writes(execute(build())) + "\n")
    print(NOTEBOOK.relative_to(ROOT))


if __name__ == "__main__":
    main()
