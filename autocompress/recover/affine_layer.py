"""A layer with the BatchNormalization behind it, seen as one weight and one bias."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from autocompress.graph.executor import GraphModule
from autocompress.graph.operator_node import OperatorNode
from autocompress.recover.fit_points import FitPoint
from autocompress.recover.layer_rows import stored_weight, weight_matrix


class AffineLayer:
    """Reads and replaces what a layer and the BatchNormalization behind it do to a row of inputs.

    Args:
        module: whose parameters are replaced, in place.
        point: the layer.
        node: the same.
    """

    def __init__(self, module: GraphModule, point: FitPoint, node: OperatorNode) -> None:
        self._module = module
        self._point = point
        self._node = node
        matrix = self._matrix = weight_matrix(node, self._get(point.weight))
        groups, outputs, _ = matrix.shape
        scale = torch.ones(groups, outputs)
        shift = (
            torch.zeros(groups, outputs) if point.bias is None else self._get(point.bias).reshape(groups, -1).clone()
        )
        if point.batch_norm is not None:
            gamma, beta, mean, variance = (self._get(name).reshape(groups, -1) for name in point.batch_norm)
            scale = gamma / torch.sqrt(variance + point.epsilon)
            shift = (shift - mean) * scale + beta
        #: ``(groups, outputs, inputs)`` and ``(groups, outputs)``.
        self.weight, self.bias = matrix * scale[:, :, None], shift

    def replace(self, weight: Tensor, bias: Tensor, moments: Callable[[Tensor], tuple[Tensor, Tensor]]) -> None:
        """Make the layer compute ``weight`` times a row plus ``bias``.

        With BatchNormalization behind it each output's weight keeps its length, which training depends on (van
        Laarhoven 2017, section 2), and BatchNormalization has the statistics of what the layer reads.

        Args:
            weight: ``(groups, outputs, inputs)``.
            bias: ``(groups, outputs)``; not used where the layer has none.
            moments: of a weight: ``(groups, outputs)`` means and variances of it times what the layer reads.
        """
        point = self._point
        if point.batch_norm is None:
            self._set(point.weight, self._stored(weight))
            if point.bias is not None:
                self._set(point.bias, bias)
            return
        length, new = self._matrix.norm(dim=2), weight.norm(dim=2)
        # A channel that was or became zero has no length to keep.
        factor = torch.where((length > 0) & (new > 0), length / new.clamp_min(1e-30), torch.ones_like(new))
        mean, variance = moments(weight)
        scaled_mean, scaled_variance = mean * factor, variance.clamp_min(0.0) * factor.square()
        offset = 0.0 if point.bias is None else self._get(point.bias).reshape(mean.shape)
        self._set(point.weight, self._stored(weight * factor[:, :, None]))
        scale = torch.sqrt(scaled_variance + point.epsilon) / factor
        values = (scale, bias + mean, scaled_mean + offset, scaled_variance)
        for name, value in zip(point.batch_norm, values, strict=True):
            self._set(name, value)

    def _stored(self, matrix: Tensor) -> Tensor:
        return stored_weight(self._node, matrix, self._get(self._point.weight).shape)

    def _get(self, name: str) -> Tensor:
        return self._module.initializer(name)

    def _set(self, name: str, value: Tensor) -> None:
        held = self._get(name)
        held.copy_(value.reshape(held.shape))
