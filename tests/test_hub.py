"""Fetching from a hub: real child processes and huggingface_hub, against a hub of our own."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import hub_server
import psutil
import pytest
from hub_server import MAIN, Hub

from slm_backends import files, store
from slm_backends import hub as hub_module
from slm_backends.catalog import Deployment, Model, Source
from slm_backends.errors import Busy, CatalogError, ChecksumMismatch, DiskFull, FetchFailed

PATIENCE = 30.0
PINNED = "1234567890" * 4
REPO = "maker/small-model"
WEIGHTS = random.Random(0).randbytes(3_000_000)
CHECKPOINT: dict[str, bytes | Path] = {
    "config.json": b'{"architectures": ["Phi3ForCausalLM"]}',
    "tokenizer.json": b'{"version": "1.0"}',
    "tokenizer_config.json": b"{}",
    "model.safetensors": WEIGHTS,
    # What repositories hold besides:
    ".gitattributes": b"*.safetensors filter=lfs",
    "README.md": b"# Small",
    "modeling_small.py": b"print('remote code')",
    "pytorch_model.bin": b"a pickle",
    "original/model.safetensors": b"the same in another format",
}
TAKEN = {"config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"}


def deployment(**source: object) -> Deployment:
    runtime = str(source.pop("runtime", "transformers"))
    convert = str(source.pop("convert", ""))
    variant = str(source.pop("variant", ""))
    fields = {"id": "small", "repo": REPO, "revision": PINNED, **source}
    return Deployment(
        id=f"small@{runtime}{variant}",
        model=Model(id="small", name="Small"),
        runtime=runtime,
        convert=convert,
        source=Source(**fields),  # type: ignore[arg-type]
        size=10**15,  # what a catalog says; what the hub says counts
    )


@pytest.fixture(scope="module")
def _served() -> Iterator[Hub]:
    with hub_server.serving_hub() as hub:
        yield hub


@pytest.fixture
def hub(_served: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """The hub, as new, with one repository; this process fetches into folders of its own."""
    new = Hub(_served.address, _served.elsewhere)
    for field in dataclasses.fields(Hub):
        setattr(_served, field.name, getattr(new, field.name))
    _served.add(REPO, CHECKPOINT)
    for name, value in hub_server.environment(_served, tmp_path).items():
        monkeypatch.setenv(name, value)
    return _served


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "hf" / "hub" / "models--maker--small-model"


def files_in(folder: Path) -> set[str]:
    return {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}


def hub_file(hub: Hub, name: str) -> hub_server.File:
    return hub.repositories[REPO][name]


def fetch_elsewhere(wanted: Deployment) -> subprocess.Popen[str]:
    """A process that fetches it and prints each step."""
    return subprocess.Popen(
        [sys.executable, __file__, json.dumps(dataclasses.asdict(wanted.source)), wanted.id],  # type: ignore[call-overload]
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.environ["PYTHONPATH"]},
    )


# --- what a fetch makes --------------------------------------------------------------------------


def test_only_what_the_runtime_needs_arrives(hub: Hub, cache: Path) -> None:
    folder = store.fetch(deployment())
    assert files_in(folder) == TAKEN | {"manifest.json"}
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    assert set(hub.asked) == TAKEN
    assert hub.listed == [f"{REPO} {PINNED}"]
    manifest = json.loads((folder / "manifest.json").read_text())
    assert (manifest["repo"], manifest["commit"]) == (REPO, PINNED)
    weights = manifest["files"]["model.safetensors"]
    assert weights == {"size": 3_000_000, "sha256": hub_file(hub, "model.safetensors").sha256}
    assert store.is_ready(deployment())
    assert store.verify(deployment()) == []
    assert store.size(deployment()) > 3_000_000


def test_the_users_cache_gets_the_files_in_its_own_layout(hub: Hub, cache: Path) -> None:
    folder = store.fetch(deployment())
    pointer = cache / "snapshots" / PINNED / "model.safetensors"
    blob = cache / "blobs" / hub_file(hub, "model.safetensors").sha256
    assert pointer.is_symlink() and pointer.resolve() == blob.resolve()
    assert (folder / "model.safetensors").samefile(blob)
    found = subprocess.run(
        [
            sys.executable,
            "-c",
            "from huggingface_hub import snapshot_download as get, scan_cache_dir\n"
            f"print(get({REPO!r}, revision={PINNED!r}, local_files_only=True))\n"
            "print(len(scan_cache_dir().warnings))",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.splitlines() == [str(pointer.parent), "0"]


def test_progress_is_in_bytes_and_grows_to_the_end(hub: Hub) -> None:
    seen: list[store.Progress] = []
    hub.pause = 0.02
    store.fetch(deployment(), seen.append)
    steps = list(dict.fromkeys(now.step for now in seen))
    assert steps == ["asking the hub", "downloading", "checking", "ready"]
    fractions = [now.fraction for now in seen]
    assert fractions == sorted(fractions) and fractions[-1] == 1.0
    loading = [now for now in seen if now.step == "downloading"]
    total = sum(len(hub_file(hub, name).content) for name in TAKEN)
    assert {(now.unit, now.total) for now in loading} == {("bytes", total)}
    assert loading[-1].done == total
    assert len({now.done for now in loading}) > 3


def test_a_folder_of_the_repository(hub: Hub) -> None:
    inside = "cpu_and_mobile/cpu-int4-awq-block-128-acc-level-4"
    onnx = {"genai_config.json": b"{}", "tokenizer.json": b"{}", "model.onnx": b"graph"}
    onnx |= {"model.onnx.data": b"numbers", "configuration_phi3.py": b"code"}
    hub.add(REPO, {f"{inside}/{name}": content for name, content in onnx.items()})
    hub.repositories[REPO]["gpu/model.onnx"] = hub_server.File(b"another", "gpu/model.onnx")
    folder = store.fetch(deployment(runtime="onnx", folder=inside))
    assert files_in(folder) == set(onnx) - {"configuration_phi3.py"} | {"manifest.json"}
    assert (folder / "model.onnx").read_bytes() == b"graph"


def test_openvino_takes_its_bin_beside_the_xml(hub: Hub) -> None:
    ir = {"config.json": b"{}", "tokenizer.json": b"{}", "model.bin": b"pickle"}
    for name in ("openvino_model", "openvino_tokenizer", "openvino_detokenizer"):
        ir |= {f"{name}.xml": b"<net/>", f"{name}.bin": b"numbers"}
    hub.add(REPO, {**ir, "openvino_stray.bin": b"what is this?"})
    folder = store.fetch(deployment(runtime="openvino"))
    assert files_in(folder) == set(ir) - {"model.bin"} | {"manifest.json"}


def test_a_gguf_gets_its_tokenizer_beside_it(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "CONVERTER", "stand_in_converter")
    monkeypatch.setenv("STAND_IN_LOG", str(tmp_path / "conversions.log"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((*sys.path, os.environ["PYTHONPATH"])))
    hub.add(REPO, {"tiny-q4.gguf": WEIGHTS, "tiny-f16.gguf": b"another"})
    wanted = deployment(runtime="openvino", files=("tiny-q4.gguf",))
    folder = store.fetch(wanted)
    assert files_in(folder) == {"model.gguf", "tokenizer.json", "manifest.json"}
    assert (folder / "model.gguf").read_bytes() == WEIGHTS
    assert (tmp_path / "conversions.log").read_text().startswith("tokenizer ")
    assert store.is_ready(wanted) and store.verify(wanted) == []


def test_main_is_resolved_once_and_then_stays(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = deployment(revision="main")
    folder = store.fetch(wanted)
    assert json.loads((folder / "manifest.json").read_text())["commit"] == MAIN
    monkeypatch.setattr(hub_server, "MAIN", "d1" * 20)  # the branch moves on
    (folder / "config.json").unlink()
    assert not store.is_ready(wanted)
    store.fetch(wanted)
    assert hub.listed[-1] == f"{REPO} {MAIN}"
    store.remove(wanted)
    store.fetch(wanted)
    assert hub.listed[-1] == f"{REPO} main"


def test_another_commit_in_the_catalog_is_not_ready(hub: Hub) -> None:
    store.fetch(deployment())
    newer = deployment(revision="f" * 40)
    assert not store.is_ready(newer)
    before = hub.sent.copy()
    store.fetch(newer)
    assert store.is_ready(newer)
    assert hub.sent == before, "the same content came again"


# --- interruptions -------------------------------------------------------------------------------


def test_cut_connection_is_taken_up_where_it_ended(hub: Hub) -> None:
    hub.cut_at["model.safetensors"], hub.cuts["model.safetensors"] = 1_000_000, 2
    folder = store.fetch(deployment())
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    assert hub.asked["model.safetensors"] == 3
    assert hub.sent["model.safetensors"] <= 3_000_000 + 2 * 4 * hub_server.BLOCK


def test_killed_half_way_a_later_fetch_continues(hub: Hub, cache: Path) -> None:
    hub.pause = 0.05
    process = fetch_elsewhere(deployment())
    assert process.stdout is not None
    for line in process.stdout:
        if json.loads(line)["step"] == "downloading" and json.loads(line)["done"] > 1_000_000:
            break
    downloading = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=PATIENCE)
    assert not store.folder(deployment()).exists()
    # Until they notice, and end, the hub goes on to send them what is counted below.
    assert psutil.wait_procs(downloading, PATIENCE)[1] == []
    assert hub_module.PARTIAL in str(list(cache.rglob("*")))
    hub.pause = 0.0
    before = hub.sent["model.safetensors"]
    store.fetch(deployment())
    assert store.verify(deployment()) == []
    assert hub.sent["model.safetensors"] - before < 2_100_000
    assert hub_module.PARTIAL not in str(list(cache.rglob("*")))


def test_cancel_is_soon_and_keeps_what_came(hub: Hub) -> None:
    hub.pause = 0.2
    seen: list[store.Progress] = []

    def enough() -> bool:
        return bool(seen) and seen[-1].step == "downloading" and seen[-1].done > 200_000

    begin = time.monotonic()
    with pytest.raises(FetchFailed, match="was stopped"):
        store.fetch(deployment(), seen.append, enough)
    assert time.monotonic() - begin < 8  # all of it would take ten seconds
    assert not store.folder(deployment()).exists()
    hub.pause = 0.0
    before = hub.sent["model.safetensors"]
    store.fetch(deployment())
    assert hub.sent["model.safetensors"] - before < 2_850_000


def test_two_processes_download_once(hub: Hub) -> None:
    hub.pause = 0.02
    both = [fetch_elsewhere(deployment()) for _ in range(2)]
    outputs = [process.communicate(timeout=PATIENCE)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert hub.asked == dict.fromkeys(TAKEN, 1)
    assert any("waiting for another process" in output for output in outputs)
    assert store.verify(deployment()) == []


def test_two_deployments_of_one_repository_download_once(hub: Hub) -> None:
    store.fetch(deployment())
    store.fetch(deployment(runtime="mlx"))
    assert hub.asked == dict.fromkeys(TAKEN, 1)


# --- what goes wrong -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_flipped_byte_is_refused_and_deleted(hub: Hub, cache: Path, name: str) -> None:
    hub.flipped.add(name)
    with pytest.raises(ChecksumMismatch, match=f"{name} of {REPO} is not what was published") as no:
        store.fetch(deployment())
    assert "It was deleted" in no.value.hint
    assert not store.folder(deployment()).exists()
    assert not [file for file in cache.rglob("*") if hub_file(hub, name).etag in file.name]
    hub.flipped.clear()
    store.fetch(deployment())
    assert store.verify(deployment()) == []


def test_full_disk_is_told_before_anything_is_downloaded(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=2_000_000))
    with pytest.raises(DiskFull, match=r"takes 3 MB .* and 2 MB are free") as no:
        store.fetch(deployment())
    assert "HF_HOME" in no.value.hint
    assert not hub.asked


def test_disk_that_fills_up_half_way(hub: Hub, tmp_path: Path) -> None:
    """A disk of two megabytes, whose owner says that a gigabyte is free."""
    (tmp_path / "hf").mkdir()
    script = 'mount -t tmpfs -o size=2m none $1 && shift && exec "$@"'
    fetch = [
        sys.executable,
        __file__,
        json.dumps(dataclasses.asdict(deployment().source)),
        "small@mlx",
    ]  # type: ignore[call-overload]
    maps = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, "sh"]
    if subprocess.run(["unshare", "--user", "--map-root-user", "--mount", "true"]).returncode:
        pytest.skip("this system lets nobody make a disk")
    made = subprocess.run(
        [*maps, str(tmp_path / "hf"), *fetch],
        env=os.environ | {"PRETEND_ROOM": "1"},
        capture_output=True,
        text=True,
    )
    assert made.returncode == 3, made.stderr
    assert "DiskFull: The disk filled up while fetching maker/small-model; 0 MB are free" in (
        made.stderr
    )


def test_gated_repository_says_what_to_do(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    hub.gated.add(REPO)
    hub.accepts = "hf_secret"
    with pytest.raises(FetchFailed, match=f"{REPO} is gated") as no:
        store.fetch(deployment())
    for words in (f"{hub.address}/{REPO}", "HF_TOKEN", "hf auth login"):
        assert words in no.value.hint
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    with pytest.raises(FetchFailed, match="is gated") as no:
        store.fetch(deployment())
    assert "hf_other" not in str(no.value) + no.value.hint
    monkeypatch.delenv("HF_TOKEN")
    (tmp_path / "hf" / "token").write_text("hf_secret")  # as `hf auth login` leaves it
    store.fetch(deployment())
    assert hub.keys == {"Bearer hf_other", "Bearer hf_secret"}
    assert not hub.keys_elsewhere, "the key went to a host that is not the hub"


def test_missing_repository_and_revision_and_file(hub: Hub) -> None:
    with pytest.raises(FetchFailed, match="no repository maker/none, or it is private") as no:
        store.fetch(deployment(repo="maker/none"))
    assert "Correct `repo`" in no.value.hint
    with pytest.raises(FetchFailed, match="has no revision gone"):
        store.fetch(deployment(revision="gone"))
    with pytest.raises(FetchFailed, match=r"holds no model-q4\.gguf"):
        store.fetch(deployment(files=("model-q4.gguf",)))
    with pytest.raises(FetchFailed, match=r"holds no \*\.onnx, which ONNX Runtime GenAI needs"):
        store.fetch(deployment(runtime="onnx"))
    with pytest.raises(FetchFailed, match="answered 503"):
        hub.broken = 503
        store.fetch(deployment())


def test_no_network_is_said(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(FetchFailed, match=r"127\.0\.0\.1:9 cannot be reached") as no:
        store.fetch(deployment())
    assert "network" in no.value.hint


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("pytorch_model.bin", "pickles"),
        ("modeling_small.py", "is code"),
        ("openvino_stray.bin", "only taken with the .xml"),
    ],
)
def test_pickles_and_code_are_refused_also_by_name(hub: Hub, name: str, reason: str) -> None:
    hub.repositories[REPO][name] = hub_server.File(b"x", name)
    with pytest.raises(CatalogError, match=reason):
        store.fetch(deployment(files=(name, "config.json")))
    assert not hub.asked


def test_repository_with_pickles_only_says_what_to_do(hub: Hub) -> None:
    del (
        hub.repositories[REPO]["model.safetensors"],
        hub.repositories[REPO]["original/model.safetensors"],
    )
    with pytest.raises(FetchFailed, match=r"only as pickles \(pytorch_model\.bin\)") as no:
        store.fetch(deployment())
    assert "safetensors" in no.value.hint


def test_checkpoint_without_one_of_its_parts(hub: Hub) -> None:
    index = {"weight_map": {"a": "model.safetensors", "b": "model-00002-of-00002.safetensors"}}
    name = "model.safetensors.index.json"
    hub.repositories[REPO][name] = hub_server.File(json.dumps(index).encode(), name)
    with pytest.raises(FetchFailed, match="not whole: .* model-00002-of-00002"):
        store.fetch(deployment())


def test_names_that_leave_the_folder_are_refused(hub: Hub) -> None:
    name = "../../up.json"
    hub.repositories[REPO][name] = hub_server.File(b"{}", name)
    with pytest.raises(FetchFailed, match="no name for one"):
        store.fetch(deployment())
    assert not hub.asked


def test_what_cannot_be_converted_is_not_downloaded(hub: Hub) -> None:
    config = b'{"architectures": ["PhiMoEForCausalLM"]}'
    hub.repositories[REPO]["config.json"] = hub_server.File(config, "config.json")
    with pytest.raises(FetchFailed, match="makes no sound model of a PhiMoEForCausalLM"):
        store.fetch(deployment(runtime="onnx", convert="onnx-int4"))
    assert not hub.asked


def test_memory_for_a_conversion_is_looked_at_first(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = SimpleNamespace(available=10_000_000)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    with pytest.raises(FetchFailed, match=r"takes about 915 MB of memory .* 10 MB are free"):
        store.fetch(deployment(runtime="onnx", convert="onnx-int4"))
    assert not hub.asked


# --- the user's own cache ------------------------------------------------------------------------


def have_in_the_cache(*names: str) -> None:
    """Download files as other programs of the user's do."""
    script = "import sys, huggingface_hub as hub\n"
    script += (
        "for name in sys.argv[3:]: hub.hf_hub_download(sys.argv[1], name, revision=sys.argv[2])"
    )
    subprocess.run([sys.executable, "-c", script, REPO, PINNED, *names], check=True)


def test_what_the_user_has_is_not_downloaded_nor_deleted(hub: Hub, cache: Path) -> None:
    have_in_the_cache(*TAKEN)
    before, asked = files_in(cache), hub.asked.copy()
    folder = store.fetch(deployment())
    assert hub.asked == asked
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    store.remove(deployment())
    assert not folder.exists()
    assert files_in(cache) == before


def test_damaged_file_in_the_users_cache_is_healed(hub: Hub, cache: Path) -> None:
    have_in_the_cache("model.safetensors")
    blob = cache / "blobs" / hub_file(hub, "model.safetensors").etag
    blob.write_bytes(WEIGHTS[:-1] + b"?")
    store.fetch(deployment())
    assert hub.asked["model.safetensors"] == 2
    assert blob.read_bytes() == WEIGHTS


def test_offline_uses_the_cache_or_says_so(
    hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    have_in_the_cache(*TAKEN)
    asked = hub.asked.copy()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(FetchFailed, match="HF_HUB_OFFLINE is set, and .* has nothing of") as no:
        store.fetch(deployment(repo="maker/other"))
    assert "Unset HF_HUB_OFFLINE" in no.value.hint
    folder = store.fetch(deployment())
    assert store.verify(deployment()) == []
    assert files_in(folder) == TAKEN | {"manifest.json"}
    assert not hub.listed and hub.asked == asked
    store.remove(deployment())
    blob = cache / "blobs" / hub_file(hub, "model.safetensors").etag
    blob.write_bytes(b"damaged")
    with pytest.raises(ChecksumMismatch, match="damaged in the hub's cache"):
        store.fetch(deployment())


def test_remove_frees_the_disk(hub: Hub, tmp_path: Path) -> None:
    folder = store.fetch(deployment())
    assert store.total_size() >= 3_000_000
    store.remove(deployment())
    assert not folder.exists()
    assert not [
        file for file in (tmp_path / "hf").rglob("*") if file.is_file() and files.size(file)
    ]
    assert not list((tmp_path / "home" / "hub").iterdir())
    assert store.size(deployment()) == 0 == store.total_size()
    store.remove(deployment())  # nothing happens


def test_remove_keeps_what_another_deployment_uses(hub: Hub, cache: Path) -> None:
    store.fetch(deployment())
    store.fetch(deployment(runtime="mlx"))
    store.remove(deployment())
    assert store.verify(deployment(runtime="mlx")) == []
    blob = cache / "blobs" / hub_file(hub, "model.safetensors").etag
    assert blob.exists()
    store.remove(deployment(runtime="mlx"))
    assert not cache.exists()


def test_remove_keeps_what_the_user_took_too(hub: Hub, cache: Path) -> None:
    store.fetch(deployment())
    blob = cache / "blobs" / hub_file(hub, "model.safetensors").etag
    other = cache / "snapshots" / ("a" * 40) / "model.safetensors"  # as `hf download` makes it
    other.parent.mkdir()
    other.symlink_to(os.path.relpath(blob, other.parent))
    store.remove(deployment())
    assert other.read_bytes() == WEIGHTS


def test_remove_takes_what_an_unfinished_fetch_left(hub: Hub, cache: Path) -> None:
    hub.pause = 0.2
    seen: list[store.Progress] = []
    with pytest.raises(FetchFailed):
        store.fetch(deployment(), seen.append, lambda: bool(seen) and seen[-1].done > 100_000)
    assert hub_module.PARTIAL in str(list(cache.rglob("*")))
    store.remove(deployment())
    assert not cache.exists()


def test_clearing_the_cache_leaves_the_deployment_whole(hub: Hub, cache: Path) -> None:
    store.fetch(deployment())
    shutil.rmtree(cache)
    assert store.verify(deployment()) == []
    store.remove(deployment())


def test_on_another_disk_it_is_a_link(
    hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    folder = store.fetch(deployment())
    blob = cache / "blobs" / hub_file(hub, "model.safetensors").etag
    assert (folder / "model.safetensors").is_symlink()
    assert (folder / "model.safetensors").resolve() == blob.resolve()
    assert store.is_ready(deployment()) and store.verify(deployment()) == []
    shutil.rmtree(cache)
    assert not store.is_ready(deployment())
    store.fetch(deployment())
    assert store.is_ready(deployment())


def test_remove_while_it_is_fetched_is_refused(hub: Hub) -> None:
    hub.pause = 0.1
    process = fetch_elsewhere(deployment())
    assert process.stdout is not None
    for line in process.stdout:
        if json.loads(line)["step"] == "downloading":
            break
    with pytest.raises(Busy):
        # Nothing of it is there yet, but what was downloaded is noted.
        store.remove(deployment())
    process.kill()
    process.communicate()


def main() -> None:
    """Fetch SOURCE_JSON as ID and print each step; exit code 3 where the disk is full."""
    if os.environ.get("PRETEND_ROOM"):
        shutil.disk_usage = lambda _: SimpleNamespace(free=10**9)  # type: ignore[assignment,return-value]
    given = json.loads(sys.argv[1])
    given["files"] = tuple(given["files"])
    runtime = sys.argv[2].partition("@")[2]
    wanted = Deployment(
        id=sys.argv[2],
        model=Model(id="small", name="Small"),
        runtime=runtime,
        source=Source(**given),
    )
    try:
        store.fetch(wanted, lambda now: print(json.dumps(dataclasses.asdict(now)), flush=True))
    except DiskFull as full:
        print(f"DiskFull: {full}", file=sys.stderr)
        raise SystemExit(3) from None


if __name__ == "__main__":
    main()
