"""What fits: the arithmetic, from the numbers that publishers give and the files on disk."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from slm_backends import catalog, fit, store
from slm_backends.catalog import Deployment, Model, Source
from slm_backends.errors import SLMError

PHI = Model(
    "phi-3.5-mini-instruct",
    "Phi-3.5 mini",
    parameters=3_821_079_552,
    context=131_072,
    layers=32,
    kv_heads=32,
    head_size=96,
)


@pytest.fixture(autouse=True)
def empty_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLM_HOME", str(tmp_path))
    for name in ("SLM_CONTEXT", "SLM_MEMORY_GB", "SLM_OFFLOAD"):
        monkeypatch.delenv(name, raising=False)


def on(runtime: str, size: int = 2_700_000_000, **fields: object) -> Deployment:
    source = Source("weights", path="/nowhere")
    return Deployment(f"{PHI.id}@{runtime}", PHI, runtime, source=source, size=size, **fields)  # type: ignore[arg-type]


def test_the_sum_is_told_and_right() -> None:
    need = fit.need(on("mlx"))
    assert need.context == 8_192
    assert need.total == 2_700_000_000 + 2 * 32 * 32 * 96 * 2 * 8_192 + 600_000_000
    assert need.arithmetic == (
        "2.7 GB weights + 3.2 GB cache (8,192 tokens x 384 KiB) + 0.6 GB process = 6.5 GB"
    )


def test_a_longer_conversation_takes_more() -> None:
    assert fit.need(on("mlx"), 131_072).total > 50e9
    assert fit.need(on("mlx"), 4_096).total < fit.need(on("mlx")).total


@pytest.mark.parametrize(
    ("deployment", "kibibytes"),
    [
        (on("mlx"), 384),
        (on("onnx"), 768),  # float32: what its models built for the processor take
        (on("onnx", device="cpu"), 768),
        (on("onnx", device="cuda"), 384),
        (on("openvino"), 240),  # 8 bits, and their scales
        (on("transformers", device="cuda", precision="bfloat16"), 384),
    ],
)
def test_the_cache_of_a_token(deployment: Deployment, kibibytes: int) -> None:
    assert fit.token_bytes(deployment) == kibibytes * 1024


def test_a_processor_without_bfloat16_holds_twice_as_much(monkeypatch: pytest.MonkeyPatch) -> None:
    deployment = on("transformers", 7_640_000_000, precision="bfloat16")
    monkeypatch.setattr(fit, "_computes_bfloat16", lambda: True)
    half = fit.need(deployment, 1_000)
    monkeypatch.setattr(fit, "_computes_bfloat16", lambda: False)
    whole = fit.need(deployment, 1_000)
    assert "7.6 GB weights" in half.arithmetic
    assert "15.3 GB weights" in whole.arithmetic
    assert whole.total - fit.OVERHEAD == 2 * (half.total - fit.OVERHEAD)
    packed = replace(deployment, precision="Q4_K_M", size=2_400_000_000)
    assert "15.3 GB weights" in fit.need(packed, 1_000).arithmetic
    on_a_gpu = replace(deployment, device="cuda")
    assert "7.6 GB weights" in fit.need(on_a_gpu, 1_000).arithmetic


def test_weights_that_are_here_count_as_they_are() -> None:
    deployment = on("onnx")
    folder = store.folder(deployment)
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(bytes(1_500_000))
    assert fit.need(deployment, 1).total == 1_500_000 + 768 * 1024 + fit.OVERHEAD


def test_a_model_of_unknown_shape_says_so() -> None:
    unknown = replace(on("mlx"), model=Model("x", "X", context=4_096))
    need = fit.need(unknown)
    assert need.arithmetic == ("2.7 GB weights + 0.6 GB process = 3.3 GB, cache not known")
    assert need.context == 4_096


def test_a_measured_number_is_taken_as_it_is() -> None:
    measured = replace(on("mlx"), memory=700_000_000)
    assert fit.need(measured).total == 700_000_000
    assert fit.need(measured).arithmetic == "0.7 GB, measured with a full context"
    assert fit.need(measured, 131_072).total > 50e9  # longer than what was measured


def test_the_context_is_capped(monkeypatch: pytest.MonkeyPatch) -> None:
    assert fit.context(on("mlx")) == 8_192
    short = replace(on("mlx"), model=replace(PHI, context=4_096))
    assert fit.context(short) == 4_096
    unknown = replace(on("mlx"), model=replace(PHI, context=None))
    assert fit.context(unknown) == 8_192
    monkeypatch.setenv("SLM_CONTEXT", "32768")
    assert fit.context(on("mlx")) == 32_768
    assert fit.context(short) == 4_096


@pytest.mark.parametrize("wrong", ["many", "0", "-5", "1.5"])
def test_the_cap_must_be_a_number_of_tokens(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLM_CONTEXT", wrong)
    with pytest.raises(SLMError, match="SLM_CONTEXT"):
        fit.context(on("mlx"))


def test_the_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLM_MEMORY_GB", "8")
    verdict = fit.fits(on("mlx"))
    assert (verdict.fits, verdict.word, verdict.reason) == (True, "fits", "")
    assert verdict.budget == 8_000_000_000
    assert verdict.fits_now == (verdict.need.total <= verdict.free)
    assert 0 < verdict.free <= psutil.virtual_memory().total
    assert not replace(verdict, free=1_000_000_000).fits_now
    monkeypatch.setenv("SLM_MEMORY_GB", "6")
    verdict = fit.fits(on("mlx"))
    assert (verdict.fits, verdict.fits_now, verdict.word) == (False, False, "needs 6.5 GB")
    assert verdict.reason == (
        "needs 2.7 GB weights + 3.2 GB cache (8,192 tokens x 384 KiB) + 0.6 GB process = 6.5 GB, "
        "and models may take 6.0 GB of memory together"
    )
    assert fit.fits(on("mlx"), 1_000).fits


def test_what_may_lie_on_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = on("transformers", 7_600_000_000, precision="bfloat16", device="cuda")
    rest = 2 * 32 * 32 * 96 * 2 * 8_192 + 600_000_000
    monkeypatch.setenv("SLM_MEMORY_GB", "6")
    assert not fit.fits(checkpoint).fits
    monkeypatch.setenv("SLM_OFFLOAD", "1")
    verdict = fit.fits(checkpoint)
    assert (verdict.fits, verdict.partly, verdict.word) == (True, True, "partly on disk")
    assert verdict.reason == ""
    assert verdict.held == 6_000_000_000
    assert verdict.kept == 6_000_000_000 - rest
    assert not replace(verdict, free=5_999_999_999).fits_now
    assert not fit.fits(on("mlx")).fits, "another runtime cannot"
    gguf = replace(checkpoint, source=Source("weights", path="/nowhere/model.gguf"))
    assert not fit.fits(gguf).fits, "what is packed is unpacked in memory"
    assert not fit.fits(replace(checkpoint, images=4)).fits
    assert not fit.fits(replace(checkpoint, memory=9_000_000_000)).fits, "a sum that is not known"
    monkeypatch.setenv("SLM_MEMORY_GB", "4")
    assert not fit.fits(checkpoint).fits, "a layer or two must be in memory"
    monkeypatch.setenv("SLM_MEMORY_GB", "20")
    verdict = fit.fits(checkpoint)
    assert (verdict.partly, verdict.kept, verdict.word) == (False, None, "fits")
    assert verdict.held == verdict.need.total


@pytest.mark.parametrize("wrong", ["much", "nan", "inf", "1,5", "-1"])
def test_a_budget_must_be_a_number(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLM_MEMORY_GB", wrong)
    with pytest.raises(SLMError, match="SLM_MEMORY_GB"):
        fit.memory_budget()


def test_the_budget_is_a_share_of_this_computers_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    assert fit.memory_budget() == int(0.8 * psutil.virtual_memory().total)
    monkeypatch.setenv("SLM_MEMORY_GB", "1.5")
    assert fit.memory_budget() == 1_500_000_000


def test_every_local_deployment_has_an_answer() -> None:
    for deployment in catalog.load().deployments.values():
        if deployment.local:
            assert fit.fits(deployment).need.total > 0
