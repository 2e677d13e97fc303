"""A Matplotlib figure that shows itself in a notebook, without pyplot. Imported when the first one is made."""

from __future__ import annotations

import io

from matplotlib.figure import Figure


class ShownFigure(Figure):
    """A figure that no window and no global list holds; as the last line of a notebook's cell it is a picture."""

    def _repr_png_(self) -> bytes:
        file = io.BytesIO()
        self.savefig(file, format="png", dpi=self.dpi)
        return file.getvalue()
