"""Foundation models: the interface, one module per kind of diffusers pipeline, and what these share."""
