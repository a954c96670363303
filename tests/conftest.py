"""What all tests share: they stay on this machine, and the embedded model is there for them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import twins
from offline import sitecustomize as offline

from slm_backends import catalog, selector, store
from slm_backends.local import LocalBackend
from slm_backends.selector import Selector

#: What `make setup` brings, and what `make test` brings beside that.
EMBEDDED = ("smollm2-135m-instruct@onnx", "smollm2-135m-instruct@openvino")
EVERYWHERE = (
    *EMBEDDED,
    "smollm2-135m-instruct@transformers",
    "smollm2-135m-instruct@mlx",
)

# For child processes, from here on: the same watch, and no proxy that would be "this machine".
os.environ["PYTHONPATH"] = os.pathsep.join(
    filter(None, (str(Path(offline.__file__).parent), os.environ.get("PYTHONPATH", "")))
)
for _name in [name for name in os.environ if name.lower().endswith("_proxy")]:
    del os.environ[_name]
# Nor a key, an address or a file of secrets of whoever runs the tests.
for _provider in catalog.load().providers.values():
    os.environ.pop(_provider.key, None)
    os.environ.pop(_provider.address, None)
os.environ["SLM_SECRETS"] = str(Path(__file__).with_name("nowhere.toml"))
# Two threads of PyTorch that wait for each other take ten times as long on a busy computer.
os.environ["OMP_NUM_THREADS"] = "1"

#: Files that take minutes, from the longest on. What begins last must not be what ends last.
LONGEST = (
    "test_cli.py",
    "test_engines.py",
    "test_browser_multilingual.py",
    "test_browser_servers.py",
    "test_browser.py",
    "test_fetch_and_chat.py",
    "test_browser_moe.py",
    "test_real_servers.py",
    "test_serve.py",
    "test_browser_vision.py",
    "test_page_moe.py",
    "test_convert.py",
    "test_cli_compare.py",
    "test_load.py",
    "test_cli_servers.py",
    "test_hub.py",
    "test_recipe_nano.py",
    "test_local.py",
)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let the longest files begin first."""
    place = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.name, len(place)))


@pytest.fixture(autouse=True)
def stays_on_this_machine() -> Iterator[None]:
    """Fail a test that tried to leave, also where the attempt's error was swallowed."""
    offline.attempts.clear()
    yield
    assert not offline.attempts


@pytest.fixture(autouse=True, scope="module")
def leaves_nothing_loaded() -> Iterator[None]:
    """End the workers of the selector that all share: files of tests run in any order."""
    yield
    for backend in selector.loaded():
        selector.unload(backend.id, force=True)


@pytest.fixture(scope="session")
def embedded() -> tuple[str, ...]:
    """Ids of the two embedded deployments, their files in the store that is in use.

    `make setup` has brought them; what only needs to be converted again is converted here.
    """
    for deployment_id in EMBEDDED:
        store.fetch(catalog.load().deployment(deployment_id))
    return EMBEDDED


@pytest.fixture(scope="session", params=EVERYWHERE)
def anywhere(request: pytest.FixtureRequest) -> str:
    """The id of each local deployment of the embedded model in turn, its files in the store."""
    store.fetch(catalog.load().deployment(request.param))
    return str(request.param)


@pytest.fixture(scope="session")
def _workers() -> Iterator[None]:
    """Workers that tests share; nobody may unload or kill them."""
    yield
    for loaded in selector.loaded():
        selector.unload(loaded.id, force=True)


@pytest.fixture(scope="session")
def backend(anywhere: str, _workers: None) -> LocalBackend:
    """Each local runtime in turn, on real weights, loaded once for all tests."""
    found = selector.backend(anywhere)
    assert isinstance(found, LocalBackend)
    return found


@pytest.fixture
def own(
    embedded: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Selector]:
    """A selector of the test's own, with twins of a deployment to load; its workers end with it."""
    for name, value in twins.make(tmp_path).items():
        monkeypatch.setenv(name, value)
    made = Selector()
    yield made
    for item in list(made._backends):
        made.unload(item, force=True)
    made.close()
