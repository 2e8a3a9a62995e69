"""Ray sessions: start a private one or attach to a cluster."""
