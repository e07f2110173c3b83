import dataclasses
import json

import jax
import numpy as np
import pytest
import safetensors.numpy
from conftest import TEXTS, make_teacher
from scipy.special import log_softmax

from mergedistill_jax import cli
from mergedistill_jax.compare import compare
from mergedistill_jax.configs.compare import CompareConfig
from mergedistill_jax.configs.masking import MaskingConfig
from mergedistill_jax.dry_run import dry_run
from mergedistill_jax.evaluation.hidden_words import hide_words, number_words
from mergedistill_jax.gin_types import Reference
from mergedistill_jax.models.heads import MaskedLanguageModel
from mergedistill_jax.models.huggingface import load_masked_lm
from mergedistill_jax.models.huggingface_weights import WEIGHTS_FILE
from mergedistill_jax.vocabulary.tokenizer import load_tokenizer
from tasks import corpora

GEORGIAN = [
    "მოხუცმა მეზღვაურმა შეაკეთა პატარა ნავი ნავსადგურთან.\nის ბავშვებს ახალ თევზს უყიდდა.",
    "ახალგაზრდა მასწავლებელი ყოველ საღამოს გრძელ წერილებს კითხულობს.",
    "ორ ძაღლს ეძინა ხის მაგიდის ქვეშ, სანამ წვიმდა.",
]
ALL_TEXTS = TEXTS | {"ka": GEORGIAN}
MASKING = MaskingConfig(rate=0.3, seed=1)


def corpus_of(language):
    """What a gin file gives as `@corpora.add_...`."""
    return corpora.add_corpus(f"compare_{language}", lambda _: iter(ALL_TEXTS[language]), ["heldout"])


def config_of(candidates, languages=(), **changes):
    settings = {"corpus": corpus_of, "max_length": 32, "k": 4, "batch_size": 4, "masking": MASKING}
    return CompareConfig(candidates=candidates, languages=languages, **settings | changes)


@pytest.fixture(scope="module")
def candidates(teachers):
    return {language: str(folder) for language, folder in teachers.items()}


def change_tensors(teacher, change):
    path = teacher / WEIGHTS_FILE
    safetensors.numpy.save_file(change(safetensors.numpy.load_file(path)), path, metadata={"format": "pt"})


@pytest.fixture(scope="module")
def blind(tmp_path_factory):
    """A teacher that cannot write Georgian, and expects [UNK] everywhere."""
    teacher = make_teacher(tmp_path_factory.mktemp("blind") / "blind", TEXTS["en"], initializer_range=0.02)
    unk = load_tokenizer(teacher).unk_id
    name = "cls.predictions.bias"

    def change(tensors):
        bias = tensors[name].copy()
        bias[unk] = 12.0
        return tensors | {name: bias}

    change_tensors(teacher, change)
    return str(teacher)


@pytest.fixture(scope="module")
def georgian(tmp_path_factory):
    """A teacher with Georgian pieces that has learned nothing: every piece is about as probable as any other."""
    return str(make_teacher(tmp_path_factory.mktemp("georgian") / "georgian", GEORGIAN, initializer_range=0.02))


def losses_from_all_logits(teacher, language, compared):
    """Nats of each compared word without the charge for spelling, from logits that no code under test has reduced."""
    tokenizer = load_tokenizer(teacher)
    hidden = hide_words(number_words(ALL_TEXTS[language]), tokenizer, MASKING, 32)
    token_ids, positions = (np.zeros((len(hidden.records), 32), np.int32) for _ in range(2))
    for row, record in enumerate(hidden.records):
        token_ids[row, : len(record.input_ids)] = record.input_ids
        positions[row, : len(record.masked_positions)] = record.masked_positions
    lengths = np.array([len(record.input_ids) for record in hidden.records])
    config, params = load_masked_lm(teacher)
    apply = jax.jit(MaskedLanguageModel(config).apply)
    logits = apply({"params": params}, token_ids, np.arange(32) < lengths[:, None], positions)
    log_probs = log_softmax(np.asarray(logits, np.float64)[..., : len(tokenizer.tokens)], axis=-1)
    losses = dict.fromkeys(compared.tolist(), 0.0)
    for record, words, rows in zip(hidden.records, hidden.words, log_probs, strict=True):
        for word, gold, row in zip(words.tolist(), record.gold_ids, rows, strict=False):
            if word in losses:
                losses[word] -= row[gold]
    return losses


def unknown_words(teacher, language):
    """Numbers of the hidden words that a teacher writes with [UNK]."""
    tokenizer = load_tokenizer(teacher)
    hidden = hide_words(number_words(ALL_TEXTS[language]), tokenizer, MASKING, 32)
    gold = np.concatenate([record.gold_ids for record in hidden.records])
    return np.unique(np.concatenate(hidden.words)[gold == tokenizer.unk_id])


@pytest.mark.slow
def test_scores_are_those_of_the_full_distribution(candidates):
    """English and Spanish text under both teachers, of whom each lacks some letters of the other's."""
    found = compare(config_of(tuple(candidates.values()), ("en", "es")))
    for language, choice in found.items():
        text = number_words(ALL_TEXTS[language])
        hidden = [hide_words(text, load_tokenizer(path), MASKING, 32) for path in candidates.values()]
        compared = np.flatnonzero(hidden[0].comparable & hidden[1].comparable)
        assert choice.words == len(compared) == choice.hidden
        assert choice.documents == len(ALL_TEXTS[language])
        losses = {name: losses_from_all_logits(path, language, compared) for name, path in candidates.items()}
        unknown = {name: np.intersect1d(unknown_words(path, language), compared) for name, path in candidates.items()}
        for name, words in unknown.items():
            for word in words.tolist():
                losses[name][word] += text.characters[word] * np.log(text.alphabet)
        for name, scores in choice.scores.items():
            assert scores.nats_per_word == pytest.approx(np.mean(list(losses[name].values())), rel=1e-4)
            characters = text.characters[compared].sum()
            assert scores.nats_per_character == pytest.approx(sum(losses[name].values()) / characters, rel=1e-4)
            assert scores.unknown_share == len(unknown[name]) / len(compared)
            assert 0 < scores.top_mass < 1
            assert scores.sequences_per_second > 0
        best, second = choice.scores
        lead = np.mean([losses[second][word] - losses[best][word] for word in compared])
        assert choice.lead.nats == pytest.approx(lead, rel=1e-3)


def test_all_tokens_are_all_of_the_mass(candidates):
    """k = v: the candidates are the whole vocabulary."""
    size = len(load_tokenizer(candidates["en"]).tokens)
    (choice,) = compare(config_of((candidates["en"],), ("en",), k=size)).values()
    assert choice.scores["en"].top_mass == pytest.approx(1.0, abs=1e-5)
    assert (choice.lead, choice.best) == (None, "en")


def without_speed(choice):
    return [(name, dataclasses.replace(scores, sequences_per_second=0)) for name, scores in choice.scores.items()]


@pytest.mark.parametrize("batch_size", [1, 3])
def test_neither_batches_nor_the_order_of_candidates_decide(candidates, batch_size):
    first, again = (
        compare(config_of({"en": paths}, batch_size=size))["en"]
        for paths, size in ((tuple(candidates.values()), 4), (tuple(reversed(candidates.values())), batch_size))
    )
    for (name, one), (other_name, other) in zip(without_speed(first), without_speed(again), strict=True):
        assert name == other_name
        assert one.nats_per_word == pytest.approx(other.nats_per_word, rel=1e-5)
        assert (one.word_accuracy, one.token_accuracy) == (other.word_accuracy, other.token_accuracy)


def test_a_teacher_that_writes_all_as_unk_is_not_recommended(blind, georgian, capsys):
    """Without the charge for spelling, it would be: nothing is easier to foresee than [UNK]."""
    choice = compare(config_of({"ka": (blind, georgian)}))["ka"]
    assert choice.best == "georgian"
    scores = choice.scores["blind"]
    text = number_words(GEORGIAN)
    hidden = [hide_words(text, load_tokenizer(path), MASKING, 32) for path in (blind, georgian)]
    compared = np.flatnonzero(hidden[0].comparable & hidden[1].comparable)
    uncharged = losses_from_all_logits(blind, "ka", compared)
    assert sum(uncharged.values()) / len(compared) < choice.scores["georgian"].nats_per_word
    charges = text.characters[np.intersect1d(unknown_words(blind, "ka"), compared)].sum() * np.log(text.alphabet)
    assert scores.nats_per_word == pytest.approx((sum(uncharged.values()) + charges) / len(compared), rel=1e-4)
    assert scores.unknown_share > 0.5
    assert scores.word_accuracy <= 1 - scores.unknown_share
    assert f"TEACHERS = {{'ka': '{georgian}'}}" in capsys.readouterr().out


def test_a_report_is_written_only_where_it_is_asked_for(tmp_path, candidates, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    compare(config_of(tuple(candidates.values()), ("en",)))
    assert list(tmp_path.iterdir()) == []
    capsys.readouterr()
    found = compare(config_of(tuple(candidates.values()), ("en", "es"), output=str(tmp_path / "report")))
    assert sorted(path.name for path in (tmp_path / "report").iterdir()) == ["report.json", "report.txt"]
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    assert report["recommended"] == {language: candidates[choice.best] for language, choice in found.items()}
    assert report["languages"]["en"] == json.loads(json.dumps(dataclasses.asdict(found["en"])))
    assert (tmp_path / "report" / "report.txt").read_text().strip() in capsys.readouterr().out


def test_candidates_of_each_language(candidates, capsys):
    """And a tokenizer that forgets case is pointed out."""
    found = compare(config_of({"en": (candidates["en"],), "es": tuple(candidates.values())}))
    assert {language: set(choice.scores) for language, choice in found.items()} == {"en": {"en"}, "es": {"en", "es"}}
    lowers = "A" not in load_tokenizer(candidates["en"]).tokenizer.normalizer.normalize_str("A")
    assert ("note: en: its tokenizer drops case" in capsys.readouterr().out) == lowers


def test_what_would_be_done_is_told_without_reading(candidates):
    corpus = Reference(function="add_grammar", arguments={})
    config = config_of({"en": (candidates["en"], "some/bert-of-nobody")}, corpus=corpus)
    found = dry_run("compare", config)
    told = "\n".join(found.lines)
    assert "would score 2 teachers on up to 100 documents of 'heldout' a language, 400 words each, 30%" in told
    assert f"en: {candidates['en']}, some/bert-of-nobody" in told
    assert f"teacher    {candidates['en']}: bert, weights of " in told
    assert "teacher    some/bert-of-nobody: not on this machine, would be downloaded" in told
    assert "-> standard output" in told
    assert found.missing == []


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"candidates": "x"}, "candidates: found one string 'x', expected several"),
        ({"candidates": ("x",)}, "languages: found none"),
        ({"candidates": {"en": "x"}}, "candidates: en: found 'x', expected teachers in brackets"),
        ({"candidates": {"en": ()}}, r"candidates: en: found \(\), expected teachers in brackets"),
        ({"candidates": {"en": ("x", "x")}}, "candidates: en: found one twice"),
        ({"candidates": {"en": ("x",)}, "languages": ("es",)}, "candidates: found .'en'., expected also 'es'"),
        ({"candidates": {"en": ("x",)}, "documents": 0}, "documents: found 0, expected at least 1"),
        ({"candidates": {"en": ("x",)}, "max_length": 2}, "max_length: found 2, expected at least 3"),
    ],
)
def test_impossible_settings_are_refused(settings, named):
    with pytest.raises(ValueError, match=rf"CompareConfig\.{named}"):
        config_of(**settings)


def test_a_teacher_that_is_too_short_is_refused_before_any_text_is_read(candidates):
    def no_corpus(language):
        raise AssertionError(language)

    config = config_of({"en": (candidates["en"],)}, max_length=64, corpus=no_corpus)
    with pytest.raises(ValueError, match="field max_position_embeddings: found 32, expected at least max_length=64"):
        compare(config)


def test_a_text_without_a_word_to_compare_is_refused(candidates):
    def nothing(language):
        return corpora.add_corpus(f"compare_nothing_{language}", lambda _: iter(["", "\n"]), ["heldout"])

    with pytest.raises(ValueError, match="split heldout: found no hidden word that all candidates of en cut apart"):
        compare(config_of({"en": (candidates["en"],)}, corpus=nothing))


def test_two_teachers_of_one_name_are_called_by_their_paths(tmp_path, candidates):
    other = make_teacher(tmp_path / "en", TEXTS["en"], seed=5)
    choice = compare(config_of({"en": (candidates["en"], str(other))}))["en"]
    assert set(choice.scores) == {candidates["en"], str(other)}


def test_the_stage_is_run_by_its_gin_file(candidates, tmp_path, capsys):
    """With the demo's settings: generated English text."""
    flags = [
        "--gin_file=gin/runs/demo.gin",
        "--gin_file=gin/runs/compare.gin",
        f"--gin.CANDIDATES={{'en': ({candidates['en']!r},)}}",
        f"--gin.OUTPUT={str(tmp_path)!r}",
        "--gin.MAX_LENGTH=32",
        "--gin.compare.CompareConfig.documents=2",
    ]
    assert cli.main(["compare", *flags, "--dry_run"]) == 0
    assert "would score 1 teacher on up to 2 documents" in capsys.readouterr().out
    assert cli.main(["compare", *flags]) == 0
    assert "en: en, the only candidate" in capsys.readouterr().out
    assert (tmp_path / "report.json").exists()
    assert (tmp_path / "compare.gin").exists()
