"""Finds the best ways to compress a neural network for one piece of hardware.

The verbs are functions of :mod:`autocompress.api`; the types they speak are named here. Importing this package loads
none of its heavy dependencies: a name is looked up when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autocompress import api
    from autocompress.core.errors import AutocompressError, UserError
    from autocompress.core.measurement import Interval, Measurement, Provenance
    from autocompress.core.objective import Constraint, Objective
    from autocompress.core.pareto import ParetoFront
    from autocompress.core.plan import CompressionPlan, DistillationPlan, LayerPlan
    from autocompress.core.request import SearchObserver, SearchOutcome, SearchRequest
    from autocompress.core.target import Target
    from autocompress.core.trial import Trial, TrialState
    from autocompress.graph.importing import load_model
    from autocompress.graph.model_graph import ModelGraph

__version__ = "0.1.0"

_HOMES = {
    "AutocompressError": "core.errors",
    "CompressionPlan": "core.plan",
    "Constraint": "core.objective",
    "DistillationPlan": "core.plan",
    "Interval": "core.measurement",
    "LayerPlan": "core.plan",
    "Measurement": "core.measurement",
    "ModelGraph": "graph.model_graph",
    "Objective": "core.objective",
    "ParetoFront": "core.pareto",
    "Provenance": "core.measurement",
    "SearchObserver": "core.request",
    "SearchOutcome": "core.request",
    "SearchRequest": "core.request",
    "Target": "core.target",
    "Trial": "core.trial",
    "TrialState": "core.trial",
    "UserError": "core.errors",
    "load_model": "graph.importing",
}

__all__ = [
    "AutocompressError",
    "CompressionPlan",
    "Constraint",
    "DistillationPlan",
    "Interval",
    "LayerPlan",
    "Measurement",
    "ModelGraph",
    "Objective",
    "ParetoFront",
    "Provenance",
    "SearchObserver",
    "SearchOutcome",
    "SearchRequest",
    "Target",
    "Trial",
    "TrialState",
    "UserError",
    "__version__",
    "api",
    "load_model",
]


def __getattr__(name: str) -> Any:
    if name == "api":
        return import_module("autocompress.api")
    if name in _HOMES:
        return getattr(import_module(f"autocompress.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
