"""A profile file from a target, such as one made from the host."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from autocompress.core.errors import UserError
from autocompress.core.target import Precision, RuntimeSpec, Target
from autocompress.hardware.capabilities import CLASS_KEYS

_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*$")


def write_profile(target: Target, name: str, folder: str | Path) -> Path:
    """Write ``<folder>/<name>.yaml``.

    Args:
        target: what the profile says.
        name: of the new target: lower case, digits and single hyphens.
        folder: exists.

    Raises:
        UserError: the name is malformed, the file is there already or cannot be written.
    """
    path = check_new_profile(name, folder)
    text = yaml.safe_dump(profile_data(target, name), sort_keys=False, allow_unicode=True, width=120)
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"Cannot write {str(path)!r}: {error.strerror}.") from error
    return path


def check_new_profile(name: str, folder: str | Path) -> Path:
    """The path of a new profile.

    Raises:
        UserError: as :func:`write_profile`, as far as it is known before anything is written.
    """
    if not _NAME.match(name):
        raise UserError(f"A target's name is lower case letters and digits joined by hyphens, but got {name!r}.")
    if not Path(folder).is_dir():
        raise UserError(f"There is no folder {str(folder)!r} to write {name}.yaml to.")
    path = Path(folder) / f"{name}.yaml"
    if path.exists():
        raise UserError(f"{str(path)!r} is there already: give another name or folder.")
    return path


def profile_data(target: Target, name: str) -> dict[str, Any]:
    """A target as the plain values of a profile file."""
    facts = {
        key: {"value": f.value, **({"unit": f.unit} if f.unit else {}), "source": f.source}
        for key, f in target.facts.items()
        if key.split(".")[0] not in target.runtimes
    }
    return {
        "name": name,
        "title": target.title,
        "facts": facts,
        "runtimes": {spec.name: _runtime(spec, target) for spec in target.runtimes.values()},
    }


def _runtime(spec: RuntimeSpec, target: Target) -> dict[str, Any]:
    measured = target.facts.get(f"{spec.name}.int8_ratio")
    source = measured.source if measured is not None else "derived: instruction sets and clock"
    precisions: dict[str, Any] = {}
    for precision in Precision:
        capability = spec.capability("*", precision)
        if not capability.supported:
            precisions[precision.value] = {"refused": capability.reason, "source": source}
            continue
        classes = {
            kind: spec.capabilities[keys[0], precision].efficiency
            for kind, keys in CLASS_KEYS.items()
            if (keys[0], precision) in spec.capabilities
        }
        precisions[precision.value] = {
            "peak_gops": capability.peak_gops,
            "efficiency": capability.efficiency,
            "classes": classes,
            "remark": capability.reason,
            "source": source,
        }
    operators: dict[str, dict[str, Any]] = {}
    for (operator, precision), capability in spec.capabilities.items():
        if not capability.supported and operator != "*":
            operators.setdefault(operator, {})[precision.value] = {"refused": capability.reason, "source": source}
    return {
        "threads": spec.threads,
        "activation_type": spec.activation_type,
        "reduce_range": spec.reduce_range,
        "launch_overhead_us": {"value": spec.launch_overhead_us, "source": "unverified: that of x86-avx512-vnni"},
        "channel_multiple": {p.value: {"value": m, "source": source} for p, m in spec.channel_multiple.items()},
        "precisions": precisions,
        "operators": operators,
    }
