"""The rendered sprite world: appearance and motion known exactly, captions from a grammar, a tracker that measures.

`world` says what there is, `motions` how it moves, `style` what captions have no word for, `render` draws it, `captions`
words it. `track` reads it back from pixels alone, `looks` the style: `unstyle` takes off what lies over the whole clip,
`things` sorts out what else is in it, `outline` tells the line around the object.
"""
