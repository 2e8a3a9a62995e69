"""The service that learns motions for its callers: where `serving` and `training` meet."""
