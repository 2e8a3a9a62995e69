"""A resident model answers requests: API, jobs, engine, and the Ray Serve deployments around them."""
