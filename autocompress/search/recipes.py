"""The first candidates: what a careful engineer would try by hand, and what one-at-a-time sensitivities suggest.

A search that does not start from these loses to them: uniform recipes are anchors of the front, and what the samplers
learn from first.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from autocompress.core.errors import AutocompressError
from autocompress.core.objective import Objective
from autocompress.core.plan import CompressionPlan, DistillationPlan
from autocompress.core.protocols import Graph, TrialStore
from autocompress.core.space import Choice, SearchSpace
from autocompress.core.target import Precision
from autocompress.core.trial import Candidate, TrialState
from autocompress.cost.shares import MacModel
from autocompress.search.greedy_ratios import least_sensitive
from autocompress.search.refusals import SIZE_ONLY_REASON

Sensitivities = Mapping[str, Mapping[str, float]]
Assignment = dict[str, Any]

#: Shares of channels that uniform pruning removes, the most telling first; each group takes its nearest width.
UNIFORM_RATIOS = (0.5, 0.25, 0.375, 0.625, 0.125)
#: Shares of the cost that ranked pruning saves.
SAVINGS = (0.35, 0.5, 0.65, 0.2)
#: Shares of the residual blocks that are skipped, the most telling first.
SKIPPED_SHARES = (0.43, 0.57, 0.3, 0.15, 0.71)
#: Those of them that are also tried with the rest made narrower, and the shares of its cost that go.
NARROWED = {0.3: (0.25,), 0.43: (0.1, 0.2), 0.57: (0.1,)}
#: Share by which another precision must be cheaper than the usual one to take its place.
_CLEARLY = 0.05
#: Ratio options times layers up to which costs are asked of the profile: each asks all layers.
_MOST_PRICED = 20_000
#: How many of the most sensitive layers stay float32.
KEPT_FLOAT = (1, 2, 4)


def recipes(
    space: SearchSpace,
    graph: Graph,
    sensitivities: Sensitivities | None = None,
    cost: Callable[[CompressionPlan], float] | None = None,
    *,
    store: TrialStore,
    objective: Objective,
    on_message: Callable[[str], None] = lambda text: None,
) -> Iterator[Candidate]:
    """Candidates to start from, most valuable first, no plan twice.

    What is pruned is in the precision that proves cheapest once the uniform ones are in the store: a runtime's int8
    kernels may be fast and a network slow in them anyway, where they are few, or boundaries many.

    Args:
        space: of the search; candidates stay inside it where it can express them.
        graph: what is compressed.
        sensitivities: choice name to ``str(option)`` to KL of the outputs; None where it was not measured.
        cost: rough, of a plan: what ranked pruning saves; multiply-accumulates where it is None.
        store: asked after the uniform precisions were taken.
        objective: what is to be cheap.
        on_message: told where that is not the usual one.

    Yields:
        The uncompressed baseline first; then uniform precisions, uniform pruning with healing, ranked ones, and one
        pruned candidate without healing.
    """
    seeds = _Seeds(space, graph, sensitivities or {}, cost)

    def cheapest(usual: str) -> str:
        known = {t.plan.digest: t for t in store.trials() if t.state is TrialState.COMPLETE}
        losses = {
            precision.value: objective.loss(trial.value(objective.metric))
            for precision in Precision
            if (trial := known.get(seeds.whole(precision.value).plan.digest)) is not None
            and (precision is Precision.FP32 or seeds.offers(precision))
        }
        if usual not in losses:
            return usual
        best = min(losses, key=lambda precision: losses[precision])
        if losses[best] > losses[usual] - _CLEARLY * abs(losses[usual]):
            return usual
        named = objective.metric.rpartition("_")[0].replace("_", " ") or objective.metric
        on_message(
            f"The {named} of {best} is {losses[best] / losses[usual]:.2f} of {usual}'s: recipes prune in {best}."
        )
        return best

    yield from _unique(seeds.all(cheapest))


def _unique(candidates: Iterable[Candidate]) -> Iterator[Candidate]:
    """Each plan once."""
    seen: set[str] = set()
    for candidate in candidates:
        if candidate.plan.digest not in seen:
            seen.add(candidate.plan.digest)
            yield candidate


def anchor(space: SearchSpace, graph: Graph) -> Candidate:
    """Every layer in the lowest precision that most compute fast in, and nothing left out."""
    seeds = _Seeds(space, graph, {}, None)
    return seeds.whole(seeds.fast_precision())


@dataclass(frozen=True, slots=True)
class _Seeds:
    """Builds candidates of one space."""

    space: SearchSpace
    graph: Graph
    sensitivities: Sensitivities
    cost: Callable[[CompressionPlan], float] | None

    def whole(self, precision: str) -> Candidate:
        """One precision throughout."""
        return self._candidate("baseline", precision, {}, precision)

    def all(self, settle: Callable[[str], str]) -> Iterator[Candidate]:
        """Everything, most valuable first.

        Args:
            settle: asked once the uniform precisions are taken: from the usual precision of what is pruned to the one
                that is used.
        """
        yield self.whole(Precision.FP32.value)
        for precision in (Precision.FP16, Precision.BF16, Precision.INT8):
            if self.offers(precision):
                yield self.whole(precision.value)
        fast = settle(self.fast_precision())
        ranked = list(self._ranked(fast))
        uniform = list(self._uniform(fast))
        skipped = list(self._skipped(fast))
        for several in itertools.zip_longest(skipped, uniform, ranked):
            yield from (candidate for candidate in several if candidate is not None)
        yield from self._thin(fast)
        yield from self._sensitive_layers_in_float(fast)
        yield from self._four_bit()
        if fast != Precision.FP32.value:
            yield from self._uniform(Precision.FP32.value)
        yield from self._without_healing(fast)

    def _uniform(self, precision: str) -> Iterator[Candidate]:
        """The same share from every group, healed."""
        for level in UNIFORM_RATIOS:
            ratios = self._nearest_ratios(level)
            if ratios:
                yield self._candidate("recipe", precision, ratios, f"prune {100 * level:g}% + {precision}")

    def _thin(self, precision: str) -> Iterator[Candidate]:
        """Each rank wherever it is offered, in the fast precision; each sparsity likewise, in float32."""
        for kind, held in (("rank", precision), ("sparsity", Precision.FP32.value)):
            choices = self._choices(kind)
            for label in dict.fromkeys(str(option) for c in choices for option in c.options[1:]):
                changes: dict[str, Any] = {c.name: label for c in choices if label in c.options}
                yield self._candidate("recipe", held, changes, f"{kind} {label} + {held}")

    def _skipped(self, precision: str) -> Iterator[Candidate]:
        """The residual blocks that matter least left out, and the same with narrower layers."""
        choices = self._choices("skip")
        hurt = {c.name: self.sensitivities.get(c.name, {}).get("1", 0.0) for c in choices}
        order = sorted(hurt, key=lambda name: hurt[name])
        for share in SKIPPED_SHARES:
            count = round(share * len(order))
            changes: dict[str, Any] = dict.fromkeys(order[:count], 1)
            if changes:
                label = f"skip {count} block{'s' * (count > 1)}"
                yield self._candidate("recipe", precision, changes, f"{label} + {precision}")
                for goal, ratios in self._least_sensitive(NARROWED.get(share, ()), precision, changes).items():
                    text = f"{label}, the rest {goal:.0%} cheaper + {precision}"
                    yield self._candidate("sensitivity", precision, {**changes, **ratios}, text)

    def _without_healing(self, precision: str) -> Iterator[Candidate]:
        """One pruned candidate that gets new statistics only, to see what healing is worth."""
        level = UNIFORM_RATIOS[0]
        ratios = self._nearest_ratios(level)
        if ratios and self._option("distillation:steps", 0) is not None:
            healed = self._candidate("recipe", precision, ratios, f"prune {100 * level:g}% + {precision}, not healed")
            # No assignment: the space has no such choice.
            plan = healed.plan.replace(distillation=DistillationPlan(reconstruct=False))
            yield Candidate(plan=plan, source=healed.source, label=healed.label)

    def _four_bit(self) -> Iterator[Candidate]:
        """Every layer that may take it in 4-bit weights and 8-bit activations, even where the space leaves 4 bits out.

        The space leaves them out where only speed counts; the anchor is still worth one trial.
        """
        if self.offers(Precision.INT4):
            yield self._candidate("recipe", Precision.INT4.value, {}, "int4")
            return
        hidden = any(r.option == Precision.INT4.value and r.reason == SIZE_ONLY_REASON for r in self.space.refused)
        layers = [c.subject for c in self._choices("precision") if Precision.INT8.value in c.options]
        if hidden and layers:
            plan = CompressionPlan(
                layers=dict.fromkeys(layers, Precision.INT4.layer_plan),
                calibrator=str(self._default(self._find("calibrator")) or "minmax"),
            )
            yield Candidate(plan=plan, source="recipe", label="int4")

    def _ranked(self, precision: str) -> Iterator[Candidate]:
        for goal, ratios in self._least_sensitive(SAVINGS, precision, {}).items():
            label = f"least sensitive, {goal:.0%} cheaper + {precision}"
            yield self._candidate("sensitivity", precision, ratios, label)

    def _least_sensitive(
        self, goals: Sequence[float], precision: str, skipped: Mapping[str, Any]
    ) -> dict[float, dict[str, float]]:
        """Prune ratios for each saving that can be reached, as a share of what is left without the skipped blocks."""
        gone = self._gone(skipped)
        left = [c for c in self._choices("ratio") if c.subject not in gone]
        return least_sensitive(goals, left, self.sensitivities, self._savings(precision, skipped)) if goals else {}

    def _savings(self, precision: str, skipped: Mapping[str, Any]) -> Callable[[Mapping[str, float]], float]:
        """Share of the cost that prune ratios save, by their choices' names."""
        gone = self._gone(skipped)
        options = sum(len(c.options) for c in self._choices("ratio"))
        dear = options * len(self.graph.layers()) > _MOST_PRICED
        whole = None if dear else self._cost(precision, skipped)
        if whole is None:
            model = MacModel([layer for layer in self.graph.layers() if layer.name not in gone], self.graph.groups())
            subjects = {c.name: c.subject for c in self._choices("ratio")}
            return lambda ratios: model.saved({subjects[name]: ratio for name, ratio in ratios.items() if ratio > 0})
        # What has no price saves nothing.
        return lambda ratios: 1.0 - (self._cost(precision, {**skipped, **ratios}) or whole) / whole

    def _cost(self, precision: str, changes: Mapping[str, Any]) -> float | None:
        """Rough cost of a candidate; None where it has none."""
        plan = self._candidate("recipe", precision, changes, "").plan.replace(distillation=None)
        try:
            return None if self.cost is None else self.cost(plan)
        except AutocompressError:
            return None

    def _gone(self, skipped: Collection[str]) -> set[str]:
        """Layers and groups of the blocks whose choices are named."""
        blocks = [c.subject for c in self._choices("skip") if c.name in skipped]
        return {subject for block in blocks for subject in self.space.inside.get(block, ())}

    def _sensitive_layers_in_float(self, precision: str) -> Iterator[Candidate]:
        """All layers in the fast precision but those that it hurts most."""
        if precision == Precision.FP32.value:
            return
        hurt = {
            choice.name: self.sensitivities[choice.name][precision]
            for choice in self._choices("precision")
            if len(choice.options) > 1 and precision in self.sensitivities.get(choice.name, {})
        }
        order = sorted(hurt, key=lambda name: -hurt[name])
        for count in KEPT_FLOAT:
            if count < len(order):
                kept = dict.fromkeys(order[:count], Precision.FP32.value)
                label = f"{precision}, {count} most sensitive layer{'s' * (count > 1)} fp32"
                yield self._candidate("sensitivity", precision, kept, label)

    def _candidate(self, source: str, precision: str, changes: Mapping[str, Any], label: str) -> Candidate:
        """A candidate inside the space: every layer in ``precision`` where it may be, ``changes`` on top."""
        assignment: Assignment = {}
        for choice in self.space.choices:
            if choice.kind == "precision":
                assignment[choice.name] = precision if precision in choice.options else self._float_like(choice)
            elif choice.kind in ("ratio", "skip", "rank", "sparsity"):
                assignment[choice.name] = choice.options[0]
            elif choice.name == "distillation:steps":
                # Refitted in closed form at first: the search trains those that prove good.
                assignment[choice.name] = choice.options[0]
            else:
                assignment[choice.name] = self._default(choice)
        assignment.update(changes)
        return Candidate(plan=self.space.plan(assignment), source=source, assignment=assignment, label=label)

    def _nearest_ratios(self, level: float) -> dict[str, float]:
        """Each group's option nearest to ``level``; the milder of two as near. Empty where that prunes nothing."""
        ratios = {
            c.name: min((float(o) for o in c.options), key=lambda option: (abs(option - level), option))
            for c in self.space.choices
            if c.kind == "ratio"
        }
        return {name: ratio for name, ratio in ratios.items() if ratio > 0}

    def fast_precision(self) -> str:
        """What the pruned recipes run in: the lowest precision that most layers compute fast in."""
        for precision in (Precision.INT8, Precision.FP16):
            if self.offers(precision):
                return precision.value
        return Precision.FP32.value

    def offers(self, precision: Precision) -> bool:
        """Whether any layer may take it."""
        return any(precision.value in c.options for c in self._choices("precision"))

    def _choices(self, kind: str) -> list[Choice]:
        return [c for c in (*self.space.choices, *self.space.fixed) if c.kind == kind]

    def _find(self, name: str) -> Choice | None:
        return next((c for c in (*self.space.choices, *self.space.fixed) if c.name == name), None)

    def _option(self, name: str, value: Any) -> Any:
        choice = self._find(name)
        return value if choice is not None and value in choice.options else None

    @staticmethod
    def _float_like(choice: Choice) -> Any:
        return Precision.FP32.value if Precision.FP32.value in choice.options else choice.options[0]

    @staticmethod
    def _default(choice: Choice | None) -> Any:
        """The middle of ordered options, the first of others."""
        if choice is None:
            return None
        return choice.options[len(choice.options) // 2] if choice.ordered else choice.options[0]
