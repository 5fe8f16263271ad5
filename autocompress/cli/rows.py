"""Plain values printed as tables or as JSON."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

#: Rows of a nested table shown before the rest is left to `--json`.
MOST_ROWS = 200


def echo_json(value: Any) -> None:
    """Print indented JSON."""
    typer.echo(json.dumps(value, indent=2, default=_plain))


def console() -> Console:
    """A console on standard output, wide enough for tables where the output is a file or a pipe."""
    from rich.console import Console

    return Console(file=sys.stdout, highlight=False, width=None if sys.stdout.isatty() else 160)


def size_text(size: float) -> str:
    """Bytes as a person reads them, in powers of 1000."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= scale:
            return f"{size / scale:.3g} {unit}"
    return f"{size:.0f} B"


def print_rows(title: str, rows: Sequence[Mapping[str, Any]], *, hidden: Sequence[str] = ()) -> None:
    """Print records as one table; columns are the union of their keys in order of first use."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    columns = list(dict.fromkeys(key for row in rows for key in row if not any(h in key for h in hidden)))
    table = Table(title=Text(title, style="bold"), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        values = [row.get(column) for row in rows]
        numeric = all(v is None or isinstance(v, int | float) for v in values)
        table.add_column(column.replace("_", " "), justify="right" if numeric else "left", overflow="fold")
    for row in rows[:MOST_ROWS]:
        table.add_row(*(Text(_cell(column, row.get(column))) for column in columns))
    console().print(table)
    if len(rows) > MOST_ROWS:
        typer.echo(f"… and {len(rows) - MOST_ROWS} more; --json has them all.")


def print_document(title: str, document: Mapping[str, Any]) -> None:
    """Print a mapping: plain values first, then a table for each list of records."""
    typer.echo(title)
    tables: list[tuple[str, Any]] = []
    for key, value in document.items():
        if isinstance(value, Mapping) and value:
            tables.append((key, _rows_of(value)))
        elif isinstance(value, Sequence) and not isinstance(value, str) and value and isinstance(value[0], Mapping):
            tables.append((key, value))
        else:
            typer.echo(f"  {key.replace('_', ' ')}: {_cell(key, value)}")
    for key, rows in tables:
        print_rows(key.replace("_", " ").capitalize(), rows, hidden=("samples",))


def _rows_of(mapping: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        {"": key, **value} if isinstance(value, Mapping) else {"": key, "value": value}
        for key, value in mapping.items()
    ]


def _cell(key: str, value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if key.endswith("size_bytes") and isinstance(value, int | float):
        return size_text(value)
    if isinstance(value, float):
        return f"{value:.4g}" if math.isfinite(value) else "–"
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {_cell(str(k), v)}" for k, v in value.items()) or "–"
    if isinstance(value, list | tuple):
        inner = [_cell("", item) for item in value]
        return "×".join(inner) if key.endswith("shape") else ", ".join(inner) or "–"
    return str(value)


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "to_dict"):
        return value.to_dict()
    if hasattr(value, "item") and getattr(value, "ndim", 0) == 0:
        return value.item()
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, tuple | set | frozenset):
        return list(value)
    return str(value)
