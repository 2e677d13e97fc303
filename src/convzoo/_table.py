"""A table of rows: shown as text or in a notebook, handed on as dicts, CSV, Markdown or a DataFrame."""

from __future__ import annotations

import csv
import html
import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Column:
    """A column: the key of its values in a row, its title, how a value is shown, and whether it is a number."""

    key: str
    title: str
    show: Callable[[Any], str] = str
    number: bool = False


class Table(Sequence[Mapping[str, Any]]):
    """Rows (dicts) under columns. It prints as text; the values themselves are in the rows.

    Example:
        >>> table = Table([Column("net", "net"), Column("params", "params", "{:,}".format, True)], [
        ...     {"net": "lenet5", "params": 61706}, {"net": "fcn_gap", "params": None}])
        >>> print(table)
        net      params
        lenet5   61,706
        fcn_gap
        >>> table[0]["params"]
        61706
        >>> print(table.to_csv(), end="")
        net,params
        lenet5,61706
        fcn_gap,
    """

    def __init__(self, columns: Iterable[Column], rows: Iterable[Mapping[str, Any]]) -> None:
        self.columns = tuple(columns)
        self.rows = tuple({column.key: row.get(column.key) for column in self.columns} for row in rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> Any:
        return self.rows[index]

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        return iter(self.rows)

    def to_dict(self) -> list[dict[str, Any]]:
        """One dict a row, fit for JSON."""
        return [as_json(row) for row in self.rows]

    def to_csv(self) -> str:
        """Comma-separated values, a line of keys first; sizes as 3x224x224."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow([column.key for column in self.columns])
        for row in self.rows:
            writer.writerow([_plain(value) for value in row.values()])
        return text.getvalue()

    def to_markdown(self) -> str:
        """A Markdown table; numbers stand to the right."""
        marks = ["---:" if column.number else "---" for column in self.columns]
        lines = [[column.title for column in self.columns], marks, *self._cells()]
        return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)

    def to_dataframe(self) -> Any:
        """A pandas DataFrame.

        Raises:
            ImportError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            raise ImportError("a DataFrame needs pandas: pip install pandas; to_csv() and to_dict() do not") from error
        return pandas.DataFrame(list(self.rows), columns=[column.key for column in self.columns])

    def _cells(self) -> list[list[str]]:
        return [
            ["" if row[column.key] is None else column.show(row[column.key]) for column in self.columns]
            for row in self.rows
        ]

    def __str__(self) -> str:
        lines = [[column.title for column in self.columns], *self._cells()]
        widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
        aligned = [
            [
                cell.rjust(width) if column.number else cell.ljust(width)
                for cell, width, column in zip(line, widths, self.columns, strict=True)
            ]
            for line in lines
        ]
        return "\n".join("  ".join(line).rstrip() for line in aligned)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{html.escape(column.title)}</th>" for column in self.columns)
        body = "".join(
            "<tr>"
            + "".join(
                f'<td style="text-align: {"right" if column.number else "left"}">{html.escape(cell)}</td>'
                for cell, column in zip(cells, self.columns, strict=True)
            )
            + "</tr>"
            for cells in self._cells()
        )
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _plain(value: Any) -> Any:
    """A value as one cell of CSV: sizes as 3x224x224, lists of words with blanks between them."""
    if isinstance(value, (tuple, list)):
        return ("x" if all(isinstance(item, int) for item in value) else " ").join(map(str, value))
    return value


def as_json(value: Any) -> Any:
    """A value as JSON knows it: mappings as dicts and tuples as lists, inside each other too."""
    if isinstance(value, Mapping):
        return {key: as_json(one) for key, one in value.items()}
    return [as_json(one) for one in value] if isinstance(value, (tuple, list)) else value


def facts(values: Mapping[str, Any]) -> Table:
    """A row for each fact that is known of something."""
    columns = (Column("fact", "fact"), Column("value", "value", shown))
    known = {key: value for key, value in values.items() if value not in ("", (), None, {})}
    return Table(columns, [{"fact": key, "value": value} for key, value in known.items()])


def shown(value: Any) -> str:
    """A fact in words: counts with commas between the thousands, what is in a dict or tuple one after the other."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name}={one!r}" for name, one in value.items())
    if isinstance(value, (tuple, list)):
        return ", ".join(map(str, value))
    if isinstance(value, int) and not isinstance(value, bool) and value >= 10_000:
        return f"{value:,}"
    return str(value)


def times(size: Iterable[int]) -> str:
    """(3, 224, 224) as 3x224x224."""
    return "x".join(map(str, size))


def short(number: float) -> str:
    """4089184256 as 4.09 G: three digits and a unit."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size * 0.9995:
            return f"{number / size:.3g} {unit}" if number < 999.5 * size else f"{number / size:.0f} {unit}"
    return f"{number:.0f}"
