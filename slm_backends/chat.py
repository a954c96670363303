"""What is asked of a model and what comes back: plain frozen data, checked when it is made.

Knows the limits of a request (the PARAMETERS table below draws the panel, checks the input and
writes the code snippets) and the events of a reply. Does no I/O, and knows no runtime, no server
and no file.
"""

from __future__ import annotations

import reprlib
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from slm_backends.errors import BadRequest, Unsupported
from slm_backends.routing import Experts, Routed

Role = Literal["system", "user", "assistant"]
ROLES: tuple[Role, ...] = ("system", "user", "assistant")

MAX_MESSAGES = 1_000
MAX_CHARACTERS = 1_000_000  # of one message: about 250,000 tokens, past every context in the family
MAX_STOPS = 4  # as in OpenAI's API
MAX_STOP_CHARACTERS = 200
MAX_TOP_LOGPROBS = 20  # as in OpenAI's API
MAX_IMAGES = 32  # of a conversation
MAX_IMAGE_BYTES = 20 * 2**20  # of all images of a conversation together, encoded


@dataclass(frozen=True)
class Parameter:
    """One number that shapes sampling: `minimum` and `maximum` are both allowed.

    `neutral` is the value that asks for nothing; None where there is no such value.
    """

    name: str
    label: str
    kind: type[int] | type[float]
    minimum: float
    maximum: float
    default: float | None
    neutral: float | None
    step: float
    help: str


def _table(*parameters: Parameter) -> dict[str, Parameter]:
    return {parameter.name: parameter for parameter in parameters}


PARAMETERS: Mapping[str, Parameter] = _table(
    Parameter("max_tokens", "Max tokens", int, 1, 131_072, 512, None, 64,
              "The reply ends here at the latest."),
    Parameter("temperature", "Temperature", float, 0.0, 2.0, 0.3, None, 0.1,
              "0 always takes the likeliest token; higher is more varied."),
    Parameter("top_p", "Top P", float, 0.01, 1.0, 0.95, 1.0, 0.01,
              "Sample from the likeliest tokens that together have this probability. 1 is off."),
    Parameter("top_k", "Top K", int, 0, 1_000, 0, 0, 1,
              "Sample from this many of the likeliest tokens. 0 is off."),
    Parameter("presence_penalty", "Presence penalty", float, -2.0, 2.0, 0.0, 0.0, 0.1,
              "Above 0, a token that was used at all becomes less likely. 0 is off."),
    Parameter("frequency_penalty", "Frequency penalty", float, -2.0, 2.0, 0.0, 0.0, 0.1,
              "Above 0, a token becomes less likely with each use. 0 is off."),
    Parameter("repetition_penalty", "Repetition penalty", float, 0.1, 2.0, 1.0, 1.0, 0.05,
              "Above 1, tokens seen in the prompt or reply become less likely. 1 is off."),
    Parameter("seed", "Seed", int, 0, 2**31 - 1, None, None, 1,
              "The same seed gives the same text on the same runtime. Empty is random."),
)  # fmt: skip


@dataclass(frozen=True)
class Image:
    """An encoded picture: `data` is PNG, JPEG or WEBP bytes, `media_type` as in `image/png`."""

    data: bytes = field(repr=False)
    media_type: str = "image/png"

    def __post_init__(self) -> None:
        if self.media_type not in ("image/png", "image/jpeg", "image/webp"):
            raise BadRequest(
                f"An image must be PNG, JPEG or WEBP, not {self.media_type}.", field="messages"
            )


@dataclass(frozen=True)
class Message:
    """One turn. `content` is text, never control: special tokens typed in it stay text."""

    role: Role
    content: str
    images: tuple[Image, ...] = ()

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise BadRequest(
                f"A message's role must be one of {', '.join(ROLES)}, "
                f"not {reprlib.repr(self.role)}.",
                field="messages",
            )
        if not isinstance(self.content, str):
            raise BadRequest("A message's content must be text.", field="messages")
        if len(self.content) > MAX_CHARACTERS:
            raise BadRequest(
                f"A message may have at most {MAX_CHARACTERS:,} characters, "
                f"this one has {len(self.content):,}.",
                field="messages",
            )
        try:
            self.content.encode("utf-8")
        except UnicodeEncodeError:
            raise BadRequest(
                "A message contains half of a surrogate pair, which is not valid text.",
                field="messages",
            ) from None


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen. Ranges and meanings: PARAMETERS.

    `left_out` names fields that are not asked for whatever they hold: the server's default counts.
    Raises BadRequest, with the allowed range in the message, for a value outside of it.
    """

    max_tokens: int = 512
    temperature: float = 0.3
    top_p: float = 0.95
    top_k: int = 0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    stop: tuple[str, ...] = ()
    seed: int | None = None
    left_out: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, parameter in PARAMETERS.items():
            value = getattr(self, name)
            if value is None and parameter.default is None:
                continue
            object.__setattr__(self, name, checked(parameter, value))
        if not isinstance(self.stop, (list, tuple)) or not all(
            isinstance(text, str) for text in self.stop
        ):
            raise BadRequest("stop must be a list of strings.", field="stop")
        object.__setattr__(self, "stop", tuple(self.stop))
        if len(self.stop) > MAX_STOPS:
            raise BadRequest(
                f"stop may hold at most {MAX_STOPS} strings, got {len(self.stop)}.", field="stop"
            )
        for text in self.stop:
            if not 1 <= len(text) <= MAX_STOP_CHARACTERS:
                raise BadRequest(
                    f"A stop string must have 1 to {MAX_STOP_CHARACTERS} characters, "
                    f"got {len(text)}.",
                    field="stop",
                )

    def asked(self) -> frozenset[str]:
        """Names of the fields that ask for something, that is, differ from their neutral value."""
        names = {
            name
            for name, parameter in PARAMETERS.items()
            if getattr(self, name) != parameter.neutral
        }
        if self.stop:
            names.add("stop")
        return frozenset(names.difference(self.left_out))


SAMPLING_FIELDS = frozenset({*PARAMETERS, "stop"})


def checked(parameter: Parameter, value: Any) -> int | float:
    """`value` as the parameter's kind, or BadRequest with the allowed range in the message."""
    lowest, highest = parameter.kind(parameter.minimum), parameter.kind(parameter.maximum)
    wrong = BadRequest(
        f"{parameter.name} must be {'a whole number ' if parameter.kind is int else ''}"
        f"between {lowest:,} and {highest:,}, got {reprlib.repr(value)}.",
        field=parameter.name,
    )
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise wrong
    if not lowest <= value <= highest:  # not a number is not between anything either
        raise wrong
    if parameter.kind is int and value != int(value):
        raise wrong
    return parameter.kind(value)


@dataclass(frozen=True)
class ChatRequest:
    """A conversation whose last turn is the user's, and how to answer it.

    `experts` asks a mixture of experts which of them work on each token, and may limit them.
    """

    messages: tuple[Message, ...]
    sampling: Sampling = Sampling()
    top_logprobs: int | None = None
    experts: Experts | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "messages", tuple(self.messages))
        wanted = self.top_logprobs
        if wanted is not None and (type(wanted) is not int or not 0 <= wanted <= MAX_TOP_LOGPROBS):
            raise BadRequest(
                f"top_logprobs must be a whole number from 0 to {MAX_TOP_LOGPROBS}, "
                f"not {reprlib.repr(wanted)}.",
                field="top_logprobs",
            )
        if not 1 <= len(self.messages) <= MAX_MESSAGES:
            raise BadRequest(
                f"A conversation must have 1 to {MAX_MESSAGES:,} messages, "
                f"this one has {len(self.messages):,}.",
                field="messages",
            )
        images = [image for message in self.messages for image in message.images]
        if len(images) > MAX_IMAGES:
            raise BadRequest(
                f"A conversation may have at most {MAX_IMAGES} images, this one has {len(images)}.",
                field="messages",
            )
        size = sum(len(image.data) for image in images)
        if size > MAX_IMAGE_BYTES:
            raise BadRequest(
                f"The images of a conversation may have at most {MAX_IMAGE_BYTES // 2**20} MiB "
                f"together, these have {size / 2**20:.1f}.",
                field="messages",
            )
        last = self.messages[-1]
        if last.role != "user" or not (last.content.strip() or last.images):
            raise BadRequest(
                "The last message must be the user's and say something.", field="messages"
            )


@dataclass(frozen=True)
class Capabilities:
    """What a backend honours. `context` is in tokens, None where a server does not say; `images` is
    how many a conversation may have; with `routing` it tells which experts worked, and with `knife`
    it lets them be limited."""

    sampling: frozenset[str]
    context: int | None = None
    images: int = 0
    logprobs: bool = False
    routing: bool = False
    knife: bool = False

    def check(self, request: ChatRequest) -> None:
        """Raise Unsupported for the first thing asked that would be dropped."""
        for name in sorted(request.sampling.asked() - self.sampling):
            raise Unsupported(
                f"This deployment does not honour {name}. "
                f"It honours {', '.join(sorted(self.sampling))}.",
                field=name,
                hint=f"Set {name} back to its neutral value, or pick another deployment.",
            )
        if request.top_logprobs is not None and not self.logprobs:
            raise Unsupported("This deployment does not give log-probabilities.", field="logprobs")
        if request.experts is not None and not self.routing:
            raise Unsupported(
                "This deployment does not tell which experts worked.",
                field="experts",
                hint="Pick a mixture of experts on transformers.",
            )
        if request.experts is not None and request.experts.cuts and not self.knife:
            raise Unsupported("This deployment's experts cannot be limited.", field="experts")
        images = sum(len(message.images) for message in request.messages)
        if images > self.images:
            most = {0: "no images", 1: "one image"}.get(self.images, f"{self.images} images")
            raise Unsupported(
                f"This deployment takes {most} in a conversation, got {images}.",
                field="messages",
            )


# --- the events of a reply, in the order in which they come ---------------------------------------


@dataclass(frozen=True)
class Loading:
    """The model is being loaded: `fraction` of it is done (0 to 1), `step` in words."""

    fraction: float
    step: str


@dataclass(frozen=True)
class Queued:
    """The request waits: `place` is 1 for the next, 0 where it is not known; `reason` says why, or
    is empty."""

    place: int = 0
    reason: str = ""


@dataclass(frozen=True)
class Held:
    """The server asked us to come back in `seconds`; the prompt is then sent again. Only before
    the first Delta: a prompt is never sent twice once tokens have arrived."""

    seconds: float
    reason: str


@dataclass(frozen=True)
class Prefill:
    """The model is reading the prompt."""


@dataclass(frozen=True)
class Looking:
    """The model is looking at the prompt's images: crop `crop` of `crops` of image `image` of
    `images` is done, all counted from 1. Images that it has looked at before are passed over."""

    image: int
    images: int
    crop: int
    crops: int


def decode_speed(tokens: int | None, seconds: float | None) -> float | None:
    """Tokens a second: those after the first, over the seconds between the first and the last."""
    if not tokens or tokens < 2 or not seconds:
        return None
    return (tokens - 1) / seconds


@dataclass(frozen=True)
class Timings:
    """Milliseconds and token counts, measured where the tokens are made.

    queue_ms      waiting for a place in the batch
    prompt_ms     from that place to the first token
    predicted_ms  from the first token to the last
    load_ms       of queue_ms, what the server spent loading the model
    prompt_n, predicted_n  tokens of the prompt and of the reply, by the model's own tokenizer
    cache_n       tokens of the prompt that were not computed again; None where not reported

    The names follow llama-server's `timings`; queue_ms is ours.
    """

    prompt_n: int
    prompt_ms: float
    predicted_n: int
    predicted_ms: float
    queue_ms: float = 0.0
    cache_n: int | None = None
    load_ms: float = 0.0

    @property
    def tokens_per_second(self) -> float | None:
        return decode_speed(self.predicted_n, self.predicted_ms / 1000)


@dataclass(frozen=True)
class Logprob:
    """A token of a reply with its natural log-probability, before temperature and the like.

    token  its text, which may be half a character; `id` is None where a server does not say
    top    the likeliest tokens at its place, likeliest first, each without a `top` of its own
    """

    token: str
    logprob: float
    id: int | None = None
    top: tuple[Logprob, ...] = ()


@dataclass(frozen=True)
class Delta:
    """More text. `timings` are of the reply so far, None where the server does not measure.

    `logprobs` are of tokens since the last Delta, empty unless asked for.
    """

    text: str
    timings: Timings | None = None
    logprobs: tuple[Logprob, ...] = ()


@dataclass(frozen=True)
class Finished:
    """The last event. `timings` is None for servers that do not measure; the counts likewise."""

    reason: str
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int | None = None
    timings: Timings | None = None


Event = Loading | Queued | Held | Prefill | Looking | Routed | Delta | Finished


@dataclass(frozen=True)
class About:
    """What really answers: shown beside the numbers, kept in exports. Empty where unknown."""

    runtime: str = ""
    version: str = ""
    device: str = ""
    artefact: str = ""


class Backend(Protocol):
    """A deployment ready to answer. Pages and Runs know no more than this about a model."""

    @property
    def id(self) -> str: ...

    @property
    def capabilities(self) -> Capabilities: ...

    @property
    def about(self) -> About: ...

    def stream(self, request: ChatRequest) -> AsyncGenerator[Event, None]:
        """Answer, as events that end with Finished. Closing the iterator stops the model.

        Raises an SLMError when the request is refused or the answer breaks.
        """
        ...
