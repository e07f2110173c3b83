"""Stage 2: corpus text and one teacher to TFRecord shards of masked text and the teacher's top-k log-probabilities.

Without a teacher the shards hold masked text and gold labels alone: what a teacher is trained on from scratch.
"""

import dataclasses
import functools
from collections.abc import Iterable, Sequence

from mergedistill_jax import schema
from mergedistill_jax.corpus.masking import MaskingConfig
from mergedistill_jax.corpus.packing import masked_records
from mergedistill_jax.schema import Identity, Manifest, Record, ShardEntry
from mergedistill_jax.teachers.hub import Source, find_teacher
from mergedistill_jax.teachers.inference import Teacher, predict_records
from mergedistill_jax.teachers.loading import load_teacher, model_hash
from mergedistill_jax.teachers.writer import corpus_documents, summarise, write_missing_shards
from mergedistill_jax.training.progress import Progress
from mergedistill_jax.vocabulary.tokenizer import TeacherTokenizer, load_tokenizer


@dataclasses.dataclass(frozen=True, kw_only=True)
class PredictConfig:
    """What to predict, and where to.

    Attributes:
        output: folder for the shards and the manifest.
        corpus: name of a registered SeqIO task that yields documents (see tasks/corpora.py).
        split: its split.
        language: language code, recorded in the manifest.
        teacher: Hugging Face folder of the teacher or its name on the hub (see teachers/hub.py), or None to write gold
            labels alone.
        tokenizer: folder with the tokenizer, where there is no teacher; with one, its own tokenizer is used.
        name: the teacher's name in manifests and reports; its folder's or repository's name by default.
        k: predictions kept per masked position; forced to 0 without a teacher.
        max_length: tokens of a sequence, [CLS] and [SEP] included.
        draws: how many different masks of every sequence.
        documents_per_shard: what is computed, and lost by a crash, at a time.
    """

    output: str
    corpus: str
    split: str
    language: str
    teacher: str | None = None
    tokenizer: str | None = None
    name: str | None = None
    k: int = 8
    max_length: int = 512
    draws: int = 1
    masking: MaskingConfig = dataclasses.field(default_factory=MaskingConfig)
    documents_per_shard: int = 1000
    batch_size: int = 32

    def __post_init__(self) -> None:
        if self.teacher is None and self.tokenizer is None:
            raise ValueError("PredictConfig.teacher: found None, expected a teacher's folder or a tokenizer's")
        if self.teacher is not None and self.tokenizer is not None:
            raise ValueError(
                f"PredictConfig.tokenizer: found {self.tokenizer!r} beside a teacher, expected None: its own is used"
            )
        if self.teacher is not None and self.k < 1:
            raise ValueError(f"PredictConfig.k: found {self.k}, expected at least 1")
        for field in ("draws", "documents_per_shard", "batch_size"):
            if getattr(self, field) < 1:
                raise ValueError(f"PredictConfig.{field}: found {getattr(self, field)}, expected at least 1")


def predict(config: PredictConfig) -> Manifest:
    """Writes what is missing of the folder and returns its manifest."""
    source = find_teacher(config.teacher) if config.teacher else None
    tokenizer = load_tokenizer(source.folder if source else find_teacher(config.tokenizer or "", weights=False).folder)
    teacher = load_teacher(source.folder, max_length=config.max_length, k=config.k) if source else None
    identity = _identity(config, source, tokenizer)
    print(
        f"predict: {source or 'no teacher, gold labels alone'} on {identity.corpus}"
        f" ({identity.documents:,} documents) -> {config.output}"
    )
    manifest = schema.open_for_writing(config.output, identity)
    _write(config, manifest, tokenizer, teacher)
    manifest = schema.read_manifest(config.output).require_complete()
    print(_summary(manifest))
    return manifest


def _identity(config: PredictConfig, source: Source | None, tokenizer: TeacherTokenizer) -> Identity:
    corpus = summarise(corpus_documents(config.corpus, config.split))
    if not corpus.documents:
        raise ValueError(f"corpus {config.corpus}: split {config.split}: found 0 documents, expected at least one")
    return Identity(
        teacher=(config.name or source.name) if source else "",
        revision=source.revision if source else "",
        weights_hash=model_hash(source.folder) if source else "",
        vocabulary_hash=tokenizer.vocabulary_hash,
        tokenizer_hash=tokenizer.tokenizer_hash,
        vocabulary_size=len(tokenizer.tokens),
        corpus=f"{config.corpus}:{config.split}",
        language=config.language,
        corpus_hash=corpus.hash,
        documents=corpus.documents,
        documents_per_shard=config.documents_per_shard,
        rate=config.masking.rate,
        max_share=config.masking.bound,
        draws=config.draws,
        seed=config.masking.seed,
        max_length=config.max_length,
        k=config.k if source else 0,
    )


def _write(config: PredictConfig, manifest: Manifest, tokenizer: TeacherTokenizer, teacher: Teacher | None) -> None:
    identity = manifest.identity
    progress = Progress(identity.num_shards, "shard", "predict", start=len(manifest.shards))
    written = 0

    def report(entry: ShardEntry) -> None:
        nonlocal written
        written += entry.tokens
        progress.update(1, tokens=written)

    documents = corpus_documents(config.corpus, config.split)
    records_of = functools.partial(_records_of, config, tokenizer, teacher)
    write_missing_shards(manifest, documents, records_of, report)
    progress.close(tokens=written)


def _records_of(
    config: PredictConfig, tokenizer: TeacherTokenizer, teacher: Teacher | None, documents: Sequence[str]
) -> Iterable[Record]:
    """The records of one shard's documents."""
    records = list(
        masked_records(documents, tokenizer, config.masking, max_length=config.max_length, draws=config.draws)
    )
    if teacher is None:
        return records
    return predict_records(
        teacher,
        records,
        k=config.k,
        batch_size=config.batch_size,
        length=config.max_length,
        max_predictions=config.masking.max_predictions(config.max_length),
    )


def _summary(manifest: Manifest) -> str:
    tokens = sum(entry.tokens for entry in manifest.shards)
    size = sum(entry.bytes for entry in manifest.shards)
    return (
        f"predict: wrote {manifest.records:,} records, {tokens:,} tokens, {size / 1e6:,.1f} MB"
        f" ({size / max(tokens, 1):.2f} bytes a token) to {manifest.folder}\n"
        f"next: mergedistill verify, then mergedistill train"
    )
