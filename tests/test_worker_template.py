"""Chat templates as hub repositories have them: where they lie, what they may use and refuse."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path

import pytest
import tiny_tokenizers

from slm_backends.errors import BadRequest, SLMError
from slm_backends.worker.template import PICTURE, ChatTemplate

QUESTION = [("user", "Why?")]
SHORT = [("system", "Be short."), *QUESTION]


def template(folder: Path, source: str) -> ChatTemplate:
    (folder / "chat_template.jinja").write_text(source, encoding="utf-8")
    return ChatTemplate(folder)


def transformers_render(folder: Path, source: str, turns: list[tuple[str, str]]) -> str:
    """What the library says that templates are written for."""
    from transformers import AutoTokenizer

    tiny_tokenizers.files("phi-4", folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    messages = [{"role": role, "content": content} for role, content in turns]
    rendered: str = tokenizer.apply_chat_template(
        messages, chat_template=source, tokenize=False, add_generation_prompt=True
    )
    return rendered


@pytest.mark.parametrize(
    "files",
    [
        {"chat_template.jinja": "HERE", "tokenizer_config.json": {"chat_template": "not here"}},
        {"tokenizer_config.json": {"chat_template": "HERE"}},
        {"chat_template.json": {"chat_template": "HERE"}, "tokenizer_config.json": {}},
        {
            "tokenizer_config.json": {
                "chat_template": [
                    {"name": "tool_use", "template": "not here"},
                    {"name": "default", "template": "HERE"},
                ]
            }
        },
    ],
)
def test_where_a_template_may_lie(files: dict[str, object], tmp_path: Path) -> None:
    for name, content in files.items():
        text = content if isinstance(content, str) else json.dumps(content)
        (tmp_path / name).write_text(text, encoding="utf-8")
    assert ChatTemplate(tmp_path).render(QUESTION).endswith("HERE")


@pytest.mark.parametrize(
    "config", [{}, {"chat_template": None}, {"chat_template": [{"name": "rag", "template": "x"}]}]
)
def test_a_model_that_does_not_chat_says_so(config: dict[str, object], tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(SLMError, match="no chat template") as caught:
        ChatTemplate(tmp_path)
    assert "instruct" in caught.value.hint


def test_a_template_that_cannot_be_read_says_why(tmp_path: Path) -> None:
    with pytest.raises(SLMError, match="cannot be read.*endfor"):
        template(tmp_path, "{% for message in messages %}")


@pytest.mark.parametrize(
    "source",
    [
        "{% for m in messages %}\n  {% if m.role %}\n {{ m.content }}\n  {% endif %}\n{% endfor %}",
        "{% for n in range(9) %}{% if n > 2 %}{% break %}{% endif %}{{ messages[0] }}{% endfor %}",
        "{{ messages | tojson }}{{ messages[0] | tojson(indent=2) }}",
        "{% generation %}{{ messages[0].content }}{% endgeneration %}!",
        "{{ tools is none }}{{ documents is none }}{{ bos_token }}{{ unknown }}",
        "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}"
        "{{ ns.n }}{{ messages[0]['content'].strip() | upper }}\n",
        "{{ strftime_now('%Y') }}",
    ],
)
def test_templates_may_use_what_transformers_offers(source: str, tmp_path: Path) -> None:
    turns = [("user", " <b>é\n")]
    expected = transformers_render(tmp_path, source, turns)
    assert template(tmp_path, source).render(turns) == expected != ""


def test_today_is_todays(tmp_path: Path) -> None:
    before = datetime.now()
    rendered = template(tmp_path, "{{ strftime_now('%d %b %Y %H:%M') }}").render(QUESTION)
    assert rendered in {f"{moment:%d %b %Y %H:%M}" for moment in (before, datetime.now())}


def test_tokens_have_names(tmp_path: Path) -> None:
    config = {"bos_token": {"content": "<s>"}, "eos_token": "</s>", "pad_token": None}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    older = {"unk_token": "<unk>", "eos_token": "<|old|>"}
    (tmp_path / "special_tokens_map.json").write_text(json.dumps(older), encoding="utf-8")
    found = template(tmp_path, "{{ bos_token + eos_token + unk_token }}{{ pad_token }}")
    assert found.render(QUESTION) == "<s></s><unk>"


USER_ONLY = "{% for m in messages if m.role != 'system' %}[{{ m.role }}]{{ m.content }}{% endfor %}"
NO_SYSTEM = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('No system role') }}"
    "{% endif %}[{{ m.role }}]{{ m.content }}{% endfor %}"
)


@pytest.mark.parametrize("source", [USER_ONLY, NO_SYSTEM])
@pytest.mark.parametrize(
    ("turns", "expected"),
    [
        (SHORT, "[user]Be short.\n\nWhy?"),
        (QUESTION, "[user]Why?"),
        ([("system", ""), *QUESTION], "[user]Why?"),
        ([("system", "A"), ("system", "B"), *QUESTION], "[user]A\n\nB\n\nWhy?"),
        (
            [*SHORT, ("assistant", "So."), ("system", "In French."), ("user", "And?")],
            "[user]Be short.\n\nWhy?[assistant]So.[user]In French.\n\nAnd?",
        ),
        (
            [*QUESTION, ("assistant", "So."), ("system", "Go on.")],
            "[user]Why?[assistant]So.[user]Go on.",
        ),
    ],
)
def test_a_system_message_without_a_place_begins_the_next_turn(
    source: str, turns: list[tuple[str, str]], expected: str, tmp_path: Path
) -> None:
    found = template(tmp_path, source)
    assert not found.takes_system
    assert found.render(turns) == expected


@pytest.mark.parametrize(
    "source",
    [
        "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}",
        "{% if messages[0].role == 'system' %}<<{{ messages[0].content }}>>{% endif %}",
        "{% if messages | length < 9 %}{{ raise_exception('Too short') }}{% endif %}",
    ],
)
def test_a_template_that_takes_system_messages_is_left_alone(source: str, tmp_path: Path) -> None:
    assert template(tmp_path, source).takes_system


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("{{ raise_exception('Roles must alternate') }}", "Roles must alternate"),
        ("{{ messages[7].content }}", "no element 7"),
        ("{{ 'a' + 1 }}", "can only concatenate"),
        ("{{ messages.__class__.__mro__ }}", "unsafe"),
        ("{{ messages.append(1) }}", "unsafe"),
    ],
)
def test_a_template_may_refuse(source: str, reason: str, tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match=reason) as caught:
        template(tmp_path, source).render(SHORT)
    assert caught.value.field == "messages"


@pytest.mark.parametrize(
    ("family", "after"),
    [
        ("phi-3-mini", "<|end|>\n<|endoftext|>"),
        ("phi-3-medium", "<|end|>\n"),
        ("phi-4-mini", "<|end|><|endoftext|>"),
        ("phi-4", "<|im_end|>"),
        ("smollm2", "<|im_end|>\n"),
    ],
)
def test_what_follows_a_reply(family: str, after: str, tmp_path: Path) -> None:
    assert ChatTemplate(tiny_tokenizers.files(family, tmp_path)).after_reply() == after


def test_what_follows_a_reply_may_not_be_known(tmp_path: Path) -> None:
    assert template(tmp_path, NO_SYSTEM.replace("system", "assistant")).after_reply() == ""


PARTS = (
    "{% for m in messages %}[{{ m.role }}]{% for part in m.content %}"
    "{% if part.type == 'image' %}<image>{% else %}{{ part.text }}{% endif %}"
    "{% endfor %}{% endfor %}"
)


@pytest.mark.parametrize(
    ("source", "picture"),
    [
        (PARTS, "<image>"),
        (PARTS.replace("<image>", "<|img|>\n"), "<|img|>\n"),
        (PARTS.replace("m.content %}", "m.content + [] %}"), "<image>"),  # stumbles over a string
        (PARTS.replace("<image>", ""), ""),
        ("{% for m in messages %}{{ m.content }}{% endfor %}", ""),
        ("{{ raise_exception('No') }}", ""),
    ],
)
def test_a_content_goes_in_parts_where_a_string_does_not_come_through(
    source: str, picture: str, tmp_path: Path
) -> None:
    assert template(tmp_path, source).picture == picture


def test_pictures_and_text_are_parts_in_order(tmp_path: Path) -> None:
    found = template(tmp_path, PARTS)
    assert found.takes_system
    assert found.render(SHORT) == "[system]Be short.[user]Why?"
    turns = [("user", f"{PICTURE}{PICTURE}What?{PICTURE}"), ("assistant", "")]
    assert found.render(turns) == "[user]<image><image>What?<image>[assistant]"


@pytest.mark.parametrize(
    ("cue", "turn", "before"),
    [
        ("A:", "A: ", " "),
        ("A:\n", "A:\n", ""),
        ("A:", "B: ", ""),  # another beginning than the cue
        ("A:", "{{ raise_exception('No') }}", ""),
    ],
)
def test_what_the_template_writes_before_a_reply(
    cue: str, turn: str, before: str, tmp_path: Path
) -> None:
    source = (
        "{% for m in messages %}"
        "{% if m.role == 'user' %}U: {% else %}" + turn + "{% endif %}{{ m.content }};"
        "{% endfor %}{% if add_generation_prompt %}" + cue + "{% endif %}"
    )
    assert template(tmp_path, source).before_reply() == before
