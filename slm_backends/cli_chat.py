"""`chat`: one question, or a conversation, on a terminal, in a pipe or as JSON.

Knows how a Run is watched from a terminal: text on standard output as it comes, everything else on
standard error. Knows no backend.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from slm_backends import catalog, cli_images, run, selector
from slm_backends.chat import Backend, ChatRequest, Image, Message, Sampling
from slm_backends.endpoints.fake import PREFIX
from slm_backends.errors import BadRequest, SLMError
from slm_backends.export import cost, dollars
from slm_backends.run import Reply, Run
from slm_backends.terminal import Status, duration, printable, say, say_error
from slm_backends.worker.wire import write_error

LOOK_EVERY = 1 / 30  # seconds: smooth to the eye, and nothing beside what a model computes
ANSWERED = ("stop", "length")
STOPPED = 130  # exit code, as for a process that Ctrl-C ended
HELP = "/clear forgets the conversation, /drop its oldest turn, /exit or Ctrl-D ends it."


def chat(
    deployment_id: str,
    prompt: str | None,
    *,
    images: Sequence[str],
    system: str,
    sampling: Mapping[str, Any],
    as_json: bool,
) -> int:
    """Answer `prompt`, or what standard input says, or hold a conversation. The exit code.

    images  names of files, whose pictures go with the first question
    """
    if as_json:
        return _as_json(deployment_id, prompt, images, system, sampling)
    how = Sampling(**sampling)
    backend = selector.backend(deployment_id)
    pictures = cli_images.read(images)
    if prompt is None and sys.stdin.isatty():
        return _Conversation(backend, system, how, pictures).hold()
    messages = _messages(system, _prompt(prompt), pictures)
    reply = _watch(run.start(backend, ChatRequest(messages, how)))
    return _report(reply, deployment_id)


def _prompt(given: str | None) -> str:
    if given is not None and given != "-":
        return given
    try:
        return sys.stdin.buffer.read().decode("utf-8")
    except UnicodeDecodeError:
        raise BadRequest("Standard input is not UTF-8 text.", field="messages") from None


def _messages(system: str, prompt: str, pictures: tuple[Image, ...]) -> tuple[Message, ...]:
    first = (Message("system", system),) if system else ()
    return (*first, Message("user", prompt, pictures))


# --- watching a Run -------------------------------------------------------------------------------


def _watch(running: Run, *, show_text: bool = True) -> Reply:
    """Follow a Run to its end. Ctrl-C stops the model, and the text so far stays."""
    status = Status(sys.stderr)
    shown = 0
    stopped = False
    while True:
        try:
            reply = running.wait(LOOK_EVERY)
            if reply.state == "loading":
                status.show(f"loading: {reply.load_step}", f"{reply.load_fraction:.0%}")
            elif reply.state == "queued" and reply.queue_reason:
                place = f"place {reply.queue_place} in line" if reply.queue_place else ""
                status.show(reply.queue_reason, place)
            elif reply.state == "prefill" and (at := reply.looking) is not None:
                status.show(f"looking at image {at.image} of {at.images}", f"{at.crop}/{at.crops}")
            else:
                status.clear()
            if show_text and len(reply.text) > shown:
                new, shown = reply.text[shown:], len(reply.text)
                sys.stdout.write(printable(new, sys.stdout))
                sys.stdout.flush()
            if reply.ended:
                break
        except KeyboardInterrupt:
            if stopped:
                raise
            stopped = True
            running.cancel()
    if shown and not reply.text.endswith("\n"):
        print(flush=True)
    return reply


def _report(reply: Reply, deployment_id: str) -> int:
    """The numbers, or the error, on standard error; the exit code. Of a server elsewhere that takes
    its own times, also those that were taken here."""
    if reply.error is not None:
        say_error(reply.error)
    if reply.completion_tokens or reply.error is None:
        deployment = catalog.load().deployments.get(deployment_id)
        say(_numbers(reply, cost(reply, deployment)))
        if deployment is not None and not deployment.local and reply.server is not None:
            say(_on_arrival(reply))
    return _exit_code(reply)


def _exit_code(reply: Reply) -> int:
    if reply.state == "stopped":
        return STOPPED
    return 0 if reply.state == "done" and reply.finish_reason in ANSWERED else 1


def _numbers(reply: Reply, dollars_spent: float | None) -> str:
    parts = []
    if reply.completion_tokens is not None:
        parts.append(f"{reply.completion_tokens:,} tokens")
    if reply.tokens_per_second is not None:
        parts.append(f"{reply.tokens_per_second:.1f} tok/s")
    if reply.wait_s is not None:
        parts.append(f"first token {duration(reply.wait_s)}")
    if reply.room_s >= 0.1:
        parts.append(f"waiting for memory {duration(reply.room_s)}")
    if reply.load_s >= 0.1:
        parts.append(f"loading {duration(reply.load_s)}")
    if reply.held_s:
        parts.append(f"held by the server {duration(reply.held_s)}")
    if reply.server is not None and reply.server.load_ms >= 100:
        parts.append(f"loading there {duration(reply.server.load_ms / 1000)}")
    parts.append(f"total {duration(reply.total_s)}")
    if dollars_spent is not None:
        parts.append(dollars(dollars_spent))
    parts.append(reply.finish_reason)
    return " · ".join(parts)


def _on_arrival(reply: Reply) -> str:
    parts = ["these are the server's times; here"]
    if reply.here_first_s is not None:
        parts.append(f"first token {duration(reply.here_first_s)}")
    if speed := reply.here_tokens_per_second:
        parts.append(f"{speed:.1f} tok/s")
    return " · ".join(parts)


# --- JSON -----------------------------------------------------------------------------------------


def _as_json(
    deployment_id: str,
    prompt: str | None,
    images: Sequence[str],
    system: str,
    sampling: Mapping[str, Any],
) -> int:
    """One object, whatever happens: also a request that was never sent has one."""
    how: Sampling | None = None
    try:
        how = Sampling(**sampling)
        backend = selector.backend(deployment_id)
        messages = _messages(system, _prompt(prompt), cli_images.read(images))
        request = ChatRequest(messages, how)
        reply = _watch(run.start(backend, request), show_text=False)
    except SLMError as error:
        reply = Reply(state="failed", error=error, finish_reason="error")
    document = _document(deployment_id, reply, asdict(how) if how else dict(sampling))
    print(json.dumps(document, indent=2, ensure_ascii=False))
    if reply.error is not None:
        say_error(reply.error)
    return _exit_code(reply)


def _document(deployment_id: str, reply: Reply, sampling: dict[str, Any]) -> dict[str, Any]:
    counts = (reply.prompt_tokens, reply.completion_tokens)
    document = {
        "deployment": deployment_id,
        "model": _model(deployment_id),
        "text": reply.text,
        "finish_reason": reply.finish_reason,
        "usage": {
            "prompt_tokens": reply.prompt_tokens,
            "completion_tokens": reply.completion_tokens,
            "total_tokens": None if None in counts else sum(count or 0 for count in counts),
            "cached_tokens": reply.cached_tokens,
        },
        "timings": {
            "room_s": reply.room_s,
            "load_s": reply.load_s,
            "held_s": reply.held_s,
            "queue_s": reply.queue_s,
            "first_token_s": reply.first_token_s,
            "decode_s": reply.decode_s,
            "total_s": reply.total_s,
            "tokens_per_second": reply.tokens_per_second,
            "characters_per_second": reply.characters_per_second,
            "counted_by_server": reply.counted,
            "here_first_s": reply.here_first_s,
            "here_decode_s": reply.here_decode_s,
            "server": asdict(reply.server) if reply.server else None,
        },
        "cost_usd": cost(reply, catalog.load().deployments.get(deployment_id)),
        "sampling": sampling,
        "about": asdict(reply.about),
    }
    if reply.error is not None:
        document |= write_error(reply.error)
    return document


def _model(deployment_id: str) -> str | None:
    if deployment_id.startswith(PREFIX):
        return "fake"
    with contextlib.suppress(SLMError):
        return catalog.load().deployment(deployment_id).model.id
    return None


# --- a conversation -------------------------------------------------------------------------------


class _Conversation:
    """Questions from a terminal, each answered with all that was said before."""

    def __init__(
        self, backend: Backend, system: str, sampling: Sampling, pictures: tuple[Image, ...]
    ) -> None:
        self._backend = backend
        self._first = (Message("system", system),) if system else ()
        self._turns: list[Message] = []
        self._sampling = sampling
        self._pictures = pictures  # that go with the first question
        self._code = 0

    def hold(self) -> int:
        """Until /exit or Ctrl-D. The exit code is that of the last reply, 0 without any."""
        with contextlib.suppress(ImportError):  # Windows has none
            import readline  # noqa: F401  # gives input() a history and its editing keys
        say(f"{self._backend.id}. Ctrl-C stops a reply. {HELP}")
        while True:
            try:
                line = input("> " if sys.stdout.isatty() else "").strip()
            except EOFError:
                print()
                return self._code
            except KeyboardInterrupt:
                print()
                continue
            if line == "/exit":
                return self._code
            if line == "/clear":
                self._turns.clear()
            elif line == "/drop":
                del self._turns[:2]
            elif line in ("/help", "/?"):
                say(HELP)
            elif line:
                try:
                    self._answer(line)
                except SLMError as error:
                    say_error(error)

    def _answer(self, question: str) -> None:
        asked = Message("user", question, () if self._turns else self._pictures)
        request = ChatRequest((*self._first, *self._turns, asked), self._sampling)
        reply = _watch(run.start(self._backend, request))
        self._code = _report(reply, self._backend.id)
        if reply.text:  # a turn without an answer would leave two questions in a row
            self._turns += [asked, Message("assistant", reply.text)]
