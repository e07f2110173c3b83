import dataclasses
import json
import math
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from made_tokenizers import wordpiece

from mergedistill_jax.configs.encoder import EncoderConfig
from mergedistill_jax.configs.finetune import FinetuneConfig
from mergedistill_jax.data.tagging import encode_tagged
from mergedistill_jax.finetune import _initial_params, finetune
from mergedistill_jax.models.heads import MaskedLanguageModel, TokenClassifier
from mergedistill_jax.models.huggingface import load_masked_lm, load_token_classifier, save_masked_lm
from mergedistill_jax.models.tokenizer_files import SpecialTokens
from mergedistill_jax.training.tagging import learning_rates, tagging_optimizer, token_classification_loss
from mergedistill_jax.training.token_counts import TOKEN_COUNTS_FILE, to_bytes
from mergedistill_jax.vocabulary.folder import write_vocabulary
from mergedistill_jax.vocabulary.id_map import DROPPED, ragged_map, whole_map

TAG_WORDS = {
    "NOUN": ["haus", "baum", "maus", "rad"],
    "VERB": ["geht", "steht", "sieht"],
    "ADJ": ["rot", "grün", "alt"],
}
TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(word for words in TAG_WORDS.values() for word in words)]
NUM_TOKENS = len(TOKENS)
NUM_ROWS = NUM_TOKENS + 5  # rows of the embedding table: five are no token's
# One shape of model and batch in all tests, so that the step is compiled once.
ENCODER = EncoderConfig(
    vocab_size=NUM_ROWS, num_layers=1, hidden_size=32, num_heads=2, intermediate_size=32, max_length=16
)


def write_sentences(path, count, seed):
    """Random sentences of one to twelve words in which each word has one tag."""
    rng = np.random.default_rng(seed)
    pairs = [(word, tag) for tag, words in TAG_WORDS.items() for word in words]
    blocks = [
        "\n".join("\t".join(pairs[i]) for i in rng.integers(len(pairs), size=rng.integers(1, 13))) for _ in range(count)
    ]
    path.write_text("\n\n".join(blocks) + "\n")
    return str(path)


def write_model(folder, params, tokens=TOKENS):
    """A Hugging Face folder with a tokenizer of these tokens; returns its path."""
    tokenizer_file = folder.parent / "source_tokenizer.json"
    wordpiece(*tokens).tokenizer.save(str(tokenizer_file))
    save_masked_lm(folder, ENCODER, params, tokenizer_file=tokenizer_file, special_tokens=SpecialTokens(), card="")
    return str(folder)


def random_params(config, seed=0):
    """Parameters as BERT starts with, drawn by NumPy: compiling Flax's init for it takes longer than the test."""
    rng = np.random.default_rng(seed)
    ids, mask = (jax.ShapeDtypeStruct((1, 4), dtype) for dtype in (jnp.int32, jnp.bool_))
    shapes = jax.eval_shape(MaskedLanguageModel(config).init, jax.random.key(0), ids, mask, ids)
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: (
            np.full(leaf.shape, path[-1].key == "scale", np.float32)
            if path[-1].key in ("scale", "bias", "decoder_bias")
            else rng.normal(0, config.initializer_range, leaf.shape).astype(np.float32)
        ),
        nn.meta.unbox(shapes)["params"],
    )


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finetune")
    return FinetuneConfig(
        model=write_model(folder / "model", random_params(ENCODER)),
        task="pos",
        language="de",
        train_files=(write_sentences(folder / "train.tsv", 150, seed=1),),
        test_files=(write_sentences(folder / "test.tsv", 50, seed=2),),
        file_format="tsv",
        output=str(folder / "output"),
        learning_rate=5e-3,
        epochs=4,
        max_length=16,
        save_model=True,
    )


@pytest.fixture(scope="module")
def result(config):
    return finetune(config)


def test_it_learns_a_separable_task_and_writes_what_it_returns(config, result, tmp_path):
    assert result["metrics"]["tagging_f1"] > 0.9
    assert result["metrics"]["tagging_f1"] == pytest.approx(result["metrics"]["accuracy"])
    assert result["train_loss_per_epoch"][0] > 2 * result["train_loss_per_epoch"][-1]
    assert result["labels"] == sorted(TAG_WORDS)
    counts = result["counts"]
    assert (counts["train"]["sentences"], counts["test"]["sentences"]) == (150, 50)
    assert (counts["test"]["cut_words"], counts["test"]["unknown_pieces"]) == (0, 0)
    written = json.loads((tmp_path / "x").parent.joinpath(config.output, "result.json").read_text())
    assert written == json.loads(json.dumps(result))


def test_without_training_the_score_is_near_chance(config, tmp_path):
    untrained = dataclasses.replace(config, learning_rate=1e-9, epochs=1, save_model=False, output=str(tmp_path))
    assert finetune(untrained)["metrics"]["tagging_f1"] < 0.7


def test_the_saved_folder_holds_the_trained_classifier(config, result):
    encoder, params, labels = load_token_classifier(f"{config.output}/model")
    assert (encoder, labels) == (ENCODER, result["labels"])
    ids = jnp.array([[TOKENS.index(token) for token in ("[CLS]", "maus", "steht", "rot", "[SEP]")]])
    variables = {"params": jax.tree.map(jnp.asarray, params)}
    logits = TokenClassifier(encoder, num_labels=len(labels)).apply(variables, ids, ids >= 0)
    assert [labels[i] for i in np.argmax(logits[0], -1)[1:4]] == ["NOUN", "VERB", "ADJ"]


def test_a_finished_run_is_reused_and_another_one_is_refused(config, result, tmp_path, capsys, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("mergedistill_jax.finetune._train", lambda *_: pytest.fail("trained again"))
        assert finetune(config) == json.loads(json.dumps(result))
        assert "finished earlier, reused" in capsys.readouterr().out
        for changes, message in (
            ({"learning_rate": 1e-4}, r"result\.json: learning_rate: found 0\.005, expected 0\.0001 \("),
            ({"seed": 7}, r"result\.json: seed: found 0, expected 7 \("),
            ({"train_files": ()}, r"result\.json: hash of train_files: found '\w+', expected '\w+' \("),
            (
                {"model": write_model(tmp_path / "other", random_params(ENCODER, seed=1))},
                r"result\.json: hash of model: found '\w+', expected '\w+' \(",
            ),
        ):
            with pytest.raises(ValueError, match=message):
                finetune(dataclasses.replace(config, **changes))


def test_the_same_config_gives_the_same_numbers(config, tmp_path):
    runs = [
        finetune(dataclasses.replace(config, output=str(tmp_path / name), epochs=2, save_model=False)) for name in "ab"
    ]
    assert runs[0]["train_loss_per_epoch"] == runs[1]["train_loss_per_epoch"]
    assert runs[0]["metrics"] == runs[1]["metrics"]


def write_student(root, config, tokens, id_map):
    """A student over these tokens, with the teacher's embeddings where its id map has a label: settings of a run."""
    _, params = load_masked_lm(config.model)
    embeddings = params["encoder"]["embeddings"]
    table = np.array(random_params(ENCODER, seed=9)["encoder"]["embeddings"]["token"])
    kept = id_map.labels != DROPPED
    table[id_map.labels[kept]] = embeddings["token"][:NUM_TOKENS][kept]
    params = {**params, "encoder": {**params["encoder"], "embeddings": {**embeddings, "token": table}}}
    write_vocabulary(root / "vocabulary", wordpiece(*tokens), {"de": (wordpiece(*TOKENS), id_map)}, {})
    return {
        "model": write_model(root / "student", params, tokens),
        "policy": "teacher_routed",
        "vocabulary": str(root / "vocabulary"),
        "teacher": "de",
        "output": str(root / "routed"),
    }


def test_through_a_teachers_tokenizer_and_its_id_map_nothing_changes_but_the_ids(config, tmp_path):
    """A student whose ids are a permutation of the teacher's, fine-tuned through the teacher's tokenizer."""
    labels = np.random.default_rng(3).permutation(NUM_TOKENS).astype(np.int32)
    tokens = [TOKENS[index] for index in np.argsort(labels)]
    routed = write_student(tmp_path, config, tokens, whole_map(labels))
    short = dataclasses.replace(config, epochs=1, save_model=False, output=str(tmp_path / "direct"))
    direct_result, routed_result = finetune(short), finetune(dataclasses.replace(short, **routed))
    np.testing.assert_allclose(routed_result["train_loss_per_epoch"], direct_result["train_loss_per_epoch"], rtol=1e-5)
    assert routed_result["metrics"] == direct_result["metrics"]
    assert routed_result["counts"] == direct_result["counts"]


# Of the teacher's tokens this student lacks "haus", which it spells with four.
HAUS = ["h", "##a", "##u", "##s"]
CUT_TOKENS = [*(one for one in TOKENS if one != "haus"), *HAUS]


def cut_map():
    rows = [[CUT_TOKENS.index(part) for part in parts_of(token)] for token in TOKENS]
    labels = np.array([row[0] if len(row) == 1 else DROPPED for row in rows], np.int32)
    return ragged_map(labels, rows)


def parts_of(word):
    return HAUS if word == "haus" else [word]


@pytest.fixture(scope="module")
def cut(config, tmp_path_factory):
    """Settings of a run through the teacher's tokenizer of a student whose vocabulary was cut."""
    return write_student(tmp_path_factory.mktemp("cut"), config, CUT_TOKENS, cut_map())


def test_a_cut_vocabulary_spells_dropped_pieces_out(config, cut, tmp_path, monkeypatch):
    """Training and scoring see the four pieces, with the label on the first."""
    seen = []

    def watched(*arguments, **options):
        seen.append(encode_tagged(*arguments, **options)[0])
        return encode_tagged(*arguments, **options)

    monkeypatch.setattr("mergedistill_jax.finetune.encode_tagged", watched)
    result = finetune(dataclasses.replace(config, epochs=1, save_model=False, **cut | {"output": str(tmp_path)}))
    for arrays, name, files in zip(seen, ("train", "test"), (config.train_files, config.test_files), strict=True):
        blocks = [block.split("\n") for block in Path(files[0]).read_text().strip().split("\n\n")]
        pieces = 0
        for row, block in enumerate(blocks):
            expected, starts = ["[CLS]"], []
            for word in (line.split("\t")[0] for line in block):
                if len(expected) + len(parts_of(word)) > config.max_length - 1:
                    break
                starts.append(len(expected))
                expected += parts_of(word)
            expected.append("[SEP]")
            ids = arrays.token_ids[row][arrays.attention_mask[row]]
            assert [CUT_TOKENS[i] for i in ids] == expected
            assert np.flatnonzero(arrays.word_starts[row]).tolist() == starts
            pieces += len(expected) - 2
        assert result["counts"][name]["pieces"] == pieces > result["counts"][name]["words"]
        assert result["counts"][name]["unknown_pieces"] == 0
    assert result["config"]["policy"] == "teacher_routed"


def test_of_a_whole_word_tokenizer_both_policies_read_the_same_ids(config, cut, tmp_path):
    """The student's own longest match spells "haus" as its id map does, so that the scores must be equal."""
    short = dataclasses.replace(config, model=cut["model"], epochs=1, save_model=False, output=str(tmp_path / "union"))
    own, routed = finetune(short), finetune(dataclasses.replace(short, **cut | {"output": str(tmp_path / "routed")}))
    assert own["counts"] == routed["counts"]
    assert own["metrics"] == routed["metrics"]
    assert own["train_loss_per_epoch"] == routed["train_loss_per_epoch"]
    assert own["hashes"]["id_map"] == "" != routed["hashes"]["id_map"]


def test_ids_never_seen_in_training_are_counted(config, cut, tmp_path, capsys):
    """Worked by hand on two sentences: "rot" and a piece of the spelled "haus" are unseen; [PAD] is in no text."""
    folder = tmp_path / "student"
    shutil.copytree(cut["model"], folder)
    counts = np.full(NUM_ROWS, 7, np.int64)
    unseen = ("baum", "rot", "##u", "[PAD]")
    counts[[CUT_TOKENS.index(token) for token in unseen]] = 0
    (folder / TOKEN_COUNTS_FILE).write_bytes(to_bytes(counts))
    short = dataclasses.replace(config, epochs=1, save_model=False, max_length=ENCODER.max_length)
    (tmp_path / "short.tsv").write_text("rot\tADJ\nhaus\tNOUN\n\nrot\tADJ\ngeht\tVERB\n")
    few = dataclasses.replace(short, test_files=(str(tmp_path / "short.tsv"),))
    few = finetune(dataclasses.replace(few, **cut | {"model": str(folder), "output": str(tmp_path / "few")}))
    # Seven pieces (one, four, one, one) of six ids, and [CLS] and [SEP]; twice rot and once ##u are unseen.
    found = few["counts"]["test"]
    names = ("pieces", "unseen_pieces", "distinct_ids", "unseen_ids")
    assert [found[name] for name in names] == [7, 3, 8, 2]
    assert "never seen in the model's training: 3 of 7 sub-words (2 of 8 different ids)" in capsys.readouterr().out
    found = few["counts"]["train"]
    assert 3 < found["unseen_pieces"] < found["pieces"]
    assert found["unseen_ids"] == 3


def test_a_model_that_nobody_counted_for_has_no_such_number(config, result, capsys):
    assert result["counts"]["test"]["unseen_pieces"] is None
    finetune(config)
    assert "never seen" not in capsys.readouterr().out


def test_without_training_files_the_test_files_are_divided(config, tmp_path):
    divided = finetune(dataclasses.replace(config, train_files=(), epochs=1, save_model=False, output=str(tmp_path)))
    assert divided["split"].startswith("split_development")
    sizes = [divided["counts"][name]["sentences"] for name in ("train", "test")]
    assert sum(sizes) == 50
    assert min(sizes) > 0


def test_entities_samples_and_development_sets(config, tmp_path, capsys):
    """Entity scores for "ner"; cut words are O, so that an entity behind max_length is a miss and not an error."""
    train = tmp_path / "train.tsv"
    train.write_text("rot\tO\nhaus\tB-LOC\nbaum\tI-LOC\n\n" * 40)
    test = ["rot\tO", "haus\tB-LOC", "baum\tI-LOC", *11 * ["rot\tO"], "haus\tB-LOC"]
    (tmp_path / "test.tsv").write_text("".join(f"{index}\t{line}\n" for index, line in enumerate(test)))
    (tmp_path / "dev.tsv").write_text("rot\tO\n")
    ner = dataclasses.replace(
        config,
        task="ner",
        train_files=(str(train),),
        dev_files=(str(tmp_path / "dev.tsv"),),
        test_files=(str(tmp_path / "test.tsv"),),
        test_format="indexed_tsv",
        max_length=16,  # [CLS], 14 words, [SEP]: the 15th word, an entity, is cut
        max_train_sentences=32,
        epochs=30,
        save_model=False,
        output=str(tmp_path / "output"),
    )
    result = finetune(ner)
    assert result["counts"]["train"]["sentences"] == 32
    assert result["counts"]["test"]["cut_words"] == 1
    # One of two entities found, nothing else predicted: precision 1, recall 1/2, F1 2/3; 14 of 15 tags right.
    expected = {"accuracy": 14 / 15, "entity_f1": 2 / 3, "precision": 1.0, "recall": 0.5}
    assert result["metrics"] == pytest.approx(expected)
    assert set(result["dev_metrics"]) == {"accuracy"}  # no entity in it: nothing else can be measured
    # A table of the training words misses nothing, as it cuts nothing.
    assert result["baseline_metrics"] == {"accuracy": 1.0, "entity_f1": 1.0, "precision": 1.0, "recall": 1.0}
    assert "warning: entity_f1 is below that of the most frequent tag of each word form" in capsys.readouterr().out


def test_a_baseline_stands_beside_the_score_and_much_unknown_text_is_warned_of(config, result, tmp_path, capsys):
    """Words of which the training text has several tags, and words it does not have."""
    assert result["baseline_metrics"]["tagging_f1"] == 1.0  # each word has one tag
    (tmp_path / "train.tsv").write_text("rot\tADJ\nrot\tADJ\nrot\tNOUN\nhaus\tNOUN\ngeht\tNOUN\n")
    (tmp_path / "test.tsv").write_text("rot\tADJ\ngeht\tNOUN\nneu\tNOUN\nfremd\tADJ\n")
    other = dataclasses.replace(
        config,
        train_files=(str(tmp_path / "train.tsv"),),
        test_files=(str(tmp_path / "test.tsv"),),
        epochs=1,
        save_model=False,
        output=str(tmp_path / "output"),
    )
    capsys.readouterr()
    assert finetune(other)["baseline_metrics"]["accuracy"] == 3 / 4  # NOUN for what is new
    printed = capsys.readouterr().out
    assert "warning: 50% of the sub-words are [UNK]" in printed
    assert "the most frequent tag of each word form: accuracy 0.7500" in printed
    finetune(config)
    assert "warning" not in capsys.readouterr().out


def test_the_encoder_is_the_pretrained_one_and_the_head_is_as_flax_draws_it(config):
    encoder, pretrained = load_masked_lm(config.model)
    model = TokenClassifier(encoder, num_labels=3)
    params = _initial_params(model, pretrained, jax.random.key(0))
    jax.tree.map(np.testing.assert_array_equal, params["encoder"], pretrained["encoder"])
    ids, mask = (jax.ShapeDtypeStruct((1, 4), dtype) for dtype in (jnp.int32, jnp.bool_))
    expected = nn.meta.unbox(jax.eval_shape(model.init, jax.random.key(0), ids, mask))["params"]
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), params) == jax.tree.map(
        lambda leaf: (leaf.shape, leaf.dtype), expected
    )
    # 96 draws: the standard deviation of their standard deviation is 0.07 of it.
    assert np.std(params["classifier"]["kernel"]) == pytest.approx(encoder.initializer_range, rel=0.25)
    assert not params["classifier"]["bias"].any()


def test_loss_is_a_mean_over_labelled_words():
    logits = jnp.log(jnp.array([[[0.5, 0.5], [0.25, 0.75], [0.9, 0.1]]]))
    label_ids, weights = jnp.array([[0, 1, 1]]), jnp.array([[1.0, 1.0, 0.0]])
    expected = -(math.log(0.5) + math.log(0.75)) / 2
    assert float(token_classification_loss(logits, label_ids, weights)) == pytest.approx(expected, rel=1e-6)
    assert float(token_classification_loss(logits, label_ids, jnp.zeros((1, 3)))) == 0.0


def test_rate_rises_then_falls_and_no_step_is_wasted():
    # Two steps of warmup to 1, then ninths of it down to 1/9: 0 would come at the eleventh step.
    expected = [1 / 2, 1, 8 / 9, 7 / 9, 6 / 9, 5 / 9, 4 / 9, 3 / 9, 2 / 9, 1 / 9]
    np.testing.assert_allclose(learning_rates(1.0, 10, 0.2), expected, rtol=1e-6)
    assert learning_rates(3.0, 1, 0.1).tolist() == [3.0]
    assert learning_rates(3.0, 2, 0.0).tolist() == [3.0, 1.5]


def test_biases_and_norm_scales_do_not_decay():
    """Without gradients an update of AdamW is the decay alone."""
    params = {"wi": {"kernel": jnp.ones(2), "bias": jnp.ones(2)}, "norm": {"scale": jnp.ones(2)}, "token": jnp.ones(2)}
    optimizer = tagging_optimizer(0.5)
    updates, _ = optimizer.update(jax.tree.map(jnp.zeros_like, params), optimizer.init(params), params)
    decay = jax.tree.map(lambda update: float(update[0]), updates)
    assert decay == {"wi": {"kernel": -0.5, "bias": 0.0}, "norm": {"scale": 0.0}, "token": -0.5}
    # The names that this rests on are the ones that the model has.
    names = {path[-1].key for path, _ in jax.tree_util.tree_leaves_with_path(random_params(ENCODER))}
    assert names == {"kernel", "bias", "scale", "token", "position", "segment", "decoder_bias"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": "parsing"}, "FinetuneConfig.task: found 'parsing', expected one of"),
        ({"test_files": ()}, "FinetuneConfig.test_files: found none"),
        ({"train_files": "a.tsv"}, "FinetuneConfig.train_files: found one string, expected a list"),
        ({"policy": "own"}, "FinetuneConfig.policy: found 'own', expected one of"),
        ({"vocabulary": "v"}, "FinetuneConfig.vocabulary: found 'v', expected None with policy='union'"),
        ({"teacher": "de"}, "FinetuneConfig.teacher: found 'de', expected None with policy='union'"),
        (
            {"policy": "teacher_routed", "teacher": "de"},
            "FinetuneConfig.vocabulary: found None, expected a value with policy='teacher_routed'",
        ),
        (
            {"policy": "teacher_routed", "vocabulary": "v", "teacher": "de"},
            "FinetuneConfig.save_model: found True with policy='teacher_routed', expected False",
        ),
        ({"epochs": 0}, "FinetuneConfig.epochs: found 0, expected at least 1"),
        ({"model": "nowhere"}, "FinetuneConfig.save_model: found no nowhere/tokenizer.json"),
    ],
)
def test_settings_that_contradict_are_refused(config, changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(config, **changes)


def test_what_does_not_fit_the_model_is_refused_before_training(config, tmp_path):
    fresh = dataclasses.replace(config, output=str(tmp_path / "output"), save_model=False)
    with pytest.raises(ValueError, match=r"max_position_embeddings: found 16, expected at least .*max_length=17"):
        finetune(dataclasses.replace(fresh, max_length=17))
    many = tmp_path / "many"
    shutil.copytree(config.model, many)
    more = [f"wort{index}" for index in range(NUM_ROWS - NUM_TOKENS + 1)]
    wordpiece(*TOKENS, *more).tokenizer.save(str(many / "tokenizer.json"))
    with pytest.raises(ValueError, match=rf"tokenizer\.json: .*found {NUM_ROWS}, expected less than"):
        finetune(dataclasses.replace(fresh, model=str(many)))
    (tmp_path / "counted").mkdir()
    shutil.copytree(config.model, tmp_path / "counted" / "model")
    for content, message in (
        (b"1234567", r"token_counts\.bin: found 7 bytes, expected 8 for each token"),
        (to_bytes(np.zeros(3, np.int64)), rf"model: token counts: found 3 tokens, expected vocab_size={NUM_ROWS}"),
    ):
        (tmp_path / "counted" / "model" / TOKEN_COUNTS_FILE).write_bytes(content)
        with pytest.raises(ValueError, match=message):
            finetune(dataclasses.replace(fresh, model=str(tmp_path / "counted" / "model")))
    with pytest.raises(FloatingPointError, match=r"FinetuneConfig\.learning_rate=1e\+30: loss of epoch \d+: found nan"):
        finetune(dataclasses.replace(fresh, learning_rate=1e30))
    assert not (tmp_path / "output").exists()


def test_a_vocabulary_of_another_student_or_teacher_is_refused(config, cut, tmp_path):
    routed = dataclasses.replace(config, save_model=False, **cut | {"output": str(tmp_path / "output")})
    with pytest.raises(ValueError, match=r"vocabulary\.json: field hash: found \w+, expected \w+ of .*model"):
        finetune(dataclasses.replace(routed, model=config.model))
    with pytest.raises(ValueError, match=r"vocabulary\.json: field members: found no 'fr', expected one of \['de'\]"):
        finetune(dataclasses.replace(routed, teacher="fr"))
    assert not (tmp_path / "output").exists()


def test_another_policy_or_another_id_map_is_another_run(config, cut, tmp_path):
    routed = dataclasses.replace(config, save_model=False, epochs=1, **cut | {"output": str(tmp_path / "output")})
    finetune(routed)
    own = dataclasses.replace(routed, policy="union", vocabulary=None, teacher=None)
    with pytest.raises(
        ValueError, match=r"result\.json: teacher: found 'de', expected None|result\.json: policy: found"
    ):
        finetune(own)
    other = tmp_path / "vocabulary"
    shutil.copytree(cut["vocabulary"], other)
    id_map = cut_map()
    ids = id_map.ids.copy()
    ids[-1] = 1
    changed = dataclasses.replace(id_map, ids=ids)
    (other / "teachers" / "de" / "id_map.npz").write_bytes(changed.to_bytes())
    with pytest.raises(ValueError, match=r"result\.json: hash of id_map: found '\w+', expected '\w+'"):
        finetune(dataclasses.replace(routed, vocabulary=str(other)))
