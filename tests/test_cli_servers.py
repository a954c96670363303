"""The command line and servers: states, facts and waits as a person sees them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_line import slm
from scripted_server import Server, refusal, scripted

CATALOG = """
[providers.near]
name = "Near"
base_url = "{address}"
key = "NEAR_KEY"
names = "As the server lists them."

[models.m]
name = "M"

[deployments."m@near"]
served_as = "m-q4"
price_in = 0.1
price_out = 0.4

[deployments."m@near:gone"]
served_as = "gone"
retired = "2025-08-30"
retired_source = "https://example.com/gone"
"""


@pytest.fixture
def server() -> Iterator[Server]:
    with scripted() as made:
        made.models = ["m-q4"]
        yield made


@pytest.fixture
def env(server: Server, tmp_path: Path) -> dict[str, str]:
    own = tmp_path / "catalog.toml"
    own.write_text(CATALOG.format(address=server.address))
    return {"SLM_CATALOG": str(own), "NEAR_KEY": "a-key"}


def test_list_asks_servers_only_when_told_to(server: Server, env: dict[str, str]) -> None:
    narrowed = ("list", "--runtime", "near")
    assert re.search(r"m@near +- +unknown\n", slm(*narrowed, env=env).stdout)
    assert server.asked == []
    shown = slm(*narrowed, "--probe", env=env).stdout
    assert re.search(r"m@near +- +ready\n", shown)
    assert re.search(r"m@near:gone +- +retired on 2025-08-30\n", shown)
    assert {asked.path for asked in server.asked} == {"/v1/models"}
    entries = json.loads(slm(*narrowed, "--probe", "--json", env=env).stdout)
    found = {entry["deployment"]: entry for entry in entries}
    assert found["m@near"]["label"] == "ready"
    assert found["m@near"]["price_out"] == 0.4
    assert found["m@near"]["key_variable"] == "NEAR_KEY"
    assert (found["m@near:gone"]["state"], found["m@near:gone"]["usable"]) == ("retired", False)
    assert "a-key" not in json.dumps(entries)


def test_show_tells_where_a_server_is_and_names_its_key(
    server: Server, env: dict[str, str]
) -> None:
    shown = " ".join(slm("show", "m@near", env=env).stdout.split())
    for words in (
        "state unknown",
        "served as m-q4",
        f"address {server.address}",
        "key NEAR_KEY, from the environment",
        "price $0.1 in, $0.4 out, for a million tokens",
        "provider As the server lists them.",
    ):
        assert words in shown
    assert "a-key" not in shown
    shown = " ".join(slm("show", "m@near:gone", env=env | {"NEAR_KEY": ""}).stdout.split())
    assert "state retired on 2025-08-30" in shown
    assert "retired 2025-08-30 https://example.com/gone" in shown
    assert "key NEAR_KEY, which is not set" in shown
    assert server.asked == []


def test_show_tells_what_is_shipped(tmp_path: Path) -> None:
    shown = " ".join(slm("show", "phi-4@foundry").stdout.split())
    assert "address AZURE_OPENAI_ENDPOINT gives it, as in https://<resource>." in shown
    shown = " ".join(slm("show", "phi-4@azure-inference").stdout.split())
    assert "Microsoft retired the SDK of this route on 26 August 2026." in shown
    secrets = tmp_path / "secrets.toml"
    secrets.write_text('OLLAMA_HOST = "gpu-box"\n')
    shown = " ".join(slm("show", "phi-4@ollama", env={"SLM_SECRETS": str(secrets)}).stdout.split())
    assert "address http://gpu-box:11434 (OLLAMA_HOST, from secrets.toml)" in shown
    assert "key none needed" in shown
    shown = " ".join(slm("show", "phi-4@ollama", env={"OLLAMA_HOST": "a b"}).stdout.split())
    assert "address OLLAMA_HOST is no address of a server." in shown
    assert "state needs key" in shown


def test_chat_says_that_the_server_lets_it_wait(server: Server, env: dict[str, str]) -> None:
    server.answers = [refusal(429, "Too many requests. Slow down.", retry_after="0.3")]
    done = slm("chat", "m@near", "hi", env=env)
    assert (done.returncode, done.stdout) == (0, "Hello\n")
    waiting, numbers = done.stderr.splitlines()
    assert waiting == "Too many requests. Asking again in 0 s"
    assert "held by the server 0.30 s" in numbers
    server.answers = [refusal(429, "Too many requests.", retry_after="0.3")]
    document = json.loads(slm("chat", "m@near", "hi", "--json", env=env).stdout)
    assert document["timings"]["held_s"] == 0.3
    assert document["timings"]["here_first_s"] < document["timings"]["total_s"]
    assert document["timings"]["server"] is None


def test_chat_tells_the_server_s_times_beside_those_taken_here(
    server: Server, env: dict[str, str]
) -> None:
    server.timings = {
        "prompt_n": 7, "prompt_ms": 40.0, "predicted_n": 11, "predicted_ms": 100.0, "queue_ms": 0.0,
    }  # fmt: skip
    done = slm("chat", "m@near", "hi", env=env)
    numbers, here = done.stderr.splitlines()
    assert numbers.startswith("11 tokens · 100.0 tok/s · first token 0.04 s · total ")
    assert here.startswith("these are the server's times; here · first token ")
    document = json.loads(slm("chat", "m@near", "hi", "--json", env=env).stdout)
    assert document["timings"]["counted_by_server"]
    assert document["timings"]["server"]["predicted_ms"] == 100.0


def test_what_is_on_a_server_is_not_served_nor_fetched(server: Server, env: dict[str, str]) -> None:
    done = slm("serve", "m@near", env=env)
    assert done.returncode == 1
    assert "is on a server already" in done.stderr
    assert "show m@near" in done.stderr
    assert slm("fetch", "m@near", env=env).returncode == 1
    assert server.asked == []
