"""Prompts of GitHub Models and the ids of that time, in files as people have them."""

from __future__ import annotations

import textwrap
import time

import pytest

from slm_backends import catalog, prompt_file, selector
from slm_backends.chat import ChatRequest, Message, Sampling
from slm_backends.errors import BadRequest, NotFound
from slm_backends.prompt_file import MAX_BYTES, PromptFile, deployments_for, fill


def read(text: str) -> PromptFile:
    return prompt_file.read(textwrap.dedent(text).encode())


RECIPE = """\
    name: Leftovers
    description: A dish from what is in the fridge
    model: microsoft/phi-3.5-mini-instruct
    modelParameters:
      temperature: 0.4
      topP: 0.9
      maxTokens: 300
    messages:
      - role: system
        content: You are a cook. Answer in {{ language }}.
      - role: user
        content: I have an egg.
      - role: assistant
        content: Then boil it.
      - role: user
        content: |
          Now I have {{things}}, and {{minutes}} minutes.
          What can I cook with {{things}}?
    testData:
      - things: rice and peas
        minutes: 20
        language: Italian
        expected: Risi e bisi
      - things: bread
    evaluators:
      - name: Names the dish
        string:
          contains: risi
    """
HELLO = "messages: [{role: user, content: Hello}]\n"


def test_a_whole_file() -> None:
    file = read(RECIPE)
    assert (file.name, file.model) == ("Leftovers", "microsoft/phi-3.5-mini-instruct")
    assert file.description == "A dish from what is in the fridge"
    assert file.system == "You are a cook. Answer in {{ language }}."
    assert file.earlier == (
        Message("user", "I have an egg."),
        Message("assistant", "Then boil it."),
    )
    assert file.prompt.startswith("Now I have {{things}}")
    assert file.sampling == {"temperature": 0.4, "top_p": 0.9, "max_tokens": 300}
    assert list(file.variables.items()) == [
        ("language", "Italian"),
        ("things", "rice and peas"),
        ("minutes", "20"),
    ]
    assert [sentence.partition(" was")[0].partition(" were")[0] for sentence in file.left_out] == [
        "Of the 2 rows of testData only the first",
        "'expected' of testData",
        "An evaluator",
    ]


def test_what_it_gives_is_a_request() -> None:
    file = read(RECIPE)
    turns = [Message("system", fill(file.system, file.variables)), *file.earlier]
    turns.append(Message("user", fill(file.prompt, file.variables)))
    request = ChatRequest(tuple(turns), Sampling(**file.sampling))
    assert request.messages[0].content == "You are a cook. Answer in Italian."
    assert "cook with rice and peas?" in request.messages[-1].content
    assert request.sampling.max_tokens == 300


def test_the_least_that_is_a_prompt() -> None:
    file = read(HELLO)
    assert file == PromptFile("", "", "", "", (), "Hello", {}, {}, ())


def test_words_stay_as_they_were_written() -> None:
    file = read("""\
        model: 4
        messages:
          - {role: User, content: no}
        testData:
          - {unused: 1}
        """)
    assert (file.model, file.prompt) == ("4", "no")
    file = read("""\
        messages:
          - {role: user, content: "{{a}}{{b}}{{c}}{{d}}{{e}}"}
        testData:
          - {a: 12:30, b: 1.10, c: 2026-02-31, d: yes, e: [1, {zwei: drei}]}
        """)
    assert list(file.variables.values()) == [
        "12:30", "1.10", "2026-02-31", "yes", '["1", {"zwei": "drei"}]',
    ]  # fmt: skip


def test_names_of_parameters_in_both_spellings() -> None:
    file = read(
        HELLO + "modelParameters: {top_p: 0.5, maxCompletionTokens: 9, stop: END, seed: 7,"
        " frequencyPenalty: -1, top_k:, presencePenalty: ~}"
    )
    assert file.sampling == {
        "top_p": 0.5, "max_tokens": 9, "stop": ("END",), "seed": 7, "frequency_penalty": -1.0,
    }  # fmt: skip
    assert read(HELLO + "modelParameters: {stop: [a, b]}").sampling == {"stop": ("a", "b")}
    assert read(HELLO + "modelParameters:").sampling == {}


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("modelParameters: {logitBias: 1}", "'logitBias'"),
        ("responseFormat: json_object", "response format"),
        ("responseFormat: json_schema\njsonSchema: '{}'", "response format"),
        ("jsonSchema: {type: object}", "response format"),
        ("tools: []\nauthor: me", "'tools' and 'author'"),
        ("evaluators: [{name: a}, {name: b}]", "2 evaluators"),
        ("testData: [{a: 1, b: 2}]", "'a' and 'b' of testData"),
    ],
)
def test_what_has_no_place_here_is_told(more: str, said: str) -> None:
    (sentence,) = read(HELLO + more).left_out
    assert said in sentence
    assert sentence.endswith(".")


def test_many_unknown_names_are_counted() -> None:
    (sentence,) = read(HELLO + "".join(f"x{n}: 1\n" for n in range(10))).left_out
    assert sentence.startswith("'x0', 'x1',")
    assert "'x7' and 2 more" in sentence


@pytest.mark.parametrize("more", ["responseFormat: text", "testData: []", "evaluators:"])
def test_what_asks_for_nothing_is_no_loss(more: str) -> None:
    assert read(HELLO + more).left_out == ()


def test_messages_that_a_pane_has_no_place_for_are_told() -> None:
    file = read("""\
        messages:
          - {role: system, content: One.}
          - {role: user, content: Hello, name: me}
          - {role: system, content: Two.}
          - {role: assistant, content: "Hi,"}
        """)
    assert (file.system, file.earlier, file.prompt) == ("One.\n\nTwo.", (), "Hello")
    assert [sentence.split()[0] for sentence in file.left_out] == ["'name'", "Its", "The"]


def test_a_byte_order_mark_and_windows_lines() -> None:
    assert (
        prompt_file.read(b"\xef\xbb\xbf" + HELLO.replace("\n", "\r\n").encode()).prompt == "Hello"
    )


# --- files that are refused -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty"),
        ("# nothing\n", "is empty"),
        ("just words", "must be a table"),
        ("- a list", "must be a table"),
        ("name: x", "no list of messages"),
        ("messages: hello", "no list of messages"),
        ("messages: [hello]", "Message 1 must be a table"),
        ("messages: [{role: user}]", "Message 1 has no text"),
        ("messages: [{role: user, content: [a]}]", "Message 1 has no text"),
        ("messages: [{content: Hello}]", "no role ''"),
        ("messages: [{role: tool, content: Hello}]", "no role 'tool'"),
        ("messages: [{role: system, content: Hello}]", "No message of the file is the user's"),
        (HELLO + "modelParameters: [1]", "modelParameters must be a table"),
        (HELLO + "modelParameters: {temperature: 3}", "temperature must be between 0.0 and 2.0"),
        (HELLO + "modelParameters: {temperature: warm}", "got 'warm'"),
        (HELLO + "modelParameters: {temperature: [1]}", "temperature must be between"),
        (HELLO + "modelParameters: {temperature: .nan}", "temperature must be between"),
        (HELLO + "modelParameters: {maxTokens: 1.5}", "max_tokens must be a whole number"),
        (HELLO + f"modelParameters: {{seed: {'9' * 5000}}}", "seed must be a whole number"),
        (HELLO + "modelParameters: {maxTokens: 1, max_tokens: 2}", "max_tokens a second time"),
        (HELLO + "modelParameters: {stop: {a: b}}", "stop must be a list"),
        (HELLO + "testData: hello", "testData must be a list"),
        (HELLO + "testData: [hello]", "A row of testData must be a table"),
        (HELLO + "messages: []", "Line 2 gives 'messages' a second time"),
        ("name: [1\nmessages: 2", "line 2: "),
        ("name: a: b", "line 1: mapping values are not allowed here"),
        ("a: 1\n---\nb: 2", "line 2: but found another document"),
        ("name: \x07", "characters that YAML does not allow"),
        ("? [a]\n: b", "line 1: found unhashable key"),
        (HELLO + "name: !!python/object/apply:os.system [id]", "Line 2 has a tag"),
        (HELLO + "name: !!timestamp later", "Line 2 has a tag"),
        (HELLO + "a: &a {b: c}\nd: {<<: *a}", "Line 3 repeats"),
        (HELLO + f"a: {'[' * 50_000}", "nested more than 20 levels"),
        (HELLO + "a:\n" + "".join(f"{' ' * n}b:\n" for n in range(1, 40)), "more than 20 levels"),
    ],
)  # fmt: skip
def test_what_is_no_prompt_is_refused_in_a_sentence(text: str, said: str) -> None:
    with pytest.raises(BadRequest) as caught:
        prompt_file.read(text.encode())
    assert said in caught.value.message
    assert "\n" not in caught.value.message
    assert len(caught.value.message) < 200


def test_what_is_no_text_is_refused() -> None:
    with pytest.raises(BadRequest, match="UTF-8"):
        prompt_file.read(HELLO.encode("utf-16"))
    with pytest.raises(BadRequest, match="100,001"):
        prompt_file.read(b"#" * (MAX_BYTES + 1))


def test_a_bomb_of_aliases_is_refused_before_it_goes_off() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    begun = time.monotonic()
    with pytest.raises(BadRequest, match="Line 2 repeats"):
        read("\n".join(lines))
    assert time.monotonic() - begun < 10  # to build it would take days, and all memory


@pytest.mark.parametrize(
    "row", ["a ", "a\n", "- \n", "? \n", "'a' ", "{a: b}, ", "a: b\n", '"\\x41', "- a: b\n"]
)
def test_the_largest_file_takes_seconds_at_most(row: str) -> None:
    text = "name:\n" if row == "a\n" else ""
    begun = time.monotonic()
    with pytest.raises(BadRequest):
        prompt_file.read((text + row * (MAX_BYTES // len(row) - 10)).encode())
    assert time.monotonic() - begun < 10


# --- variables ------------------------------------------------------------------------------------


def test_values_are_filled_in_once_and_as_they_are() -> None:
    assert fill("{{a}} {{ b }} {{a}}", {"a": "{{b}}", "b": "\\1"}) == "{{b}} \\1 {{b}}"
    assert fill("{{#if x}} { {a} } {{}}", {}) == "{{#if x}} { {a} } {{}}"
    assert fill("{{größe.x-1}}", {"größe.x-1": "L"}) == "L"


def test_a_variable_without_a_value_is_named() -> None:
    with pytest.raises(BadRequest, match=r"no value for \{\{topic\}\}"):
        fill("About {{topic}}", {"other": "x"})


# --- old ids --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "model"),
    [
        ("microsoft/phi-3.5-mini-instruct", "phi-3.5-mini-instruct"),
        ("Phi-3.5-mini-instruct", "phi-3.5-mini-instruct"),
        ("phi-3_5-mini-instruct", "phi-3.5-mini-instruct"),
        ("phi3.5", "phi-3.5-mini-instruct"),
        ("azureml://registries/azureml/models/Phi-3-mini-4k-instruct/versions/13",
         "phi-3-mini-4k-instruct"),
        ("azureml:Phi-3-mini-128k-instruct:7", "phi-3-mini-128k-instruct"),
        ("microsoft/phi-3-medium-128k-instruct", "phi-3-medium-128k-instruct"),
        ("Phi-3.5-MoE-instruct", "phi-3.5-moe-instruct"),
        ("nvcr.io/nim/microsoft/phi-3-mini-4k-instruct:1.8.4", "phi-3-mini-4k-instruct"),
        ("phi3:14b-medium-4k-instruct-q4_0", "phi-3-medium-4k-instruct"),
        ("microsoft/Phi-3.5-mini-instruct-onnx", "phi-3.5-mini-instruct"),
        ("microsoft/phi-4", "phi-4"),
        ("Phi-4-mini-instruct/", "phi-4-mini-instruct"),
        ("SmolLM2 135M Instruct", "smollm2-135m-instruct"),
        ("phi-4@ollama", "phi-4"),
    ],
)  # fmt: skip
def test_an_old_id_means_a_model_of_the_catalog(old: str, model: str) -> None:
    known = catalog.load()
    ids = deployments_for(old, known)
    assert sorted(ids) == sorted(
        i for i, item in known.deployments.items() if item.model.id == model
    )
    assert ids


def test_what_can_answer_here_comes_first(embedded: tuple[str, ...]) -> None:
    known = catalog.load()
    ids = deployments_for("HuggingFaceTB/SmolLM2-135M-Instruct", known)
    states = {item: selector.state(known.deployments[item]) for item in ids}
    here = [item for item in ids if known.deployments[item].local and states[item].usable]
    assert set(embedded) <= set(here)
    assert ids[: len(here)] == here
    usable = [states[item].usable for item in ids]
    assert usable == sorted(usable, reverse=True)
    assert not all(known.deployments[item].local for item in ids)


@pytest.mark.parametrize("unknown", ["openai/gpt-4o", "Phi-3-mini", "phi", "", "/", "../.."])
def test_an_id_of_nothing_here_names_near_ones(unknown: str) -> None:
    with pytest.raises(NotFound) as caught:
        deployments_for(unknown, catalog.load())
    assert repr(unknown) in caught.value.message
    assert "Near it are " in caught.value.hint


def test_a_near_id_is_near() -> None:
    with pytest.raises(NotFound) as caught:
        deployments_for("microsoft/Phi-3.5-mini", catalog.load())
    assert "phi-3.5-mini-instruct" in caught.value.hint
