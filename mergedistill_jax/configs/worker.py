"""One of several processes that share a folder of records; see teachers/sharing.py."""

import dataclasses
import re


@dataclasses.dataclass(frozen=True, kw_only=True)
class Worker:
    """One of several processes that write a folder.

    Attributes:
        index, count: which one of how many.
    """

    index: int = 0
    count: int = 1

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    def owns(self, shard: int) -> bool:
        """Whether the shard is this process's to write."""
        return shard % self.count == self.index


def parse_worker(text: str) -> Worker:
    """The worker of `index/count`, as in "0/3".

    Raises:
        ValueError: something else, or an index that is not below the count.
    """
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if match is None or int(match[1]) >= int(match[2]):
        raise ValueError(f"worker: found {text!r}, expected INDEX/COUNT with an index from 0 and below the count")
    return Worker(index=int(match[1]), count=int(match[2]))
