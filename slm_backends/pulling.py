"""A model on its way to an Ollama server: goes on in the background, can be followed and cancelled.

Knows how far it is, how fast, and how it ended. How a server is told is ollama_models.py's.
"""

from __future__ import annotations

from contextlib import aclosing

from slm_backends import background
from slm_backends.errors import SLMError
from slm_backends.fetching import Fetch, Speedometer, State
from slm_backends.ollama_models import OllamaServer
from slm_backends.watch import Progress


class Pull:
    """Begins when it is made; `server` is closed at its end. Any thread may ask it."""

    def __init__(self, server: OllamaServer, name: str) -> None:
        self.name = name
        self._progress: Progress | None = None
        self._error: SLMError | None = None
        self._speed = Speedometer()
        self._ended = background.submit(self._pull(server))

    @property
    def now(self) -> Fetch:
        """How far it is, or how it ended."""
        state: State = "running"
        if self._ended.cancelled():
            state = "cancelled"
        elif self._ended.done():
            state = "failed" if self._error else "done"
        speed, left = self._speed.read(self._progress) if self._progress else (None, None)
        return Fetch(self.name, state, self._progress, speed, left, self._error)

    def cancel(self) -> None:
        """What has arrived is kept by the server: the next pull goes on from there."""
        self._ended.cancel()

    async def _pull(self, server: OllamaServer) -> None:
        try:
            async with aclosing(server.pull(self.name)) as steps:
                async for progress in steps:
                    self._progress = progress
        except SLMError as error:
            self._error = error
        except Exception as error:  # a defect of ours must still end it, with its name
            self._error = SLMError(f"{type(error).__name__}: {error}")
        finally:
            await server.close()
