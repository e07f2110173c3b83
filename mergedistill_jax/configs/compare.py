"""Settings of `compare`."""

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence

from mergedistill_jax.configs.masking import MaskingConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class CompareConfig:
    """What to compare, and on what.

    Attributes:
        candidates: {language: teachers}; or teachers, for every one of `languages`. A teacher is a Hugging Face folder
            or a name on the hub (see teachers/hub.py).
        corpus: called with `language`, registers that language's SeqIO task of documents and returns its name:
            `@corpora.add_wikiextractor` in gin.
        languages: needed where `candidates` does not tell them; else all of them by default.
        split: of that task; text that no candidate was trained on.
        documents: read of each language, from the beginning.
        words_per_document: of which as many words are taken, from its beginning: many documents tell more than long
            ones.
        max_length: tokens of a sequence, as `predict` will have them.
        masking: rate and seed; every hidden word is a [MASK].
        k: candidates that `predict` would store.
        output: folder for report.json and report.txt; None: nothing is written.
    """

    candidates: Mapping[str, Sequence[str]] | Sequence[str]
    corpus: Callable[..., str]
    languages: Sequence[str] = ()
    split: str = "heldout"
    documents: int = 100
    words_per_document: int = 400
    max_length: int = 128
    masking: MaskingConfig = dataclasses.field(default_factory=MaskingConfig)
    k: int = 8
    batch_size: int = 32
    output: str | None = None

    def __post_init__(self) -> None:
        for field in ("documents", "words_per_document", "k", "batch_size"):
            if getattr(self, field) < 1:
                raise ValueError(f"CompareConfig.{field}: found {getattr(self, field)}, expected at least 1")
        if self.max_length < 3:
            raise ValueError(f"CompareConfig.max_length: found {self.max_length}, expected at least 3")
        if isinstance(self.candidates, str):
            raise ValueError(f"CompareConfig.candidates: found one string {self.candidates!r}, expected several")  # noqa: TRY004
        if not isinstance(self.candidates, Mapping) and not self.languages:
            raise ValueError("CompareConfig.languages: found none, expected those that the candidates are compared on")
        for language in self.languages:
            if isinstance(self.candidates, Mapping) and language not in self.candidates:
                found = sorted(self.candidates)
                raise ValueError(f"CompareConfig.candidates: found {found}, expected also {language!r}")
        self._require_candidates()

    def _require_candidates(self) -> None:
        for language, teachers in self.by_language.items():
            if isinstance(teachers, str) or not teachers:
                raise ValueError(
                    f"CompareConfig.candidates: {language}: found {teachers!r}, expected teachers in brackets"
                )
            if len(set(teachers)) < len(teachers):
                raise ValueError(f"CompareConfig.candidates: {language}: found one twice, expected each once")

    @property
    def by_language(self) -> dict[str, Sequence[str]]:
        """The candidates of every language."""
        if isinstance(self.candidates, Mapping):
            return {language: self.candidates[language] for language in self.languages or self.candidates}
        return dict.fromkeys(self.languages, self.candidates)

    @property
    def teachers(self) -> list[str]:
        """Every candidate once."""
        return list(dict.fromkeys(itertools.chain.from_iterable(self.by_language.values())))
