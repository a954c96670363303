"""Every server that real_servers.py starts, in every dialect that it is spoken to: real weights, a
process of its own, and what it truly does where servers differ."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import real_servers
from asking import LONG, PATIENCE, ask, request, start, until, until_decoding
from real_servers import Kind, RealServer

from slm_backends import background
from slm_backends.chat import (
    SAMPLING_FIELDS,
    Capabilities,
    ChatRequest,
    Delta,
    Event,
    Finished,
    Message,
    Prefill,
    Queued,
    Sampling,
)
from slm_backends.endpoints import Endpoint
from slm_backends.endpoints.azure import AzureBackend
from slm_backends.endpoints.openai import OpenAIBackend
from slm_backends.errors import (
    BadRequest,
    ContextOverflow,
    NotFound,
    SLMError,
    StreamBroken,
    Unauthorized,
    Unavailable,
    Unsupported,
)

CAPITAL = "What is the capital of France?"
PARIS = "The capital of France is Paris"
PROMPT_TOKENS = 37  # of that question in SmolLM2's template, with the system message it adds
TOKENS = 6  # of that answer
GREEDY = {"temperature": 0.0, "top_p": 1.0}

Connect = Callable[..., Endpoint]


@pytest.fixture(scope="module", params=real_servers.KINDS, ids=lambda kind: kind.name)
def _server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RealServer]:
    kind: Kind = request.param
    with kind.start(kind, tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture
def server(_server: RealServer) -> Iterator[RealServer]:
    before = len(_server.log())
    yield _server
    # Shown where the test has failed.
    print(f"{_server.kind.name} wrote:\n{_server.log()[before:]}")


@pytest.fixture
def clients() -> Iterator[list[Endpoint]]:
    """Those that a test has made; closed at its end."""
    made: list[Endpoint] = []
    yield made
    for client in made:
        background.submit(client.close()).result(PATIENCE)


def client(
    dialect: type[OpenAIBackend] | type[AzureBackend],
    server: RealServer,
    clients: list[Endpoint],
    *,
    sampling: frozenset[str] | None = None,
    model: str = "",
    **options: Any,
) -> Endpoint:
    """One that may send what the server does not refuse, or the fields in `sampling`."""
    honoured = SAMPLING_FIELDS - server.kind.refuses if sampling is None else sampling
    made = dialect(
        "real@server",
        server.url,
        model or server.model,
        Capabilities(honoured, logprobs=True),
        **{"key": server.key} | options,
    )
    clients.append(made)
    return made


@pytest.fixture(params=[OpenAIBackend, AzureBackend], ids=["openai", "azure"])
def connect(request: pytest.FixtureRequest, server: RealServer, clients: list[Endpoint]) -> Connect:
    """Makes clients of the server, in each dialect."""
    return lambda **options: client(request.param, server, clients, **options)


def events(backend: Endpoint, asked: ChatRequest) -> list[Event]:
    async def all_of_them() -> list[Event]:
        return [event async for event in backend.stream(asked)]

    return background.submit(all_of_them()).result(PATIENCE)


def failure(backend: Endpoint, asked: ChatRequest) -> SLMError:
    with pytest.raises(SLMError) as caught:
        events(backend, asked)
    assert caught.value.hint
    return caught.value


# --- replies --------------------------------------------------------------------------------------


def test_a_reply_in_pieces(server: RealServer, connect: Connect) -> None:
    queued, prefill, *deltas, finished = events(
        connect(), request(CAPITAL, max_tokens=TOKENS, **GREEDY)
    )
    assert isinstance(queued, Queued)
    assert isinstance(prefill, Prefill)
    assert len(deltas) > 1
    assert "".join(delta.text for delta in deltas if isinstance(delta, Delta)) == PARIS
    assert isinstance(finished, Finished)
    assert finished.reason == "length"
    assert (finished.prompt_tokens, finished.completion_tokens) == (PROMPT_TOKENS, TOKENS)
    assert (finished.timings is not None) == server.kind.timings


def test_a_reply_as_a_whole(server: RealServer, connect: Connect) -> None:
    queued, delta, finished = events(
        connect(streamed=False), request(CAPITAL, max_tokens=TOKENS, **GREEDY)
    )
    assert isinstance(queued, Queued)
    assert isinstance(delta, Delta)
    assert delta.text == PARIS
    assert isinstance(finished, Finished)
    assert finished.reason == "length"
    assert (finished.prompt_tokens, finished.completion_tokens) == (PROMPT_TOKENS, TOKENS)


@pytest.mark.parametrize("streamed", [True, False], ids=["in pieces", "as a whole"])
def test_a_string_that_stops_it(server: RealServer, connect: Connect, streamed: bool) -> None:
    reply = ask(connect(streamed=streamed), CAPITAL, stop=(" of",), max_tokens=TOKENS, **GREEDY)
    assert reply.finish_reason == "stop"
    assert reply.text == ("The capital of" if server.kind.shows_stops else "The capital")
    assert reply.completion_tokens == 3


def test_both_clocks_run(server: RealServer, clients: list[Endpoint]) -> None:
    """Times taken here always, those of the server where it sends any."""
    backend = client(OpenAIBackend, server, clients)
    reply = ask(backend, CAPITAL, max_tokens=TOKENS, **GREEDY)
    assert reply.here_first_s is not None and reply.here_first_s > 0
    assert reply.here_decode_s is not None and reply.here_decode_s > 0
    assert reply.counted == server.kind.timings
    if reply.server is not None:
        assert reply.server.predicted_n == TOKENS
        assert 0 < reply.server.predicted_ms / 1000 < reply.total_s
    assert reply.tokens_per_second is not None


# --- parameters -----------------------------------------------------------------------------------

#: How AGAIN is asked so that a field has something to change, and the value that changes it.
AGAIN = "Repeat the letter a: a a a a a a a a"
HOT: dict[str, Any] = {"temperature": 2.0, "top_p": 1.0, "seed": 1}
EFFECTS: dict[str, tuple[dict[str, Any], Any]] = {
    "temperature": (GREEDY | {"seed": 1}, 2.0),
    "top_p": (HOT, 0.01),
    "top_k": (HOT, 1),
    "seed": (HOT, 2),
    "presence_penalty": (GREEDY, 2.0),
    "frequency_penalty": (GREEDY, 2.0),
    "repetition_penalty": (GREEDY, 2.0),
}


def test_what_each_parameter_does(server: RealServer, clients: list[Endpoint]) -> None:
    """The table in real_servers.py is what the catalog says of such a server."""
    kind = server.kind
    assert {*EFFECTS, "max_tokens", "stop"} == SAMPLING_FIELDS  # the tests above are of those two
    assert kind.honours | kind.passes_over | kind.refuses | kind.mistakes == SAMPLING_FIELDS
    replies: dict[str, str] = {}

    def said(asked: dict[str, Any], one_more: str = "") -> str:
        asked = {"max_tokens": TOKENS} | asked
        if (key := repr(sorted(asked.items()))) not in replies:
            fields = SAMPLING_FIELDS - kind.refuses | {one_more} - {""}
            backend = client(OpenAIBackend, server, clients, sampling=fields)
            replies[key] = ask(backend, AGAIN, **asked).text
        return replies[key]

    for name, (others, value) in EFFECTS.items():
        if name in kind.refuses:
            with pytest.raises(Unsupported) as caught:
                said(others | {name: value}, name)
            assert caught.value.field == name
            assert name in caught.value.message
        else:
            changed = said(others | {name: value}) != said(others)
            assert changed == (name not in kind.passes_over), name


# --- cancelling -----------------------------------------------------------------------------------


def test_a_cancelled_reply_in_pieces_stops_the_server(server: RealServer, connect: Connect) -> None:
    run = start(connect(), LONG, max_tokens=400, **GREEDY)
    until_decoding(run)
    run.cancel()
    reply = run.wait(PATIENCE)
    assert reply.state == "stopped"
    assert reply.text
    # 400 tokens take a fast runtime some seconds of every processor, the others half a minute. The
    # slow ones make two or three more until a write tells them, each a third of a second.
    assert server.until_idle() < 2.5


def test_a_cancelled_whole_reply_stops_the_server_or_runs_to_its_end(
    server: RealServer, clients: list[Endpoint]
) -> None:
    first, second = (
        client(dialect, server, clients, streamed=False)
        for dialect in (OpenAIBackend, AzureBackend)
    )
    asked: dict[str, Any] = {"max_tokens": server.kind.seconds_of_tokens, **GREEDY}
    server.until_idle()
    begun = server.computed()
    ask(first, LONG, **asked)
    whole = server.computed() - begun
    for backend in (first, second):
        begun = server.computed()
        run = start(backend, LONG, **asked)
        until(
            lambda begun=begun, run=run: server.computed() - begun > 0.3 * whole or run.reply.ended,
            "the server's work",
        )
        run.cancel()
        assert run.wait(PATIENCE).state == "stopped"
        went_on = server.until_idle()
        assert (went_on < 0.25 * whole) == server.kind.stops_unstreamed, (
            f"{went_on:.1f} s of {whole:.1f} s computed afterwards"
        )


# --- errors ---------------------------------------------------------------------------------------


def test_a_model_that_it_does_not_have(server: RealServer, connect: Connect) -> None:
    asked = request(CAPITAL, max_tokens=1, **GREEDY)
    if server.kind.any_name:
        assert isinstance(events(connect(model="gpt-4"), asked)[-1], Finished)
    else:
        assert type(failure(connect(model="gpt-4"), asked)) is NotFound


#: A request that each refuses, the error that it becomes, and words of it.
WRONG: dict[str, tuple[ChatRequest, type[SLMError], str]] = {
    # Said when the reply has begun: it looks at the numbers only then.
    "transformers serve": (
        request(frequency_penalty=-1.0, max_tokens=1),
        StreamBroken,
        "`penalty` has to be a strictly positive float, but is 0.0",
    ),
    "mlx_lm.server": (
        ChatRequest((Message("user", "Hello"),), Sampling(max_tokens=1), top_logprobs=20),
        BadRequest,
        "top_logprobs must be at most 11",
    ),
    "slm_backends serve": (request(max_tokens=20_000), ContextOverflow, "8,192"),
    "llama-server": (request("word " * 9_000, max_tokens=1), ContextOverflow, "context size"),
}


def test_what_it_refuses_is_said_in_its_words(server: RealServer, connect: Connect) -> None:
    asked, kind, words = WRONG[server.kind.name]
    error = failure(connect(), asked)
    assert type(error) is kind
    assert words in error.message


def test_another_key(server: RealServer, connect: Connect) -> None:
    """Refused by the server that wants one, nothing to the others; never shown."""
    backend = connect(key="another-key")
    asked = request(CAPITAL, max_tokens=1, **GREEDY)
    if server.key:
        error = failure(backend, asked)
        assert type(error) is Unauthorized
        assert "another-key" not in error.message + error.hint
    else:
        assert isinstance(events(backend, asked)[-1], Finished)
    assert "another-key" not in server.log()


def test_its_models_are_listed(server: RealServer, connect: Connect) -> None:
    assert server.model in background.submit(connect().models()).result(PATIENCE)


def test_a_server_that_dies_breaks_its_replies_and_is_missed(
    server: RealServer, clients: list[Endpoint]
) -> None:
    """The last of its tests: nobody answers any more."""
    backend, other = (client(dialect, server, clients) for dialect in (OpenAIBackend, AzureBackend))
    run = start(backend, LONG, max_tokens=400, **GREEDY)
    until_decoding(run)
    server.process.kill()
    reply = run.wait(PATIENCE)
    assert type(reply.error) is StreamBroken
    assert reply.text
    assert type(failure(backend, request())) is Unavailable
    assert type(failure(other, request())) is Unavailable
