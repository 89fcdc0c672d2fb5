"""Multiple choice as a conversation: each option stands on a line of its own as `- text=LETTER`.

The letter follows the equals sign without a space, so that it is the same single token as in the answer.
"""

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
INSTRUCTION = "Answer with the letter of the right option and with nothing else."


def choice(question: str, options: list[str], right: int) -> dict:
    """The conversation of a question whose option number `right` is true; "question" and "options" are kept in it."""
    if not 0 <= right < len(options) <= len(LETTERS):
        raise ValueError(f"option {right} of {len(options)}: at most {len(LETTERS)} options, and the right one of them")
    lines = [f"- {option}={letter}" for option, letter in zip(options, LETTERS, strict=False)]
    return {
        "messages": [
            {"role": "user", "content": "\n".join([question, *lines, "", INSTRUCTION])},
            {"role": "assistant", "content": LETTERS[right]},
        ],
        "letters": list(LETTERS[: len(options)]),
        "question": question,
        "options": [str(option) for option in options],
    }


def chosen(conversation: dict, answer: str) -> bool:
    """Whether `answer` is the right letter (in any case, spaces and a final stop aside)."""
    return answer.strip().rstrip(".").upper() == conversation["messages"][-1]["content"]
