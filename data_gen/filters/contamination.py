"""Benchmark questions in prompts and traces, found by shared word n-grams, with the evidence."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from pydantic import Field

from data_gen.filters.base import KEPT, Finding, rejected
from distill.base.config import Config
from distill.base.records import Prompt, Trace, normalise


class ContaminationConfig(Config):
    """When a text counts as a benchmark question.

    `ngram`: words in a row; 8 is what open-r1 uses. A question with fewer words must stand there whole.
    `min_share`: how much of the question's own n-grams must be there. n-grams that stand in over 1% of the
    questions are the benchmark's boilerplate and say nothing: procedural questions share most of their words.
    """

    enabled: bool = True
    ngram: int = Field(8, ge=2)
    min_share: float = Field(0.5, gt=0, le=1)


BOILERPLATE_SHARE = 0.01


class Contamination:
    """Rejects texts that hold a benchmark question."""

    name = "contamination"
    version = 1

    def __init__(self, config: ContaminationConfig, questions: Sequence[Prompt]) -> None:
        self.config = config
        texts = {question.id: question.question for question in questions}
        words = {key: _words(text) for key, text in texts.items()}
        grams = {key: _ngrams(found, config.ngram) for key, found in words.items() if len(found) >= config.ngram}
        spread = Counter(gram for own in grams.values() for gram in own)
        common = max(1, int(BOILERPLATE_SHARE * len(grams)))
        self._text = texts
        self._whole = {normalise(text): key for key, text in texts.items()}
        self._short = {tuple(found): key for key, found in words.items() if 0 < len(found) < config.ngram}
        self._lengths = sorted({len(found) for found in self._short})
        self._own = {key: {g for g in own if spread[g] <= common} for key, own in grams.items()}
        self._holders: dict[tuple[str, ...], list[str]] = {}
        for key, own in self._own.items():
            for gram in own:
                self._holders.setdefault(gram, []).append(key)

    def shared_with(self, text: str) -> str:
        """The text of the benchmark question that `text` holds, or "" if there is none."""
        exact = self._whole.get(normalise(text))
        if exact is not None:
            return self._text[exact]
        words = _words(text)
        for length in self._lengths:
            for gram in _ngrams(words, length):
                if gram in self._short:
                    return self._text[self._short[gram]]
        shared = Counter(key for gram in _ngrams(words, self.config.ngram) for key in self._holders.get(gram, ()))
        for key, count in shared.most_common():
            if count >= self.config.min_share * len(self._own[key]):
                return self._text[key]
        return ""

    def look(self, trace: Trace, prompt: Prompt) -> Finding:
        for text in (prompt.question, f"{trace.reasoning}\n{trace.answer}"):
            found = self.shared_with(text)
            if found:
                return rejected("holds a benchmark question", found[:200])
        return KEPT


def _words(text: str) -> list[str]:
    return [word for raw in normalise(text).split() if (word := raw.strip(".,;:!?\"'()"))]


def _ngrams(words: Sequence[str], n: int) -> set[tuple[str, ...]]:
    return {tuple(words[i : i + n]) for i in range(len(words) - n + 1)}
