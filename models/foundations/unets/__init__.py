"""UNets over frames: ModelScope and ZeroScope, AnimateDiff."""
