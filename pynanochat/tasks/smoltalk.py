"""SmolTalk: general conversations (460 K to train on, 24 K to validate), from the Hub: HuggingFaceTB/smol-smoltalk."""

from pynanochat.errors import DataError
from pynanochat.tasks.base import TaskData
from pynanochat.tasks.rows import RowsTask, field, find_rows

REPOSITORY = "HuggingFaceTB/smol-smoltalk"


class SmolTalk(RowsTask):
    """Rows {"messages": [{"role", "content"}, ...]}."""

    name = "SmolTalk"
    kind = "chat"

    def conversation(self, row: dict) -> dict:
        messages = field(row, "messages", list, "SmolTalk")
        return {"messages": [{"role": message["role"], "content": message["content"]} for message in messages]}


def open_smoltalk(split: str, where: TaskData) -> SmolTalk:
    if where.folder:
        raise DataError("SmolTalk is on the Hub only; use Conversations for the files of sft/, or --data hub")
    return SmolTalk(find_rows(where, "SmolTalk", ["smoltalk"], REPOSITORY, [f"data/{part_of(split)}-"]))


def part_of(split: str) -> str:
    return "train" if split == "train" else "test"
