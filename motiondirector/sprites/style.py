"""Converts a sprite style from command-line options, and to words for tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

from infra.errors import UserError

if TYPE_CHECKING:
    from datasets.sprites.looks import Looks
    from datasets.sprites.style import Style
    from motiondirector.sprites.config import RenderConfig


def style_given(config: RenderConfig, seed: int) -> Style | None:
    """The style that the options describe; None if they give none. Raises UserError that names the option."""
    from datasets.sprites.captions import drawable, parse
    from datasets.sprites.style import TINT, Style

    name, strength = ("", TINT) if config.tint is None else _tint(config.tint)
    sprite, idle = None, config.idle
    if idle is not None:
        if parse(idle).background or parse(idle).motion:
            raise UserError(
                f"--idle {idle!r} names more than an object, but it rests on the same background; name only the object, such as "
                '"a blue circle".'
            )
        sprite = drawable(idle).sprite
    style = Style(
        outline=config.outline,
        tint=name,
        tint_strength=strength,
        grain=config.grain,
        clutter=config.clutter,
        drift=(0.0, 0.0) if config.drift is None else _drift(config.drift),
        idle=sprite,
        seed=seed,
    )
    return None if style.plain else style


def _tint(text: str) -> tuple[str, float]:
    """ "warm" or "warm:0.4"."""
    from datasets.sprites.style import TINT, TINTS

    name, _, share = text.partition(":")
    try:
        return name, float(share) if share else TINT
    except ValueError:
        raise UserError(
            f"--tint {text!r}: expected one of {', '.join(TINTS)}, or one with a strength, such as warm:0.4."
        ) from None


def _drift(text: str) -> tuple[float, float]:
    """ "0.15" (to the right) or "0.1,-0.1"."""
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) not in (1, 2):
        raise UserError(
            f"--drift {text!r}: expected the camera's movement in frame widths, x or x,y, such as 0.15 or 0.1,-0.1."
        )
    return numbers[0], numbers[1] if len(numbers) == 2 else 0.0


def in_words(looks: Looks) -> str:
    """The style that a clip shows, in one line; "no style" if there is none."""
    words = []
    if looks.outlined:
        words.append(f"outline ({looks.outline:.0%} of a full line)")
    if looks.tint:
        words.append(f"{looks.tint} tint ({looks.tint_strength:.0%})")
    if looks.grainy:
        words.append(f"grain ({looks.grain:.0f} grey levels)")
    if looks.cluttered:
        words.append(f"clutter ({looks.clutter} objects)")
    if looks.second:
        words.append("a second object")
    if looks.drift is not None and looks.drifts:
        words.append(f"the camera moves by {looks.drift[0]:+.2f}, {looks.drift[1]:+.2f}")
    return ", ".join(words) or "no style"
