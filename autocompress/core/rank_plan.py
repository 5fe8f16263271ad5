"""How a layer becomes two or three thinner ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from autocompress.core.errors import PlanError

RANK_METHODS = ("auto", "svd", "spatial", "tucker2")


@dataclass(frozen=True, slots=True, kw_only=True)
class RankPlan:
    """Which low-rank factors stand in for a layer's weight, and how many channels lie between them.

    Exactly one of ``ratio`` and ``energy`` is given. A layer whose factors would take no fewer multiply-accumulates
    stays whole.

    Args:
        method: ``svd`` for linear layers and 1 x 1 convolutions; ``spatial`` (k x 1, then 1 x k) or ``tucker2`` (1 x 1,
            k x k, 1 x 1) for larger kernels; ``auto`` takes what fits the layer, the cheaper one where two do.
        ratio: share of the full rank, in ``(0, 1]``.
        energy: share of the squared singular values that is kept at least, in ``(0, 1]``.
    """

    method: str = "auto"
    ratio: float | None = None
    energy: float | None = None

    def __post_init__(self) -> None:
        if self.method not in RANK_METHODS:
            raise PlanError(f"The rank `method` must be one of {RANK_METHODS}, but got {self.method!r}.")
        if (self.ratio is None) == (self.energy is None):
            raise PlanError(
                f"A rank needs either `ratio` or `energy`, but got ratio={self.ratio!r} and energy={self.energy!r}."
            )
        for name, value in (("ratio", self.ratio), ("energy", self.energy)):
            if value is not None and not 0 < value <= 1:
                raise PlanError(f"The rank `{name}` must be in (0, 1], but got {value!r}.")

    @property
    def label(self) -> str:
        """Short name such as ``ratio 0.5`` or ``energy 0.9 tucker2``."""
        name, value = ("energy", self.energy) if self.ratio is None else ("ratio", self.ratio)
        return f"{name} {value:g}" + ("" if self.method == "auto" else f" {self.method}")

    @classmethod
    def from_label(cls, label: str) -> RankPlan:
        """The plan that has this :attr:`label`.

        Raises:
            PlanError: not such a label.
        """
        name, value, *method = label.split()[:3] if len(label.split()) in (2, 3) else ("", "")
        try:
            values: dict[str, Any] = {"ratio": {"ratio": float(value)}, "energy": {"energy": float(value)}}[name]
        except (KeyError, ValueError):
            raise PlanError(f"A rank is called like 'ratio 0.5' or 'energy 0.9 tucker2', but got {label!r}.") from None
        return cls(**values, method=method[0] if method else "auto")
