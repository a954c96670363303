"""`multilingual` as a person calls it: what it asks, the table, files, exit codes, being killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
import zipfile
from pathlib import Path

import pytest
from asking import until
from command_line import COMMAND, PATIENCE, ROOT, slm

from slm_backends import cli_multilingual
from slm_backends.chat import Sampling
from slm_backends.errors import BadRequest, NotFound
from slm_backends.multilingual import results as files
from slm_backends.multilingual.plan import Plan
from slm_backends.multilingual.results import Results

QUICK = "fake@tokens=9,rate=0,first=0,text=plain"
SLOW = "fake@tokens=20,rate=20,first=0,text=plain"
BROKEN = "fake@rate=0,first=0,fail=3"


def asked(*deployments: str, **given: object) -> Plan:
    usual = {
        "task": "ask", "languages": "de,French", "prompts": "rain, tea", "other": "en",
        "back": False, "sampling": Sampling(), "at_once": 0,
    }  # fmt: skip
    return cli_multilingual.plan(deployments or (QUICK,), **(usual | given))  # type: ignore[arg-type]


# --- what is asked --------------------------------------------------------------------------------


def test_languages_and_prompts_are_chosen_by_name() -> None:
    assert [question.id for question in asked().questions] == [
        "ask/rain/de", "ask/tea/de", "ask/rain/fr", "ask/tea/fr",
    ]  # fmt: skip


def test_groups_of_languages() -> None:
    assert len(asked(languages="phi").languages) == 23
    assert len(asked(languages="all").languages) == 28
    assert asked(languages="few").languages == cli_multilingual.FEW


def test_a_task_of_two_words() -> None:
    assert asked(task="answer-in").task == "answer in"


def test_translate_in_both_directions() -> None:
    there = asked(task="translate", prompts="museum", languages="de")
    back = asked(task="translate", prompts="museum", languages="de", back=True)
    assert [question.expected for question in (*there.questions, *back.questions)] == ["de", "en"]


def test_a_file_of_ones_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "mine.csv"
    file.write_text("language,prompt\nde,Was ist das?\nxx,What?\n", encoding="utf-8")
    plan = asked(prompts=str(file))
    assert (plan.task, [question.prompt for question in plan.questions]) == (
        "file",
        ["Was ist das?"],
    )
    assert "Row 3" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "error", "reason"),
    [
        ({"languages": "klingon"}, BadRequest, "klingon"),
        ({"prompts": "rain,rian"}, BadRequest, "rian"),
        ({"prompts": "/nowhere/mine.csv"}, BadRequest, "Cannot read /nowhere/mine.csv"),
    ],
)
def test_what_is_not_known_is_named(
    given: dict[str, str], error: type[Exception], reason: str
) -> None:
    with pytest.raises(error, match=reason):
        asked(**given)


def test_an_unknown_deployment_is_refused_before_anything_is_asked() -> None:
    with pytest.raises(NotFound):
        asked("nothing@nowhere")


# --- a run ----------------------------------------------------------------------------------------


def test_a_run_from_beginning_to_end(tmp_path: Path) -> None:
    out, report = tmp_path / "run.jsonl", tmp_path / "report.zip"
    done = slm(
        "multilingual", QUICK, SLOW, "--languages", "en,de", "--prompts", "rain",
        "--out", str(out), "--report", str(report),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = done.stdout.splitlines()
    assert QUICK in rows[0] and SLOW in rows[0]
    english = next(row for row in rows if row.startswith("English"))
    german = next(row for row in rows if row.startswith("German"))
    assert "1 right" in english and "1 English" in german
    assert "of 4 replies" in done.stderr and f"kept in {out}" in done.stderr
    assert files.read(out.read_bytes()).complete
    names = zipfile.ZipFile(report).namelist()
    assert {"report.md", "results.jsonl", "cells.csv"} <= set(names)
    again = slm("multilingual", "--repeat", str(out), "--out", str(tmp_path / "again.jsonl"))
    assert again.returncode == 0, again.stderr
    first, second = (
        files.read((tmp_path / name).read_bytes()) for name in ("run.jsonl", "again.jsonl")
    )
    assert first.plan == second.plan
    assert [cell.text for cell in first.cells.values()] == [
        cell.text for cell in second.cells.values()
    ]


def test_what_failed_is_told_and_can_be_asked_again(tmp_path: Path) -> None:
    out = tmp_path / "run.jsonl"
    chosen = ("--languages", "de", "--prompts", "rain")
    done = slm("multilingual", BROKEN, QUICK, *chosen, "--out", str(out), "--json")
    assert done.returncode == 1
    document = json.loads(done.stdout)
    assert [bool(cell["error"]) for cell in document["cells"]] == [True, False]
    resumed = slm("multilingual", "--resume", str(out))  # nothing is missing but what failed
    assert resumed.returncode == 1 and "1 failed" in resumed.stdout
    again = slm("multilingual", "--resume", str(out), "--failed")
    assert again.returncode == 1 and "1 failed" in again.stdout


def test_a_run_that_is_killed_is_gone_on_with(tmp_path: Path) -> None:
    out = tmp_path / "run.jsonl"
    process = subprocess.Popen(
        [*COMMAND, "multilingual", SLOW, "--languages", "all", "--prompts", "rain",
         "--at-once", "4", "--out", str(out)],
        cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    until(lambda: out.exists() and out.read_bytes().count(b"\n") > 5, "some replies")
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(PATIENCE)
    kept = files.read(out.read_bytes())
    assert 0 < len(kept.missing) < 28
    before = dict(kept.cells)
    done = slm("multilingual", "--resume", str(out))
    assert done.returncode == 0, done.stderr
    whole = files.read(out.read_bytes())
    assert whole.complete and {key: whole.cells[key] for key in before} == before


def test_ctrl_c_keeps_the_file_and_says_how_to_go_on(tmp_path: Path) -> None:
    out = tmp_path / "run.jsonl"
    process = subprocess.Popen(
        [*COMMAND, "multilingual", SLOW, "--languages", "all", "--prompts", "rain",
         "--at-once", "2", "--out", str(out)],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    until(lambda: out.exists() and out.read_bytes().count(b"\n") > 2, "some replies")
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert f"multilingual --resume {out}" in errors


def test_a_file_that_cannot_be_kept_is_no_success(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write, times = files.write, []

    def full_at_the_end(results: Results, file: Path) -> None:
        times.append(file)
        if len(times) > 1:
            raise OSError(28, "No space left on device")
        write(results, file)

    monkeypatch.setattr(files, "write", full_at_the_end)
    results = Results(asked())
    code = cli_multilingual.run(results, tmp_path / "run.jsonl", as_json=False, report_file="")
    said = capsys.readouterr()
    assert code == 1 and results.complete and "German" in said.out
    assert "run.jsonl cannot be written: No space left on device." in said.err
    assert "kept in" not in said.err


# --- wrong usage ----------------------------------------------------------------------------------


def test_one_of_three_ways_to_begin() -> None:
    done = slm("multilingual")
    assert done.returncode == 1
    assert "Name deployments, or a file with --resume or --repeat" in done.stderr


def test_a_file_that_is_there_is_not_overwritten(tmp_path: Path) -> None:
    out = tmp_path / "run.jsonl"
    out.write_text("mine", encoding="utf-8")
    done = slm("multilingual", QUICK, "--out", str(out))
    assert done.returncode == 1 and "is there already" in done.stderr
    assert out.read_text(encoding="utf-8") == "mine"
    done = slm("multilingual", "--resume", str(out))
    assert done.returncode == 1 and "is no file of results" in done.stderr


def test_where_no_file_can_be_nothing_is_asked(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    done = slm("multilingual", QUICK, "--out", str(tmp_path / "file" / "run.jsonl"))
    assert done.returncode == 1 and "run.jsonl cannot be written" in done.stderr
    assert "replies" not in done.stderr
