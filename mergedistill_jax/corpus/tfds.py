"""Documents out of TensorFlow Datasets, such as `wikipedia/20230601.sw`. Nothing is downloaded unless asked for."""

from collections.abc import Iterator
from typing import Any

import tensorflow as tf
import tensorflow_datasets as tfds
from tensorflow_datasets.core import read_only_builder
from tensorflow_datasets.core.registered import DatasetNotFoundError

from mergedistill_jax.corpus.reading import CorpusError, paragraphs

Builder = Any  # TFDS's classes of builders share no public type that fits both of ours


def prepared_builder(name: str, *, data_dir: str | None = None, download: bool = False) -> Builder:
    """The builder of a dataset whose files are prepared.

    Args:
        name: as TFDS names it, `dataset/config` or `dataset/config:version`.
        data_dir: folder of prepared datasets; may be gs://. None: TFDS's own (TFDS_DATA_DIR, ~/tensorflow_datasets).
        download: download and prepare what is missing. Otherwise only files on disk are looked for.

    Raises:
        CorpusError: the dataset is unknown, or not prepared.
    """
    try:
        return read_only_builder.builder_from_files(name, data_dir=data_dir)
    except (DatasetNotFoundError, ValueError) as error:
        if not download:
            folder = data_dir or "~/tensorflow_datasets"
            raise CorpusError(
                f"TFDS dataset {name}: found no prepared files in data_dir {folder}, expected those of"
                f" `tfds build {name} --data_dir={folder}`, or download=True"
            ) from error
    try:
        builder = tfds.builder(name, data_dir=data_dir)
        builder.download_and_prepare()
    except (DatasetNotFoundError, ValueError, OSError, RuntimeError, AssertionError, tf.errors.OpError) as error:
        reason = str(error).strip().splitlines()[0]
        raise CorpusError(f"TFDS dataset {name}: download: found {reason}, expected a dataset of TFDS") from error
    return builder


def check_text(builder: Builder, split: str, field: str) -> None:
    """Refuses a dataset without the split or the text.

    Raises:
        CorpusError: naming the dataset and what it has.
    """
    splits, features = builder.info.splits, builder.info.features
    if split not in splits:
        raise CorpusError(f"{builder.data_path}: split: found {sorted(splits)}, expected one named {split!r}")
    if field not in features or features[field].dtype != tf.string or features[field].shape != ():
        raise CorpusError(
            f"{builder.data_path}: feature {field}: found {sorted(features)}, expected a string {field!r}"
        )


def tfds_documents(builder: Builder, split: str, field: str) -> Iterator[str]:
    """The documents of a dataset in the order of its files; a line of the text is a paragraph.

    Raises:
        CorpusError: files that are damaged.
    """
    # One file after the other: the order must not depend on how many are read at once.
    in_order = tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False)
    only_text = tfds.decode.PartialDecoding({field: builder.info.features[field]})
    dataset = builder.as_dataset(split=split, shuffle_files=False, read_config=in_order, decoders=only_text)
    try:
        for example in dataset.as_numpy_iterator():
            if document := paragraphs(example[field].decode().splitlines()):
                yield document
    except (tf.errors.OpError, UnicodeDecodeError) as error:
        reason = str(error).splitlines()[0]
        raise CorpusError(f"{builder.data_path}: split {split}: found {reason}, expected a whole dataset") from error
