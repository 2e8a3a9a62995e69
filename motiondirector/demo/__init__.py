"""`make demo`: the main job end to end on the embedded foundation, with everything started and stopped by itself.
`make demo-batch`: many concepts on a cluster of local nodes, while things go wrong."""
