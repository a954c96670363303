"""What pictures cost before they are sent: tokens, memory and crops, with the arithmetic in words.

Knows what a model makes of a picture's size (picture_tokens.py), what a token of cache takes
(fit.py), and what a deployment takes at all. Decodes nothing and asks nobody: what a server makes
of a picture is its own affair, and is said to be unknown.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from slm_backends import fit, images
from slm_backends.catalog import Deployment
from slm_backends.picture_tokens import SIGHTS, Grid, Sight, Size, SmolSight

PIXEL = 12  # bytes of one while its crop is looked at: three numbers in float32


@dataclass(frozen=True)
class Cost:
    """Of the pictures of a conversation, in one deployment.

    known       whether the numbers below are; a server's are not
    tokens      of each picture
    crops       that must be looked at, if none of the pictures was before
    memory      bytes of cache that the pictures' tokens take, 0 where that is not known
    pixels      bytes of all crops as numbers, before they are looked at
    arithmetic  how the tokens add up, and what for
    warning     a sentence where the answer may suffer, else empty
    refusal     what does not fit, and what would, in sentences; empty where all fits
    """

    known: bool = False
    tokens: tuple[int, ...] = ()
    crops: int = 0
    memory: int = 0
    pixels: int = 0
    arithmetic: str = ""
    warning: str = ""
    refusal: str = ""

    @property
    def total(self) -> int:
        """Tokens of all pictures."""
        return sum(self.tokens)

    @property
    def words(self) -> str:
        """The whole in a few words."""
        if not self.known:
            return "tokens not known"
        cache = f", {_bytes(self.memory)} of cache" if self.memory else ""
        return f"{self.total:,} tokens{cache}"


def of(
    deployment: Deployment, sizes: Sequence[Size], words_tokens: int = 0, max_tokens: int = 512
) -> Cost:
    """The cost of all pictures of a conversation, by their width and height in pixels.

    words_tokens  of its text; max_tokens: of the reply, at most
    """
    sight = SIGHTS.get(deployment.model.sight)
    # A local worker cuts pictures as we do; a server may do it in its own way.
    if not (sight and deployment.local and sizes):
        server = sizes and deployment.images
        return Cost(
            arithmetic="Only the server knows how many tokens a picture takes." if server else "",
            refusal=_too_many(deployment, sizes),
        )
    grids = sight.grids(sizes)
    tokens = tuple(map(sight.tokens, grids))
    crops = sum(grid.crops for grid in grids)
    pixels = crops * sight.side**2 * PIXEL
    memory = round(fit.token_bytes(deployment) * sum(tokens))
    asked = sum(tokens) + words_tokens + max_tokens
    refusal = _too_many(deployment, sizes) or _too_long(deployment, sizes, asked, words_tokens)
    return Cost(
        True,
        tokens,
        crops,
        memory,
        pixels,
        _arithmetic(deployment, sight, grids, pixels, memory),
        "" if refusal else _warning(deployment, sight, asked),
        refusal,
    )


def sheet(
    deployment: Deployment, sizes: Sequence[Size], words_tokens: int = 0, max_tokens: int = 512
) -> Cost:
    """As of(), with all pictures on one contact sheet."""
    return of(deployment, [images.sheet_size(sizes)] if sizes else [], words_tokens, max_tokens)


def _arithmetic(
    deployment: Deployment,
    sight: Sight | SmolSight,
    grids: Sequence[Grid],
    pixels: int,
    memory: int,
) -> str:
    """One sum for each picture, equal ones together, then what is taken for them."""
    sums = Counter(f"{sight.tokens(grid):,} tokens = {sight.told(grid)}" for grid in grids)
    total = sum(map(sight.tokens, grids))
    text = "; ".join(
        (f"{count} pictures of " if count > 1 else "") + told for told, count in sums.items()
    )
    text += f"; {total:,} together" if len(grids) > 1 else ""
    if memory:
        kibibytes = fit.token_bytes(deployment) / 1024
        text += f". Cache: {total:,} tokens x {kibibytes:,.4g} KiB = {_bytes(memory)}"
    return f"{text}. To look at: {_bytes(pixels)} of pixels."


def _warning(deployment: Deployment, sight: Sight | SmolSight, asked: int) -> str:
    sound = deployment.sound_to or sight.bound
    if not 0 < sound < asked:
        return ""
    past = f"With the text and the reply these are {asked:,} tokens, past {sound:,}"
    if deployment.sound_to:
        return f"{past}. {deployment.sound_note}"
    return f"{past}: the model's long position factors take over, and answers may get worse."


def _too_long(deployment: Deployment, sizes: Sequence[Size], asked: int, words_tokens: int) -> str:
    context = fit.context(deployment)
    if asked <= context:
        return ""
    reply = f"{words_tokens:,} of text and the reply's" if words_tokens else "the reply's"
    return (
        f"The pictures' tokens and {reply} are {asked:,} together, and {context:,} are held. "
        f"{_instead(deployment, sizes)}"
    )


def _too_many(deployment: Deployment, sizes: Sequence[Size]) -> str:
    if len(sizes) <= deployment.images:
        return ""
    takes = {0: "no pictures", 1: "one picture"}.get(
        deployment.images, f"{deployment.images} pictures"
    )
    return (
        f"It takes {takes} in a conversation, and there {'is' if len(sizes) == 1 else 'are'} "
        f"{len(sizes)}. {_instead(deployment, sizes)}"
    )


def _instead(deployment: Deployment, sizes: Sequence[Size]) -> str:
    """What can be done, a sentence."""
    only_text = "let only the text in them be read"
    if deployment.images == 0:
        return f"{only_text.capitalize()}."
    if len(sizes) == 1:
        return f"Ask for a shorter reply, or {only_text}."
    return f"Send the first only, a contact sheet of all, or {only_text}."


def _bytes(count: int) -> str:
    return f"{count / 2**20:,.0f} MiB" if count >= 2**20 else f"{count / 2**10:,.0f} KiB"
