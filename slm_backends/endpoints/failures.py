"""What went wrong with a server, as one of our errors: a sentence that says what happened, and a
hint that says what to do.

Knows HTTP statuses, how servers refuse, and why connections fail; how the body of an error is read,
bodies.py knows. Does not know which dialect was spoken, nor which package spoke it.
"""

from __future__ import annotations

import math
import re
import socket
import ssl
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

from slm_backends.endpoints import bodies
from slm_backends.endpoints.bodies import MAX_ERROR as MAX_ERROR
from slm_backends.endpoints.bodies import MAX_NAME as MAX_NAME
from slm_backends.endpoints.bodies import plain
from slm_backends.errors import (
    BadRequest,
    Busy,
    ContextOverflow,
    Filtered,
    NotFound,
    Retired,
    SLMError,
    StreamBroken,
    Unauthorized,
    Unavailable,
    Unsupported,
)

AGAIN = "Send the prompt again."

# What servers say where they have no words of their own.
_SENTENCES = {
    401: "The server does not accept the key.",
    402: "The account has no credit left for this.",
    403: "This key may not use this model.",
    408: "The server waited too long for the request.",
    413: "The request is larger than this server takes.",
    429: "The server is busy, or the limit of this account is reached.",
    504: "The server did not answer its gateway in time.",
}
_ENDED = r"end of life|has been (retired|deprecated|decommissioned)|not found for account"
_OTHER_MODEL = r"server is pinned to"  # as `transformers serve MODEL` says, with status 400

# A parameter is refused as such, not its value: by the code of the error, or by its words.
_REFUSING_CODES = {
    Unsupported.code,
    "unknown_parameter",
    "parameter_not_supported",
    "extra_forbidden",
}
_REFUSING_WORDS = (
    r"\b(unsupported|unknown|unrecognized|unexpected)\b(?! value)[\w\s]*\b"
    r"(parameters?|arguments?|fields?|keys?|names?)\b[^.]*?\b{name}\b",
    r"\b{name}\b['\"`]?[\s:]*(parameter )?((is|are) )?not (supported|permitted|allowed)\b",
    r"\b{name}\b['\"`]?:? extra inputs? (is|are) not permitted\b",
    r"\bdoes not support (the )?(parameter )?['\"`]?{name}\b",
)
# What servers call fields of Sampling that we call otherwise.
_OURS = {
    "max_completion_tokens": "max_tokens",
    "num_predict": "max_tokens",
    "repeat_penalty": "repetition_penalty",
}


# --- keys and addresses ---------------------------------------------------------------------------


def without(*secrets: str) -> Callable[[str], str]:
    """A function that takes the secrets out of a text: a server may repeat the key, and errors are
    shown, exported and logged."""

    def clean(text: str) -> str:
        for secret in secrets:
            text = text.replace(secret, "[key]") if secret else text
        return text

    return clean


def sendable(key: str) -> str:
    """The key, if a header can carry it; raises Unauthorized, which does not show it, if not."""
    if re.fullmatch(r"[!-~]*", key):
        return key
    raise Unauthorized(
        "The key has a line break, a blank or another character that no key has.",
        hint="Copy the key once more, all of it and nothing else.",
    )


def address(base_url: str) -> str:
    """The address, if it is one; raises Unavailable if nobody could be reached at it."""
    try:
        parts = urlsplit(base_url)
        labels = (parts.hostname or "").split(".")
        port = parts.port
    except ValueError:  # of the port, or of brackets
        labels, port = [], None
    if (
        port != 0
        and re.match(r"https?://\S+$", base_url)
        and all(0 < len(label) < 64 for label in labels or [""])
    ):
        return base_url
    raise Unavailable(
        f"No answer from {shown(base_url)}: that is no address.",
        hint="Write it as in https://host.example/v1 or http://127.0.0.1:8000/v1.",
    )


def shown(base_url: str) -> str:
    """The address without what may be secret in it: a user's name and password, and a query."""
    return re.sub(r"(?<=//)[^/@]*@|\?.*", "", base_url)


# --- connections ----------------------------------------------------------------------------------


def unreachable(
    base_url: str, error: BaseException, *, hint: str = "", clean: Callable[[str], str] = str
) -> Unavailable:
    """No answer came from that address. `hint` says how to start the server."""
    why, what = reason(error), hint or "Check the address, and that the server runs."
    for cause in _causes(error):
        if isinstance(cause, socket.gaierror):
            why = "no computer of that name was found"
            what = "Check the name in the address, and that this computer is online."
        elif isinstance(cause, ssl.SSLCertVerificationError):
            why = f"its certificate is not to be trusted ({cause.verify_message.rstrip('.')})"
            what = "Check the address, or have the server's owner renew its certificate."
        elif isinstance(cause, ssl.SSLError):
            why = "there is no secure connection to be had"
            what = "Check the address: without TLS a server's begins with http://."
        elif isinstance(cause, ConnectionRefusedError):
            why = "nothing listens there"
        elif _is_timeout(cause):
            why = "it took too long"
        else:
            continue
        break
    else:
        if not hint and base_url.startswith("http://"):
            what = "Check the address, also whether it begins with https://."
    return Unavailable(f"No answer from {shown(base_url)}: {clean(why)}.", hint=what)


def broke_off(error: BaseException, *, clean: Callable[[str], str] = str) -> StreamBroken:
    """The connection ended in the middle of a reply, or before its first word."""
    late = any(_is_timeout(cause) for cause in _causes(error))
    why = "no word came for too long" if late else clean(reason(error))
    return StreamBroken(f"The reply broke off: {why}.", hint=AGAIN)


def no_chunk(error: BaseException) -> StreamBroken:
    """What came is not JSON, or not of the shape that a piece of a reply has."""
    why = f": {reason(error)}" if isinstance(error, ValueError) else ""
    return StreamBroken(f"The server sent what is not a piece of a reply{why}.", hint=AGAIN)


def no_reply(content_type: str = "") -> StreamBroken:
    """The server answered, but with nothing that is a reply or a piece of one."""
    if "html" in content_type:
        return StreamBroken(
            "The server answered with a web page instead of a reply.",
            hint="Check the address: it usually ends in /v1.",
        )
    return StreamBroken(
        "The server answered, but not with a streamed reply.",
        hint="Check the address, which usually ends in /v1, and whether the server can stream.",
    )


def no_list(base_url: str) -> NotFound:
    """What came is no list of models."""
    return NotFound(
        f"{shown(base_url)} answers, but not with a list of models.",
        hint="Check the address: it usually ends in /v1.",
    )


def filtered() -> Filtered:
    """The reply ended because the provider did not want to go on."""
    return Filtered(
        "The provider's content filter stopped the reply.", hint="Put the prompt in other words."
    )


def reason(error: BaseException) -> str:
    """The error in words, without a full stop, and not longer than MAX_ERROR."""
    return (plain(str(error)) or type(error).__name__).rstrip(".")


def _is_timeout(error: BaseException) -> bool:
    """Whether time ran out; packages for HTTP have exceptions of their own for that."""
    return isinstance(error, TimeoutError) or "Timeout" in type(error).__name__


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error, what it was raised for, and so on, down to the system's own."""
    seen: list[BaseException] = []
    while error is not None and error not in seen:
        seen.append(error)
        yield error
        group: tuple[BaseException, ...] = getattr(error, "exceptions", ())
        error = group[0] if group else error.__cause__ or error.__context__


# --- answers --------------------------------------------------------------------------------------


def refused(
    status: int,
    sent: Any,
    headers: Mapping[str, str] | None = None,
    *,
    hint: str = "",
    clean: Callable[[str], str] = str,
    asked: Collection[str] = (),
) -> SLMError:
    """Our error for a server's answer.

    status   of HTTP, or 0 for an error that came in the middle of a reply
    sent     its JSON or text, whatever that was
    headers  of the answer, their names in lower case
    hint     what to do when the server is not ready or does not have the model; instead of ours
    clean    takes out of the server's words what must not be shown
    asked    parameters that were sent: one of them may be what the server does not know
    """
    headers = headers or {}
    detail = bodies.detail(sent)
    code = detail.get("code")
    status = status or _status(code)
    field, told = bodies.problem(sent)
    param = detail.get("param")
    field = field or (clean(plain(param))[:MAX_NAME] if isinstance(param, str) else "")
    text = clean(plain(told or detail.get("message")))
    if field and text and not re.search(rf"\b{re.escape(field)}\b", text):
        text = f"{field}: {text}"
    error = _refused(status, text, code, field, headers, clean, asked)
    if isinstance(error, ContextOverflow):
        numbers = ("prompt_tokens", "max_tokens", "context")
        return ContextOverflow(
            error.message, **{name: bodies.count(detail.get(name)) for name in numbers}
        )
    own = clean(plain(detail.get("hint")))
    if hint and status in (404, 408, 502, 503, 504) and not isinstance(error, Retired):
        error.hint = hint
    elif own:
        error.hint = own
    return error


def _refused(
    status: int,
    text: str,
    code: Any,
    field: str,
    headers: Mapping[str, str],
    clean: Callable[[str], str],
    asked: Collection[str],
) -> SLMError:
    words = text or _SENTENCES.get(status) or _without_words(status)
    if 300 <= status < 400:
        elsewhere = clean(shown(plain(headers.get("location"))))
        return NotFound(
            f"The server is not here any more: it points to {elsewhere!r}.",
            hint="If you trust that address, give it as the base_url.",
        )
    if code == ContextOverflow.code or (
        status in (0, 400, 413, 422) and re.search(r"context (length|size|window)", text)
    ):
        return ContextOverflow(words)
    if code == Filtered.code:
        return Filtered(words, hint="Put the prompt in other words.")
    if status in (400, 422):
        unknown = _unknown(text, code, field, asked)
        if unknown is not None:
            return Unsupported(
                words,
                field=unknown or None,
                hint="Set it back to its neutral value, or pick another deployment.",
            )
    if status == 410 or (status == 404 and re.search(_ENDED, text, re.IGNORECASE)):
        return _retired(words)
    if status == 402 or code == "insufficient_quota":
        return Unauthorized(words, hint="Add credit with the provider, or pick another deployment.")
    if status == 401:
        return Unauthorized(words, hint="Check the key.")
    if status == 403:
        return Unauthorized(words, hint="Check the key, and that it may use this model.")
    if status == 404 or (status == 400 and re.search(_OTHER_MODEL, text, re.IGNORECASE)):
        return NotFound(
            words,
            hint="Check the model's name, and the address, which usually ends in /v1.",
        )
    if status == 429:
        return Busy(words, hint="Wait a little, then try again.", retry_after=wait(headers))
    if status in (408, 502, 503, 504):
        return Unavailable(words, hint="Try again in a few seconds.", retry_after=wait(headers))
    if status == 413:
        return BadRequest(
            words, field="messages", hint="Send fewer or smaller images, or drop the oldest turns."
        )
    if re.search(bodies.PLAIN_ON_TLS, text):
        return Unavailable(words, hint="Write https:// in the address.")
    if 400 <= status < 500:
        hint = "Change what it names: the parameters are behind the gear."
        return BadRequest(words, field=field or None, hint=hint)
    if not status:
        return StreamBroken(words, hint=AGAIN)
    return SLMError(words, hint="The server failed. Try again, or look at what it logged.")


def wait(headers: Mapping[str, str]) -> float | None:
    """Seconds that an answer asks to wait; None where it does not say.

    `Retry-After` as in RFC 9110, 10.2.3: seconds or a date, which is taken by the server's own
    clock; and Azure's and OpenAI's forms of it in milliseconds, which are more exact.
    """
    for name in ("retry-after-ms", "x-ms-retry-after-ms"):
        seconds = _seconds(headers.get(name, ""), 1000)
        if seconds is not None:
            return seconds
    told = headers.get("retry-after", "")
    seconds = _seconds(told)
    if seconds is not None:
        return seconds
    then = _moment(told)
    if then is None:
        return None
    now = _moment(headers.get("date", ""))
    return max(0.0, then - (time.time() if now is None else now))


def _seconds(text: str, per_second: int = 1) -> float | None:
    try:
        seconds = float(text) / per_second
    except ValueError:
        return None
    return seconds if math.isfinite(seconds) and seconds >= 0 else None


def _moment(text: str) -> float | None:
    try:
        return parsedate_to_datetime(text).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None


def _retired(text: str) -> Retired:
    day = re.search(r"\b20\d\d-\d\d-\d\d(?=T|\b)", text)
    if re.search("not found for account", text, re.IGNORECASE):
        # The server's own words name the account.
        text = "The server lists this model, but does not run it any more."
    return Retired(
        text,
        on=day.group() if day else "",
        hint="Its provider has ended it: pick another deployment.",
    )


def _unknown(text: str, code: Any, field: str, asked: Collection[str]) -> str | None:
    """Which parameter the server does not know at all, by our name for it; "" where it does not
    say which; None where this is another error."""
    field = _OURS.get(field, field)
    if code in _REFUSING_CODES and (field or code == Unsupported.code):
        return field
    theirs = {name: name for name in asked} | {
        other: name for other, name in _OURS.items() if name in asked
    }
    for name in sorted(theirs):
        if any(
            re.search(words.format(name=name), text, re.IGNORECASE) for words in _REFUSING_WORDS
        ):
            return theirs[name]
    return None


def _status(code: Any) -> int:
    """The status in an error that came in the middle of a reply; 0 where there is none."""
    number = int(code) if isinstance(code, str) and re.fullmatch(r"[3-5]\d\d", code) else code
    return number if isinstance(number, int) and 300 <= number < 600 else 0


def _without_words(status: int) -> str:
    return f"The server answered with status {status}." if status else "The reply failed."
