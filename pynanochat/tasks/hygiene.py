"""Keeps test questions out of training: what a question is beyond its spelling, and whether it occurs in a mixture.

    leaks(mixture, [mmlu_test, gsm8k_test])           [("MMLU", "the question as trained on"), ...]: want none
    without(mmlu_aux, Questions([mmlu_test]))         the same sequence less what a test asks

Two questions are the same when their words are (letter case, punctuation and spaces aside). A multiple-choice question
is its words together with its options in any order, and, if it is long enough to say what it is about, its words alone.
An item may name what it is with a "key" of its own, as a letter to count in a word is the same in any phrasing.
"""

import re
from collections.abc import Iterable, Sequence

from pynanochat.data.mixture import Part

LONG = 8  # words: shorter questions ("Which of these is true?") are told apart by their options
_WORDS = re.compile(r"[^\W_]+|[+*/=<>^%]|-(?=\s*\d)")  # 3 + 4 is another question than 3 - 4


def normalised(text: str) -> str:
    """The words, numbers and signs of arithmetic of a text, in lower case; the text itself where it has none."""
    text = text.casefold()
    return " ".join(_WORDS.findall(text)) or text.strip()


def asked(conversation: dict) -> list[str]:
    """What the user says, message by message; nothing in a document."""
    return [message["content"] for message in conversation.get("messages", ()) if message["role"] == "user"]


def names_of(conversation: dict) -> set[str]:
    """Everything by which a test item is known."""
    if "key" in conversation:
        return {conversation["key"]}
    if "options" not in conversation:
        return {normalised(asked(conversation)[0])}
    question = normalised(conversation["question"])
    names = {"\n".join([question, *sorted(normalised(option) for option in conversation["options"])])}
    return names | {question} if question.count(" ") + 1 >= LONG else names


class Questions:
    """The questions of test tasks. Of a chat task only what opens a conversation counts: "thank you" is no question."""

    def __init__(self, tasks: Iterable):
        self._owner: dict[str, str] = {}  # a name of an item: the task that asks it
        self._openings: dict[str, str] = {}
        for task in tasks:
            owner = self._openings if task.kind == "chat" else self._owner
            for index in range(len(task)):
                owner |= dict.fromkeys(names_of(task[index]), task.name)

    def __len__(self) -> int:
        return len(self._owner) + len(self._openings)

    def asks(self, conversation: dict) -> str | None:
        """The name of a task that asks what this conversation asks, or None."""
        said = [normalised(text) for text in asked(conversation)]
        if not said:
            return None
        for name in (*names_of(conversation), *said):
            if name in self._owner:
                return self._owner[name]
        return self._openings.get(said[0])


def leaks(mixture: Iterable[dict], tasks: Iterable) -> list[tuple[str, str]]:
    """(task, question) of every conversation of `mixture` that asks what one of the test tasks asks."""
    questions = Questions(tasks)
    found = ((questions.asks(conversation), conversation) for conversation in mixture)
    return [(task, asked(conversation)[0]) for task, conversation in found if task]


def without(sequence: Sequence[dict], questions: Questions) -> Sequence[dict]:
    """The conversations of a sequence that ask nothing that `questions` ask."""
    kept = [index for index in range(len(sequence)) if questions.asks(sequence[index]) is None]
    return sequence if len(kept) == len(sequence) else Part(sequence, kept)
