"""What a comparison exports: all of it, read back as its readers do, with nothing live in it."""

from __future__ import annotations

import csv
import io
import json
import re
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import many_tongues
import pytest
from many_tongues import FIRST, SECOND
from markdown_it import MarkdownIt
from markdown_it.token import Token

from slm_backends import __main__ as command_line
from slm_backends.chat import About, Sampling
from slm_backends.multilingual import document, overlap, report
from slm_backends.multilingual import results as files
from slm_backends.multilingual.plan import Plan
from slm_backends.multilingual.premium import Cost, Counts
from slm_backends.multilingual.results import Results
from slm_backends.multilingual.tasks import questions

RESULTS = many_tongues.results()
LIVE = {"image", "link_open", "html_inline", "html_block"}


def rows(results: Results = RESULTS) -> list[dict[str, str]]:
    content = report.csv_file(results).decode("utf-8-sig")
    return list(csv.DictReader(io.StringIO(content, newline="")))


def row(question: str, deployment: str) -> dict[str, str]:
    (found,) = (
        one for one in rows() if (one["question"], one["deployment"]) == (question, deployment)
    )
    return found


def tokens(text: str) -> Iterator[Token]:
    """What a reader of Markdown makes of it, as GitHub does, but for bare addresses."""
    reader = MarkdownIt("commonmark").enable(["table", "strikethrough"])
    for block in reader.parse(text):
        yield block
        yield from block.children or ()


def shown(text: str) -> str:
    """What is there to be read."""
    return "\n".join(one.content for one in tokens(text) if one.type in ("text", "fence"))


# --- cells.csv ------------------------------------------------------------------------------------


def test_there_is_a_row_for_every_cell_of_the_plan() -> None:
    found = rows()
    assert tuple(found[0]) == report.COLUMNS
    assert [(one["question"], one["deployment"]) for one in found] == list(RESULTS.plan.keys)
    states = [one["state"] for one in found]
    assert states == ["done"] * 7 + ["failed", "done", "missing"]


def test_a_row_has_what_was_asked_replied_and_measured() -> None:
    found = row("ask/rain/de", SECOND)
    assert found == {
        "question": "ask/rain/de",
        "language": "de",
        "deployment": SECOND,
        "state": "done",
        "system": "",
        "prompt": "Warum regnet es?",
        "expected": "de",
        "reference": many_tongues.GERMAN,
        "answer": "",
        "reply": many_tongues.GERMAN,
        "badge": "right",
        "line pass": "yes",
        "word pass": "",
        "number": "",
        "correct": "",
        "chrF": "100.0",
        "chrF++": "100.0",
        "flags": "",
        "characters": str(len(many_tongues.GERMAN)),
        "prompt tokens": "10",
        "reply tokens": "21",
        "first token s": "0.25",
        "total s": "2.25",
        "tokens/s": "10.0",
        "characters/s": str(len(many_tongues.GERMAN) / 2),
        "finish reason": "stop",
        "error": "",
    }
    arabic = row("ask/rain/ar", FIRST)
    assert (arabic["reply"], arabic["word pass"], arabic["flags"]) == (
        many_tongues.ARABIC,
        "yes",
        "cut",
    )
    english = row("ask/rain/ar", SECOND)
    assert (english["badge"], english["line pass"], english["word pass"]) == ("english", "no", "")
    number = row("ask/sum/ar", FIRST)
    assert (number["answer"], number["number"], number["correct"]) == ("7", "7", "yes")
    assert row("ask/rain/zh", FIRST)["system"] == "回答要简短。"


def test_a_failed_cell_has_its_error_and_no_measure() -> None:
    found = row("ask/rain/zh", SECOND)
    assert found["error"] == "It broke | off: [why](http://evil.example)"
    assert not any(found[name] for name in ("badge", "line pass", "chrF", "flags", "tokens/s"))


def test_a_reply_is_no_formula() -> None:
    assert row("ask/rain/en", FIRST)["reply"] == f"'{many_tongues.HOSTILE}"


# --- JSON -----------------------------------------------------------------------------------------


def test_json_holds_everything() -> None:
    found = json.loads(report.json_file(RESULTS))
    assert Plan.from_json(found["plan"]) == RESULTS.plan
    assert (found["made"], found["versions"]) == (RESULTS.made, RESULTS.versions)
    assert About(**found["abouts"][FIRST]) == RESULTS.abouts[FIRST]
    assert found["missing"] == [list(key) for key in RESULTS.missing]
    assert found["measures"]["chrF"] == overlap.signature()
    cells = {(one["question"], one["deployment"]): one for one in found["cells"]}
    assert list(cells) == [key for key in RESULTS.plan.keys if key in RESULTS.cells]
    english = cells["ask/rain/de", FIRST]
    assert english["text"] == many_tongues.ENGLISH
    assert english["score"]["fidelity"]["badge"] == "english"
    assert english["score"]["fidelity"]["lines"][0]["language"] == "en"
    assert 0 < english["score"]["chrf"] < 50
    assert cells["ask/rain/zh", SECOND]["score"] is None
    assert len(found["table"]) == 4 * 2
    assert {one["verdict"] for one in found["verdicts"]} == {"too few to tell"}
    arabic = found["tokens"]["as sent"][FIRST]["ar"]
    assert (arabic["tokens"], arabic["english"], arabic["premium"]) == (40, 10, 4.0)


# --- the document ---------------------------------------------------------------------------------


def test_what_a_model_wrote_is_only_text() -> None:
    text = report.markdown(RESULTS)
    assert "Where replies part most" in text
    assert not [one for one in tokens(text) if one.type in LIVE]
    assert many_tongues.HOSTILE in shown(text)
    headings = [
        one.content
        for before, one in zip(list(tokens(text)), list(tokens(text))[1:], strict=False)
        if before.type == "heading_open"
    ]
    assert not [heading for heading in headings if "Out of the fence" in heading]
    assert shown(text).startswith("Rain <b>everywhere</b>\nMade 2026")
    assert "It broke | off: [why](http://evil.example)" in shown(text)


@pytest.mark.parametrize(
    "text",
    [
        "![a](http://x/y)",
        "[a]: http://x/y",
        "<http://x.example>",
        "<a@x.example>",
        "<script>alert(1)</script>",
        "`` ` ``| *b* _c_ ~~d~~ ||",
        "&lt;b&gt; &#60;",
        "# no heading",
        "two\n\n# lines | of",
        r"\![a](b) \\![a](b)",
        "$x$ @someone",
    ],
)
def test_plain_text_is_read_as_it_was_written(text: str) -> None:
    line = document.plain(text)
    assert "\n" not in line
    whole = f"| a |\n|---|\n| {line} |\n\nIt is {line}"
    assert not {one.type for one in tokens(whole)} & (LIVE | {"em_open", "code_inline", "s_open"})
    joined = "".join(one.content for one in tokens(whole) if one.type == "text")
    read = " ".join(text.split())
    assert joined == f"a{read}It is {read}"


@pytest.mark.parametrize("text", ["http://x.example", "www.x.example", "mailto:a@x.example"])
def test_a_bare_address_is_broken(text: str) -> None:
    """GitHub makes links of these where nothing stands in them."""
    line = document.plain(f"see {text}")
    assert not re.search(r"http:|www\.|mailto:|\w@", line)


@pytest.mark.parametrize("text", ["```", "````\nx\n`````", "~~~", "    ```\n", "\r```\r\nx", ""])
def test_a_quote_ends_where_it_should(text: str) -> None:
    results = many_tongues.results()
    key = "ask/rain/en", FIRST
    results.cells[key] = replace(results.cells[key], text=f"a{text}\n# b")
    fences = [one.content for one in tokens(report.markdown(results)) if one.type == "fence"]
    assert re.sub(r"\r\n?", "\n", f"a{text}\n# b\n") in fences
    assert fences[-1].startswith("python -m")  # the document's own, at its end


def test_it_tells_what_was_asked_and_of_whom() -> None:
    text = shown(report.markdown(RESULTS))
    for expected in (
        "5 prompts for each of 2 deployments, in 4 languages: English (en), German (de)",
        "ONNX Runtime GenAI",
        "int4 | ONNX",
        "max_tokens",
        "200",
        "3.11",
        "回答要简短。",
        "Warum regnet es?",
    ):
        assert expected in text


def test_it_says_what_is_missing_failed_and_damaged() -> None:
    results = many_tongues.results()
    content = "".join(results.lines()) + '{"kind": "cell", "ques'
    read = files.read(content.encode(), "run.jsonl")
    read.plan = replace(read.plan, sampling=Sampling(temperature=0.5))
    text = shown(report.markdown(read))
    assert "1 of 10 replies are missing: the run did not come to its end." in text
    assert "1 of 10 prompts have no whole reply" in text
    assert f"2 {SECOND}, 1 times: It broke | off" in text
    assert "run.jsonl, line 12: not a whole JSON object." in text
    assert "The temperature is above 0" in text
    assert "All languages have fewer than 8 prompts" in text


def test_a_whole_run_has_nothing_to_beware_of() -> None:
    results = many_tongues.asked(8)
    results.plan = replace(results.plan, deployments=("b", "c"))
    text = report.markdown(results)
    assert "## Beware" not in text
    assert "| 4/8 |" in text
    assert "| 8/8 | 8 |" in text


def test_differences_within_noise_are_called_so() -> None:
    results = many_tongues.asked(8)
    text = report.markdown(results)
    told = [line for line in text.splitlines() if line.startswith("- ") and "correct" in line]
    assert told
    assert "4 of 8" not in text  # the numbers stand in the sentence of scores.py
    assert all("more than noise" in line for line in told)
    equal = {key: cell for key, cell in results.cells.items() if key[1] == "c"}
    again = {(id, "d"): replace(cell, deployment="d") for (id, _), cell in equal.items()}
    results = Results(replace(results.plan, deployments=("c", "d")), equal | again)
    text = report.markdown(results)
    assert "- All languages, correct numbers" in text
    assert "within noise (8 prompts" in text
    assert "more than noise (" not in text
    # Of the language alone they are only counted.
    assert "- German, " not in text
    assert re.search(r"- [1-9] other comparisons, each in one language: within noise\.", text)


def test_what_languages_cost_is_a_table() -> None:
    costs = {code: Cost(code, {}, total, 100, total / 25, None) for code, total in
             (("en", 25), ("ar", 100))}  # fmt: skip
    counts = [Counts(name, "same", 32_064, 4_096, costs) for name in (FIRST, SECOND)]
    text = document.markdown(RESULTS, counts=counts)
    assert f"| Arabic (ar) | 1 {FIRST} | 4.00 | 1.00 | 4,096 |" in text
    assert f"| English (en) | 2 {SECOND} | 1.00 | 0.25 | 16,384 |" in text
    assert f"- One tokenizer: 1 {FIRST}, 2 {SECOND}." in text


def test_a_long_reply_is_cut_and_says_so() -> None:
    results = many_tongues.results()
    key = "ask/rain/de", FIRST
    results.cells[key] = replace(results.cells[key], text="lang " * 1_000)
    text = shown(report.markdown(results))
    assert "… (5,000 characters)" in text
    assert "lang " * (document.LONGEST // 5 + 1) not in text


def test_it_can_be_repeated_as_it_says() -> None:
    (command,) = (
        one.content.strip()
        for one in tokens(report.markdown(RESULTS))
        if one.type == "fence" and one.content.startswith("python")
    )
    begin, arguments = command.split(" slm_backends ")
    assert begin == "python -m"
    assert command_line._options(arguments.split()).repeat == "results.jsonl"


# --- the archive ----------------------------------------------------------------------------------


def test_the_archive_holds_report_charts_results_and_cells() -> None:
    with zipfile.ZipFile(io.BytesIO(report.archive(RESULTS))) as packed:
        content = {name: packed.read(name) for name in packed.namelist()}
    pictures = {name for name in content if name.startswith("charts/")}
    assert content.keys() - pictures == {"report.md", "results.jsonl", "cells.csv"}
    text = content["report.md"].decode()
    named = [one.attrs["src"] for one in tokens(text) if one.type == "image"]
    assert len(named) == 8
    assert set(named) == pictures
    assert all(content[name].startswith(b"\x89PNG\r\n\x1a\n") for name in pictures)
    assert all(len(content[name]) > 1_000 for name in pictures)
    assert content["cells.csv"] == report.csv_file(RESULTS)
    assert files.read(content["results.jsonl"]) == RESULTS
    again = files.read(content["results.jsonl"]).plan
    assert again == RESULTS.plan  # all that is needed to repeat it


def test_the_archive_of_a_run_that_has_not_begun() -> None:
    with zipfile.ZipFile(io.BytesIO(report.archive(Results(RESULTS.plan)))) as packed:
        assert sorted(packed.namelist()) == ["cells.csv", "report.md", "results.jsonl"]
        assert "10 of 10 replies are missing" in packed.read("report.md").decode()


def test_the_embedded_models_tokenizer_is_counted(embedded: tuple[str, ...]) -> None:
    asked = questions("ask", ["en", "ko"], names=["rain"])
    results = Results(Plan("ask", (embedded[0], SECOND), asked))
    found: dict[str, Any] = json.loads(report.json_file(results))["tokens"]
    (counted,) = found["by tokenizer"]
    assert counted["deployment"] == embedded[0]
    assert counted["costs"]["ko"]["premium"] > 3
    with zipfile.ZipFile(io.BytesIO(report.archive(results))) as packed:
        assert "charts/token-premium.png" in packed.namelist()
        assert "| Korean (ko) |" in packed.read("report.md").decode()
