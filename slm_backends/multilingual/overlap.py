"""How much of a reference a reply repeats: chrF and chrF++, as sacrebleu counts them.

chrF (Popović 2015, aclanthology.org/W15-3049) is the F2 score of n-grams of 1 to 6 characters;
chrF++ (Popović 2017, aclanthology.org/W17-4770) takes n-grams of 1 and 2 words in as well. Both are
0 to 100. A score over many replies adds up their counts, as sacrebleu's corpus score does; it is no
mean of their scores. Words are what stands between spaces: where a language has none, chrF++ counts
whole sentences as words, and chrF is the one to read.

Knows a reply and its reference. Knows no question and no deployment.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from sacrebleu.metrics.chrf import CHRF

from slm_backends.multilingual.noise import Numbers

CHARACTERS = CHRF.CHAR_ORDER
WORDS = 2
_BETA = CHRF.BETA
_METRIC = CHRF(word_order=WORDS)

#: For each order the n-grams of the reply, those of the reference, and those that both have.
Counts = tuple[int, ...]


@lru_cache(maxsize=8192)
def counts(reply: str, reference: str) -> Counts:
    """Three numbers for each of 6 orders of characters and then 2 of words."""
    # The counts are sacrebleu's own, and its public functions do not give them away. Without them
    # it would count each text anew for chrF, chrF++, and every comparison.
    found = _METRIC._extract_corpus_statistics([reply], [[reference]])[0]
    return tuple(int(number) for number in found)


def chrf(reply: str, reference: str) -> float:
    """Of one reply, 0 to 100."""
    return float(corpus_chrf(_one(reply, reference))[0])


def chrf_plus(reply: str, reference: str) -> float:
    """chrF++ of one reply, 0 to 100."""
    return float(corpus_chrf_plus(_one(reply, reference))[0])


def corpus_chrf(samples: Numbers) -> Numbers:
    """chrF over replies together: of (samples, replies, counts) one a sample."""
    return _score(samples[..., : 3 * CHARACTERS])


def corpus_chrf_plus(samples: Numbers) -> Numbers:
    """chrF++ over replies together: of (samples, replies, counts) one a sample."""
    return _score(samples)


def signature(*, words: bool = False) -> str:
    """What sacrebleu calls the way in which this is counted, for a report: chrF, or chrF++."""
    metric = CHRF(word_order=WORDS if words else 0)
    metric.corpus_score(["a"], [["a"]])  # it has no signature before it has counted something
    return f"chrF{_BETA}{'+' * metric.word_order}|{metric.get_signature().format()}"


def _one(reply: str, reference: str) -> Numbers:
    return np.array([[counts(reply, reference)]], dtype=np.float64)


def _score(samples: Numbers) -> Numbers:
    """F of the mean precision and the mean recall over the orders that both texts have."""
    total = samples.sum(axis=1).reshape(len(samples), -1, 3)
    replied, wanted, both = total[..., 0], total[..., 1], total[..., 2]
    counted = (replied > 0) & (wanted > 0)
    orders = np.maximum(counted.sum(axis=1), 1)
    precision = np.where(counted, both / np.maximum(replied, 1), 0).sum(axis=1) / orders
    recall = np.where(counted, both / np.maximum(wanted, 1), 0).sum(axis=1) / orders
    below = _BETA**2 * precision + recall
    found: Numbers = 100 * (1 + _BETA**2) * precision * recall / np.where(below > 0, below, 1)
    return found
