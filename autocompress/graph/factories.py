"""Find the user's own code: ``pkg.module:factory`` and ``file.py:factory``."""

from __future__ import annotations

import functools
import hashlib
import importlib
import importlib.util
import os
import pkgutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from autocompress.core.errors import ModelError, nearest
from autocompress.graph.quiet import first_line


def load_factory(spec: str, kind: str = "model") -> Callable[..., Any]:
    """Find a factory by name.

    Args:
        spec: ``pkg.module:name``, looked up in the working folder too, or ``file.py:name``.
        kind: what it makes, for messages.

    Returns:
        The factory; while it runs, the modules beside its file can be imported.

    Raises:
        ModelError: no such module, file or name (the nearest name is given), or importing it failed.
    """
    place, _, name = spec.rpartition(":")
    if not place or not name:
        raise ModelError(f"A {kind} factory is written 'pkg.module:factory' or 'file.py:factory', but got {spec!r}.")
    path = Path(place) if place.endswith(".py") else None
    folder = Path.cwd() if path is None else path.resolve().parent
    try:
        with _importable(folder):
            module = _import_module(place) if path is None else _import_file(path)
    except ModelError:
        raise
    except (Exception, SystemExit) as error:
        raise ModelError(f"Importing {place!r} raised {type(error).__name__}: {first_line(error)}") from error
    found = getattr(module, name, None)
    if found is None:
        raise ModelError(_unknown(place, name, module))
    if not callable(found):
        raise ModelError(f"{spec!r} is of type {type(found).__name__}, not a factory that can be called.")

    # A partial keeps the object in reach: an nn.Module instance is callable, but calling it is not what is wanted.
    return functools.partial(_call_in, folder, found)


def factory_object(factory: Callable[..., Any]) -> Any:
    """What stands under the name that :func:`load_factory` found."""
    return factory.args[1] if isinstance(factory, functools.partial) and factory.func is _call_in else factory


def _call_in(folder: Path, factory: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    with _importable(folder):
        return factory(*args, **kwargs)


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """Make the modules of a folder importable, as they are when Python runs a file of it."""
    entry = str(folder)
    if entry in sys.path:
        yield
        return
    sys.path.insert(0, entry)
    try:
        yield
    finally:
        if entry in sys.path:
            sys.path.remove(entry)


def _import_module(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if missing != name and not name.startswith(f"{missing}."):
            raise ModelError(f"Importing {name!r} needs {missing!r}, which is not installed.") from error
        parent, _, last = missing.rpartition(".")
        near = nearest(last, _modules_in(parent))
        hint = f"; did you mean {f'{parent}.{near}' if parent else near!r}?" if near else "."
        raise ModelError(f"There is no module {missing!r}{hint}") from error


def _modules_in(package: str) -> list[str]:
    """Names beside a module that was not found: in its package, or in the working folder."""
    places = list(sys.modules[package].__path__) if package in sys.modules else [os.getcwd()]
    return [info.name for info in pkgutil.iter_modules(places)]


def _import_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise ModelError(missing_file(path, "Python file"))
    name = f"_autocompress_{path.stem}_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ModelError(f"{str(path)!r} is not a Python file.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickling look their module up there
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def missing_file(path: Path, kind: str) -> str:
    """One line about a file that is not there, with the nearest one beside it."""
    folder = path.parent
    if not folder.is_dir():
        return f"There is no {kind} {str(path)!r}: there is no folder {str(folder)!r}."
    if path.is_dir():
        return f"{str(path)!r} is a folder, not a {kind}."
    near = nearest(path.name, [entry.name for entry in folder.iterdir() if entry.suffix == path.suffix])
    return f"There is no {kind} {str(path)!r}" + (f"; did you mean {str(folder / near)!r}?" if near else ".")


def _unknown(place: str, name: str, module: ModuleType) -> str:
    own = [key for key, value in vars(module).items() if not key.startswith("_") and callable(value)]
    near = nearest(name, own)
    hint = f"; did you mean {near!r}?" if near else "."
    listed = ", ".join(own[:12]) + (", …" if len(own) > 12 else "")
    return f"{place!r} has no factory {name!r}{hint} It has: {listed or 'none'}."
