"""Text corpora as SeqIO tasks: each yields {"text": one document, a paragraph a line}, streamed, in a fixed order.

A new corpus is one call of `add_corpus`: from Python, or from a gin file as a reference that is called where the
corpus is needed (see gin/runs/):

    PredictConfig.corpus = @corpora.add_wikiextractor()
"""

import functools
import glob
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast

from mergedistill_jax.configs.splits import Split
from mergedistill_jax.corpus import grammars

SPLITS: Mapping[str, Split] = {
    "heldout": Split(start=0.0, stop=0.01),
    "train": Split(start=0.01, stop=1.0),
    "transfer": Split(start=0.01, stop=0.11),
    "all": Split(),
}
"""Default shares: teachers learn on `train`, students on `transfer`, a tenth of it; both are scored on `heldout`."""


def add_corpus(name: str, documents: Callable[[str], Iterator[str]], splits: Sequence[str]) -> str:
    """Registers a SeqIO task `name` over documents(split) and returns the name; a second call replaces the first."""
    import seqio
    import tensorflow as tf

    def dataset(split: str, shuffle_files: bool, seed: int | None = None) -> tf.data.Dataset:  # noqa: FBT001 - SeqIO's signature
        del shuffle_files, seed  # the order of a corpus is part of its identity
        signature = {"text": tf.TensorSpec((), tf.string)}
        generator = functools.partial(_as_examples, documents, split)
        return tf.data.Dataset.from_generator(generator, output_signature=signature)

    if name in seqio.TaskRegistry.names():
        seqio.TaskRegistry.remove(name)
    seqio.TaskRegistry.add(
        name,
        source=cast("Any", seqio.FunctionDataSource(dataset_fn=dataset, splits=list(splits))),
        preprocessors=[],
        output_features={},
    )
    return name


def _as_examples(documents: Callable[[str], Iterator[str]], split: str) -> Iterator[dict[str, Any]]:
    for document in documents(split):
        yield {"text": document.encode()}


def add_files(
    name: str,
    files: Sequence[str],
    text_format: str,
    splits: Mapping[str, Split] | None = None,
    *,
    damaged: str = "refuse",
    field: str = "text",
) -> str:
    """Registers files of one of sources.FORMATS, text compressed or not; * in names is expanded.

    Args:
        name: of the task.
        files: paths or patterns.
        text_format: a key of sources.FORMATS.
        splits: shares of the documents, SPLITS by default.
        damaged: "refuse" a file that is damaged or cut short, or "keep_whole": read what is whole before the damage.
        field: of JSON lines and parquet files, the field or column that holds the text.

    Raises:
        CorpusError: no file fits a pattern, or the format is unknown.
    """
    from mergedistill_jax.corpus import sources

    shares = SPLITS if splits is None else splits
    try:
        sources.check_format(text_format, damaged)
    except sources.CorpusError as error:
        raise sources.CorpusError(f"{name}: {error}") from error
    found = []
    for pattern in files:
        matches = _files_of(pattern)
        if not matches:
            raise sources.CorpusError(f"{pattern}: found no file, expected text of the corpus {name}")
        found.extend(matches)

    def documents(split: str) -> Iterator[str]:
        return sources.documents(found, text_format, shares[split], damaged=damaged, field=field)

    return add_corpus(name, documents, list(shares))


def add_wikiextractor(
    language: str,
    folder: str,
    pattern: str,
    splits: Mapping[str, Split] | None = None,
    *,
    damaged: str = "refuse",
) -> str:
    """Registers output of WikiExtractor, with `--json` or without, as `wikipedia_<language>`.

    {language} in the pattern is filled in; for `damaged` see `add_files`.
    """
    return _add_language("wikipedia", language, folder, pattern, "wikiextractor", splits, damaged=damaged)


def add_jsonl(
    language: str,
    folder: str,
    pattern: str,
    splits: Mapping[str, Split] | None = None,
    *,
    damaged: str = "refuse",
    field: str = "text",
) -> str:
    """Registers JSON lines as `jsonl_<language>`, one document a line in the field `field`; see `add_files`."""
    return _add_language("jsonl", language, folder, pattern, "jsonl", splits, damaged=damaged, field=field)


def add_parquet(
    language: str, folder: str, pattern: str, splits: Mapping[str, Split] | None = None, *, field: str = "text"
) -> str:
    """Registers parquet files as `parquet_<language>`, one document a row in the column `field`."""
    return _add_language("parquet", language, folder, pattern, "parquet", splits, field=field)


def add_mediawiki(
    language: str,
    folder: str,
    pattern: str,
    splits: Mapping[str, Split] | None = None,
    *,
    damaged: str = "refuse",
) -> str:
    """Registers dumps of a wiki (`*wiki-*-pages-articles*.xml*`) as `mediawiki_<language>`, one document an article.

    For `damaged` see `add_files`.
    """
    return _add_language("mediawiki", language, folder, pattern, "mediawiki", splits, damaged=damaged)


def add_tfds(
    language: str,
    dataset: str = "wikipedia/20230601.{language}",
    *,
    data_dir: str | None = None,
    download: bool = False,
    source_split: str = "train",
    field: str = "text",
    splits: Mapping[str, Split] | None = None,
) -> str:
    """Registers a prepared dataset of TensorFlow Datasets as `tfds_<language>`; {language} in its name is filled in.

    Args:
        language: a language code.
        dataset: name of the builder with its configuration, and version if it matters.
        data_dir: folder of prepared datasets; None for TFDS's own.
        download: whether to download and prepare the dataset now, where it is not.
        source_split: the dataset's own split, which `splits` divide by content as those of any other corpus.
        field: the feature that holds the text.
        splits: shares of the documents, SPLITS by default.

    Raises:
        CorpusError: the dataset is unknown or not prepared, or has no such split or feature.
    """
    from mergedistill_jax.corpus import tfds

    _check_language("tfds", language)
    shares = SPLITS if splits is None else splits
    builder = tfds.prepared_builder(dataset.format(language=language), data_dir=data_dir, download=download)
    tfds.check_text(builder, source_split, field)

    def documents(split: str) -> Iterator[str]:
        return (text for text in tfds.tfds_documents(builder, source_split, field) if shares[split].holds(text))

    return add_corpus(f"tfds_{language}", documents, list(shares))


def _check_language(name: str, language: str) -> None:
    if not language:
        raise ValueError(f"corpus {name}: language: found {language!r}, expected a language code (--gin.LANGUAGE)")


def _add_language(
    name: str,
    language: str,
    folder: str,
    pattern: str,
    text_format: str,
    splits: Mapping[str, Split] | None,
    **options: str,
) -> str:
    _check_language(name, language)
    files = [f"{folder}/{pattern.format(language=language)}"]
    return add_files(f"{name}_{language}", files, text_format, splits, **options)


def add_grammar(language: str, documents: Mapping[str, tuple[int, int]]) -> str:
    """Registers the project's own generated text (mergedistill_jax.corpus.grammars) as `grammar_<language>`.

    Args:
        language: one of grammars.LANGUAGES.
        documents: for each split the half-open range of document numbers that makes it.
    """
    if language not in grammars.LANGUAGES:
        raise ValueError(f"language: found {language!r}, expected one of {grammars.LANGUAGES}")
    return add_corpus(
        f"grammar_{language}", functools.partial(_grammar_documents, language, documents), list(documents)
    )


def _grammar_documents(language: str, ranges: Mapping[str, tuple[int, int]], split: str) -> Iterator[str]:
    start, stop = ranges[split]
    for document in grammars.documents(language, seed=0, start=start, count=stop - start):
        yield "\n".join(sentence.text for sentence in document)


def _files_of(pattern: str) -> list[str]:
    """The files that fit a pattern, sorted. What exists under its own name is none: `[a].txt`, or `[a]` in `[a]/*`."""
    import tensorflow as tf

    literal, rest = pattern, ""
    while literal and not tf.io.gfile.exists(literal):
        literal, slash, last = literal.rpartition("/")
        rest = f"{slash}{last}{rest}"
    if not rest:
        return [literal]
    return sorted(tf.io.gfile.glob(glob.escape(literal) + rest))
