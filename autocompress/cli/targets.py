"""``autocompress targets``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from autocompress.cli.options import JsonOption

if TYPE_CHECKING:
    from autocompress.core.target import Target


def targets(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="One target, in full.")] = None,
    json: JsonOption = False,
) -> None:
    """List the hardware profiles, or show one with its facts, sources and capabilities."""
    from autocompress import api
    from autocompress.cli.rows import echo_json, print_rows

    if name is None:
        found = api.targets()
        if json:
            echo_json([target.to_dict() for target in found])
            return
        rows = [{"name": t.name, "title": t.title, "runtimes": ", ".join(t.runtimes)} for t in found]
        print_rows("Targets", rows)
        typer.echo("Show one with `autocompress targets NAME`.")
        return
    target = api.target(name)
    if json:
        echo_json(target.to_dict())
        return
    _show(target)


def _show(target: Target) -> None:
    from autocompress.cli.rows import print_rows

    facts = [
        {
            "fact": k,
            "value": f"{f.value:g}" if isinstance(f.value, float) else f.value,
            "unit": f.unit,
            "source": f.source,
        }
        for k, f in target.facts.items()
    ]
    print_rows(f"{target.name}: {target.title}", facts)
    for spec in target.runtimes.values():
        rows = [
            {
                "operator": operator,
                "precision": precision.value,
                "offered": "yes" if capability.supported else "refused",
                "peak (10^9 op/s)": capability.peak_gops,
                "channel multiple": spec.multiple(precision) if capability.supported else None,
                "remark": capability.reason,
            }
            for (operator, precision), capability in spec.capabilities.items()
        ]
        print_rows(f"{spec.name}: {spec.threads} thread(s), {spec.activation_type} activations", rows)
    for note in target.notes:
        typer.echo(f"- {note}")
