"""The Ray Serve application: deployments, routing between engines, the gate in the proxy."""
