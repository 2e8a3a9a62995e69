"""The demos, which start and stop everything they need.

`make demo`: the main workflow end to end on the embedded foundation.
`make demo-batch`: many concepts on a cluster of local nodes, with injected faults.
"""
