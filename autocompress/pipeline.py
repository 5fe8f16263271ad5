"""One search, start to end: wires the parts together and runs them in order."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from autocompress import loading
from autocompress.compress.apply import Compressor
from autocompress.core.errors import Interrupted
from autocompress.core.measurement import CAREFUL, TimingPolicy
from autocompress.core.objective import Constraint, Objective
from autocompress.core.pareto import ParetoFront
from autocompress.core.plan import CompressionPlan
from autocompress.core.request import SearchObserver, SearchOutcome, SearchRequest
from autocompress.core.trial import Trial
from autocompress.cost.roofline import Roofline
from autocompress.evaluate.accuracy import QualityEvaluator
from autocompress.evaluate.evaluator import CandidateEvaluator
from autocompress.evaluate.finalists import quality_with_test, remeasure
from autocompress.evaluate.latency import EstimatedLatency, LatencyScorer, MeasuredLatency
from autocompress.evaluate.sensitivity import sensitivities
from autocompress.graph.model_graph import ModelGraph
from autocompress.measure.runtimes.onnxruntime import OnnxRuntime
from autocompress.recover.staged import StagedHealing
from autocompress.report.html import write_report
from autocompress.report.tables import write_trials
from autocompress.search.recipes import recipes
from autocompress.search.samplers import make_sampler
from autocompress.search.space_builder import build_space, load_template
from autocompress.search.tuner import Budget, StopReason, tune
from autocompress.store.front_keeper import FrontKeeper
from autocompress.store.optuna_store import OptunaStore
from autocompress.store.run_dir import RunFolder

#: Trials where the user set neither a number nor a time.
DEFAULT_TRIALS = 100
#: Share of a time budget kept for re-measuring the front, at most.
FINAL_SHARE = 0.2
