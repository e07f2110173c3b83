"""Two random teachers merged on a few sentences by the package's own stages, for the tests of the later ones."""

import dataclasses
import functools
from pathlib import Path
from typing import Any

from conftest import TEXTS

from mergedistill_jax.configs.encoder import EncoderConfig
from mergedistill_jax.configs.masking import MaskingConfig
from mergedistill_jax.configs.optimizer import AdamWConfig
from mergedistill_jax.configs.predict import PredictConfig
from mergedistill_jax.configs.schedules import LearningRate
from mergedistill_jax.configs.splits import Split
from mergedistill_jax.configs.train import TrainConfig
from mergedistill_jax.configs.vocab import UnionConfig, VocabConfig
from mergedistill_jax.predict import predict
from mergedistill_jax.vocab import vocab
from tasks.corpora import add_files
from tasks.distillation import add_students_mixture

MAX_LENGTH, K = 32, 4
MODEL = functools.partial(
    EncoderConfig, num_layers=1, hidden_size=16, num_heads=2, intermediate_size=32, initializer_range=0.1
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Merge:
    """Folders by language, and the union vocabulary.

    Attributes:
        records, heldout: the teachers' top 4, under masks of two seeds.
        masked: gold labels alone.
    """

    teachers: dict[str, str]
    records: dict[str, str]
    heldout: dict[str, str]
    masked: dict[str, str]
    vocabulary: str


@functools.cache
def make_merge(root: Path) -> Merge:
    """Records of the teachers in root/LANGUAGE, and their union; made once per session."""
    teachers = {language: str(root / language) for language in TEXTS}
    folders: dict[str, dict[str, str]] = {"records": {}, "heldout": {}, "masked": {}}
    for language in TEXTS:
        corpus = add_corpus(root, language)
        for kind, by_language in folders.items():
            by_language[language] = str(root / "merge" / kind / language)
            source = {"tokenizer": teachers[language]} if kind == "masked" else {"teacher": teachers[language]}
            predict(
                PredictConfig(
                    output=by_language[language],
                    corpus=corpus,
                    split="all",
                    language=language,
                    k=K,
                    max_length=MAX_LENGTH,
                    draws=2 if kind == "heldout" else 6,
                    masking=MaskingConfig(seed=int(kind == "heldout")),
                    documents_per_shard=2,
                    batch_size=8,
                    **source,
                )
            )
    vocabulary = str(root / "merge" / "vocabulary")
    vocab(VocabConfig(output=vocabulary, method=UnionConfig(teachers=teachers)))
    return Merge(teachers=teachers, vocabulary=vocabulary, **folders)


def add_corpus(root: Path, language: str) -> str:
    """Registers the texts of a language as a task over a file of plain text."""
    path = root / "merge" / f"{language}.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n\n".join(TEXTS[language]) + "\n")
    return add_files(f"small_{language}", [str(path)], "plain", {"all": Split()})


def train_config(merge: Merge, output: Path | str, **changes: Any) -> TrainConfig:
    """Forty steps of a student over both languages; a row of the log and a checkpoint every tenth."""
    fields: dict[str, Any] = {
        "output": str(output),
        "mixture": add_students_mixture(list(merge.records.values()), merge.vocabulary, name="small_records"),
        "heldout": add_students_mixture(list(merge.heldout.values()), merge.vocabulary, name="small_heldout"),
        "model": MODEL,
        "optimizer": AdamWConfig(learning_rate=LearningRate(peak=3e-2, warmup_steps=2)),
        "steps": 40,
        "batch_size": 8,
        "log_every": 10,
        "save_every": 10,
        "evaluate_every": 20,
    }
    return TrainConfig(**{**fields, **changes})
