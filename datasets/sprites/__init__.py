"""The rendered sprite world: appearance and motion known exactly, captions from a grammar, a tracker that measures.

`world` says what there is, `motions` how it moves, `render` draws it, `captions` words it, `track` reads it back
from pixels alone.
"""
