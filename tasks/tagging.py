"""SeqIO tasks of part-of-speech and entity tagging, `pos_udpos_de`, `ner_panx_de`, for T5X and anything on SeqIO.

    tasks.tagging.add_pos("data/udpos_xtreme_13langs.tar.xz", tokenizer="teachers/de")

Importing this module registers nothing: a task needs a tokenizer, which only the caller knows. Files are read when a
dataset is asked for.

Features: inputs [l] int32 sub-word ids and targets [l] int32 label ids, both without padding, weights [l] float32 (1 at
the first sub-word of a word). For the metrics also: word_starts [l] bool, tags [words] string. Where source has no
train-LANGUAGE.tsv, the development file is divided by corpus/labelled.py's rule into "train" and "validation".
"""

import dataclasses
import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import seqio
import tensorflow as tf
from etils import epath

from mergedistill_jax.corpus.labelled import MEMBER_SEPARATOR, TaggedText, list_members, read_tagged, split_development
from mergedistill_jax.corpus.tagged_lines import UPOS
from mergedistill_jax.data.tagging import CUT_WORD_TAG, encode_tagged, predicted_tags
from mergedistill_jax.evaluation.metrics import entity_scores, tagging_scores
from mergedistill_jax.vocabulary.tokenizer import load_tokenizer

PANX_TAGS = ("B-LOC", "B-ORG", "B-PER", "I-LOC", "I-ORG", "I-PER", "O")
POS_LANGUAGES = ("ar", "de", "en", "es", "fi", "hi", "it", "mr", "ta", "te", "tr", "ur", "zh")
NER_LANGUAGES = ("ar", "bn", "de", "en", "es", "fi", "hi", "it", "ml", "mr", "ta", "te", "tr", "ur", "zh")
LABELS = {"pos": UPOS, "ner": PANX_TAGS}
FILES = {"train": "train-{}.tsv", "validation": "dev-{}.tsv"}


@dataclasses.dataclass(frozen=True)
class _Examples:
    """The dataset function of one task."""

    source: str
    language: str
    tokenizer: str
    task: str
    max_length: int

    def __call__(self, split: str, shuffle_files: bool, seed: int | None = None) -> tf.data.Dataset:  # noqa: FBT001 - SeqIO's signature
        del shuffle_files, seed  # one file; the task's own shuffle buffer follows
        return tf.data.Dataset.from_generator(
            functools.partial(self._rows, split),
            output_signature={
                "inputs": tf.TensorSpec([None], tf.int32),
                "targets": tf.TensorSpec([None], tf.int32),
                "weights": tf.TensorSpec([None], tf.float32),
                "word_starts": tf.TensorSpec([None], tf.bool),
                "tags": tf.TensorSpec([None], tf.string),
            },
        )

    def _rows(self, split: str) -> Iterable[dict[str, Any]]:
        sentences = _sentences(self.source, self.language, split, self.task)
        words, tags = [sentence.words for sentence in sentences], [sentence.tags for sentence in sentences]
        tokenizer = load_tokenizer(self.tokenizer)
        arrays, _ = encode_tagged(words, tags, tokenizer, LABELS[self.task], max_length=self.max_length)
        for row, length in enumerate(arrays.attention_mask.sum(axis=1)):
            yield {
                "inputs": arrays.token_ids[row, :length],
                "targets": arrays.label_ids[row, :length],
                "weights": arrays.weights[row, :length],
                "word_starts": arrays.word_starts[row, :length],
                "tags": list(tags[row]),
            }


def add_pos(
    source: str, tokenizer: str, languages: Sequence[str] = POS_LANGUAGES, *, max_length: int = 128
) -> list[str]:
    """Registers `pos_udpos_LANGUAGE` for each language, and returns the names; a second call replaces the first.

    Args:
        source: folder, or tar archive, of XTREME's UDPOS files train-LANGUAGE.tsv and dev-LANGUAGE.tsv.
        tokenizer: folder of a Hugging Face tokenizer.
        languages: codes as in the files' names.
        max_length: sub-words of a sentence, [CLS] and [SEP] included.
    """
    return [
        _register(f"pos_udpos_{language}", _Examples(source, language, tokenizer, "pos", max_length))
        for language in languages
    ]


def add_ner(
    source: str, tokenizer: str, languages: Sequence[str] = NER_LANGUAGES, *, max_length: int = 128
) -> list[str]:
    """Registers `ner_panx_LANGUAGE` for each language, and returns the names; arguments as for `add_pos`."""
    return [
        _register(f"ner_panx_{language}", _Examples(source, language, tokenizer, "ner", max_length))
        for language in languages
    ]


def add_tagging(
    task: str, source: str, tokenizer: str, languages: Sequence[str], *, max_length: int = 128, name: str = "tagging"
) -> str:
    """Registers the tasks of `add_pos` or `add_ner` and their mixture `name`, and returns its name.

    Args:
        task: "pos" or "ner".
        source: as for `add_pos`, or `add_ner`.
        tokenizer: folder of a Hugging Face tokenizer.
        languages: codes as in the files' names.
        max_length: sub-words of a sentence.
        name: of the mixture; one of that name is replaced.

    Raises:
        ValueError: another task.
    """
    labels_of(task)
    add = {"pos": add_pos, "ner": add_ner}[task]
    names = add(source, tokenizer, languages, max_length=max_length)
    if name in seqio.MixtureRegistry.names():
        seqio.MixtureRegistry.remove(name)
    seqio.MixtureRegistry.add(name, names, default_rate=1)
    return name


def labels_of(task: str) -> tuple[str, ...]:
    """The labels of "pos" or "ner" in the order of the tasks' label ids; ValueError for another task."""
    if task not in LABELS:
        raise ValueError(f"task: found {task!r}, expected one of {sorted(LABELS)}")
    return LABELS[task]


def tagging_lengths(max_length: int = 128) -> dict[str, int]:
    """TASK_FEATURE_LENGTHS of the tasks for T5X."""
    return dict.fromkeys(("inputs", "targets", "weights"), max_length)


def pos_metrics(targets: Sequence[Sequence[str]], predictions: Sequence[Sequence[str]]) -> dict[str, float]:
    """Metric function of the part-of-speech tasks; empty where nothing can be measured."""
    scores = tagging_scores(targets, predictions)
    return {} if scores is None else dataclasses.asdict(scores)


def ner_metrics(targets: Sequence[Sequence[str]], predictions: Sequence[Sequence[str]]) -> dict[str, float]:
    """Metric function of the entity tasks; empty where nothing can be measured."""
    scores = entity_scores(targets, predictions)
    return {} if scores is None else dataclasses.asdict(scores)


def to_tags(
    label_ids: Sequence[int], *, example: Mapping[str, Any], is_target: bool, labels: Sequence[str], cut_word_tag: str
) -> list[str]:
    """Postprocessor: one tag per word, gold ones from the example, predicted ones from the labels of first sub-words.

    Words that were cut, by max_length or by a shorter sequence length of the evaluation, are predicted `cut_word_tag`.
    """
    gold = [tag.decode() for tag in example["tags"]]
    if is_target:
        return gold
    ids = np.asarray(label_ids, np.int32)[: len(example["word_starts"])]
    starts = np.asarray(example["word_starts"])[: len(ids)]
    return predicted_tags(ids[None], starts[None], labels, [len(gold)], cut_word_tag)[0]


def _register(name: str, examples: _Examples) -> str:
    task, labels = examples.task, LABELS[examples.task]
    num_tokens = len(load_tokenizer(examples.tokenizer).tokens)
    if name in seqio.TaskRegistry.names():
        seqio.TaskRegistry.remove(name)
    feature = functools.partial(seqio.Feature, add_eos=False)
    seqio.TaskRegistry.add(
        name,
        source=seqio.FunctionDataSource(examples, splits=tuple(FILES)),  # pyright: ignore[reportArgumentType] - SeqIO's own source misses its protocol
        preprocessors=[],
        output_features={
            "inputs": feature(seqio.PassThroughVocabulary(num_tokens), dtype=tf.int32),
            "targets": feature(seqio.PassThroughVocabulary(len(labels)), dtype=tf.int32),
            "weights": feature(seqio.PassThroughVocabulary(1), dtype=tf.float32),
        },
        postprocess_fn=functools.partial(to_tags, labels=labels, cut_word_tag=CUT_WORD_TAG[task]),
        metric_fns=[{"pos": pos_metrics, "ner": ner_metrics}[task]],
    )
    return name


def _sentences(source: str, language: str, split: str, task: str) -> list[TaggedText]:
    address = {name: _address(source, pattern.format(language)) for name, pattern in FILES.items()}
    if _exists(address["train"]):
        return read_tagged(address[split], "tsv", task)
    train, validation = split_development(read_tagged(address["validation"], "tsv", task))
    return {"train": train, "validation": validation}[split]


def _address(source: str, name: str) -> str:
    if ".tar" in epath.Path(source).suffixes:
        return f"{source}{MEMBER_SEPARATOR}{name}"
    return str(epath.Path(source) / name)


def _exists(address: str) -> bool:
    path, _, member = address.partition(MEMBER_SEPARATOR)
    return member in list_members(path) if member else epath.Path(path).exists()
