"""Turns, ends, cancellations and failures, on an engine whose every token is chosen here."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from asking import PATIENCE, until
from scripted_engine import EOS, ScriptedEngine, scripted

from slm_backends import catalog, store
from slm_backends.chat import Sampling
from slm_backends.errors import Busy, SLMError
from slm_backends.routing import Experts
from slm_backends.worker import scheduler as module
from slm_backends.worker.engines import Fired, Mixture, Token
from slm_backends.worker.scheduler import Ended, Job, Scheduler, Started, Text, Update
from slm_backends.worker.text import ChatText

SENTENCE = "One two three four five six seven eight nine ten."


@pytest.fixture(scope="module")
def text(embedded: tuple[str, ...]) -> ChatText:
    return ChatText(store.folder(catalog.load().deployment(embedded[0])))


@pytest.fixture(autouse=True)
def every_token_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "UPDATE_EVERY", 0.0)


@dataclass
class Heard:
    """One job and what it was told."""

    job: Job
    updates: list[Update]
    ended: threading.Event = field(default_factory=threading.Event)

    @property
    def said(self) -> str:
        return "".join(update.text for update in self.updates if isinstance(update, Text))

    @property
    def told(self) -> list[Token]:
        """The tokens that came with the text."""
        texts = [update for update in self.updates if isinstance(update, Text)]
        return [token for update in texts for token in update.tokens]

    @property
    def last(self) -> Ended:
        assert self.ended.wait(PATIENCE), self.updates
        last = self.updates[-1]
        assert isinstance(last, Ended)
        return last


class Desk:
    """A scheduler and the jobs given to it."""

    def __init__(self, text: ChatText, engine: ScriptedEngine) -> None:
        self.text = text
        self.engine = engine
        self.scheduler = Scheduler(engine)

    def submit(
        self,
        notify: Callable[[Update], None] | None = None,
        top_logprobs: int | None = None,
        experts: Experts | None = None,
        **sampling: object,
    ) -> Heard:
        updates: list[Update] = []
        asked = Sampling(**{"max_tokens": 100} | sampling)  # type: ignore[arg-type]
        reply = self.text.reply(asked.stop)
        job = Job(
            [5, 6, 7], asked, reply, notify or (lambda update: None), top_logprobs, experts=experts
        )
        heard = Heard(job, updates)

        def listen(update: Update) -> None:
            updates.append(update)
            if isinstance(update, Ended):
                heard.ended.set()

        if notify is None:
            job.notify = listen
        self.scheduler.submit(job)
        return heard

    def spelled(self, tokens: list[Token]) -> str:
        pieces = [self.text.vocabulary.piece(token.id).bytes or b"" for token in tokens]
        return b"".join(pieces).decode()


@contextmanager
def opened(text: ChatText, engine: ScriptedEngine) -> Iterator[Desk]:
    desk = Desk(text, engine)
    yield desk
    engine.go.set()
    desk.scheduler.close()
    assert not desk.scheduler._thread.is_alive()


@pytest.fixture
def desk(text: ChatText) -> Iterator[Desk]:
    with opened(text, ScriptedEngine(lambda _: text.tokens(SENTENCE))) as desk:
        yield desk


def test_a_reply_from_start_to_end(desk: Desk) -> None:
    heard = desk.submit()
    assert heard.last.reason == "stop"
    assert isinstance(heard.updates[0], Started)
    assert heard.said == SENTENCE
    assert heard.last.timings is not None
    tokens = desk.text.tokens(SENTENCE)
    assert heard.last.timings.predicted_n == len(tokens) + 1  # the end token was made too
    assert heard.last.timings.prompt_n == 3
    assert desk.engine.released == [heard.job.key]
    assert desk.scheduler.counts == (0, 0)


@pytest.mark.parametrize("limit", [1, 2, 5])
def test_max_tokens_ends_a_reply(desk: Desk, limit: int) -> None:
    heard = desk.submit(max_tokens=limit)
    assert heard.last.reason == "length"
    assert heard.last.timings is not None
    assert heard.last.timings.predicted_n == limit
    assert desk.text.tokens(heard.said) == desk.text.tokens(SENTENCE)[:limit]


# --- log-probabilities ----------------------------------------------------------------------------


def test_each_token_but_the_end_comes_with_the_text_it_adds(desk: Desk) -> None:
    heard = desk.submit(top_logprobs=3)
    assert heard.last.reason == "stop"
    tokens = desk.text.tokens(SENTENCE)
    assert heard.told == [scripted(token, 3) for token in tokens]
    said = ""
    for update in heard.updates:
        if isinstance(update, Text):
            said += update.text
            assert said == desk.spelled(heard.told[: len(desk.text.tokens(said))])
    assert said == SENTENCE


def test_who_did_not_ask_gets_none(desk: Desk) -> None:
    heard = desk.submit()
    assert heard.last.reason == "stop"
    assert heard.told == []
    assert desk.engine.top == {heard.job.key: None}


@pytest.mark.parametrize(
    ("pieces", "stop", "told"),
    [
        # what is held back is told with the text, when that is certain
        (["one", " two", " three"], " two four", ["one", " two", " three"]),
        # what the stop string swallows is not told
        (["one", " ST", "OP", " two"], "STOP", ["one", " ST"]),
        (["one", "ST", "OP", " two"], "STOP", ["one"]),
        # a token of which only the beginning is text is told
        (["one", " two", " three"], "wo th", ["one", " two"]),
        # held back twice, and certain in between
        (["ST", "S", "TOP"], "STOP", ["ST"]),
        (["ST", "OP"], "STOP", []),
    ],
)
def test_of_what_a_stop_string_holds_back_nothing_is_told(
    desk: Desk, pieces: list[str], stop: str, told: list[str]
) -> None:
    ids = [desk.text.tokens(piece) for piece in pieces]
    assert all(len(tokens) == 1 for tokens in ids), ids
    desk.engine.script = lambda prompt: [token for (token,) in ids]
    heard = desk.submit(top_logprobs=0, stop=(stop,))
    assert heard.last.reason == "stop"
    assert [desk.spelled([token]) for token in heard.told] == told
    assert desk.spelled(heard.told).startswith(heard.said)


def test_halves_of_a_character_come_with_it_or_at_the_end(desk: Desk) -> None:
    halves = desk.text.tokens("👋")
    assert len(halves) > 1
    desk.engine.script = lambda prompt: halves
    whole = desk.submit(top_logprobs=0)
    assert whole.last.reason == "stop"
    texts = [update for update in whole.updates if isinstance(update, Text)]
    assert [(update.text, len(update.tokens)) for update in texts] == [("👋", len(halves))]
    cut = desk.submit(top_logprobs=0, max_tokens=1)
    assert cut.last.reason == "length"
    assert cut.said == ""
    assert [token.id for token in cut.told] == halves[:1]


# --- experts --------------------------------------------------------------------------------------


class Mixed(ScriptedEngine):
    """Tells one expert of one layer for each token that it has read: the prompt in pieces of two,
    then each token of the reply but the last. `anew`: at this token it reads all once more."""

    mixture = Mixture(1, 8, 1)
    anew = -1

    def admit(self, key: int, prompt: list[int], *given: Any, **more: Any) -> int | None:
        self.read = list(prompt)
        self.asked = more
        self.reads = self._reading(0)
        return super().admit(key, prompt, *given)

    def _reading(self, begin: int) -> Iterator[Fired]:
        for at in range(begin, len(self.read), 2):
            ids = self.read[at : at + 2]
            yield Fired(at, ids, 1, bytes(2 * len(ids)), bytes(4 * len(ids)), bytes(16 * len(ids)))

    def step(self) -> Iterator[Any]:
        for key in list(self._replies):
            if (fired := next(self.reads, None)) is not None:
                yield key, fired
                yield key, []
                continue
            for _, tokens in super().step():
                assert isinstance(tokens, list)
                self.read += [token.id for token in tokens]
                again = len(self.read) == self.anew
                self.reads = self._reading(0 if again else len(self.read) - 1)
                yield key, tokens


def places(heard: Heard) -> list[tuple[int, int]]:
    parts = [update for update in heard.updates if isinstance(update, Fired)]
    return [(part.start, part.start + len(part.ids)) for part in parts]


def test_what_worked_is_told_before_the_text_that_follows_it(text: ChatText) -> None:
    said = text.tokens(SENTENCE)
    with opened(text, Mixed(lambda _: said)) as desk:
        heard = desk.submit(experts=Experts(k=1))
        assert heard.last.reason == "stop"
        assert desk.engine.asked["experts"] == Experts(k=1)  # type: ignore[attr-defined]
    # The end token is sampled and read by nobody, the one before it is read for it.
    assert places(heard) == [(0, 2), (2, 3), *((at, at + 1) for at in range(3, 3 + len(said)))]
    known = 3
    for update in heard.updates:
        if isinstance(update, Fired):
            known = max(known, update.start + len(update.ids))
        elif isinstance(update, Text):
            assert known >= 3 + len(text.tokens(SENTENCE[: len(update.text)])) - 1


def test_what_worked_is_gathered_as_the_text_is(
    text: ChatText, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "UPDATE_EVERY", 1_000.0)
    said = text.tokens(SENTENCE)
    with opened(text, Mixed(lambda _: said)) as desk:
        heard = desk.submit(experts=Experts())
        assert heard.last.reason == "stop"
    assert places(heard) == [(0, 2), (2, 3), (3, 3 + len(said))], (
        "two of the prompt, one of the rest"
    )


def test_a_text_that_is_read_anew_is_told_anew(text: ChatText) -> None:
    said = text.tokens(SENTENCE)
    with opened(text, Mixed(lambda _: said)) as desk:
        desk.engine.anew = 6  # type: ignore[attr-defined]
        heard = desk.submit(experts=Experts())
        assert heard.last.reason == "stop"
    told = places(heard)
    again = told.index((0, 2), 1)
    assert told[again - 1] == (4, 5)
    assert told[again:][:3] == [(0, 2), (2, 4), (4, 6)]
    assert told[-1][1] == 3 + len(said)


def test_what_a_stop_string_takes_from_the_text_was_read_all_the_same(text: ChatText) -> None:
    said = text.tokens(SENTENCE)
    with opened(text, Mixed(lambda _: said)) as desk:
        heard = desk.submit(experts=Experts(), stop=(" four five",))
        assert heard.last.timings is not None
        made = heard.last.timings.predicted_n
    assert heard.said == "One two three"
    assert places(heard)[-1][1] == 3 + made - 1
    assert len(text.tokens(heard.said)) < made


def test_who_is_cancelled_is_told_nothing_more(text: ChatText) -> None:
    long = text.tokens(SENTENCE) * 10_000  # of which no computer is through before it is cancelled
    with opened(text, Mixed(lambda _: long)) as desk:
        heard = desk.submit(experts=Experts(), max_tokens=100_000)
        until(lambda: len(places(heard)) > 4)
        desk.scheduler.cancel(heard.job)
        until(lambda: desk.scheduler.counts == (0, 0))
        told = len(heard.updates)
        assert desk.submit(experts=Experts(), max_tokens=3).last.reason == "length"
    assert len(heard.updates) == told
    assert not heard.ended.is_set()


# --- ends -----------------------------------------------------------------------------------------


def test_an_end_token_at_the_limit_is_an_end(desk: Desk) -> None:
    tokens = len(desk.text.tokens(SENTENCE))
    assert desk.submit(max_tokens=tokens + 1).last.reason == "stop"
    assert desk.submit(max_tokens=tokens).last.reason == "length"


def test_a_reply_of_one_token_has_no_speed_and_no_negative_times(desk: Desk) -> None:
    timings = desk.submit(max_tokens=1).last.timings
    assert timings is not None
    assert timings.predicted_ms == 0.0
    assert timings.tokens_per_second is None
    assert timings.prompt_ms > 0
    assert timings.queue_ms >= 0


def test_an_empty_reply_ends_too(text: ChatText) -> None:
    with opened(text, ScriptedEngine()) as desk:
        heard = desk.submit()
        assert (heard.last.reason, heard.said) == ("stop", "")


def test_a_stop_string_ends_it_and_does_not_show(desk: Desk) -> None:
    heard = desk.submit(stop=("four", "e s"))
    assert (heard.last.reason, heard.said) == ("stop", "One two three ")


def test_what_was_held_back_comes_when_the_reply_ends(desk: Desk) -> None:
    heard = desk.submit(stop=("ten.!",))
    assert heard.last.reason == "stop"
    assert heard.said == SENTENCE


def test_updates_are_gathered(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "UPDATE_EVERY", 1_000.0)
    heard = desk.submit()
    assert heard.last.reason == "stop"
    texts = [update for update in heard.updates if isinstance(update, Text)]
    assert len(texts) == 2  # the first token at once, the rest when it ends
    assert heard.said == SENTENCE


def test_jobs_take_turns(desk: Desk) -> None:
    desk.engine.go.clear()
    heard = [desk.submit() for _ in range(4)]
    until(lambda: desk.scheduler.counts == (4, 0))
    order: list[int] = []
    for one in heard:
        one.job.notify = (lambda listen, key: lambda update: (order.append(key), listen(update)))(
            one.job.notify, one.job.key
        )
    desk.engine.go.set()
    for one in heard:
        assert one.last.reason == "stop"
        assert one.said == SENTENCE
    keys = {one.job.key for one in heard}
    assert set(order[:4]) == keys  # everyone has a token before anyone has two


def test_more_than_the_engine_takes_wait_in_line(desk: Desk) -> None:
    desk.engine.go.clear()
    heard = [desk.submit() for _ in range(7)]
    until(lambda: desk.scheduler.counts == (4, 3))
    until(lambda: [len(one.updates) for one in heard] == [1, 1, 1, 1, 0, 0, 0])
    desk.engine.go.set()
    for one in heard:
        assert one.last.reason == "stop"
    assert desk.engine.admitted == [one.job.key for one in heard]
    last = heard[-1].last.timings
    first = heard[0].last.timings
    assert last is not None
    assert first is not None
    assert last.queue_ms > first.queue_ms


def test_one_more_than_may_wait_is_refused(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_WAITING", 3)
    desk.engine.go.clear()
    heard = [desk.submit() for _ in range(4 + 3)]  # whether or not the engine has taken its four
    with pytest.raises(Busy, match="7"):
        desk.submit()
    desk.scheduler.cancel(heard[-1].job)
    until(lambda: desk.scheduler.counts == (4, 2))
    heard[-1] = desk.submit()
    desk.engine.go.set()
    assert {one.last.reason for one in heard} == {"stop"}


def test_cancelling_frees_the_place_at_once(desk: Desk) -> None:
    desk.engine.go.clear()
    first, second = desk.submit(), desk.submit()
    until(lambda: desk.scheduler.counts == (2, 0))
    desk.scheduler.cancel(first.job)
    until(lambda: desk.scheduler.counts == (1, 0))
    until(lambda: desk.engine.released == [first.job.key])
    desk.engine.go.set()
    assert second.last.reason == "stop"
    assert first.updates == [Started()]  # not a word more


def test_cancelling_who_waits_takes_him_out_of_the_line(desk: Desk) -> None:
    desk.engine.go.clear()
    heard = [desk.submit() for _ in range(6)]
    until(lambda: desk.scheduler.counts == (4, 2))
    desk.scheduler.cancel(heard[4].job)
    until(lambda: desk.scheduler.counts == (4, 1))
    desk.engine.go.set()
    assert heard[5].last.reason == "stop"
    assert heard[4].updates == []
    assert heard[4].job.key not in desk.engine.admitted


def test_cancelling_before_the_thread_woke_up_or_after_the_end_is_harmless(desk: Desk) -> None:
    for _ in range(20):
        heard = desk.submit()
        desk.scheduler.cancel(heard.job)
    until(lambda: desk.scheduler.counts == (0, 0))
    ended = desk.submit()
    assert ended.last.reason == "stop"
    desk.scheduler.cancel(ended.job)
    assert desk.submit().last.reason == "stop"


def test_an_engine_that_raises_fails_its_jobs_and_lives_on(desk: Desk) -> None:
    desk.engine.go.clear()
    heard = [desk.submit() for _ in range(3)]
    until(lambda: desk.scheduler.counts == (3, 0))
    desk.engine.raises = RuntimeError("out of luck")
    desk.engine.go.set()
    for one in heard:
        assert one.last.reason == "error"
        assert one.last.error is not None
        assert "out of luck" in one.last.error.message
        assert one.last.error.hint
    assert sorted(desk.engine.released) == [one.job.key for one in heard]
    assert desk.submit().last.reason == "stop"


def test_one_broken_sequence_fails_alone(desk: Desk) -> None:
    desk.engine.go.clear()
    heard = [desk.submit() for _ in range(3)]
    until(lambda: desk.scheduler.counts == (3, 0))
    desk.engine.broken[heard[1].job.key] = RuntimeError("this one only")
    desk.engine.go.set()
    assert [one.last.reason for one in heard] == ["stop", "error", "stop"]
    assert heard[1].last.error is not None
    assert "this one only" in heard[1].last.error.message


def test_a_refused_admission_fails_alone(desk: Desk) -> None:
    desk.engine.refuses = SLMError("Not that.", hint="Something else.")
    heard = desk.submit()
    assert heard.last.error is desk.engine.refuses
    assert heard.updates == [heard.last]
    desk.engine.refuses = None
    assert desk.submit().last.reason == "stop"


def test_an_engine_that_cannot_even_release_is_survived(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(key: int) -> None:
        raise RuntimeError("cannot")

    monkeypatch.setattr(desk.engine, "release", broken)
    assert desk.submit().last.reason == "stop"
    monkeypatch.undo()
    assert desk.submit().last.reason == "stop"


def test_a_listener_that_is_gone_does_not_harm_the_others(desk: Desk) -> None:
    def gone(update: Update) -> None:
        raise RuntimeError("Event loop is closed")

    desk.engine.go.clear()
    desk.submit(notify=gone)
    other = desk.submit()
    desk.engine.go.set()
    assert other.last.reason == "stop"
    assert other.said == SENTENCE
    until(lambda: desk.scheduler.counts == (0, 0))


def test_sampling_reaches_the_engine(desk: Desk) -> None:
    heard = desk.submit(temperature=0.7, top_k=5, seed=9, max_tokens=3)
    assert heard.last.reason == "length"
    assert desk.engine.sampling[heard.job.key] == heard.job.sampling


def test_the_end_token_is_no_text(text: ChatText) -> None:
    engine = ScriptedEngine(lambda _: [*text.tokens("Yes"), EOS, *text.tokens("No")])
    with opened(text, engine) as desk:
        heard = desk.submit()
        assert (heard.last.reason, heard.said) == ("stop", "Yes")
