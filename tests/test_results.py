"""The file that keeps a comparison: what is read back, and what a damaged or hostile one does."""

from __future__ import annotations

import json
import time
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from slm_backends.chat import About
from slm_backends.errors import BadRequest, Unavailable
from slm_backends.multilingual import results
from slm_backends.multilingual.plan import Plan, Question
from slm_backends.multilingual.results import MAX_DAMAGED, Cell, Results
from slm_backends.run import Reply

QUESTIONS = tuple(
    Question(f"ask/{name}/{code}", code, code, prompt)
    for name, code, prompt in (("tea", "de", "Tee?"), ("tea", "zh", "茶？"), ("sea", "ar", "بحر؟"))
)
PLAN = Plan("ask", ("fake", "fake:slow"), QUESTIONS, title="Tea")
WHOLE = Cell(
    "ask/tea/zh",
    "fake",
    "好喝\u2028的茶\n😀 “\u0000”",
    "",
    "stop",
    12,
    30,
    0,
    True,
    0.25,
    1.5,
    1.75,
)
BROKEN = Cell("ask/tea/de", "fake:slow", "Man ni", "The reply broke off.")
ABOUT = About("ONNX Runtime GenAI", "0.18", "cpu", "int4")


def short(value: object) -> str:
    """A name for a test whose data is long."""
    return ascii(value)[:60]


def made() -> Results:
    return Results(
        PLAN,
        {BROKEN.key: BROKEN, WHOLE.key: WHOLE},
        {"fake": ABOUT},
        made="2026-11-23T02:00:00+00:00",
        versions={"python": "3.11"},
    )


def content(found: Results | None = None) -> bytes:
    return "".join((found or made()).lines()).encode()


def line(**changed: Any) -> bytes:
    """A cell's line with other fields; `...` leaves one out."""
    fields = json.loads(results.cell_line(WHOLE)) | changed
    kept = {name: value for name, value in fields.items() if value is not ...}
    return json.dumps(kept).encode() + b"\n"


def test_what_is_written_is_read(tmp_path: Path) -> None:
    file = tmp_path / "run.jsonl"
    results.write(made(), file)
    found = results.read(file.read_bytes(), file.name)
    assert found == made()
    assert file.read_bytes() == content(found)


def test_cells_stand_in_the_order_of_the_plan() -> None:
    kinds = [json.loads(item) for item in made().lines()]
    assert [item["kind"] for item in kinds] == ["plan", "about", "cell", "cell"]
    assert [item.get("question") for item in kinds[2:]] == ["ask/tea/zh", "ask/tea/de"]


def test_what_is_missing_and_what_failed() -> None:
    found = made()
    assert found.failed == (BROKEN.key,)
    assert found.missing == tuple(key for key in PLAN.keys if key != WHOLE.key)
    assert not found.complete
    found.cells = {key: Cell(*key, "Ja.") for key in PLAN.keys}
    assert found.complete
    assert found.failed == ()


def test_speeds() -> None:
    assert WHOLE.tokens_per_second == pytest.approx(29 / 1.5)
    assert WHOLE.characters_per_second == pytest.approx(len(WHOLE.text) / 1.5)
    for cell in (replace(WHOLE, decode_s=None), replace(WHOLE, decode_s=0.0)):
        assert cell.tokens_per_second is None
        assert cell.characters_per_second is None
    assert replace(WHOLE, completion_tokens=1).tokens_per_second is None


def test_a_cell_of_a_reply() -> None:
    reply = Reply("done", "Ja.", finish_reason="stop", prompt_tokens=4, total_s=1.0)
    assert Cell.of(("a", "b"), reply) == Cell(
        "a", "b", "Ja.", finish_reason="stop", prompt_tokens=4, total_s=1.0
    )
    assert Cell.of(("a", "b"), replace(reply, state="stopped")).error == "Stopped."
    lost = replace(reply, state="failed", error=Unavailable("Nobody answers."))
    assert Cell.of(("a", "b"), lost).error == "Nobody answers."


def test_half_a_character_of_a_server_does_not_stop_the_file(tmp_path: Path) -> None:
    cell = Cell.of(WHOLE.key, Reply("done", "gut \ud83d!"))
    results.write(Results(PLAN, {cell.key: cell}), tmp_path / "run.jsonl")
    read = results.read((tmp_path / "run.jsonl").read_bytes())
    assert read.cells[cell.key].text == "gut ?!"


def test_a_last_line_that_is_cut_off_costs_one_cell() -> None:
    whole = content()
    for cut in range(1, len(results.cell_line(BROKEN).encode()) - 1, 9):
        found = results.read(whole[:-1][:-cut], "run.jsonl")
        assert found.cells == {WHOLE.key: WHOLE}
        assert found.damaged == ("run.jsonl, line 4: not a whole JSON object.",)
    assert results.read(whole[:-1]).cells == made().cells  # only the line feed is missing


def test_a_cell_that_stands_there_twice_counts_as_it_stands_last() -> None:
    again = replace(BROKEN, text="Man nimmt Wasser.", error="")
    found = results.read(content() + results.cell_line(again).encode())
    assert found.cells == {WHOLE.key: WHOLE, again.key: again}
    assert found.damaged == ()


def test_empty_lines_and_other_ends_of_lines() -> None:
    assert results.read(content().replace(b"\n", b"\r\n\r\n")) == made()
    assert results.read(b"\xef\xbb\xbf" + content()) == made()


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        (b"null\n", "not a JSON object"),
        (b"[1]\n", "not a JSON object"),
        (b"\xff\xfe\n", "not a whole JSON object"),
        (b"[" * 200_000 + b"\n", "not a whole JSON object"),
        (b'{"a":' * 100_000 + b"1" + b"}" * 100_000 + b"\n", "not a whole JSON object"),
        (b'{"kind": "cell", "total_s": ' + b"9" * 5000 + b"}\n", ""),
        (line(kind="plan"), "neither a cell nor about a deployment"),
        (line(kind=["cell"]), "neither a cell nor about a deployment"),
        (line(kind=...), "neither a cell nor about a deployment"),
        (line(question="ask/tea/fr"), "a cell that its plan does not have"),
        (line(deployment="other"), "a cell that its plan does not have"),
        (line(question=...), "a field is missing"),
        (line(question=["ask/tea/zh"]), "question is of the wrong kind"),
        (line(text=None), "text is of the wrong kind"),
        (line(text=5), "text is of the wrong kind"),
        (line(counted=1), "counted is of the wrong kind"),
        (line(prompt_tokens=1.0), "prompt_tokens is of the wrong kind"),
        (line(prompt_tokens=True), "prompt_tokens is of the wrong kind"),
        (line(prompt_tokens=-1), "prompt_tokens is of the wrong kind"),
        (line(completion_tokens=10**4000), "completion_tokens is of the wrong kind"),
        (line(wait_s="1"), "wait_s is of the wrong kind"),
        (line(wait_s=float("nan")), "wait_s is of the wrong kind"),
        (line(decode_s=float("inf")), "decode_s is of the wrong kind"),
        (line(decode_s=0).replace(b'"decode_s": 0', b'"decode_s": 1e999'), "decode_s is of"),
        (line(total_s=None), "total_s is of the wrong kind"),
        (line(score=1), "there is no field called 'score'"),
        (line(text="half \ud83d"), "not a whole JSON object"),
        (b'{"kind": "about"}\n', ""),
        (b'{"kind": "about", "deployment": ["fake"]}\n', ""),
        (b'{"kind": "about", "deployment": "fake", "colour": "red"}\n', "there is no field called"),
        (b'{"kind": "about", "deployment": "fake", "runtime": {}}\n', "runtime is of the wrong"),
    ],
    ids=short,
)
def test_a_line_that_is_no_cell_of_the_plan_is_left_out(bad: bytes, told: str) -> None:
    found = results.read(content() + bad + results.cell_line(WHOLE).encode(), "run.jsonl")
    assert replace(found, damaged=()) == made()
    if told:
        (sentence,) = found.damaged
        assert sentence.startswith(f"run.jsonl, line 5: {told}")
    else:
        assert len(found.damaged) <= 1


def test_numbers_may_be_whole() -> None:
    found = results.read(content() + line(wait_s=1, total_s=0))
    assert found.cells[WHOLE.key].wait_s == 1
    assert found.damaged == ()


def test_a_file_of_faults_is_told_of_in_a_few_sentences() -> None:
    faults = b"x\n" * 5_000
    tracemalloc.start()
    found = results.read(content() + faults, "run.jsonl")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(found.damaged) == MAX_DAMAGED + 1
    assert found.damaged[-1] == "And 4,980 lines more."
    assert peak < 2_000_000


@pytest.mark.parametrize(
    "first",
    [
        b"",
        b"\n",
        b"{}",
        b"null",
        b'{"kind": "cell"}',
        b'{"kind": "plan"}',
        b'{"kind": "plan", "format": 2, "plan": {}}',
        b'{"kind": "plan", "format": 1}'[:-3],
        b"language,prompt",
        b"PK\x03\x04",
        b"[" * 100_000,
    ],
    ids=short,
)
def test_a_file_of_something_else(first: bytes) -> None:
    with pytest.raises(BadRequest, match="^x is no file of results of this playground") as caught:
        results.read(first, "x")
    assert caught.value.field == "file"
    assert ".jsonl" in caught.value.hint


def test_a_plan_that_cannot_be_run() -> None:
    header = json.loads(results.header(made()))
    header["plan"]["questions"][0]["language"] = "tlh"
    with pytest.raises(BadRequest, match="no language called 'tlh'"):
        results.read(json.dumps(header).encode())


def test_what_surrounds_the_plan_may_be_anything() -> None:
    header = json.loads(results.header(made())) | {"made": {"a": "b" * 100}, "versions": [1]}
    found = results.read(json.dumps(header).encode())
    assert len(found.made) <= 40
    assert found.versions == {}


def test_too_large_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "MAX_BYTES", 100)
    with pytest.raises(BadRequest, match="larger than 0 MB"):
        results.read(content())


def test_a_thousand_cells_and_ten_times_as_many(tmp_path: Path) -> None:
    """Time and size grow as the number of cells does."""
    took = {}
    for count in (1_000, 10_000):
        asked = tuple(replace(QUESTIONS[1], id=str(number)) for number in range(count // 2))
        plan = replace(PLAN, questions=asked)
        cells = {key: replace(WHOLE, question=key[0], deployment=key[1]) for key in plan.keys}
        file = tmp_path / "run.jsonl"
        begun = time.process_time()
        results.write(Results(plan, cells), file)
        found = results.read(file.read_bytes())
        took[count] = time.process_time() - begun
        assert found.cells == cells
        assert found.complete
    assert took[10_000] < 10
    assert took[10_000] < 30 * max(took[1_000], 0.02)


def test_writing_is_all_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "run.jsonl"
    results.write(made(), file)
    before = file.read_bytes()

    class Interrupted(Results):
        def lines(self) -> Any:
            yield results.header(self)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        results.write(Interrupted(PLAN), file)
    assert file.read_bytes() == before
    assert list(tmp_path.iterdir()) == [file]
    with pytest.raises(OSError):
        results.write(made(), tmp_path / "nowhere" / "run.jsonl")


def test_versions_name_what_answers() -> None:
    found = results.versions()
    assert found["python"]
    assert found["onnxruntime-genai"]
