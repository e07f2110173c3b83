"""Settings of `verify`."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence


@dataclasses.dataclass(frozen=True, kw_only=True)
class VerifyConfig:
    """What to verify.

    Attributes:
        folder: of records, or several.
        teacher: Hugging Face folder, or name on the hub, to replay: one for all folders, one for each, or by language.
            Without it the predictions are checked for structure alone.
        tokenizer: folder with a tokenizer, in the same three forms, where there is no teacher: for special tokens, and
            to mask the text again.
        corpus: called with `language`, registers the SeqIO task that the folder was made of and returns its name, as
            `@corpora.add_wikiextractor` in gin: its text is compared with the folder's, and masked again for some
            shards. None: the text is not looked at.
        sample: records replayed per shard.
        remasked_shards: shards whose text is masked again.
        seed: of the choice of both.
        tolerance: largest difference of a log-probability, in nats, beside what half precision loses; of sampled
            targets the largest share of a position's draws that may fall on other tokens. None: by the dtype in which
            the teacher was run, see evaluation/replay.py.
        report: folder for verify.json and verify.txt of all folders; None: each beside its records.
    """

    folder: str | Sequence[str]
    teacher: str | Sequence[str] | Mapping[str, str] | None = None
    tokenizer: str | Sequence[str] | Mapping[str, str] | None = None
    corpus: Callable[..., str] | None = None
    sample: int = 16
    remasked_shards: int = 4
    batch_size: int = 16
    seed: int = 0
    tolerance: float | None = None
    report: str | None = None

    def __post_init__(self) -> None:
        for field in ("sample", "remasked_shards", "batch_size"):
            if getattr(self, field) < 1:
                raise ValueError(f"VerifyConfig.{field}: found {getattr(self, field)}, expected at least 1")
        if not self.folders:
            raise ValueError("VerifyConfig.folder: found none, expected at least one")
        for field in ("teacher", "tokenizer"):
            given = getattr(self, field)
            if isinstance(given, Sequence) and not isinstance(given, str) and len(given) != len(self.folders):
                raise ValueError(
                    f"VerifyConfig.{field}: found {len(given)}, expected {len(self.folders)}, one a folder"
                )
        if self.teacher is not None and self.tokenizer is not None:
            raise ValueError("VerifyConfig.tokenizer: found one beside a teacher, expected None: the teacher's is used")
        if self.corpus is not None and self.teacher is None and self.tokenizer is None:
            raise ValueError("VerifyConfig.corpus: found one alone, expected a teacher or a tokenizer to cut its text")

    @property
    def folders(self) -> Sequence[str]:
        """All of them."""
        return [self.folder] if isinstance(self.folder, str) else self.folder
