"""``autocompress predict``."""

from __future__ import annotations

from autocompress.cli.options import JsonOption, ModelArgument, PlanOption, RuntimeOption, TargetOption, read_plan


def predict(
    model: ModelArgument,
    plan: PlanOption,
    target: TargetOption = "local",
    runtime: RuntimeOption = None,
    json: JsonOption = False,
) -> None:
    """Estimate latency and size of a plan from the target's profile, without running anything."""
    wanted = read_plan(plan)
    from autocompress import api
    from autocompress.cli.rows import echo_json, print_document

    result = api.predict(model, wanted, target=target, runtime=runtime)
    if json:
        echo_json(result)
        return
    print_document(f"Estimated for {model} on {target}", result)
