"""Serves requests with a resident model: API, jobs, engine and the Ray Serve deployments around them."""
