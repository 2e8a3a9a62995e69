"""The studio's pages on which people teach motions: clips, presets, a training and its end."""
