"""Options that several verbs share, and values that are read from text."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from autocompress.core.plan import CompressionPlan

MODEL_HELP = "demo, pkg.module:factory, file.py:factory, a .pt2 or an .onnx file."
DATA_HELP = "demo, fashion-mnist, npz:FILE, imagefolder:DIR, pkg.module:factory or file.py:factory."

ModelArgument = Annotated[str, typer.Argument(metavar="MODEL", help=MODEL_HELP)]
PlanOption = Annotated[Path, typer.Option("--plan", metavar="FILE", help="A compression plan, plan.json.")]
TargetOption = Annotated[str, typer.Option("--target", metavar="T", help="Hardware profile; `local` is this machine.")]
DataOption = Annotated[str | None, typer.Option("--data", metavar="D", help=DATA_HELP)]
DeviceOption = Annotated[str | None, typer.Option("--device", metavar="URL", help="Attached device to measure on.")]
RuntimeOption = Annotated[str | None, typer.Option("--runtime", metavar="R", help="One of the target's runtimes.")]
AffinityOption = Annotated[
    str | None,
    typer.Option("--affinity", metavar="CPUS", help="Cores to measure on, such as 0 or 2-3,6. Default: all."),
]
TuneTrialsOption = Annotated[
    int | None,
    typer.Option(
        "--tune-trials", metavar="N", help="Schedules to time for each new kernel, with --runtime tvm. Default: 16."
    ),
]
TuneBudgetOption = Annotated[
    str | None, typer.Option("--tune-budget", metavar="TIME", help="Stop tuning kernels after this time in all.")
]
NoCacheOption = Annotated[
    bool, typer.Option("--no-cache", help="Measure anew even what was measured here before, and keep nothing.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else to standard output.")]

#: Linux's largest NR_CPUS.
_LAST_CORE = 8191
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def parse_duration(text: str) -> float:
    """Seconds in ``90s``, ``3m``, ``1h30m`` or a plain number of seconds.

    Raises:
        UserError: it is none of these, or not more than 0.
    """
    from autocompress.core.errors import UserError

    cleaned = text.strip().lower().replace(" ", "")
    plain = re.fullmatch(r"\d+(\.\d+)?", cleaned)
    parts = re.findall(r"(\d+(?:\.\d+)?)([smhd])", cleaned)
    if plain:
        seconds = float(cleaned)
    elif parts and "".join(number + unit for number, unit in parts) == cleaned:
        seconds = sum(float(number) * _UNITS[unit] for number, unit in parts)
    else:
        raise UserError(f"A duration is written like 90s, 3m, 2h or 1h30m, but got {text!r}.")
    if seconds <= 0:
        raise UserError(f"A duration must be more than 0, but got {text!r}.")
    return seconds


def parse_cores(text: str) -> tuple[int, ...]:
    """Core numbers in ``0``, ``2-3`` or ``0,2-3``, ascending.

    Raises:
        UserError: it is none of these, or names a core twice.
    """
    from autocompress.core.errors import UserError

    found: list[int] = []
    for part in text.replace(" ", "").split(","):
        ends = re.fullmatch(r"(\d+)(?:-(\d+))?", part)
        if ends is None or int(ends[2] or ends[1]) < int(ends[1]) or int(ends[2] or ends[1]) > _LAST_CORE:
            raise UserError(f"Cores are written like 0, 2-3 or 0,2-3, but got {text!r}.")
        found += range(int(ends[1]), int(ends[2] or ends[1]) + 1)
    if len(set(found)) != len(found):
        raise UserError(f"A core is named twice in {text!r}.")
    return tuple(sorted(found))


def read_plan(path: Path) -> CompressionPlan:
    """The plan in a file.

    Raises:
        PlanError: it cannot be read, is not JSON, or is no plan.
    """
    from autocompress.core.errors import PlanError
    from autocompress.core.plan import CompressionPlan

    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PlanError(f"Cannot read the plan {str(path)!r}: {getattr(error, 'strerror', None) or error}.") from error
    try:
        return CompressionPlan.from_json(text)
    except PlanError as error:
        raise PlanError(f"{path}: {error}") from error


def read_config(path: Path, readers: Mapping[str, Callable[[Any], Any]]) -> dict[str, Any]:
    """Options from a YAML file; keys are the long options' names, with hyphens or underscores.

    Args:
        path: of the file.
        readers: option name, with underscores, to what turns the YAML value into the option's.

    Raises:
        UserError: it cannot be read, has an unknown key (the nearest is named) or a value of another type.
    """
    import yaml

    from autocompress.core.errors import UserError, nearest

    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"Cannot read {str(path)!r}: {getattr(error, 'strerror', None) or error}.") from error
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not YAML: {' '.join(str(error).split())}.") from error
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise UserError(f"{path} must hold options such as `target: local`, but it holds a {type(data).__name__}.")
    values: dict[str, Any] = {}
    for key, value in data.items():
        name = str(key).replace("-", "_")
        if name not in readers:
            near = nearest(name, readers)
            known = ", ".join(n.replace("_", "-") for n in readers)
            hint = f"; did you mean {near.replace('_', '-')!r}?" if near else f". Known: {known}."
            raise UserError(f"{path}: unknown key {str(key)!r}{hint}")
        try:
            values[name] = None if value is None else readers[name](value)
        except UserError as error:
            raise UserError(f"{path}: `{key}`: {error}") from error
        except (TypeError, ValueError) as error:
            raise UserError(f"{path}: `{key}` cannot be {value!r}: {error}.") from error
    return values


def as_text(value: Any) -> str:
    """A YAML scalar that should be text."""
    if isinstance(value, dict | list | bool):
        raise TypeError("it must be text")
    return str(value)


def as_integer(value: Any) -> int:
    """A YAML value that should be a whole number."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError("it must be a whole number")
    return value


def as_number(value: Any) -> float:
    """A YAML value that should be a number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError("it must be a number")
    return float(value)


def as_switch(value: Any) -> bool:
    """A YAML value that should be true or false."""
    if not isinstance(value, bool):
        raise TypeError("it must be true or false")
    return value


def as_texts(value: Any) -> tuple[str, ...]:
    """One text or a list of texts."""
    return tuple(as_text(item) for item in (value if isinstance(value, list) else [value]))
