"""How much each channel matters: one file a source of scores, one interface for all of them."""

from autocompress.compress.importance.gradients import taylor_scores
from autocompress.compress.importance.scores import channel_scores

__all__ = ["channel_scores", "taylor_scores"]
