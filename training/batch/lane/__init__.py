"""What trains packs of concepts: choosing, held concepts, checkpoints, a team of workers. No Ray in it."""
