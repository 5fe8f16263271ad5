"""The sensitivities of a search: taken once a run, refitted where its time allows, and kept in the run folder."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from autocompress.compress.apply import Compressor
from autocompress.core.protocols import Artifact, Dataset
from autocompress.core.request import SearchObserver
from autocompress.core.space import Choice
from autocompress.evaluate.sensitivity import sensitivities
from autocompress.evaluate.single_changes import SingleChanges
from autocompress.graph.model_graph import ModelGraph
from autocompress.recover.staged import StagedHealing
from autocompress.store.run_dir import RunFolder

#: Share of a time budget for sensitivities.
SHARE = 0.12
#: Samples that sensitivities are taken on: what is left after a refit is little, and skips differ by less.
_JUDGING_SAMPLES = 128
#: Samples, and places in them, that layers are refitted to: with twice the places 32 of 39 sensitivities of the demo
#: are the same within a tenth (`experiments/option_effects/rows.py`).
_ROUGH_SAMPLES, _ROUGH_ROWS = 64, (4096, 8192)
#: The longest that refits take without a time budget, seconds.
_LONGEST_REFITS = 300.0


def sensitivities_of(
    choices: Sequence[Choice],
    *,
    run: RunFolder,
    compressor: Compressor,
    build: Callable[[ModelGraph], Artifact],
    reference: Artifact,
    dataset: Dataset,
    seed: int,
    budget_seconds: float | None,
    observer: SearchObserver,
) -> dict[str, dict[str, float]]:
    """One at a time, from the run folder where an earlier session took them.

    Args:
        choices: of the search space.
        run: where they are kept.
        compressor: of the uncompressed graph.
        build: loads a graph in the runtime that quality is scored in.
        reference: the uncompressed model in that runtime.
        dataset: training samples; labels are not used.
        seed: of the choice of samples.
        budget_seconds: of the whole search; None without a limit.
        observer: told of progress; what was taken when it stops the search is not kept.

    Returns:
        As :func:`autocompress.evaluate.sensitivity.sensitivities`.
    """
    known = run.read_json(run.sensitivities)
    if known is not None:
        return dict(known)
    share = None if budget_seconds is None else SHARE * budget_seconds
    longest = _LONGEST_REFITS if share is None else share
    started = time.monotonic()
    healing = None
    if not compressor.graph.untrainable:
        healing = StagedHealing(
            compressor.graph,
            dataset,
            seed=seed,
            refit_samples=_ROUGH_SAMPLES,
            refit_rows=_ROUGH_ROWS,
            capacity=2,
            should_stop=lambda: time.monotonic() - started > longest or observer.should_stop(),
            kept=compressor.kept_values,
        )
    observer.on_stage(-1, "", "sensitivities")
    changes = SingleChanges(compressor, build, healing)
    if changes.settle(choices, longest):
        observer.on_message("Sensitivities of what is left out are taken after a refit of the rest.")
    found = sensitivities(
        choices,
        build=changes,
        reference=reference,
        dataset=dataset,
        samples=_JUDGING_SAMPLES,
        seed=seed,
        budget_seconds=None if share is None else max(0.0, share - (time.monotonic() - started)),
        on_progress=lambda done, total: observer.on_stage(-1, f"{done} of {total}", "sensitivities"),
        should_stop=observer.should_stop,
    )
    if not observer.should_stop():
        run.write_json(run.sensitivities, found)
    return found
