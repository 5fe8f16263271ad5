"""Label-free distillation: train a pruned graph to answer as the uncompressed one does."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from autocompress.compress.fold import fold_batch_norm
from autocompress.core.errors import CandidateError, Interrupted, UnknownNameError
from autocompress.core.plan import DistillationPlan
from autocompress.core.protocols import Dataset
from autocompress.graph.executor import GraphModule
from autocompress.graph.model_graph import ModelGraph
from autocompress.hardware.host import memory_bytes, usable_cores
from autocompress.recover.batch_norm import clean_batches, fixed_batch, update_statistics
from autocompress.recover.features import (
    Feature,
    Kept,
    feature_loss,
    feature_points,
    match_features,
    with_outputs,
)
from autocompress.recover.losses import distillation_loss
from autocompress.recover.parallel import Parts
from autocompress.recover.samples import TeacherSamples
from autocompress.recover.schedule import trapezoid

Key = TypeVar("Key")

OPTIMIZERS = ("sgd", "adamw")
#: What a teacher said is kept up to this size, and up to this share of the memory; later steps are computed anew for
#: each student.
LESSON_BYTES, LESSON_SHARE = 2 << 30, 0.1
_MOMENTUM = 0.9
_MAX_GRADIENT_NORM = 5.0
#: AdamW moves every weight by about its learning rate; a tenth of SGD's healed the same nets equally well.
_ADAMW_SHARE = 0.1


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class HealState:
    """What a later call needs to continue where one stopped; the weights are in the graph."""

    step: int
    optimizer: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class HealResult:
    """A healed graph.

    Args:
        graph: the pruned graph with new weights and statistics.
        state: to continue from, with this graph.
        loss: mean over the last steps; None where no step was taken.
    """

    graph: ModelGraph
    state: HealState
    loss: float | None


class Distiller:
    """Heals pruned graphs against their uncompressed teacher (Hinton et al. 2015), without labels.

    Trains all weights, BatchNormalization in training mode, at a rate that stays at its peak and falls at the end
    (:mod:`autocompress.recover.schedule`), with clipped gradients; then re-estimates BatchNormalization on the data as
    it is. Two calls of half the steps give the same weights as one call of all, unless a batch is one sample, and the
    same seed gives the same weights. Images are kept channels last: oneDNN reorders every operand of a convolution
    otherwise.

    Args:
        teacher: the uncompressed graph; it runs once over each training sample, when first needed.
        dataset: training samples; labels are not used.
        seed: of the samples' order and mixture.
        threads: while healing; default all cores this process may use. Each takes its part of every batch (see
            :mod:`autocompress.recover.parallel`), and BatchNormalization normalizes part by part.
        augment: ``none``, ``mixup``, ``flip`` (images only), or ``auto``: ``flip`` for images, else ``mixup`` where
            every input is float.
        copies: mixed copies of the data; more cost the teacher more time and help long healing.
        optimizer: ``sgd`` (Nesterov momentum 0.9) or ``adamw`` at a tenth of the plan's learning rate.
        bfloat16: compute students in bfloat16; default where the processor has instructions for it.
        statistics_samples: for the re-estimation of BatchNormalization.
    """

    def __init__(
        self,
        teacher: ModelGraph,
        dataset: Dataset,
        *,
        seed: int = 0,
        threads: int | None = None,
        augment: str = "auto",
        copies: int = 4,
        optimizer: str = "sgd",
        bfloat16: bool | None = None,
        statistics_samples: int = 512,
    ) -> None:
        if optimizer not in OPTIMIZERS:
            raise UnknownNameError("optimizer", optimizer, OPTIMIZERS)
        self._teacher = teacher
        self._dataset = dataset
        self._threads = threads or usable_cores()
        self._optimizer = optimizer
        self._bfloat16 = has_fast_bfloat16() if bfloat16 is None else bfloat16
        self._statistics_samples = statistics_samples
        self._known_inputs: dict[tuple[int, int], tuple[Tensor, ...]] = {}
        self._lessons: dict[tuple[int, int, int], tuple[Tensor, ...]] = {}
        self._lesson_bytes = 0
        self._most_bytes = min(LESSON_BYTES, LESSON_SHARE * memory_bytes())
        self._samples = TeacherSamples(self._teach, teacher, dataset, seed=seed, augment=augment, copies=copies)

    def heal(
        self,
        pruned: ModelGraph,
        plan: DistillationPlan,
        *,
        steps: int,
        start_step: int = 0,
        state: HealState | None = None,
        should_stop: Callable[[], bool] | None = None,
        kept: Kept | None = None,
        masks: Mapping[str, NDArray[np.bool_]] | None = None,
    ) -> HealResult:
        """Train for some of the plan's steps.

        Args:
            pruned: as pruning left it, or the graph of an earlier result.
            plan: temperature, learning rate, batch size, and the steps that the schedule spans.
            steps: to take now; 0 only re-estimates BatchNormalization.
            start_step: steps taken before.
            state: of the earlier result; without it the optimizer starts afresh.
            should_stop: asked before each step.
            kept: teacher's value name to axis to the entries that the student still has; without it only values that
                lost nothing are matched.
            masks: weight to where it may be other than zero; the rest stays zero.

        Raises:
            CandidateError: the loss is no longer finite.
            Interrupted: ``should_stop`` said so; the steps of this call are lost.
        """
        features = self._features(pruned, kept or {}) if plan.feature_weight else []
        student = with_outputs(pruned, [feature.student for feature in features])
        module = GraphModule(student, masks=masks, channels_last=True)
        optimizer = self._make_optimizer(module, plan)
        if state is not None:
            # The optimizer would go on in the very tensors that it is given: the state must serve again.
            optimizer.load_state_dict(deepcopy(state.optimizer))
        fixed = fixed_batch(self._teacher)
        size = fixed or plan.batch_size
        # One sample has no statistics worth training on.
        module.train(size > 1)
        losses: list[float] = []
        parts = Parts(self._threads, whole=fixed is not None)
        with parts.running(size):
            for step in range(start_step, start_step + steps):
                if should_stop is not None and should_stop():
                    raise Interrupted(f"healing stopped at step {step} of {plan.steps}")
                losses.append(self._step(module, optimizer, plan, step, size, features, parts))
        # What is trained further is only judged by them.
        samples = self._statistics_samples // (4 if start_step + steps < plan.steps else 1)
        # One batch after the other: running statistics are the module's own.
        with Parts(self._threads, whole=True).running(size):
            update_statistics(module, clean_batches(pruned, self._dataset, samples, 64))
        last = losses[-10:]
        return HealResult(
            graph=pruned.with_weights(module),
            state=HealState(step=start_step + steps, optimizer=optimizer.state_dict()),
            loss=sum(last) / len(last) if last else None,
        )

    def _step(
        self,
        module: GraphModule,
        optimizer: torch.optim.Optimizer,
        plan: DistillationPlan,
        step: int,
        size: int,
        features: Sequence[Feature],
        parts: Parts,
    ) -> float:
        """One optimizer step; the gradient is the mean over the samples, whatever the parts."""
        parameters = list(module.parameters())
        inputs, targets = self._samples.batch(step, size) if not features else (self._inputs(step, size), [])

        def part_of_it(part: slice) -> tuple[float, list[Tensor]]:
            mine = tuple(x[part] for x in inputs)
            wanted = (
                [x[part] for x in targets] if not features else self._lesson((step, size, part.start), mine, features)
            )
            with torch.autocast("cpu", torch.bfloat16, enabled=self._bfloat16):
                outputs = _listed(module(*mine))
            count = len(outputs) - len(features)
            loss = distillation_loss(outputs[:count], wanted[:count], plan.temperature)
            if features:
                loss = loss + plan.feature_weight * feature_loss(outputs[count:], wanted[count:], features)
            share = len(mine[0]) / size
            gradients = torch.autograd.grad(loss * share, parameters, allow_unused=True, materialize_grads=True)
            return float(loss.detach()) * share, list(gradients)

        found = parts.each(part_of_it, size)
        value = sum(loss for loss, _ in found)
        if value != value or value in (float("inf"), float("-inf")):
            raise CandidateError("heal", f"the loss is {value} at step {step} (learning rate {plan.learning_rate:g})")
        for position, parameter in enumerate(parameters):
            # Always in the same order: the same seed gives the same weights.
            parameter.grad = sum((gradients[position] for _, gradients in found[1:]), start=found[0][1][position])
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * trapezoid(step, plan.steps)
        torch.nn.utils.clip_grad_norm_(parameters, _MAX_GRADIENT_NORM)
        optimizer.step()
        return value

    def _make_optimizer(self, module: GraphModule, plan: DistillationPlan) -> torch.optim.Optimizer:
        if self._optimizer == "adamw":
            rate = plan.learning_rate * _ADAMW_SHARE
            group = {"params": list(module.parameters()), "initial_lr": rate}
            return torch.optim.AdamW([group], lr=rate, weight_decay=0.0)
        group = {"params": list(module.parameters()), "initial_lr": plan.learning_rate}
        return torch.optim.SGD([group], lr=plan.learning_rate, momentum=_MOMENTUM, nesterov=True)

    @cached_property
    def _teacher_module(self) -> GraphModule:
        return GraphModule(self._teacher, channels_last=True).eval()

    def _features(self, student: ModelGraph, kept: Kept) -> list[Feature]:
        points = [point for point in feature_points(self._teacher) if point in self._place]
        return match_features(self._teacher, student, points, kept)

    def _inputs(self, step: int, size: int) -> tuple[Tensor, ...]:
        """The inputs of one step; kept as long as there is room for them."""
        known = self._known_inputs.get((step, size))
        if known is None:
            known = self._samples.inputs(step, size)
            self._keep(self._known_inputs, (step, size), known)
        return known

    @torch.no_grad()
    def _lesson(
        self, key: tuple[int, int, int], inputs: tuple[Tensor, ...], features: Sequence[Feature]
    ) -> list[Tensor]:
        """The teacher's outputs and features for a part of one step.

        Every student sees the same samples at the same step, so what the first needed is kept for the others: features
        in bfloat16, whose rounding is far below any student's error. The first sees the same numbers as the others.
        """
        count = len(self._teacher.output_names)
        values = self._lessons.get(key)
        if values is None:
            with torch.autocast("cpu", torch.bfloat16, enabled=self._bfloat16):
                values = tuple(_listed(self._feature_module(*inputs)))
            values = (*values[:count], *(value.bfloat16() for value in values[count:]))
            self._keep(self._lessons, key, values)
        outputs = values[:count]
        return [*outputs, *(values[self._place[feature.teacher]] for feature in features)]

    def _keep(self, memory: dict[Key, tuple[Tensor, ...]], key: Key, values: tuple[Tensor, ...]) -> None:
        if self._lesson_bytes < self._most_bytes:
            self._lesson_bytes += sum(value.nbytes for value in values)
            memory[key] = values

    @cached_property
    def _feature_module(self) -> GraphModule:
        # Folded, the teacher computes the same values with fewer operators.
        teacher = fold_batch_norm(self._teacher)
        points = [point for point in feature_points(self._teacher) if point in teacher.values]
        return GraphModule(with_outputs(teacher, points), channels_last=True).eval()

    @cached_property
    def _place(self) -> dict[str, int]:
        return {name: index for index, name in enumerate(self._feature_module.output_names)}

    @torch.no_grad()
    def _teach(self, inputs: tuple[Tensor, ...]) -> list[Tensor]:
        return _listed(self._teacher_module(*inputs))


def has_fast_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16 in hardware; emulated it would be slower than float32."""
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, check, lambda: False)() for check in checks)


def _listed(outputs: Tensor | tuple[Tensor, ...]) -> list[Tensor]:
    return list(outputs) if isinstance(outputs, tuple) else [outputs]
