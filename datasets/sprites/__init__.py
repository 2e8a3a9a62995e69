"""The rendered sprite world: exactly known appearance and motion, grammar captions, and a tracker.

`world` defines the content, `motions` the movements, `style` the looks that captions have no word for.
`render` draws clips and `captions` writes their texts. `track` measures clips from pixels alone,
`looks` their style: `unstyle` removes what covers the whole clip, `things` finds other things in it,
`outline` measures the line around the object.
"""
