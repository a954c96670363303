"""A test's own place for what all who use the owner's connections share: backends and health."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from slm_backends import background, selector


@contextmanager
def own_shelf() -> Iterator[None]:
    """Nothing that an earlier test learnt is known; the clients made meanwhile are closed."""
    with pytest.MonkeyPatch.context() as patch:
        shelf = selector._Shelf()
        patch.setattr(selector._selector, "_everyones", shelf)
        yield
        for made in shelf.backends.values():
            background.submit(made.close()).result(10)
