"""`compare` as a person calls it: files of prompts, the table, JSON, exit codes, Ctrl-C."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path

import pytest
from command_line import COMMAND, PATIENCE, ROOT, slm

from slm_backends import cli_compare
from slm_backends.compare import Prompt
from slm_backends.errors import BadRequest

FOX = "fake@tokens=9,rate=0,first=0,text=plain"
LONGER = "fake@tokens=12,rate=0,first=0,text=plain"
BROKEN = "fake@rate=0,first=0,fail=3"


def written(folder: Path, text: str | bytes, name: str = "prompts.txt") -> Path:
    file = folder / name
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    return file


# --- prompts --------------------------------------------------------------------------------------


def test_a_prompt_a_line(tmp_path: Path) -> None:
    file = written(tmp_path, '\ufeffOne?\r\n\n  \nTwo: é\n{"prompt": 3}')
    assert cli_compare.read(file) == (Prompt("One?"), Prompt("Two: é"), Prompt('{"prompt": 3}'))


def test_objects_a_line(tmp_path: Path) -> None:
    text = '{"prompt": "One\\nline"}\n\n{"system": "Be brief.", "prompt": "Two"}\n'
    file = written(tmp_path, text, "prompts.jsonl")
    assert cli_compare.read(file) == (Prompt("One\nline"), Prompt("Two", "Be brief."))


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "not valid JSON"),
        ('"text"', "not a JSON object"),
        ('{"prompts": "x"}', "no field called 'prompts'"),
        ("{}", '"prompt" must be'),
        ('{"prompt": 5}', '"prompt" must be'),
        ('{"prompt": "  "}', '"prompt" must be'),
        ('{"prompt": "x", "system": null}', '"system" must be'),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, reason: str) -> None:
    file = written(tmp_path, f'{{"prompt": "x"}}\n\n{line}\n', "prompts.jsonl")
    with pytest.raises(BadRequest) as caught:
        cli_compare.read(file)
    assert f"{file}, line 3: " in caught.value.message
    assert reason in caught.value.message


def test_files_that_are_none(tmp_path: Path) -> None:
    for file, reason in (
        (tmp_path / "missing.txt", "No such file"),
        (tmp_path, "directory"),
        (written(tmp_path, b"\xff\xfe", "utf16.txt"), "UTF-8"),
        (written(tmp_path, "\n \n", "empty.txt"), "no prompts"),
    ):
        with pytest.raises(BadRequest, match=reason):
            cli_compare.read(file)


# --- the command ----------------------------------------------------------------------------------


def test_a_comparison_to_read(tmp_path: Path) -> None:
    file = written(tmp_path, "One?\n" + "Two " * 100)
    done = slm("compare", FOX, LONGER, FOX, "--prompts", str(file))
    assert done.returncode == 0  # also where they part
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["A", FOX, "Fake", "1", "none"]
    assert "A and B: Of 2 replies 0 are the same, 2 part." in lines
    assert "A and C: Of 2 replies 2 are the same." in lines
    assert "Prompt 1: One?" in lines
    assert max(map(len, lines)) <= 100
    part = lines.index("Prompt 1: One?")
    assert lines[part + 1 : part + 5] == [
        '  A and B part after 44 characters, "…quick brown fox jumps over the lazy dog ".',
        "    A ends.",
        '    B says "and".',
        "  A and C are the same for 44 characters.",
    ]
    assert "prompt 2 of 2" in done.stderr


def test_a_comparison_as_json(tmp_path: Path) -> None:
    file = written(tmp_path, '{"prompt": "One?", "system": "Be kind."}', "p.jsonl")
    done = slm("compare", FOX, BROKEN, LONGER, "--prompts", str(file), "--json")
    assert done.returncode == 1  # one did not answer
    made = json.loads(done.stdout)
    assert made["deployments"] == [FOX, BROKEN, LONGER]
    assert made["prompts"] == [{"text": "One?", "system": "Be kind.", "images": 0}]
    assert made["stopped"] is False
    assert [row[0]["finish_reason"] for row in made["replies"]] == ["stop", "error", "stop"]
    assert made["replies"][1][0]["error"]["message"].startswith("The script failed")
    assert [pair["matches"] == [None] for pair in made["pairs"]] == [True, False, True]
    pair = made["pairs"][1]
    assert (pair["first"], pair["second"], pair["parted"]) == (FOX, LONGER, 1)
    match = pair["matches"][0]
    assert (match["by"], match["characters"], match["tie"]) == ("text", 44, False)
    assert [side["text"] for side in match["sides"]] == [None, "and"]


def test_what_failed_is_told_in_the_table() -> None:
    done = slm("compare", FOX, BROKEN, "--max-tokens", "5")
    assert done.returncode == 1
    assert "A and B: No prompt was answered by both." in done.stdout
    assert done.stdout.count("B failed: The script failed here") == len(cli_compare.PROMPTS)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ((FOX,), 2, "required: DEPLOYMENT"),
        ((FOX, "nobody@nowhere"), 1, "nobody@nowhere"),
        ((FOX, FOX, "--max-tokens", "0"), 1, "max_tokens"),
        ((FOX, FOX, "--prompts", "no-such-file"), 1, "no-such-file"),
    ],
)
def test_wrong_usage(arguments: tuple[str, ...], code: int, words: str) -> None:
    done = slm("compare", *arguments)
    assert (done.returncode, done.stdout) == (code, "")
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_ctrl_c_prints_what_is_there() -> None:
    slow = "fake@tokens=200,rate=1,text=plain"
    process = subprocess.Popen(
        [*COMMAND, "compare", FOX, FOX, slow, "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
        encoding="utf-8",
    )
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith(slow):
            break
    process.send_signal(signal.SIGINT)
    out, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    made = json.loads(out)
    assert made["stopped"] is True
    assert made["replies"][2] == [None] * len(cli_compare.PROMPTS)
    assert made["pairs"][0]["parted"] == 0
    assert None not in made["pairs"][0]["matches"]
    assert "Traceback" not in errors


def test_real_weights_on_two_runtimes(embedded: tuple[str, ...], tmp_path: Path) -> None:
    file = written(tmp_path, "What is the capital of France?")
    done = slm("compare", *embedded, "--prompts", str(file), "--max-tokens", "12", "--json")
    assert done.returncode == 0, done.stderr
    made = json.loads(done.stdout)
    (pair,) = made["pairs"]
    assert pair["relation"] == "same model"  # int4 made from Q4_1
    assert all("Paris" in row[0]["text"] for row in made["replies"])
    (match,) = pair["matches"]
    assert match["characters"] > 0
    assert len(set(match["prompts"])) == 1  # both read the same prompt
