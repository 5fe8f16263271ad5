"""What options are taken for before anything was tried: as dear as estimated, as harmful as sensitive."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from autocompress.core.space import Choice
from autocompress.search.option_effects import Prior, Term, Terms

Sensitivities = Mapping[str, Mapping[str, float]]

#: Standard deviation of what an option does to the logarithm of a cost beyond what is estimated; of one that estimates
#: leave out.
_UNEXPECTED, _NOT_ESTIMATED = 0.05, 0.3
#: The same of the reference's own cost: estimates may be wrong as a whole.
_AS_A_WHOLE = 1.0
#: What an option of the usual sensitivity does to ``log(1 + gap / allowed)``.
_USUAL_HARM = 0.3
#: Standard deviations of a harm about its mean, as a share of it; and of the factor that all share.
_OWN, _SHARED = 0.5, 0.3


def cost_prior(terms: Terms) -> Prior:
    """Effects on ``log(cost / estimate)``: none is expected.

    Args:
        terms: of the space.
    """
    left_out = np.array([term.choice.kind in ("rank", "sparsity") for term in terms.terms], bool)
    deviation = np.where(left_out, _NOT_ESTIMATED, _UNEXPECTED)
    return Prior(mean=np.zeros(len(terms)), deviation=deviation, scale=0.0, base=_AS_A_WHOLE, at=0.0)


def harm_prior(terms: Terms, reference: Mapping[str, object], sensitivities: Sensitivities) -> Prior:
    """Effects on ``log(1 + gap / allowed)``, where quality falls ever faster as harm adds up.

    Args:
        terms: of the space.
        reference: the assignment that effects are relative to.
        sensitivities: choice name to ``str(option)`` to KL of the outputs, one changed at a time.
    """
    removing = {term.choice.name for term in terms.terms if term.choice.kind != "precision"}
    found = [kl for name, options in sensitivities.items() if name in removing for kl in options.values() if kl > 0]
    usual = float(np.median(found)) if found else 1.0
    harms = np.array([_harm(term, reference, sensitivities, usual) for term in terms.terms])
    return Prior(mean=harms, deviation=_OWN * np.abs(harms) + 0.03, scale=_SHARED, base=0.1, at=0.0)


def _harm(term: Term, reference: Mapping[str, object], sensitivities: Sensitivities, usual: float) -> float:
    choice = term.choice
    before = choice.options[choice.options.index(term.option) - 1] if choice.ordered else reference[choice.name]
    after, already = (_known(choice, option, sensitivities) for option in (term.option, before))
    if after is None or already is None:
        return _USUAL_HARM
    return _USUAL_HARM * (math.log1p(after / usual) - math.log1p(already / usual))


def _known(choice: Choice, option: object, sensitivities: Sensitivities) -> float | None:
    """The sensitivity of an option; that of an ordered choice's first is 0."""
    if choice.kind != "precision" and option == choice.options[0]:
        return 0.0
    return sensitivities.get(choice.name, {}).get(str(option))
