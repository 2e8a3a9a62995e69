"""The sprite world: renders clips, traces the path of a real clip, trains the foundation."""
