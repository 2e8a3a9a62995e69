"""`make demo`: the main job end to end on the embedded foundation, with everything started and stopped by itself."""
