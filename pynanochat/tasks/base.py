"""What a task is: conversations to train on, questions to ask, and how an answer is judged.

    task = open_task("GSM8K", "test", TaskData("../data"))
    conversation = task[17]                          {"messages": [..., reference answer], ...}
    task.grade(conversation, "so it is 18.\\n#### 18")  True

A task's kind says how it is asked. "choice": the question carries `letters`, and the model's logits of those letters
after the prompt are compared. "generate": the model answers, with its tools, and `grade` judges the text. "chat": there
is nothing to judge, it is only trained on.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

KINDS = ("choice", "generate", "chat")


@dataclass(frozen=True)
class TaskData:
    """Where tasks find their rows."""

    data: str = "toyworld"
    """As --data: toyworld, hub, hub:NAME or a folder (with tasks/, core/ and sft/ in it)."""
    seed: int = 0
    """Of generated tasks, and of every shuffle."""
    world: Any = None
    """The ToyWorld, where data is toyworld."""
    identity: str = ""
    """A JSONL file of identity conversations, or a text file with a name and a paragraph to make them of; empty for the
    default ones."""
    cache_dir: str = ""
    """Where the Hub's files are kept; empty for data/hub.py's own place."""

    @property
    def folder(self) -> Path | None:
        """The data folder, or None for the toy world and the Hub."""
        return (
            None if self.data == "toyworld" or self.data == "hub" or self.data.startswith("hub:") else Path(self.data)
        )


class Task:
    """A sequence of conversations. A subclass sets `name`, `kind` and `baseline`, and defines len and [index]."""

    name = ""
    """As the report names it: "GSM8K"."""
    kind = "chat"
    baseline = 0.0
    """The accuracy of guessing."""
    max_tokens = 512
    """Of a generated answer."""
    runs_code = False
    """Grading runs a program that the model wrote."""

    def __len__(self) -> int:
        raise NotImplementedError

    def __getitem__(self, index: int) -> dict:
        """Conversation `index`: {"messages": [...]} whose last message is the assistant's reference answer. A choice
        has "letters" too, the list of letters to compare, or "choices", whole answers whose probabilities are; its
        last message is the right one."""
        raise NotImplementedError

    def grade(self, conversation: dict, answer: str) -> bool:
        """Whether `answer` is right: the text that the model said, without tool calls and their outputs."""
        raise NotImplementedError(f"{self.name} is a {self.kind} task: there is nothing to grade")

    def reward(self, conversation: dict, answer: str) -> float:
        """What reinforcement learning pays for `answer`."""
        return float(self.grade(conversation, answer))
