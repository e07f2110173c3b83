"""Progress of predictions on standard error: tokens, how fast, and how much longer.

How many tokens a text makes is known only when it is cut, but its bytes are known before. So what is left is told by
bytes; within a shard, by its tokens so far and the tokens per byte of what is finished or of a sample.
"""

import sys
import time

from mergedistill_jax.training.progress import clock_time


class TokenProgress:
    """Prints `predict 889,400 tokens, 3,120 tokens/s, 41% of the text, 6:12 left` every few seconds."""

    def __init__(self, label: str, total_bytes: int, *, every_s: float = 10.0) -> None:
        """Takes the bytes of all text that is to be predicted; the clock starts with the first shard."""
        self._label, self._total_bytes, self._every_s = label, total_bytes, every_s
        self._tokens = self._tokens_before = self._bytes_before = self._shard_bytes = 0
        self._tokens_per_byte = 0.0
        self._began = self._printed = 0.0

    def begin_shard(self, text_bytes: int, estimated_tokens: float) -> None:
        """Starts a shard of so much text.

        Args:
            text_bytes: of its documents.
            estimated_tokens: that it may make; used where no shard is finished that would tell.
        """
        if not self._began:
            self._began = self._printed = time.monotonic()
        self._shard_bytes = text_bytes
        if not self._bytes_before:
            self._tokens_per_byte = estimated_tokens / max(text_bytes, 1)

    def add(self, tokens: int) -> None:
        """Adds tokens of the shard; prints a line where it is time."""
        self._tokens += tokens
        now = time.monotonic()
        if now - self._printed >= self._every_s:
            self._printed = now
            self._print(now)

    def end_shard(self) -> None:
        """Ends the shard that was begun."""
        self._bytes_before += self._shard_bytes
        self._shard_bytes, self._tokens_before = 0, self._tokens
        self._tokens_per_byte = self._tokens / max(self._bytes_before, 1)

    def close(self) -> None:
        """Prints the last line, with the time taken, if there was a shard."""
        if self._began:
            seconds = max(time.monotonic() - self._began, 1e-9)
            self._tell(seconds, f"took {clock_time(seconds)}")

    def _print(self, now: float) -> None:
        seconds = max(now - self._began, 1e-9)
        in_shard = (self._tokens - self._tokens_before) / max(self._tokens_per_byte, 1e-9)
        share = (self._bytes_before + min(in_shard, self._shard_bytes)) / max(self._total_bytes, 1)
        left = clock_time(seconds * (1 - share) / share) if share else "unknown time"
        self._tell(seconds, f"{share:.0%} of the text, {left} left")

    def _tell(self, seconds: float, told: str) -> None:
        rate = f"{self._tokens / seconds:,.0f} tokens/s"
        print(f"{self._label} {self._tokens:,} tokens, {rate}, {told}", file=sys.stderr, flush=True)
