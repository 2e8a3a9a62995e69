"""How good a motion is: metrics, trackers, benchmark tables."""
