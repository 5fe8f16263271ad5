"""``autocompress targets``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from autocompress.cli.options import JsonOption

if TYPE_CHECKING:
    from autocompress.core.target import Target


def targets(
    name: Annotated[
        str | None,
        typer.Argument(metavar="[NAME|validate|new]", help="One target in full; or what to do with `ARGUMENT`."),
    ] = None,
    argument: Annotated[
        str | None,
        typer.Argument(
            metavar="[ARGUMENT]", help="`validate`: a CSV file of published latencies. `new`: the new target's name."
        ),
    ] = None,
    device: Annotated[
        str, typer.Option(metavar="URL", help="With `new`: an attached device (ssh://…); `local`: this machine.")
    ] = "local",
    out: Annotated[str, typer.Option(metavar="DIR", help="With `new`: folder of the new profile.")] = ".",
    json: JsonOption = False,
) -> None:
    """List the hardware profiles with their validated error, or show one with its facts, sources and capabilities.

    `targets validate rows.csv` compares estimates with published latencies; `targets new NAME` makes a profile of this
    machine or of an attached one, whose precisions are timed for it.
    """
    from autocompress import api
    from autocompress.cli.rows import echo_json, print_rows
    from autocompress.core.errors import UserError

    if name == "validate":
        if argument is None:
            raise UserError("Name the rows to compare with: autocompress targets validate rows.csv.")
        _validate(api.validate_targets(argument), json)
        return
    if name == "new":
        if argument is None:
            raise UserError("Name the new target: autocompress targets new my-board.")
        path = api.new_target(argument, device=device, out=out)
        if json:
            echo_json({"profile": str(path)})
        else:
            typer.echo(f"Wrote {path}. Its rates are derived, not validated: check them against your own timings.")
        return
    if argument is not None:
        raise UserError(f"{argument!r} is one argument too many: only `validate` and `new` take another.")
    if name is None:
        found = api.targets()
        if json:
            echo_json([target.to_dict() | {"validation": api.target_validation(target.name)} for target in found])
            return
        rows = [
            {
                "name": t.name,
                "title": t.title,
                "runtimes": ", ".join(t.runtimes),
                "validated error": _errors_text(api.target_validation(t.name)),
            }
            for t in found
        ]
        print_rows("Targets", rows)
        typer.echo("Error: median on architectures that were not fitted. Show one with `autocompress targets NAME`.")
        return
    target = api.target(name)
    validation = api.target_validation(target.name)
    if json:
        echo_json(target.to_dict() | {"validation": validation})
        return
    _show(target)
    if validation:
        print_rows("Error on published latencies, architectures not fitted", validation)
    else:
        typer.echo("Estimates of this target are not validated.")


def _errors_text(validation: list[dict[str, Any]]) -> str:
    """Best-known errors in a few words: each runtime and precision at the profile's thread count."""
    shown = [v for v in validation if v["used"]]
    return (
        ", ".join(f"{v['runtime']} {v['precision']} {v['median_error']:.0%}" for v in shown)
        if shown
        else "not validated"
    )


def _validate(result: dict[str, Any], json: bool) -> None:
    from autocompress.cli.rows import echo_json, print_rows

    if json:
        echo_json(result)
        return
    print_rows("Rows", result["rows"])
    print_rows("Error a target, runtime, thread count and precision", result["groups"])
    left = sum(row["estimate_ms"] is None for row in result["rows"])
    if left:
        typer.echo(f"{left} of {len(result['rows'])} rows have no estimate; --json tells why, row by row.")
    typer.echo("Calibrated estimates come from fits that never saw the row's architecture.")


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
