"""Where the pictures of a prompt stand among its tokens, and what a model has seen in them.

For runtimes that compute the model's parts and leave the rest to us. Knows Phi-3-vision's
arithmetic of tokens, and keeps what was seen for the next question on the same pictures. Knows no
runtime: how crops are encoded is given to it. Another model's tokens are a subclass (smolvlm.py).
"""

from __future__ import annotations

import io
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any

import numpy
import PIL.Image

from slm_backends.chat import Looking
from slm_backends.picture_tokens import (
    SEVERAL_CROPS,
    SINGLE_CROPS,
    Grid,
    phi3_vision_grid,
    phi3_vision_tokens,
)
from slm_backends.worker.engines.phi3v_crops import crops_of
from slm_backends.worker.pieces import Picture, Piece, Words

_BASE = 2 * SINGLE_CROPS  # more than any number of crops
#: Bytes of what was seen that is kept beside what running sequences need. A token takes 4 for each
#: number of its embedding: a picture of Phi-3.5-vision alone 31 MB, one of several 9 MB.
KEPT_BYTES = 1 << 28

Floats = Any  # a numpy array of float32
#: From an RGB picture, the number of crops that its grid may have at most and their side to its
#: crops [1 + rows * columns, 3, side, side]; Phi-3-vision's have the whole first.
Crop = Callable[[PIL.Image.Image, int, int], tuple[Any, Grid]]
#: From these to the picture's rows among the embeddings [tokens, hidden]; on the way it yields how
#: many crops are done.
Encode = Callable[[Any, Grid], Generator[int, None, Floats]]


class Eyes:
    """Lays out prompts and looks at their pictures.

    A picture looks different alone and with others: it is cut into another number of crops. So what
    stands for it among the tokens is its slot together with that number.

    side    of a crop, in pixels
    across  tokens along a crop's side
    most    crops that the grid of a picture may have at most
    """

    def __init__(
        self,
        side: int,
        across: int,
        encode: Encode,
        *,
        most: int = SINGLE_CROPS,
        crop: Crop = crops_of,
    ) -> None:
        self._side = side
        self._across = across
        self._encode = encode
        self._most = most
        self._crop = crop
        self._held: dict[int, dict[int, Picture]] = {}
        self._seen: dict[int, Floats] = {}  # the one used last at the end

    def lay_out(self, pieces: Sequence[Piece]) -> list[int]:
        """The tokens of a prompt, a negative number at each place of a picture."""
        most = self._most_crops(pieces)
        tokens: list[int] = []
        for piece in pieces:
            if isinstance(piece, Words):
                tokens += piece.tokens
            else:
                tokens += self._spelled(piece, _place(piece, most))
        return tokens

    def _spelled(self, picture: Picture, place: int) -> list[int]:
        """The tokens of one picture, `place` for each row of what is seen in it."""
        grid = phi3_vision_grid(picture.width, picture.height, -place % _BASE, self._side)
        return [place] * phi3_vision_tokens(grid, self._across)

    def hold(self, key: int, pieces: Sequence[Piece]) -> None:
        """A sequence has these pictures, until it is released."""
        most = self._most_crops(pieces)
        self._held[key] = {_place(piece, most): piece for piece in _pictures(pieces)}

    def release(self, key: int) -> None:
        self._held.pop(key, None)
        self._forget()

    def unseen(self, key: int, tokens: Sequence[int]) -> list[int]:
        """Which pictures of a sequence stand among `tokens` and are still to be looked at; as
        numbers from 1, in the order of the prompt."""
        there = {token for token in tokens if token < 0}
        return [
            number
            for number, place in enumerate(self._held.get(key, ()), 1)
            if place in there and place not in self._seen
        ]

    def looks(self, key: int, tokens: Sequence[int]) -> Iterator[Looking]:
        """Look at these, a part at a time."""
        places = list(self._held.get(key, ()))
        for number in self.unseen(key, tokens):
            for done, crops in self._look(places[number - 1]):
                yield Looking(number, len(places), done, crops)

    def rows(
        self, before: Sequence[int], tokens: Sequence[int], words: Callable[[Any], Floats]
    ) -> Floats:
        """Embeddings [tokens, hidden] of tokens that come after `before`; `words` gives those of
        token ids [n]."""
        rows = words(numpy.maximum(numpy.array(tokens, dtype=numpy.int64), 0))
        for token in {token for token in tokens if token < 0}:
            features = self._features(token)
            # A part of a prompt may begin within a picture, and one may come twice.
            first = before.count(token)
            places = numpy.flatnonzero(numpy.array(tokens) == token)
            rows[places] = features[numpy.arange(first, first + len(places)) % len(features)]
        return rows

    def _features(self, place: int) -> Floats:
        if place not in self._seen:  # forgotten since: a long text is read from its start again
            for _ in self._look(place):
                pass
        self._seen[place] = self._seen.pop(place)
        return self._seen[place]

    def _look(self, place: int) -> Iterator[tuple[int, int]]:
        """(crops that are done, crops) after each part."""
        picture = next(held[place] for held in self._held.values() if place in held)
        with PIL.Image.open(io.BytesIO(picture.data)) as file:
            crops, grid = self._crop(file.convert("RGB"), -place % _BASE, self._side)
        parts = self._encode(crops, grid)
        while True:
            try:
                done = next(parts)
            except StopIteration as end:
                self._seen[place] = end.value
                self._forget()
                return
            yield done, grid.crops

    def _most_crops(self, pieces: Sequence[Piece]) -> int:
        """Alone a picture may have more: whoever sends several asks about less of each."""
        return self._most if len(_pictures(pieces)) == 1 else min(self._most, SEVERAL_CROPS)

    def _forget(self) -> None:
        """The oldest that no running sequence needs, until the rest may be kept."""
        needed = {place for held in self._held.values() for place in held}
        spare = [place for place in self._seen if place not in needed]
        size = sum(self._seen[place].nbytes for place in spare)
        for place in spare:
            if size <= KEPT_BYTES:
                break
            size -= self._seen.pop(place).nbytes


def _pictures(pieces: Sequence[Piece]) -> list[Picture]:
    return [piece for piece in pieces if isinstance(piece, Picture)]


def _place(picture: Picture, most: int) -> int:
    return picture.slot * _BASE - most
