"""The data folders that ship with the package, and YAML files read into strict models."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from autocompress.core.errors import UserError, nearest

_PACKAGE = Path(__file__).resolve().parent.parent
ModelT = TypeVar("ModelT", bound=BaseModel)


def data_folder(name: str) -> Path:
    """A data folder such as ``hardware_profiles``: inside an installed package, else beside it in a checkout.

    Raises:
        UserError: the folder is in neither place.
    """
    for folder in (_PACKAGE / "_data" / name, _PACKAGE.parent / name):
        if folder.is_dir():
            return folder
    raise UserError(f"The data folder {name!r} is missing from this installation: install autocompress again.")


def data_names(name: str) -> tuple[str, ...]:
    """Names, without ``.yaml``, of the files in a data folder, sorted."""
    return tuple(sorted(path.stem for path in data_folder(name).glob("*.yaml")))


def load_yaml(path: Path, model: type[ModelT], error: type[UserError]) -> ModelT:
    """Read one YAML file into a pydantic model.

    Args:
        path: of the file.
        model: what it must be.
        error: raised for every fault, in one line; an unknown key comes with the nearest known one.
    """
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as fault:
        raise error(f"Cannot read {str(path)!r}: {getattr(fault, 'strerror', None) or fault}.") from fault
    except yaml.YAMLError as fault:
        raise error(f"{path.name} is not YAML: {' '.join(str(fault).split())}.") from fault
    try:
        return model.model_validate(data)
    except ValidationError as fault:
        raise error(f"{path.name}: {_first_fault(fault, model)}") from fault


def _first_fault(fault: ValidationError, model: type[BaseModel]) -> str:
    """The most telling fault in one line: a mistyped key before the missing one that it stands for."""
    first = min(fault.errors(include_url=False), key=lambda item: item["type"] != "extra_forbidden")
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        *parents, key = first["loc"]
        known = _fields_at(model, parents)
        near = nearest(str(key), known)
        place = f" in `{'.'.join(str(p) for p in parents)}`" if parents else ""
        return f"unknown key {str(key)!r}{place}" + (
            f"; did you mean {near!r}?" if near else f". Known: {', '.join(known)}."
        )
    if first["type"] == "missing":
        return f"`{where}` is missing."
    value = repr(first.get("input"))
    text = first["msg"].removeprefix("Value error, ").rstrip(".")
    shown = value if len(value) <= 60 else value[:57] + "..."
    return f"`{where}`: {text}, but got {shown}." if where else f"{text}."


def _fields_at(model: type[BaseModel], parents: list[Any]) -> list[str]:
    """Field names of the model that lies at a path of keys, as far as annotations tell."""
    current: type[BaseModel] = model
    for part in parents:
        info = current.model_fields.get(str(part))
        inner = _model_in(info.annotation) if info is not None else None
        if inner is not None:
            current = inner
    return list(current.model_fields)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The first pydantic model inside an annotation, however nested."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in getattr(annotation, "__args__", ()):
        found = _model_in(argument)
        if found is not None:
            return found
    return None
