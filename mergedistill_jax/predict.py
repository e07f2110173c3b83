"""Stage 2: corpus text and one teacher to TFRecord shards of masked text and the teacher's top-k log-probabilities.

Without a teacher the shards hold masked text and gold labels alone: what a teacher is trained on from scratch.
"""

import dataclasses
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence

from mergedistill_jax.configs.predict import PredictConfig
from mergedistill_jax.configs.worker import Worker, parse_worker
from mergedistill_jax.corpus.packing import masked_records
from mergedistill_jax.counting import counted, in_bytes
from mergedistill_jax.manifest import Identity, Manifest, ShardEntry, open_for_writing, read_manifest
from mergedistill_jax.schema import Record
from mergedistill_jax.teachers.buckets import expected_rows
from mergedistill_jax.teachers.corpus_hashes import (
    CorpusSummary,
    Division,
    division_of,
    known_summary,
    summarise,
    write_summary,
)
from mergedistill_jax.teachers.hub import Source, find_teacher
from mergedistill_jax.teachers.inference import Teacher, predict_records
from mergedistill_jax.teachers.loading import load_teacher, model_hash
from mergedistill_jax.teachers.sharing import tell_missing, wait_until_complete, worker_of_job
from mergedistill_jax.teachers.token_progress import TokenProgress
from mergedistill_jax.teachers.writer import corpus_documents, write_missing_shards
from mergedistill_jax.vocabulary.tokenizer import TeacherTokenizer, load_tokenizer


def predict(config: PredictConfig) -> Manifest:
    """Writes what is missing of the folder, or of this worker's shards, and returns its manifest.

    In a job of jax.distributed it returns when the folder is complete, so that the job can go on with it. A process
    that was told its place (`worker`) returns when its own shards are listed, whatever the others do.
    """
    source = find_teacher(config.teacher) if config.teacher else None
    tokenizer = load_tokenizer(source.folder if source else find_teacher(config.tokenizer or "", weights=False).folder)
    teacher = load_teacher(source.folder, max_length=config.max_length, k=config.k) if source else None
    worker = parse_worker(config.worker) if config.worker else worker_of_job()
    corpus = _summary_of_corpus(config)
    identity = _identity(config, source, tokenizer, corpus)
    print(
        f"predict: {source or 'no teacher, gold labels alone'} on {identity.corpus}"
        f" ({counted(identity.documents, 'document')}) -> {config.output}"
        + (f" (worker {worker})" if worker.count > 1 else "")
    )
    manifest = open_for_writing(config.output, identity)
    write_summary(config.output, corpus)
    _write(config, manifest, corpus, tokenizer, teacher, worker)
    in_job = config.worker is None and worker.count > 1
    manifest = wait_until_complete(config.output) if in_job else read_manifest(config.output)
    if manifest.complete and not manifest.records:
        raise ValueError(
            f"{manifest.folder}: found 0 records of {identity.documents:,} documents, expected at least one: nothing"
            " was masked; give more text, more draws or a higher MaskingConfig.rate"
        )
    print(_summary(manifest))
    if not manifest.complete:
        if worker.count == 1:
            manifest.require_complete()
        print(f"predict: worker {worker} is done; {tell_missing(manifest, worker.count)}")
    return manifest


def _division(config: PredictConfig) -> Division:
    return division_of(
        documents_per_shard=config.documents_per_shard, bytes_per_shard=config.bytes_per_shard, draws=config.draws
    )


def _summary_of_corpus(config: PredictConfig) -> CorpusSummary:
    """Of the text that the folder was begun on, which writing will compare with; or else of the text as it is now."""
    known = known_summary(config.output, _corpus_name(config), _division(config))
    if known is not None:
        return known
    documents = _counted(corpus_documents(config.corpus, config.split))
    summary = summarise(documents, _division(config))
    if not summary.documents:
        raise ValueError(f"corpus {config.corpus}: split {config.split}: found 0 documents, expected at least one")
    return summary


def _counted(documents: Iterable[str], every_s: float = 10.0) -> Iterator[str]:
    """The documents, and how fast they come on standard error; how many there will be is not known yet."""
    began = printed = time.monotonic()
    for count, document in enumerate(documents, start=1):
        now = time.monotonic()
        if now - printed >= every_s:
            printed = now
            print(f"predict: hashed {count:,} documents, {count / (now - began):,.0f} a second", file=sys.stderr)
        yield document


def _corpus_name(config: PredictConfig) -> str:
    return f"{config.corpus}:{config.split}"


def _identity(
    config: PredictConfig, source: Source | None, tokenizer: TeacherTokenizer, corpus: CorpusSummary
) -> Identity:
    # Their ends, not their number: two divisions into as many shards are two.
    by_documents = [*range(config.documents_per_shard, corpus.documents, config.documents_per_shard), corpus.documents]
    return Identity(
        teacher=(config.name or source.name) if source else "",
        revision=source.revision if source else "",
        weights_hash=model_hash(source.folder) if source else "",
        vocabulary_hash=tokenizer.vocabulary_hash,
        tokenizer_hash=tokenizer.tokenizer_hash,
        vocabulary_size=len(tokenizer.tokens),
        corpus=_corpus_name(config),
        language=config.language,
        corpus_hash=corpus.hash,
        documents=corpus.documents,
        documents_per_shard=config.documents_per_shard,
        bytes_per_shard=config.bytes_per_shard,
        shards=0 if corpus.ends == by_documents else corpus.shards,
        rate=config.masking.rate,
        max_share=config.masking.bound,
        draws=config.draws,
        seed=config.masking.seed,
        max_length=config.max_length,
        k=config.k if source else 0,
        replacement=config.masking.replacement,
        cover=config.masking.cover,
        max_count=config.masking.max_count or 0,
        packing=config.packing,
        targets=config.targets if source else "top",
        samples=config.sampling.samples if source and config.sampling else 0,
        dtype=config.dtype if source else "float32",
    )


def _write(
    config: PredictConfig,
    manifest: Manifest,
    corpus: CorpusSummary,
    tokenizer: TeacherTokenizer,
    teacher: Teacher | None,
    worker: Worker,
) -> None:
    listed = [entry for entry in manifest.shards if worker.owns(entry.shard)]
    dataclasses.replace(manifest, shards=tuple(listed)).require_undamaged()
    missing = [shard for shard in manifest.missing if worker.owns(shard)]
    label = f"predict worker {worker}" if worker.count > 1 else "predict"
    progress = TokenProgress(label, sum(corpus.bytes[shard] for shard in missing))

    def records_of(documents: Sequence[str]) -> Iterable[Record]:
        size = sum(len(document.encode()) for document in documents)
        progress.begin_shard(size, size * _tokens_per_byte(documents[0], tokenizer) * config.draws)
        return _records_of(config, tokenizer, teacher, documents, progress.add)

    def report(_: ShardEntry) -> None:
        progress.end_shard()

    documents = corpus_documents(config.corpus, config.split)
    write_missing_shards(manifest, documents, corpus, records_of, report, worker)
    progress.close()


def _tokens_per_byte(document: str, tokenizer: TeacherTokenizer, sample: int = 10_000) -> float:
    """Of the first characters of a document: a first estimate."""
    text = document[:sample]
    return sum(len(ids) for ids, _ in tokenizer.encode_batch(text.split("\n"))) / max(len(text.encode()), 1)


def _records_of(
    config: PredictConfig,
    tokenizer: TeacherTokenizer,
    teacher: Teacher | None,
    documents: Sequence[str],
    on_tokens: Callable[[int], None],
) -> Iterator[Record]:
    """The records of one shard's documents, made while they are asked for; tells how many tokens are done."""
    records = masked_records(
        documents,
        tokenizer,
        config.masking,
        max_length=config.max_length,
        draws=config.draws,
        packing=config.packing,
    )
    if teacher is None:
        for record in records:
            on_tokens(len(record.input_ids))
            yield record
        return
    yield from predict_records(
        teacher,
        records,
        k=config.k,
        batch_size=config.batch_size,
        length=config.max_length,
        max_predictions=config.masking.max_predictions(config.max_length),
        rows=expected_rows(config.batch_size, config.max_length, config.masking.rate),
        dtype=config.dtype,
        sampling=config.sampling,
        on_tokens=on_tokens,
    )


def _summary(manifest: Manifest) -> str:
    tokens = sum(entry.tokens for entry in manifest.shards)
    size = sum(entry.bytes for entry in manifest.shards)
    full = tokens / max(manifest.records * manifest.identity.max_length, 1)
    told = (
        f"predict: {manifest.folder} holds {counted(manifest.records, 'record')}, {counted(tokens, 'token')},"
        f" {in_bytes(size)} ({size / max(tokens, 1):.2f} bytes a token, sequences {full:.1%} full)"
    )
    return f"{told}\nnext: mergedistill verify, then mergedistill train" if manifest.complete else told
