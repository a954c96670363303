"""What all tests share: they stay on this machine, and the embedded model is there for them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from offline import sitecustomize as offline

from slm_backends import catalog, selector, store
from slm_backends.selector import LocalBackend

EMBEDDED = ("smollm2-135m-instruct@onnx", "smollm2-135m-instruct@openvino")

# For child processes, from here on: the same watch, and no proxy that would be "this machine".
os.environ["PYTHONPATH"] = os.pathsep.join(
    filter(None, (str(Path(offline.__file__).parent), os.environ.get("PYTHONPATH", "")))
)
for _name in [name for name in os.environ if name.lower().endswith("_proxy")]:
    del os.environ[_name]


@pytest.fixture(autouse=True)
def stays_on_this_machine() -> Iterator[None]:
    """Fail a test that tried to leave, also where the attempt's error was swallowed."""
    offline.attempts.clear()
    yield
    assert not offline.attempts


@pytest.fixture(scope="session")
def embedded() -> tuple[str, ...]:
    """Ids of the two embedded deployments, their files in the store that is in use.

    `make setup` has brought them; what only needs to be converted again is converted here.
    """
    for deployment_id in EMBEDDED:
        store.fetch(catalog.load().deployment(deployment_id))
    return EMBEDDED


@pytest.fixture(scope="session")
def _workers() -> Iterator[None]:
    """Workers that tests share; nobody may unload or kill them."""
    yield
    for loaded in selector.loaded():
        selector.unload(loaded.id)


@pytest.fixture(scope="session", params=EMBEDDED)
def backend(
    request: pytest.FixtureRequest, embedded: tuple[str, ...], _workers: None
) -> LocalBackend:
    """Each embedded deployment in turn, on real weights, loaded once for all tests."""
    found = selector.backend(request.param)
    assert isinstance(found, LocalBackend)
    return found
