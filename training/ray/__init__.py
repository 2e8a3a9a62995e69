"""One concept's training on Ray Train."""
