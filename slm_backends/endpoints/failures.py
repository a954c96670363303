"""What went wrong with a server, as one of our errors: a sentence that says what happened, and a
hint that says what to do.

Knows HTTP statuses, what different servers put into the body of an error, and why connections fail.
Does not know which dialect was spoken, nor which package spoke it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from slm_backends.errors import (
    BadRequest,
    Busy,
    ContextOverflow,
    NotFound,
    SLMError,
    StreamBroken,
    Unauthorized,
    Unavailable,
    Unsupported,
)

AGAIN = "Send the prompt again."
MAX_ERROR = 500  # characters of a server's own words: some send a page


def without(secret: str) -> Callable[[str], str]:
    """A function that takes the secret out of a text: a server may repeat the key, and errors are
    shown, exported and logged."""
    return lambda text: text.replace(secret, "[key]") if secret else text


def unreachable(
    base_url: str, error: BaseException, *, hint: str = "", clean: Callable[[str], str] = str
) -> Unavailable:
    """No answer came from that address."""
    return Unavailable(
        f"No answer from {base_url}: {clean(reason(error))}.",
        hint=hint or "Check the address, and that the server runs.",
    )


def broke_off(error: BaseException, *, clean: Callable[[str], str] = str) -> StreamBroken:
    """The connection ended in the middle of a reply."""
    return StreamBroken(f"The reply broke off: {clean(reason(error))}.", hint=AGAIN)


def no_chunk(error: BaseException) -> StreamBroken:
    """What came is not JSON, or not of the shape that a piece of a reply has."""
    return StreamBroken(
        f"The server sent what is not a chunk of a reply: {reason(error)}.", hint=AGAIN
    )


def reason(error: BaseException) -> str:
    """The error in words, without a full stop, and not longer than MAX_ERROR."""
    return (str(error) or type(error).__name__).rstrip(".")[:MAX_ERROR]


def refused(
    status: int,
    sent: Any,
    headers: Mapping[str, str] | None = None,
    *,
    hint: str = "",
    clean: Callable[[str], str] = str,
) -> SLMError:
    """Our error for a server's answer.

    status   of HTTP, or 0 for an error that came in the middle of a reply
    sent     its JSON or text, whatever that was
    headers  of the answer, their names in lower case
    hint     what to do when the server is not ready or does not have the model; instead of ours
    clean    takes out of the server's words what must not be shown
    """
    error = _refused(status, sent, headers or {}, clean)
    if hint and isinstance(error, (NotFound, Unavailable)):
        error.hint = hint
    return error


def _refused(
    status: int, sent: Any, headers: Mapping[str, str], clean: Callable[[str], str]
) -> SLMError:
    detail = _detail(sent)
    code = detail.get("code")
    if not status and isinstance(code, int):
        status = code
    text = clean(str(detail.get("message") or ""))[:MAX_ERROR]
    text = text or (f"The server answered with status {status}." if status else "The reply failed.")
    field = detail.get("param") if isinstance(detail.get("param"), str) else None
    hint = clean(str(detail.get("hint") or ""))
    if 300 <= status < 400:
        elsewhere = clean(headers.get("location", ""))[:MAX_ERROR]
        return NotFound(
            f"The server is not here any more: it points to {elsewhere!r}.",
            hint="If you trust that address, give it as the base_url.",
        )
    if code == ContextOverflow.code or (
        status in (0, 400, 413, 422) and re.search(r"context (length|size|window)", text)
    ):
        numbers = ("prompt_tokens", "max_tokens", "context")
        return ContextOverflow(text, **{name: _count(detail.get(name)) for name in numbers})
    if code == Unsupported.code:
        hint = hint or "Set it back to its neutral value, or pick another deployment."
        return Unsupported(text, field=field, hint=hint)
    if status in (401, 403):
        return Unauthorized(text, hint=hint or "Check the key.")
    if status in (404, 410):
        return NotFound(text, hint=hint or "The server does not have this model, or no longer.")
    if status == 429:
        return Busy(text, hint=hint or "Wait a little, then try again.")
    if 400 <= status < 500:
        hint = hint or "Change what it names: the parameters are behind the gear."
        return BadRequest(text, field=field, hint=hint)
    if status in (502, 503, 504):
        return Unavailable(text, hint=hint or "Try again in a few seconds.")
    if not status:
        return StreamBroken(text, hint=hint or AGAIN)
    return SLMError(text, hint=hint or "The server failed. Try again, or look at what it logged.")


def _detail(sent: Any) -> Mapping[str, Any]:
    """The object with `message`, `code` and the like, where different servers put it."""
    if isinstance(sent, dict):
        inner = sent.get("error") or sent.get("detail")
        return _detail(inner) if isinstance(inner, (dict, str)) else sent
    text = (
        sent if isinstance(sent, str) and "<" not in sent[:100] else ""
    )  # a web page says nothing
    return {"message": text}


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) else None
