"""What an evaluation found: `Score` for a task, and the means over tasks (CORE, ChatCORE) with their intervals."""

import dataclasses
import math
from collections.abc import Iterable
from dataclasses import dataclass, field

from pynanochat.evals.interval import Z, wilson

EXAMPLES = 10
CHAT_CORE = ("ARC-Easy", "ARC-Challenge", "MMLU", "GSM8K", "HumanEval", "SpellingBee")
BINS = 10


@dataclass
class Score:
    """The result of one task. Fractions are of 1."""

    task: str
    correct: int
    """Items answered right; of several samples, those with at least one right."""
    total: int
    score: float
    low: float
    """The 95 % interval of the score."""
    high: float
    baseline: float
    """The score of guessing."""
    centred: float
    """0 for guessing, 1 for everything right."""
    seconds: float = 0.0
    cut: int = 0
    """Items whose prompt was too long for the context and lost its beginning."""
    examples: list[dict] = field(default_factory=list)
    """Items drawn at random: {"prompt", "answer", "reference", "correct", ...}."""
    reliability: list[dict] = field(default_factory=list)
    """Of choices, by the model's probability for its answer: {"low", "high", "count", "confidence", "accuracy"}."""
    pass_at: dict[str, float] = field(default_factory=dict)
    """Of several samples, for each k the chance that one of k is right."""

    def to_dict(self) -> dict:
        """As JSON, without what is empty."""
        return {k: v for k, v in dataclasses.asdict(self).items() if v not in ([], {})}

    @classmethod
    def from_dict(cls, values: dict) -> "Score":
        known = {f.name for f in dataclasses.fields(cls)}
        return cls(**{k: v for k, v in values.items() if k in known})


def make_score(task: str, correct: int, total: int, baseline: float, **more) -> Score:
    """A Score from counts."""
    score = correct / total if total else 0.0
    return Score(task, correct, total, score, *wilson(correct, total), baseline, centred(score, baseline), **more)


def centred(score: float, baseline: float) -> float:
    """(score - baseline) / (1 - baseline)."""
    return (score - baseline) / (1 - baseline)


def mean_of(name: str, scores: Iterable[Score]) -> Score:
    """The mean of centred scores, as CORE and ChatCORE are; its interval from the tasks' own, taken as independent."""
    scores = list(scores)
    count = len(scores)
    mean = math.fsum(s.centred for s in scores) / count
    spread = math.sqrt(math.fsum((_deviation(s) / (1 - s.baseline)) ** 2 for s in scores)) / count
    return Score(
        name,
        sum(s.correct for s in scores),
        sum(s.total for s in scores),
        mean,
        mean - Z * spread,
        mean + Z * spread,
        0.0,
        mean,
        math.fsum(s.seconds for s in scores),
        sum(s.cut for s in scores),
    )


def chat_core(scores: dict[str, Score]) -> Score | None:
    """ChatCORE, the mean over its six tasks; of fewer, a mean whose name says so; None where none of them ran."""
    ran = [scores[name] for name in CHAT_CORE if name in scores]
    if not ran:
        return None
    return mean_of("ChatCORE" if len(ran) == len(CHAT_CORE) else partial("ChatCORE", len(ran), len(CHAT_CORE)), ran)


def partial(name: str, ran: int, all_of_them: int) -> str:
    """The name of a mean over some of its tasks."""
    return f"{name} ({ran} of {all_of_them} tasks)"


def reliability(answers: Iterable[tuple[float, bool]]) -> list[dict]:
    """Bins of (probability of the answer, whether it was right), those without answers left out."""
    bins: list[list[tuple[float, bool]]] = [[] for _ in range(BINS)]
    for probability, right in answers:
        bins[min(BINS - 1, int(probability * BINS))].append((probability, right))
    return [
        {
            "low": i / BINS,
            "high": (i + 1) / BINS,
            "count": len(found),
            "confidence": sum(p for p, _ in found) / len(found),
            "accuracy": sum(right for _, right in found) / len(found),
        }
        for i, found in enumerate(bins)
        if found
    ]


def pass_at(k: int, samples: int, right: int) -> float:
    """The chance that one of k samples is right, without bias, from `right` right ones of `samples`."""
    return 1.0 - math.comb(samples - right, k) / math.comb(samples, k)


def _deviation(score: Score) -> float:
    """The standard deviation of an accuracy that its interval stands for."""
    return (score.high - score.low) / (2 * Z)
