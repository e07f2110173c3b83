"""Two teachers of one language: the rules on worked numbers, then on records of real, if tiny, teachers."""

import dataclasses
import hashlib
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import seqio
from conftest import TEXTS, make_teacher
from etils import epath
from test_manifest import make_identity

from mergedistill_jax.configs.masking import MaskingConfig
from mergedistill_jax.configs.predict import PredictConfig
from mergedistill_jax.configs.recipe import RULES
from mergedistill_jax.configs.vocab import UnionConfig, VocabConfig
from mergedistill_jax.data.batches import batches, describe_mixture, evaluation_batches
from mergedistill_jax.data.choice import COMPARABLE, choose_shards, gold_loss
from mergedistill_jax.manifest import Manifest, ShardEntry, list_shard, read_manifest, read_records
from mergedistill_jax.models.huggingface_weights import WEIGHTS_FILE
from mergedistill_jax.predict import predict
from mergedistill_jax.schema import Layout, RecordError
from mergedistill_jax.vocab import vocab
from mergedistill_jax.vocabulary.tokenizer import load_tokenizer
from tasks import corpora
from tasks.distillation import add_students_mixture


def manifest(teacher: str, losses: list[float], words: list[int] | int = 10, **changes: Any) -> Manifest:
    """A finished folder of a document per shard, whose losses per word are given."""
    words = [words] * len(losses) if isinstance(words, int) else words
    identity = {"teacher": teacher, "documents": len(losses), "documents_per_shard": 1, **changes}
    entries = [
        ShardEntry(
            shard=shard, records=1, masked_positions=20, tokens=100, bytes=1, checksum=f"{teacher}{shard}",
            masked_words=count, gold_nll_nats=loss * count,
        )
        for shard, (loss, count) in enumerate(zip(losses, words, strict=True))
    ]  # fmt: skip
    return Manifest(folder=epath.Path(f"runs/{teacher}"), identity=make_identity(**identity), shards=tuple(entries))


MBERT = manifest("mbert", [2.1, 3.0, 2.4, 2.2])
MURIL = manifest("muril", [1.9, 3.2, 2.0, 2.8])
GERMAN = manifest("mbert", [1.0, 1.0, 1.0], language="de")


def test_the_example_of_the_docstring() -> None:
    assert choose_shards([MBERT, MURIL], "all") == [(0, 1, 2, 3), (0, 1, 2, 3)]
    assert choose_shards([MBERT, MURIL], "best") == [(1, 3), (0, 2)]


def test_the_loss_is_per_word_and_not_per_token_or_shard() -> None:
    """10 nats on 4 words are worse than 20 nats on 10: by sum the first would win, per position they would tie."""
    few, many = manifest("a", [2.5], words=4), manifest("b", [2.0], words=10)
    assert [entry.gold_nll_nats for one in (few, many) for entry in one.shards] == [10.0, 20.0]
    assert (gold_loss(few.shards[0], few), gold_loss(many.shards[0], many)) == (2.5, 2.0)
    assert choose_shards([few, many], "best") == [(), (0,)]


def test_equal_losses_go_to_the_first_by_name_and_nothing_masked_never_wins() -> None:
    assert choose_shards([manifest("b", [1.0]), manifest("a", [1.0])], "best") == [(), (0,)]
    assert gold_loss(manifest("a", [1.0], words=0).shards[0], MBERT) == math.inf
    assert choose_shards([manifest("a", [1.0], words=0), manifest("b", [9.0])], "best") == [(), (0,)]


@pytest.mark.parametrize("rule", RULES)
def test_the_order_of_folders_is_no_matter_and_a_lone_teacher_keeps_all(rule: str) -> None:
    folders = [MBERT, MURIL, GERMAN]
    chosen = choose_shards(folders, rule, seed=5)
    assert choose_shards(folders[::-1], rule, seed=5) == chosen[::-1]
    assert chosen[2] == (0, 1, 2)
    if rule != "all":
        assert sorted(chosen[0] + chosen[1]) == [0, 1, 2, 3]  # each document once


def test_sample_is_the_documented_hash_and_fair() -> None:
    folders = [manifest(name, [1.0] * 600) for name in ("a", "b", "c")]
    chosen = choose_shards(folders, "sample", seed=7)
    for shard in (0, 1, 599):
        digest = hashlib.blake2b(f"7:{shard}".encode(), digest_size=8, person=b"teacher").digest()
        assert shard in chosen[int.from_bytes(digest, "little") % 3]
    assert all(150 < len(shards) < 250 for shards in chosen)  # 200 expected, standard deviation 12
    assert choose_shards(folders, "sample", seed=8) != chosen


@pytest.mark.parametrize("rule", ["sample", "best"])
@pytest.mark.parametrize("field", COMPARABLE)
def test_folders_of_other_documents_or_masks_are_refused_by_the_field(rule: str, field: str) -> None:
    found = getattr(MURIL.identity, field)
    changes = {"corpus_hash": "zz", "rate": 0.1, "max_share": 0.5, "replacement": "mask", "cover": True}
    other = changes.get(field, 9)
    changed = dataclasses.replace(MURIL, identity=dataclasses.replace(MURIL.identity, **{field: other}))
    message = rf"runs/muril/manifest\.json: field {field}: found {other!r}, expected {found!r}"
    with pytest.raises(RecordError, match=message):
        choose_shards([changed, MBERT, GERMAN], rule)
    assert choose_shards([changed, MBERT], "all") == [(0, 1, 2, 3)] * 2  # nothing is compared there


def test_one_teacher_twice_and_an_unknown_rule_are_refused() -> None:
    with pytest.raises(RecordError, match=r"field teacher: found 'mbert' as in runs/mbert, expected another teacher"):
        choose_shards([MBERT, MBERT], "best")
    with pytest.raises(ValueError, match="rule: found 'worst', expected one of all, sample, best"):
        choose_shards([MBERT], "worst")


@pytest.mark.parametrize("field", ["gold_nll_nats", "masked_words"])
@pytest.mark.parametrize("value", [None, math.nan])
def test_entries_without_a_loss_are_refused_by_best_alone(field: str, value: float | None) -> None:
    entries = list(MURIL.shards)
    entries[2] = dataclasses.replace(entries[2])
    object.__setattr__(entries[2], field, value)
    old = dataclasses.replace(MURIL, shards=tuple(entries))
    message = (
        rf"runs/muril/shard-00002\.json: field {field}: found (nothing|nan), expected .* predict` again, into a new"
    )
    with pytest.raises(RecordError, match=message):
        choose_shards([MBERT, old], "best")
    assert choose_shards([MBERT, old], "sample") == choose_shards([MBERT, MURIL], "sample")


# Records of two teachers of English, with tokenizers of their own


MASKING = MaskingConfig(rate=0.3, max_share=0.9)  # so high that it spares no word: see the module's docstring
LENGTH, K, DRAWS = 32, 4, 3
LAYOUT = Layout(k=K, vocabulary_size=1000)


def knowing(folder: Path, words: set[str]) -> Path:
    """The folder with a model that, wherever it is asked, hopes for the tokens of these words: a better one on them."""
    tokenizer = load_tokenizer(folder)
    tensors = safetensors.numpy.load_file(folder / WEIGHTS_FILE)
    known = [index for index, token in enumerate(tokenizer.tokens) if token.removeprefix("##") in words]
    assert len(known) > 10
    # No hidden state reaches the output, so the bias alone is the distribution.
    tensors["cls.predictions.transform.LayerNorm.weight"][:] = 0
    tensors["cls.predictions.transform.LayerNorm.bias"][:] = 0
    tensors["cls.predictions.bias"][:] = 0
    tensors["cls.predictions.bias"][known] = 4.0
    safetensors.numpy.save_file(tensors, folder / WEIGHTS_FILE, metadata={"format": "pt"})
    return folder


def pieces(tokenizer: Any, texts: list[str]) -> set[str]:
    return {tokenizer.tokens[i].removeprefix("##") for ids, _ in tokenizer.encode_batch(texts) for i in ids}


@dataclasses.dataclass(frozen=True)
class Made:
    folders: dict[str, str]
    teachers: dict[str, Path]
    vocabulary: str


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """`early` knows the tokens of the first two documents, `late` those of the others; a document is a shard."""
    root = tmp_path_factory.mktemp("choice")
    texts = TEXTS["en"]
    corpus = corpora.add_corpus("choice_en", lambda _: iter(texts), ["train"])
    folders, teachers = {}, {}
    for name, learned, known in (("early", texts, texts[:2]), ("late", [*texts[::-1], *TEXTS["es"]], texts[2:])):
        folder = make_teacher(root / name, learned, seed=len(name))
        tokenizer = load_tokenizer(folder)
        unknown = [text for text in texts if text not in known]
        teachers[name] = knowing(folder, pieces(tokenizer, known) - pieces(tokenizer, unknown))
        folders[name] = str(root / "records" / name)
        predict(
            PredictConfig(
                output=folders[name], corpus=corpus, split="train", language="en", teacher=str(folder), k=K,
                max_length=LENGTH, draws=DRAWS, masking=MASKING, documents_per_shard=1, batch_size=4,
            )
        )  # fmt: skip
    vocabulary = str(root / "vocabulary")
    vocab(VocabConfig(output=vocabulary, method=UnionConfig(teachers={n: str(f) for n, f in teachers.items()})))
    assert load_tokenizer(teachers["early"]).tokens != load_tokenizer(teachers["late"]).tokens
    return Made(folders=folders, teachers=teachers, vocabulary=vocabulary)


def loss_by_bias(made: Made, name: str, shard: int) -> tuple[float, int]:
    """Gold loss in float64 from the stored gold ids and the teacher's bias, its distribution; and the positions."""
    bias = safetensors.numpy.load_file(made.teachers[name] / WEIGHTS_FILE)["cls.predictions.bias"].astype(np.float64)
    log_probs = bias - np.log(np.exp(bias).sum())
    records = list(read_records(made.folders[name], shard, LAYOUT))
    gold = np.concatenate([record.gold_ids for record in records])
    return -float(log_probs[gold].sum()), len(gold)


@pytest.mark.slow
def test_the_entries_tell_the_exact_loss_of_the_same_words(made: Made) -> None:
    manifests = {name: read_manifest(folder) for name, folder in made.folders.items()}
    for name, one in manifests.items():
        for entry in one.shards:
            expected, positions = loss_by_bias(made, name, entry.shard)
            assert entry.gold_nll_nats == pytest.approx(expected, rel=1e-5)
            assert entry.masked_positions == positions
    words = {name: [entry.masked_words for entry in one.shards] for name, one in manifests.items()}
    positions = {name: [entry.masked_positions for entry in one.shards] for name, one in manifests.items()}
    assert words["early"] == words["late"]
    assert positions["early"] != positions["late"]  # the tokens are not the same


def test_best_takes_each_document_from_the_teacher_that_knows_it(made: Made) -> None:
    manifests = [read_manifest(folder) for folder in made.folders.values()]
    assert choose_shards(manifests, "best") == [(0, 1), (2, 3)]
    assert choose_shards(manifests[::-1], "best") == [(2, 3), (0, 1)]


def mixture_of(made: Made, rule: str, **settings: Any) -> Any:
    folders = list(made.folders.values())
    return describe_mixture(
        add_students_mixture(folders, made.vocabulary, name=f"choice_{rule}", rule=rule, **settings)
    )


@pytest.mark.parametrize("rule", RULES)
def test_a_mixture_reads_what_the_rule_chose_and_knows_whose_it_is(made: Made, rule: str) -> None:
    mixture = mixture_of(made, rule, seed=1)
    manifests = [read_manifest(folder) for folder in made.folders.values()]
    chosen = choose_shards(manifests, rule, seed=1)
    counts = {
        one.identity.teacher: sum(one.shards[shard].records for shard in shards)
        for one, shards in zip(manifests, chosen, strict=True)
    }
    read = dict.fromkeys(mixture.teachers, 0)
    for batch in evaluation_batches(mixture, 4):
        real = batch["loss_weights"].any(axis=1)
        for source in batch["source"][real]:
            read[mixture.teachers[source]] += 1
    assert mixture.languages == ("en",) * len(mixture.teachers)
    assert read == {name: count for name, count in counts.items() if count}
    assert mixture.records == sum(counts.values())


def test_the_hash_of_a_mixture_tells_the_rules_apart(made: Made) -> None:
    hashes = [mixture_of(made, "sample", seed=seed).hash for seed in range(4)]
    hashes += [mixture_of(made, rule).hash for rule in ("all", "best")]
    assert mixture_of(made, "best").hash == hashes[-1]
    splits = [choose_shards([read_manifest(f) for f in made.folders.values()], "sample", seed=s) for s in range(4)]
    assert len(set(hashes)) == 2 + len({str(split) for split in splits if split != [(0, 1), (2, 3)]})


def test_a_teacher_that_is_never_chosen_has_no_task(made: Made, tmp_path: Path) -> None:
    folders = dict(made.folders)
    for entry in read_manifest(folders["late"]).shards:
        target = tmp_path / "late"
        target.mkdir(exist_ok=True)
        list_shard(target, dataclasses.replace(entry, gold_nll_nats=1e6))
    for path in Path(folders["late"]).iterdir():
        if not path.name.startswith("shard") or path.suffix == ".tfrecord":
            (tmp_path / "late" / path.name).write_bytes(path.read_bytes())
    name = add_students_mixture([folders["early"], str(tmp_path / "late")], made.vocabulary, name="never", rule="best")
    mixture = describe_mixture(name)
    assert mixture.teachers == ("early",)
    assert mixture.records == read_manifest(folders["early"]).records
    assert len(next(batches(mixture, 2, seed=0))["source"]) == 2


@pytest.mark.parametrize("exponent", [0.0, 0.7, 1.0])
def test_dividing_a_language_does_not_enlarge_its_share(made: Made, exponent: float) -> None:
    """A language's rates add up to its records to the power of the exponent, by whoever they are taught."""
    for rule in RULES:
        name = mixture_of(made, rule, exponent=exponent).name
        mixture = seqio.MixtureRegistry.get(name)
        rates = {task.name: mixture.get_rate(task) for task in mixture.tasks}
        records = {task.name: task.source.manifest.records for task in mixture.tasks}
        assert sum(rates.values()) == pytest.approx(sum(records.values()) ** exponent)
        assert {task: rate / sum(rates.values()) for task, rate in rates.items()} == pytest.approx(
            {task: count / sum(records.values()) for task, count in records.items()}
        )
