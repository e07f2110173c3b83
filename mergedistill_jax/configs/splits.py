"""Which documents of a corpus belong to a split."""

import dataclasses
import hashlib


@dataclasses.dataclass(frozen=True, kw_only=True)
class Split:
    """A share of the documents: those whose content hash, in [0, 1), falls into [start, stop)."""

    start: float = 0.0
    stop: float = 1.0

    def holds(self, document: str) -> bool:
        """Whether the document belongs to this split."""
        digest = hashlib.blake2b(document.encode(), digest_size=8).digest()
        return self.start <= int.from_bytes(digest, "little") / 2.0**64 < self.stop
