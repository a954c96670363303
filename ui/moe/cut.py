"""One prompt under the knife: the untouched model and the limited one, step by step.

First both answer; then both are made to write what the untouched one said, so that one text has a
perplexity under each. Knows turns; draws nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from slm_backends.moe import figures
from slm_backends.routing import MAX_REPLY, Experts
from ui.moe import asking
from ui.panes import Turn


@dataclass
class Cut:
    """`written` follows when both have answered: the untouched reply, under each."""

    experts: Experts
    untouched: Turn
    limited: Turn
    written: list[Turn] = field(default_factory=list)
    stopped: bool = False

    @property
    def turns(self) -> list[Turn]:
        return [self.untouched, self.limited, *self.written]

    @property
    def running(self) -> bool:
        return any(turn.running for turn in self.turns) or self._waits

    @property
    def _waits(self) -> bool:
        """Whether the second step is still to come."""
        done = [turn.reply.state == "done" for turn in (self.untouched, self.limited)]
        return all(done) and not (self.written or self.stopped) and bool(self._text)

    @property
    def _text(self) -> str:
        return self.untouched.reply.text[:MAX_REPLY]

    def go_on(self) -> None:
        """Begin the second step where the first has ended."""
        if self._waits:
            self.written = [
                asking.again(self.untouched, replace(limits, reply=self._text))
                for limits in (Experts(), self.experts)
            ]

    @property
    def perplexities(self) -> tuple[float, float] | None:
        """Of the untouched reply: under the untouched model, and under the limited one."""
        logprobs = [[one.logprob for one in turn.reply.logprobs] for turn in self.written]
        ended = all(turn.reply.state == "done" for turn in self.written)
        if len(logprobs) != 2 or not ended or not all(logprobs):
            return None
        whole, limited = map(figures.perplexity, logprobs)
        return whole, limited

    @property
    def parting(self) -> int | None:
        """The first character in which the two replies differ; None where they do not."""
        first, second = self.untouched.reply.text, self.limited.reply.text
        if first == second:
            return None
        pairs = zip(first, second, strict=False)
        shorter = min(len(first), len(second))
        return next((at for at, (one, other) in enumerate(pairs) if one != other), shorter)


def make(turn: Turn, experts: Experts) -> Cut:
    """Ask what `turn` asked both ways, always with the likeliest token, so that nothing differs but
    the experts."""
    sampling = replace(turn.sampling, temperature=0.0)
    calm = replace(turn, sampling=sampling)
    return Cut(experts, asking.again(calm, Experts()), asking.again(calm, experts))
