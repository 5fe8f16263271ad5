"""The report's figures; the one file that knows plotly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import plotly.graph_objects as go
import plotly.io
from plotly.offline import get_plotlyjs
from plotly.subplots import make_subplots

from autocompress.core.measurement import Measurement
from autocompress.core.objective import QUALITY_METRICS, Objective
from autocompress.core.pareto import ParetoFront
from autocompress.core.trial import Trial, TrialState
from autocompress.report.layerwise import SKIPPED, LayerTable
from autocompress.report.points import frame, hover_text, label, option_title, ranked, test_value, values
from autocompress.report.wording import axis_title, scaled

INK, MUTED, GRID = "#1f2937", "#9ca3af", "#e5e7eb"
FRONT, BASELINE, TEST = "#2563eb", "#d97706", "#059669"
PRECISION_COLORS = {
    "fp32": "#e5e7eb",
    "fp16_storage": "#cbd5e1",
    "fp16": "#93c5fd",
    "bf16": "#7dd3fc",
    "w8": "#a7f3d0",
    "w4": "#34d399",
    "w2": "#047857",
    "int8": "#3b82f6",
    "int4": "#7c3aed",
    "int2": "#be185d",
    SKIPPED: "#374151",
}
#: Columns up to which the layer table's cells carry text.
MOST_LABELLED = 16
_FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif'


def plotly_script() -> str:
    """The library itself, to be put inline."""
    return str(get_plotlyjs())


def to_div(figure: go.Figure, name: str) -> str:
    """HTML of one figure, without the library.

    Args:
        figure: to draw.
        name: id of its element; unique on the page.
    """
    buttons = [["zoom2d", "pan2d", "resetScale2d", "toImage"]]
    config = {"displaylogo": False, "responsive": True, "modeBarButtons": buttons, "displayModeBar": "hover"}
    return str(plotly.io.to_html(figure, config=config, include_plotlyjs=False, full_html=False, div_id=name))


def front_figure(trials: Sequence[Trial], front: ParetoFront, x: Objective, y: Objective) -> go.Figure:
    """Every complete trial, the front with its intervals, and the baselines marked.

    Args:
        trials: of the run.
        front: to draw as a staircase.
        x: metric of the horizontal axis.
        y: metric of the vertical axis.
    """
    done = [t for t in trials if t.state is TrialState.COMPLETE]
    on_front = sorted(front.trials, key=lambda t: t.value(x.metric))
    numbers = {t.number for t in on_front}
    baselines = [t for t in done if t.candidate.source == "baseline"]
    others = [t for t in done if t.number not in numbers and t.candidate.source != "baseline"]
    figure = go.Figure()
    figure.add_scatter(**_points(others, x, y), name="other trials", marker={"color": MUTED, "size": 7, "opacity": 0.6})
    figure.add_scatter(
        x=values(on_front, x),
        y=values(on_front, y),
        mode="lines",
        line={"color": FRONT, "width": 1.5, "shape": "vh" if x.maximize else "hv"},
        hoverinfo="skip",
        showlegend=False,
    )
    figure.add_scatter(
        **{**_points(on_front, x, y), "mode": "markers+text"},
        name="Pareto front",
        text=["" if t.candidate.source == "baseline" else f"#{t.number}" for t in on_front],
        textposition="top left",
        textfont={"color": FRONT, "size": 11},
        marker={"color": FRONT, "size": 10, "line": {"color": "white", "width": 1}},
        error_x=_error(on_front, x, FRONT),
        error_y=_error(on_front, y, FRONT),
    )
    tested = [t for t in on_front if y.metric in QUALITY_METRICS and test_value(t, y.metric) is not None]
    if tested:
        figure.add_scatter(
            x=values(tested, x),
            y=[100 * (test_value(t, y.metric) or 0.0) for t in tested],
            mode="markers",
            name="front, on the test set",
            marker={"color": TEST, "size": 8, "symbol": "circle-open", "line": {"width": 1.5}},
            hovertext=[f"trial {t.number} on the test set" for t in tested],
            hoverinfo="text+y",
        )
    figure.add_scatter(
        **{**_points(baselines, x, y), "mode": "markers+text"},
        name="baselines",
        text=[escape(label(t)) for t in baselines],
        textposition="bottom left",
        textfont={"color": BASELINE, "size": 12},
        marker={"color": BASELINE, "size": 12, "symbol": "diamond", "line": {"color": "white", "width": 1}},
        error_x=_error(baselines, x, BASELINE),
        error_y=_error(baselines, y, BASELINE),
    )
    _style(figure, height=520, legend=True)
    figure.update_xaxes(title=axis_title(x.metric, done), rangemode="tozero")
    figure.update_yaxes(title=axis_title(y.metric, done), range=frame([*on_front, *baselines], y))
    return figure


def hypervolume_figure(history: Sequence[tuple[int, float]], estimated: bool) -> go.Figure:
    """Share of the reference box that is dominated, after each trial."""
    figure = go.Figure()
    figure.add_scatter(
        x=[number for number, _ in history],
        y=[share for _, share in history],
        mode="lines",
        line={"color": FRONT, "width": 2, "shape": "hv"},
        fill="tozeroy",
        fillcolor="rgba(37, 99, 235, 0.08)",
        hovertemplate="after trial %{x}: %{y:.4f}<extra></extra>",
    )
    _style(figure, height=300)
    figure.update_xaxes(title="trial")
    shares = [share for _, share in history]
    low, high = (min(shares), max(shares)) if shares else (0.0, 1.0)
    pad = 0.15 * (high - low) or 0.05
    title = "hypervolume<br>(estimated latencies)" if estimated else "hypervolume"
    figure.update_yaxes(title=title, range=[max(0.0, low - pad), high + pad])
    return figure


def layer_figure(table: LayerTable) -> go.Figure:
    """Two heatmaps that share their rows: precision, and share of output channels kept."""
    known = [name for name in PRECISION_COLORS if any(name in row for row in table.precision)]
    code = {name: index for index, name in enumerate(known)}
    columns = [f"#{t.number}" for t in table.trials]
    rows = [escape(name) for name in table.layers]
    hover = [escape(label(t)) for t in table.trials]
    figure = make_subplots(
        cols=2, shared_yaxes=True, horizontal_spacing=0.03, subplot_titles=("precision", "output channels kept (%)")
    )
    labelled = len(columns) <= MOST_LABELLED
    figure.add_trace(
        go.Heatmap(
            z=[[code[value] for value in row] for row in table.precision],
            x=columns,
            y=rows,
            zmin=-0.5,
            zmax=len(known) - 0.5,
            colorscale=_discrete([PRECISION_COLORS[name] for name in known]),
            showscale=False,
            text=[list(row) for row in table.precision],
            customdata=[hover] * len(rows),
            texttemplate="%{text}" if labelled else None,
            textfont={"size": 10},
            xgap=2,
            ygap=2,
            hovertemplate="%{y}<br>%{x} %{customdata}: %{text}<extra></extra>",
        ),
        row=1,
        col=1,
    )
    for name in known:
        marker = {"color": PRECISION_COLORS[name], "size": 12, "symbol": "square", "line": {"color": MUTED, "width": 1}}
        figure.add_trace(go.Scatter(x=[None], y=[None], mode="markers", name=name, marker=marker), row=1, col=1)
    figure.add_trace(
        go.Heatmap(
            z=[[None if value is None else 100 * value for value in row] for row in table.kept],
            x=columns,
            y=rows,
            zmin=0,
            zmax=100,
            colorscale=[[0, "#7f1d1d"], [0.5, "#f59e0b"], [1, "#f3f4f6"]],
            showscale=False,
            customdata=[hover] * len(rows),
            texttemplate="%{z:.0f}" if labelled else None,
            textfont={"size": 10},
            xgap=2,
            ygap=2,
            hovertemplate="%{y}<br>%{x} %{customdata}: %{z:.1f}% kept<extra></extra>",
        ),
        row=1,
        col=2,
    )
    _style(figure, height=170 + 22 * len(rows), legend=bool(known))
    figure.update_layout(legend={"y": -0.02 - 12 / max(170 + 22 * len(rows), 1), "yanchor": "top"})
    figure.update_xaxes(side="top", type="category", showgrid=False, tickangle=0 if labelled else -90, ticks="")
    figure.update_yaxes(autorange="reversed", type="category", showgrid=False, ticks="", automargin=True)
    for annotation in figure.layout.annotations:
        annotation.update(yshift=26, font={"size": 13, "color": INK})
    return figure


def sensitivity_figure(subjects: Mapping[str, Mapping[str, float]], what: str) -> go.Figure:
    """Bars of KL divergence, most sensitive on top.

    Args:
        subjects: layer or group to option to KL divergence in nats.
        what: title of the legend, such as ``precision``.
    """
    order = sorted(subjects, key=lambda name: max(subjects[name].values()))
    options = list(dict.fromkeys(option for name in subjects for option in subjects[name]))
    figure = go.Figure()
    palette = ("#93c5fd", FRONT, "#7c3aed", "#be185d", BASELINE, TEST, "#0f766e", INK)
    for index, option in enumerate(ranked(options, list(PRECISION_COLORS))):
        figure.add_bar(
            y=[escape(name) for name in order],
            x=[subjects[name].get(option) for name in order],
            orientation="h",
            name=option_title(option, what),
            marker={"color": PRECISION_COLORS.get(option, palette[index % len(palette)])},
            hovertemplate=f"%{{y}} {escape(option_title(option, what))}: %{{x:.3g}} nats<extra></extra>",
        )
    _style(figure, height=130 + len(order) * (8 + 6 * max(1, len(options))), legend=True)
    figure.update_layout(bargap=0.25, legend={"traceorder": "normal"})
    figure.update_xaxes(title="KL divergence of the outputs (nats)", type="log", dtick=1, exponentformat="power")
    figure.update_yaxes(type="category", automargin=True, showgrid=False)
    return figure


def _points(trials: Sequence[Trial], x: Objective, y: Objective) -> dict[str, Any]:
    return {
        "x": values(trials, x),
        "y": values(trials, y),
        "mode": "markers",
        "hovertext": [hover_text(t, x, y) for t in trials],
        "hoverinfo": "text",
    }


def _error(trials: Sequence[Trial], objective: Objective, color: str) -> dict[str, Any]:
    def reach(measurement: Measurement, upper: bool) -> float:
        interval = measurement.interval
        if interval is None:
            return 0.0
        gap = interval.high - measurement.value if upper else measurement.value - interval.low
        return scaled(objective.metric, max(0.0, gap))

    found = [t.measurements[objective.metric] for t in trials]
    return {
        "type": "data",
        "array": [reach(m, True) for m in found],
        "arrayminus": [reach(m, False) for m in found],
        "color": color,
        "thickness": 1,
        "width": 3,
    }


def _discrete(colors: Sequence[str]) -> list[list[Any]]:
    n = len(colors)
    return [[edge / n, color] for index, color in enumerate(colors) for edge in (index, index + 1)]


def _style(figure: go.Figure, *, height: int, legend: bool = False) -> None:
    figure.update_layout(
        height=height,
        template="plotly_white",
        font={"family": _FONT, "size": 13, "color": INK},
        margin={"l": 70, "r": 20, "t": 60 if legend else 20, "b": 55},
        showlegend=legend,
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        modebar={"bgcolor": "rgba(0,0,0,0)", "color": MUTED, "activecolor": FRONT},
        hoverlabel={"bgcolor": "white", "font": {"color": INK}},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
    )
    figure.update_xaxes(gridcolor=GRID, zeroline=False, linecolor=MUTED)
    figure.update_yaxes(gridcolor=GRID, zeroline=False, linecolor=MUTED)
