"""Every error that slm_backends raises on purpose, in one tree.

    SLMError
    ├── BadRequest            the request itself is wrong: `field` says where
    │   ├── Unsupported       this backend does not honour that field
    │   └── ContextOverflow   the conversation and the reply do not fit the model
    ├── NotFound              no such model, deployment or endpoint
    │   └── Retired           there was, but its provider has ended it
    ├── NotInstalled          the Python package of a runtime is missing
    ├── NotFetched            the weights are not on this computer
    ├── FetchFailed           the weights could not be brought here
    │   ├── ChecksumMismatch  what arrived is not what was published
    │   └── DiskFull          not enough room for it
    ├── CatalogError          a catalog file has a mistake: names file, line and reason
    ├── Unauthorized          the key is missing or refused
    ├── Busy                  the queue is full, or a rate limit was met
    ├── MemoryExceeded        loading it would pass the memory budget
    ├── Unavailable           the server cannot be reached, or is not ready yet
    ├── Filtered              the provider's content filter stopped the prompt or the reply
    ├── WorkerDied            the process that held the model has ended
    └── StreamBroken          a reply ended before its last word

`str(error)` is a sentence for a person; `hint` says what to do next. This module knows nothing of
HTTP, except for `status`, the number that a server answers with for it.
"""

from __future__ import annotations


class SLMError(Exception):
    """Base of the tree. `hint` is one sentence on what to do next, or empty."""

    status = 500
    code = "error"

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint

    @property
    def message(self) -> str:
        return str(self.args[0])


class BadRequest(SLMError):
    """The request is wrong. `field` names the part of it, as in the JSON on the wire."""

    status = 400
    code = "invalid_value"

    def __init__(self, message: str, *, field: str | None = None, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.field = field


class Unsupported(BadRequest):
    """The field is valid, but this backend would not honour it."""

    code = "unsupported_parameter"


class ContextOverflow(BadRequest):
    """`prompt_tokens` + `max_tokens` is more than `context`, the tokens that the model can hold.

    The numbers are None where a server reported the overflow only in words.
    """

    code = "context_length_exceeded"

    def __init__(
        self,
        message: str,
        *,
        prompt_tokens: int | None = None,
        max_tokens: int | None = None,
        context: int | None = None,
    ) -> None:
        super().__init__(
            message,
            field="messages",
            hint="Drop the oldest turns, shorten the prompt, or ask for fewer tokens.",
        )
        self.prompt_tokens = prompt_tokens
        self.max_tokens = max_tokens
        self.context = context

    @classmethod
    def measured(cls, prompt_tokens: int, max_tokens: int, context: int) -> ContextOverflow:
        """The error for numbers that were counted with the model's own tokenizer."""
        return cls(
            f"The conversation takes {prompt_tokens:,} tokens and the reply may take "
            f"{max_tokens:,}: together {prompt_tokens + max_tokens:,}, but this model holds "
            f"{context:,}.",
            prompt_tokens=prompt_tokens,
            max_tokens=max_tokens,
            context=context,
        )


class NotFound(SLMError):
    status = 404
    code = "not_found"


class Retired(NotFound):
    """`on` is the day as in 2026-07-30, or empty where the server did not say."""

    status = 410
    code = "retired"

    def __init__(self, message: str, *, on: str = "", hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.on = on


class NotInstalled(SLMError):
    """`package` is what `pip install` needs to be given."""

    status = 503
    code = "not_installed"

    def __init__(self, message: str, *, package: str) -> None:
        super().__init__(message, hint=f"pip install {package}")
        self.package = package


class NotFetched(SLMError):
    status = 503
    code = "not_fetched"


class FetchFailed(SLMError):
    code = "fetch_failed"


class ChecksumMismatch(FetchFailed):
    code = "checksum_mismatch"


class DiskFull(FetchFailed):
    code = "disk_full"


class CatalogError(SLMError):
    code = "catalog_error"


class Unauthorized(SLMError):
    status = 401
    code = "invalid_api_key"


class Busy(SLMError):
    """`retry_after` is how many seconds a server asked to wait, None where it did not say."""

    status = 429
    code = "busy"

    def __init__(self, message: str, *, hint: str = "", retry_after: float | None = None) -> None:
        super().__init__(message, hint=hint)
        self.retry_after = retry_after


class MemoryExceeded(SLMError):
    status = 503
    code = "memory_exceeded"


class Unavailable(SLMError):
    """`retry_after` as in Busy."""

    status = 503
    code = "unavailable"

    def __init__(self, message: str, *, hint: str = "", retry_after: float | None = None) -> None:
        super().__init__(message, hint=hint)
        self.retry_after = retry_after


class Filtered(SLMError):
    status = 400
    code = "content_filter"


class WorkerDied(SLMError):
    code = "worker_died"


class StreamBroken(SLMError):
    status = 502
    code = "stream_broken"
