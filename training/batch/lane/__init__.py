"""What trains packs of concepts: choosing, holding, checkpoints, a team of workers. No Ray in it."""
