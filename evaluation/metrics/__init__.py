"""The metrics, one module per idea; `metrics_for` lists those that apply.

- sprites, by the exact tracker: `trajectories` (motion fidelity), `sprite_appearance` (accuracy,
  presence, leakage), `motion_words` (text alignment), `diversity`, `consistency`;
- any clip, by optical flow and colours: `tracklets` (motion fidelity), `diversity`, `consistency`;
- both kinds, against the base model's videos of the same open prompts: `open_looks`;
- any clip, with CLIP weights that the user names: `clip_scores`.
"""

from evaluation.metrics.catalogue import OpenMetrics, metrics_for, open_metrics_for
from evaluation.metrics.sprite_tracking import is_sprite_world
from evaluation.metrics.trajectories import reference_ceiling

__all__ = ["OpenMetrics", "is_sprite_world", "metrics_for", "open_metrics_for", "reference_ceiling"]
