"""One prompt, asked the mixture that comes with the playground and its twin without experts.

One after the other, so that neither takes time from the other. Knows turns and the workers' memory;
draws nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from slm_backends import selector
from slm_backends.chat import Sampling
from slm_backends.moe import nano
from ui.moe import asking
from ui.panes import Turn

IDS = tuple(f"{model_id}@transformers" for model_id in (nano.MIXTURE, nano.TWIN))


@dataclass
class Twins:
    """`memory` is bytes that a worker took when its reply ended, by deployment."""

    prompt: str
    sampling: Sampling
    turns: list[Turn] = field(default_factory=list)
    memory: dict[str, int] = field(default_factory=dict)
    stopped: bool = False

    @property
    def running(self) -> bool:
        return any(turn.running for turn in self.turns) or self._waits

    @property
    def _waits(self) -> bool:
        return len(self.turns) < len(IDS) and not self.stopped

    def go_on(self) -> None:
        """Note what has ended, and ask the next where it may be."""
        ended = [turn.deployment for turn in self.turns if not turn.running]
        for worker in selector.workers():
            if worker.deployment_id in ended:
                self.memory.setdefault(worker.deployment_id, worker.memory_bytes)
        if len(ended) == len(self.turns) and self._waits:
            deployment_id = IDS[len(self.turns)]
            self.turns.append(asking.ask(deployment_id, self.prompt, "", self.sampling))
