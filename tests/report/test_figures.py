"""The figures hold what they should; how they look is for the eye."""

from __future__ import annotations

from typing import Any

import pytest

from autocompress.report import figures
from autocompress.report.layerwise import layer_table, split_sensitivities
from autocompress.report.progress import hypervolume_history


def _trace(figure: Any, name: str) -> Any:
    return next(trace for trace in figure.data if trace.name == name)


def test_front_points_carry_intervals(made_up_run: Any) -> None:
    quality, latency = made_up_run.objectives
    trace = _trace(figures.front_figure(made_up_run.trials, made_up_run.front, latency, quality), "Pareto front")
    assert len(trace.x) == len(made_up_run.front.trials)
    assert trace.error_y.array == pytest.approx([1.0] * len(trace.x))
    assert all(value > 0 for value in trace.error_x.array)


def test_baselines_are_marked_and_named(made_up_run: Any) -> None:
    quality, latency = made_up_run.objectives
    trace = _trace(figures.front_figure(made_up_run.trials, made_up_run.front, latency, quality), "baselines")
    assert list(trace.text) == ["as it came", "uniform int8"]


def test_only_complete_trials_are_drawn(made_up_run: Any) -> None:
    quality, latency = made_up_run.objectives
    trace = _trace(figures.front_figure(made_up_run.trials, made_up_run.front, latency, quality), "other trials")
    complete = sum(t.state.value == "complete" for t in made_up_run.trials)
    assert len(trace.x) == complete - len(made_up_run.front.trials)


def test_axes_say_estimated(estimated_run: Any) -> None:
    quality, latency = estimated_run.objectives
    figure = figures.front_figure(estimated_run.trials, estimated_run.front, latency, quality)
    assert figure.layout.xaxis.title.text == "estimated latency (ms)"
    history = hypervolume_history(estimated_run.trials, estimated_run.objectives, estimated_run.baseline)
    assert "estimated" in figures.hypervolume_figure(history, True).layout.yaxis.title.text


def test_layer_heatmaps_share_their_rows(made_up_run: Any) -> None:
    figure = figures.layer_figure(layer_table(made_up_run.front.trials, made_up_run.layers, made_up_run.groups))
    heatmaps = [trace for trace in figure.data if trace.type == "heatmap"]
    assert [list(h.y) for h in heatmaps] == [[layer.name for layer in made_up_run.layers]] * 2
    assert [list(h.x) for h in heatmaps] == [[f"#{t.number}" for t in made_up_run.front.trials]] * 2


def test_the_most_sensitive_is_on_top(made_up_run: Any) -> None:
    subjects = split_sensitivities(made_up_run.sensitivities)["precision"]
    figure = figures.sensitivity_figure(subjects, "precision")
    assert figure.data[0].y[-1] == max(subjects, key=lambda name: max(subjects[name].values()))
