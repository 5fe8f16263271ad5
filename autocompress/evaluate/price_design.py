"""Which plans to measure so that prices of all others follow: every choice of a space equally often, freely mixed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count, cycle

import numpy as np

from autocompress.core.plan import CompressionPlan, LayerPlan
from autocompress.core.space import SearchSpace
from autocompress.core.target import Precision

#: Which of three layers in a row are in integers, repeated over the network: with the uniform plans, every combination
#: comes at every place, so that what stands between layers (a pool, a sum, a conversion) is met in each of its types.
_ROWS = ((0, 1, 1), (1, 0, 0), (1, 0, 1), (0, 1, 0), (1, 1, 0), (0, 0, 1))
#: Chances of a layer to be in integers, in turn; None is any. Uniform networks are what searches start from.
_INTEGER_SHARES = (None, 0.0, None, 1.0, None)
#: Share of plans whose widths are not those that the space offers.
_ODD_SHARE = 0.1
_SKIP_SHARE = 0.1
_INT8 = Precision.INT8.layer_plan


def design_plans(space: SearchSpace, rng: np.random.Generator) -> Iterator[CompressionPlan]:
    """Plans without end: the uncompressed model, that in integers, every row of three layers, then any mix.

    Widths of each group come in shuffled rounds, each once a round (a Latin hypercube, McKay et al. 1979), so that a
    short series has no gap. Weights of 4 and 2 bits run in the kernels of 8 bits and are left out.

    Args:
        space: its precision, ratio and skip choices are taken.
        rng: of the order.
    """
    choices = (*space.choices, *space.fixed)
    integer = [c.subject for c in choices if c.kind == "precision" and Precision.INT8.value in c.options]
    ratios = {c.subject: [float(o) for o in c.options] for c in choices if c.kind == "ratio" and len(c.options) > 1}
    skips = [c.subject for c in choices if c.kind == "skip" and len(c.options) > 1]
    yield CompressionPlan()
    if integer:
        yield _plan(integer, {}, [])
    rounds = {group: _shuffled_rounds(options, rng) for group, options in ratios.items()}
    for number in count():
        prune = {group: next(widths) for group, widths in rounds.items()}
        if rng.random() < _ODD_SHARE:
            prune = {group: float(rng.uniform(0.0, max(ratios[group]))) for group in prune}
        if number < len(_ROWS):
            chosen = [name for name, taken in zip(integer, cycle(_ROWS[number])) if taken]
        else:
            share = _INTEGER_SHARES[number % len(_INTEGER_SHARES)]
            share = float(rng.random()) if share is None else share
            chosen = [name for name in integer if rng.random() < share]
        # A skipped block joins layers that are no neighbours: not while rows are met one by one.
        skipped = [name for name in skips if number >= len(_ROWS) and rng.random() < _SKIP_SHARE]
        yield _plan(chosen, prune, skipped)


def _plan(integer: Sequence[str], prune: dict[str, float], skip: Sequence[str]) -> CompressionPlan:
    layers: dict[str, LayerPlan] = dict.fromkeys(integer, _INT8)
    return CompressionPlan(layers=layers, prune=prune, skip=tuple(skip))


def _shuffled_rounds(options: Sequence[float], rng: np.random.Generator) -> Iterator[float]:
    while True:
        yield from (options[index] for index in rng.permutation(len(options)))
