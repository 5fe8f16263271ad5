"""What options are taken for before anything was tried."""

from __future__ import annotations

import numpy as np

from autocompress.core.space import Choice, SearchSpace
from autocompress.search.effect_priors import cost_prior, harm_prior
from autocompress.search.option_effects import Terms

SPACE = SearchSpace(
    choices=(
        Choice(name="precision:a", kind="precision", subject="a", options=("fp32", "int8")),
        Choice(name="ratio:a", kind="ratio", subject="a", options=(0.0, 0.25, 0.5), ordered=True),
        Choice(name="ratio:b", kind="ratio", subject="b", options=(0.0, 0.5), ordered=True),
        Choice(name="skip:c", kind="skip", subject="c", options=(0, 1)),
    )
)
REFERENCE = {"precision:a": "int8", "ratio:a": 0.0, "ratio:b": 0.0, "skip:c": 0}
TERMS = Terms(SPACE, REFERENCE)
SENSITIVITIES = {
    "precision:a": {"fp32": 0.0, "int8": 0.002},
    "ratio:a": {"0.0": 0.0, "0.25": 0.01, "0.5": 0.4},
    "skip:c": {"0": 0.0, "1": 0.1},
}


def _harms(sensitivities: dict[str, dict[str, float]]) -> dict[tuple[str, object], float]:
    prior = harm_prior(TERMS, REFERENCE, sensitivities)
    assert (prior.deviation > 0).all()
    return {(t.choice.name, t.option): float(m) for t, m in zip(TERMS.terms, prior.mean, strict=True)}


def test_what_moves_the_outputs_more_is_taken_for_more_harmful() -> None:
    harms = _harms(SENSITIVITIES)
    assert harms["ratio:a", 0.25] < harms["skip:c", 1] < harms["ratio:a", 0.5]
    assert harms["precision:a", "fp32"] < 0, "the reference is int8"


def test_what_was_not_measured_is_taken_for_usual() -> None:
    harms = _harms(SENSITIVITIES)
    assert harms["ratio:a", 0.25] < harms["ratio:b", 0.5] < harms["ratio:a", 0.5]
    assert len({harm for harm in _harms({}).values() if harm > 0}) == 1


def test_costs_are_expected_to_be_as_estimated() -> None:
    rank = Choice(name="rank:a", kind="rank", subject="a", options=("whole", "ratio 0.5"), ordered=True)
    terms = Terms(SearchSpace(choices=(*SPACE.choices, rank)), REFERENCE)
    prior = cost_prior(terms)
    assert not np.any(prior.mean)
    assert prior.deviation[-1] > prior.deviation[0] > 0, "estimates leave ranks out"
