"""From a manifest to a plan: which concepts to train, on what, with which settings, with whom."""
