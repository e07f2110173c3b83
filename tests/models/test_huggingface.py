"""Weights to and from Hugging Face folders: parity with transformers both ways, round trips, and every refusal."""

import dataclasses
import json
import os
import shlex
import shutil
import subprocess
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
import tokenizers
from flax import traverse_util

from mergedistill_jax import files
from mergedistill_jax.configs.encoder import EncoderConfig
from mergedistill_jax.files import temporary_path
from mergedistill_jax.models.families import bert
from mergedistill_jax.models.heads import MaskedLanguageModel, TokenClassifier
from mergedistill_jax.models.huggingface import (
    load_encoder_config,
    load_masked_lm,
    load_token_classifier,
    save_masked_lm,
    save_token_classifier,
)
from mergedistill_jax.models.huggingface_weights import read_tensors, weights_hash
from mergedistill_jax.models.model_card import Evaluation, Teacher, model_card
from mergedistill_jax.models.tokenizer_files import SpecialTokens

TEXTS = [
    "Every morning the small boat crosses the river, and nobody asks why.",
    "L'été, les garçons mangent des crêpes à Orléans.",
    "Каждое утро маленькая лодка пересекает реку, и никто не спрашивает зачем.",
    "كل صباح يعبر القارب الصغير النهر ولا يسأل أحد لماذا.",
    "हर सुबह छोटी नाव नदी पार करती है और कोई नहीं पूछता क्यों।",
    "每天早晨小船渡过河流，没有人问为什么。",  # noqa: RUF001 - Chinese has its own comma
]
LABELS = ["O", "B-PER", "I-PER"]
SMALL = EncoderConfig(
    vocab_size=700,
    num_layers=2,
    hidden_size=12,
    num_heads=3,
    intermediate_size=20,
    max_length=64,
    initializer_range=0.3,
    layer_norm_epsilon=1e-6,
    activation="gelu_new",
)


def randomised(params, seed=0, scale=0.3):
    """Parameters with noise on every one: biases of 0 and scales of 1 would hide a swapped name."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda leaf: (np.asarray(leaf) + rng.normal(scale=scale, size=leaf.shape)).astype(np.float32), params
    )


def random_params(model):
    ids = jnp.zeros((1, 2), jnp.int32)
    more = (ids,) if isinstance(model, MaskedLanguageModel) else ()
    shapes = jax.eval_shape(model.init, jax.random.key(0), ids, ids == 0, *more)
    return randomised(jax.tree.map(lambda leaf: np.zeros(leaf.shape), nn.unbox(shapes)["params"]))


def batch(vocab_size, lengths, seed=1):
    """Ids and mask of rows of the given lengths, padded with 0."""
    rng = np.random.default_rng(seed)
    mask = np.arange(max(lengths))[None] < np.array(lengths)[:, None]
    return np.where(mask, rng.integers(1, vocab_size, mask.shape), 0), mask


def our_logits(model, params, ids, mask):
    args = [jnp.asarray(ids), jnp.asarray(mask)]
    if isinstance(model, MaskedLanguageModel):
        args.append(jnp.broadcast_to(jnp.arange(ids.shape[1]), ids.shape))
    return np.asarray(jax.jit(model.apply)({"params": params}, *args))


def their_logits(model, ids, mask):
    torch = pytest.importorskip("torch")
    with torch.no_grad():
        return model(input_ids=torch.tensor(ids), attention_mask=torch.tensor(mask.astype(np.int64))).logits.numpy()


def their_model(kind, **fields):
    """A model of transformers with noise on every parameter."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    model = getattr(transformers, kind)(transformers.BertConfig(**fields)).eval()
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return model


def write_config(folder, config, **fields):
    stored = {
        "model_type": "bert",
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "intermediate_size": config.intermediate_size,
        "max_position_embeddings": config.max_length,
    }
    (folder / "config.json").write_text(json.dumps({**stored, **fields}))


@pytest.fixture(scope="module")
def tokenizer_file(tmp_path_factory):
    """A cased WordPiece tokenizer over six scripts, trained here; its special tokens are not at BERT's ids."""
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordPiece(unk_token=SpecialTokens().unk))
    tokenizer.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=False, strip_accents=False)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = tokenizers.decoders.WordPiece(prefix="##")
    special = ["[MASK]", "[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    trainer = tokenizers.trainers.WordPieceTrainer(vocab_size=600, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(TEXTS * 3, trainer)
    tokenizer.post_processor = tokenizers.processors.BertProcessing(("[SEP]", 4), ("[CLS]", 3))
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    tokenizer.save(str(path))
    return path


@pytest.fixture(scope="module")
def params():
    return random_params(MaskedLanguageModel(SMALL))


@pytest.fixture
def save(params, tokenizer_file):
    """Saves the random student, with what a test changes."""

    def save(folder, **changed):
        arguments = {
            "config": SMALL,
            "params": params,
            "tokenizer_file": tokenizer_file,
            "special_tokens": SpecialTokens(),
            "card": "# Card\n",
        }
        save_masked_lm(folder, **{**arguments, **changed})
        return folder

    return save


@pytest.fixture
def teacher(tmp_path, params):
    """A hand-made folder, and a function that rewrites it with tensors added, changed, or (None) left out."""
    folder = tmp_path / "teacher"
    folder.mkdir()
    write_config(folder, SMALL)
    flat = traverse_util.flatten_dict(params)
    tensors = {weight.name: weight.to_hf(flat[weight.path]) for weight in bert.FAMILY.masked_lm_weights(SMALL)}

    def rewrite(changes):
        changed = {name: tensor for name, tensor in {**tensors, **changes}.items() if tensor is not None}
        safetensors.numpy.save_file(changed, folder / "model.safetensors")
        return folder

    rewrite({})
    return folder, tensors, rewrite


def assert_equal_trees(left, right):
    left, right = traverse_util.flatten_dict(left), traverse_util.flatten_dict(right)
    assert left.keys() == right.keys()
    for path, leaf in left.items():
        assert leaf.dtype == right[path].dtype == np.float32
        np.testing.assert_array_equal(leaf, right[path], err_msg="/".join(path))


# ---------------------------------------------------------------- from transformers to us


@pytest.mark.parametrize(
    ("size", "activation", "epsilon"),
    [
        ((1, 1, 8, 16), "gelu", 1e-12),
        ((2, 4, 32, 48), "gelu_new", 1e-5),
        ((3, 3, 12, 20), "relu", 1e-12),
        ((4, 2, 16, 16), "gelu_pytorch_tanh", 1e-2),
        ((1, 2, 8, 8), "silu", 1e-12),
    ],
)
def test_masked_lm_logits_equal_those_of_transformers(tmp_path, size, activation, epsilon):
    layers, heads, width, inner = size
    theirs = their_model(
        "BertForMaskedLM",
        vocab_size=90,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=inner,
        max_position_embeddings=20,
        hidden_act=activation,
        layer_norm_eps=epsilon,
    )
    theirs.save_pretrained(tmp_path)
    config, params = load_masked_lm(tmp_path)
    ids, mask = batch(90, [20, 7, 1])  # 20 is max_position_embeddings
    expected = their_logits(theirs, ids, mask)
    found = our_logits(MaskedLanguageModel(config), params, ids, mask)
    assert np.std(expected) > 0.5  # so that 1e-4 says something
    np.testing.assert_allclose(found[mask], expected[mask], atol=1e-4)


def test_token_classifier_logits_equal_those_of_transformers(tmp_path):
    theirs = their_model(
        "BertForTokenClassification",
        vocab_size=50,
        hidden_size=12,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=20,
        max_position_embeddings=16,
        id2label=dict(enumerate(LABELS)),
        label2id={label: index for index, label in enumerate(LABELS)},
    )
    theirs.save_pretrained(tmp_path)
    config, params, labels = load_token_classifier(tmp_path)
    assert labels == LABELS
    ids, mask = batch(50, [9, 4])
    expected = their_logits(theirs, ids, mask)
    found = our_logits(TokenClassifier(config, len(labels)), params, ids, mask)
    np.testing.assert_allclose(found[mask], expected[mask], atol=1e-4)


def test_shards_of_transformers_load_like_one_file_and_have_its_hash(tmp_path):
    theirs = their_model(
        "BertForMaskedLM",
        vocab_size=200,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=16,
    )
    theirs.save_pretrained(tmp_path / "one")
    theirs.save_pretrained(tmp_path / "many", max_shard_size="10KB")
    assert len(list((tmp_path / "many").glob("*.safetensors"))) > 2
    assert_equal_trees(load_masked_lm(tmp_path / "one")[1], load_masked_lm(tmp_path / "many")[1])
    assert weights_hash(tmp_path / "one") == weights_hash(tmp_path / "many")
    shard = next((tmp_path / "many").glob("*.safetensors"))
    shard.unlink()
    with pytest.raises(FileNotFoundError, match=f"index.json: weight_map: found no file {shard.name}"):
        load_masked_lm(tmp_path / "many")


def test_defaults_of_config_json_are_those_of_transformers(tmp_path):
    transformers = pytest.importorskip("transformers")
    theirs = transformers.BertConfig().to_dict()
    (tmp_path / "config.json").write_text(json.dumps(theirs))
    full = load_encoder_config(tmp_path)
    required = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    short = {"model_type": "bert", **{name: theirs[name] for name in required}}
    (tmp_path / "config.json").write_text(json.dumps(short))
    assert load_encoder_config(tmp_path) == full


def test_the_conversion_command_of_the_refusal_of_pytorch_model_bin_works(tmp_path, teacher):
    torch = pytest.importorskip("torch")
    folder, tensors, _ = teacher
    _, expected = load_masked_lm(folder)
    old = tmp_path / "old"
    old.mkdir()
    write_config(old, SMALL)
    stored = {name: torch.tensor(tensor) for name, tensor in tensors.items()}
    stored["cls.predictions.decoder.weight"] = stored["bert.embeddings.word_embeddings.weight"]  # shared memory
    torch.save(stored, old / "pytorch_model.bin")
    with pytest.raises(
        FileNotFoundError, match=r"found only pytorch_model\.bin, expected model\.safetensors"
    ) as caught:
        load_masked_lm(old)
    python, flag, program = shlex.split(str(caught.value).partition("convert it with: ")[2])
    assert (python, flag) == ("python", "-c")
    exec(program, {})  # noqa: S102 - the very text that the user is told to run
    assert_equal_trees(load_masked_lm(old)[1], expected)


# ---------------------------------------------------------------- names, copies and dtypes of published files


def test_names_without_prefix_and_with_gamma_and_beta_load_alike(teacher):
    folder, tensors, rewrite = teacher
    _, expected = load_masked_lm(folder)
    changes = {}
    for name, tensor in tensors.items():
        old = name.removeprefix("bert.")
        old = old.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
        changes |= {name: None, old: tensor}
    assert_equal_trees(load_masked_lm(rewrite(changes))[1], expected)


def test_harmless_and_tied_tensors_change_nothing(teacher):
    folder, tensors, rewrite = teacher
    _, expected = load_masked_lm(folder)
    rewrite(
        {
            "bert.pooler.dense.weight": np.ones((12, 12), np.float32),
            "bert.embeddings.position_ids": np.arange(64)[None],
            "cls.seq_relationship.bias": np.ones(2, np.float32),
            "cls.predictions.decoder.weight": tensors["bert.embeddings.word_embeddings.weight"],
            "cls.predictions.decoder.bias": tensors["cls.predictions.bias"],
        }
    )
    assert_equal_trees(load_masked_lm(folder)[1], expected)
    rewrite({"cls.predictions.decoder.bias": tensors["cls.predictions.bias"], "cls.predictions.bias": None})
    assert_equal_trees(load_masked_lm(folder)[1], expected)


@pytest.mark.parametrize("dtype", [np.float16, np.float64, ml_dtypes.bfloat16])
def test_other_float_types_load_as_float32(teacher, dtype):
    folder, tensors, rewrite = teacher
    rewrite({name: tensor.astype(dtype) for name, tensor in tensors.items()})
    _, params = load_masked_lm(folder)
    expected = tensors["cls.predictions.bias"].astype(dtype).astype(np.float32)
    np.testing.assert_array_equal(params["decoder_bias"], expected)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype(np.float32)}


def test_aliases_of_activations_are_resolved(tmp_path):
    write_config(tmp_path, SMALL, hidden_act="swish")
    assert load_encoder_config(tmp_path).activation == "silu"


# ---------------------------------------------------------------- from us to transformers


def test_an_exported_student_loads_in_transformers_with_equal_logits_and_ids(tmp_path, save, params, tokenizer_file):
    transformers = pytest.importorskip("transformers")
    folder = save(tmp_path / "student")
    theirs, report = transformers.AutoModelForMaskedLM.from_pretrained(folder, output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert type(theirs).__name__ == "BertForMaskedLM"
    assert theirs.config.pad_token_id == 1

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    assert tokenizer.is_fast
    assert tokenizer.model_max_length == SMALL.max_length
    roles = ("mask", "pad", "unk", "cls", "sep")
    assert [getattr(tokenizer, f"{role}_token_id") for role in roles] == [0, 1, 2, 3, 4]
    reference = tokenizers.Tokenizer.from_file(str(tokenizer_file))
    expected_ids = [reference.encode(text).ids for text in TEXTS]
    assert tokenizer(TEXTS)["input_ids"] == expected_ids
    assert all(row.count(2) == 0 for row in expected_ids)  # no [UNK]: the comparison says something in every script
    assert tokenizer(f"a {tokenizer.mask_token}")["input_ids"][-2] == 0
    by_name = transformers.BertTokenizerFast.from_pretrained(folder)
    assert by_name(TEXTS)["input_ids"] == expected_ids

    padded = tokenizer(TEXTS, padding=True, return_tensors="np")
    ids, mask = padded["input_ids"], padded["attention_mask"].astype(bool)
    found = our_logits(MaskedLanguageModel(SMALL), params, ids, mask)
    np.testing.assert_allclose(found[mask], their_logits(theirs.eval(), ids, mask)[mask], atol=1e-4)


def test_an_exported_token_classifier_loads_in_transformers_with_equal_logits(tmp_path, tokenizer_file):
    transformers = pytest.importorskip("transformers")
    model = TokenClassifier(SMALL, len(LABELS))
    params = random_params(model)
    folder = tmp_path / "tagger"
    save_token_classifier(
        folder, SMALL, params, LABELS, tokenizer_file=tokenizer_file, special_tokens=SpecialTokens(), card="# Card\n"
    )
    theirs, report = transformers.AutoModelForTokenClassification.from_pretrained(folder, output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert theirs.config.id2label == dict(enumerate(LABELS))
    ids, mask = batch(SMALL.vocab_size, [12, 5])
    found = our_logits(model, params, ids, mask)
    np.testing.assert_allclose(found[mask], their_logits(theirs.eval(), ids, mask)[mask], atol=1e-4)
    config, loaded, labels = load_token_classifier(folder)
    assert (config, labels) == (SMALL, LABELS)
    assert_equal_trees(loaded, params)


def test_what_is_saved_loads_again_bit_for_bit(tmp_path, save, params):
    folder = save(tmp_path / "student")
    config, loaded = load_masked_lm(folder)
    assert config == SMALL
    assert_equal_trees(loaded, params)
    save(tmp_path / "again", config=config, params=jax.tree.map(jnp.asarray, loaded))  # also from device arrays
    assert weights_hash(tmp_path / "again") == weights_hash(folder)


def test_the_start_of_the_position_table_is_not_part_of_the_folder(tmp_path, save):
    config = dataclasses.replace(SMALL, position_init="sinusoidal")
    assert load_encoder_config(save(tmp_path / "student", config=config)) == SMALL


# ---------------------------------------------------------------- writing: nothing half-written, nothing overwritten


def test_a_folder_with_content_is_overwritten_only_on_demand(tmp_path, save, params):
    folder = save(tmp_path / "student")
    before = weights_hash(folder)
    (folder / "note.txt").write_text("mine")
    other = {**params, "decoder_bias": params["decoder_bias"] + 1}
    with pytest.raises(FileExistsError, match="student: found 6 files, expected none"):
        save(folder, params=other)
    assert weights_hash(folder) == before
    save(folder, params=other, overwrite=True)
    assert_equal_trees(load_masked_lm(folder)[1], other)
    expected = ["README.md", "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
    assert sorted(path.name for path in folder.iterdir()) == expected
    assert [path.name for path in tmp_path.iterdir()] == ["student"]


def test_overwrite_spares_a_folder_that_is_no_model(tmp_path, save):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(FileExistsError, match=r"found no config\.json among"):
        save(tmp_path, overwrite=True)
    assert (tmp_path / "thesis.tex").exists()


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path, save):
    (tmp_path / "student").write_text("")
    with pytest.raises(FileExistsError, match="found a file, expected a folder or nothing"):
        save(tmp_path / "student")


def test_an_empty_folder_and_the_leftover_of_a_killed_run_are_no_obstacle(tmp_path, save):
    (tmp_path / "student").mkdir()
    with subprocess.Popen([sys.executable, "-c", ""]) as dead:
        dead.wait()
    left = temporary_path(tmp_path / "student")
    left = left.parent / left.name.replace(f".{os.getpid()}.", f".{dead.pid}.")
    left.mkdir()
    (left / "stale").write_text("half")
    files._remove_left_behind_once.cache_clear()  # as in a new process
    folder = save(tmp_path / "student")
    assert "stale" not in {path.name for path in folder.iterdir()}
    load_masked_lm(folder)
    assert [path.name for path in tmp_path.iterdir()] == ["student"]


@pytest.mark.parametrize("link", ["student", "-a [b]*?#%"])
def test_a_link_to_a_folder_is_followed_and_stays(tmp_path, save, link):
    """Written and then replaced: the link is the same, and so is what it leads to."""
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk/real").mkdir()
    (tmp_path / "links").mkdir()
    path = tmp_path / "links" / link
    path.symlink_to("../disk/real")
    for _ in range(2):
        load_masked_lm(save(path, overwrite=True))
        assert path.is_symlink()
        assert [found.name for found in path.parent.iterdir()] == [link]
        assert [found.name for found in (tmp_path / "disk").iterdir()] == ["real"]
    assert (tmp_path / "disk/real/config.json").exists()


def test_a_link_to_nothing_becomes_a_link_to_the_model(tmp_path, save):
    (tmp_path / "student").symlink_to("later")
    load_masked_lm(save(tmp_path / "student"))
    assert (tmp_path / "student").is_symlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["later", "student"]


def test_a_link_in_a_circle_is_refused(tmp_path, save):
    (tmp_path / "one").symlink_to("two")
    (tmp_path / "two").symlink_to("one")
    with pytest.raises(OSError, match=str(tmp_path)) as error:
        save(tmp_path / "one")
    assert "\n" not in str(error.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "two"]


def test_nothing_is_left_where_writing_is_refused(tmp_path, save):
    with pytest.raises(ValueError, match="mask token: found no '<mask>'"):
        save(tmp_path / "student", special_tokens=SpecialTokens(mask="<mask>"))
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------- refusals of config.json


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model_type": "t5"}, "config.json: model_type: found 't5', expected one of albert, bert, camembert, distilb"),
        ({"model_type": None}, "config.json: model_type: found None, expected one of albert, bert, camembert, distilb"),
        (
            {"model_type": "bert2", "auto_map": {"AutoModel": "modeling.Bert2"}},
            r"model_type: found 'bert2' with code of its own \(auto_map\), which is never run, expected one of",
        ),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type: found 'relative_key', expected 'absol"),
        ({"is_decoder": True}, "is_decoder: found True, expected False"),
        ({"add_cross_attention": True}, "add_cross_attention: found True, expected False"),
        ({"pruned_heads": {"0": [1]}}, "pruned_heads: found {'0': \\[1\\]}, expected {}"),
        ({"quantization_config": {"bits": 4}}, "quantization_config: found {'bits': 4}, expected None"),
        ({"hidden_act": "mish"}, "config.json: EncoderConfig.activation: found 'mish', expected one of"),
        ({"hidden_size": 13}, "config.json: EncoderConfig.hidden_size: found 13, expected a multiple of num_heads=3"),
        ({"hidden_size": "12"}, "config.json: hidden_size: found '12', expected a positive integer"),
        ({"num_hidden_layers": 0}, "num_hidden_layers: found 0, expected a positive integer"),
        ({"num_hidden_layers": None}, "num_hidden_layers: found None, expected a positive integer"),
        ({"layer_norm_eps": True}, "layer_norm_eps: found True, expected a non-negative number"),
        ({"hidden_act": None}, "hidden_act: found None, expected a string"),
    ],
)
def test_an_unsupported_config_is_refused_by_name(tmp_path, fields, message):
    write_config(tmp_path, SMALL, **fields)
    with pytest.raises(ValueError, match=message) as caught:
        load_encoder_config(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_config_that_is_absent_or_unreadable_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"config\.json: found no such file"):
        load_encoder_config(tmp_path)
    for content, message in (("{", "found an unreadable file"), ("[]", "found a list, expected a JSON object")):
        (tmp_path / "config.json").write_text(content)
        with pytest.raises(ValueError, match=message):
            load_encoder_config(tmp_path)


# ---------------------------------------------------------------- refusals of weights

WORDS = "bert.embeddings.word_embeddings.weight"
DECODER = "cls.predictions.decoder.weight"


def test_a_folder_without_masked_lm_head_is_refused_by_name(teacher):
    folder, tensors, rewrite = teacher
    rewrite({name: None for name in tensors if name.startswith("cls.")})
    with pytest.raises(ValueError, match=r"has no masked-LM head: found no weights cls\.predictions\.\*"):
        load_masked_lm(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"bert.encoder.layer.1.output.dense.bias": None},
            r"found no weights bert\.encoder\.layer\.1\.output\.dense\.bias",
        ),
        (
            {"bert.encoder.layer.2.output.dense.bias": np.ones(12)},
            r"found unexpected weights bert\.encoder\.layer\.2\.",
        ),
        ({"qa_outputs.weight": np.ones((2, 12))}, r"found unexpected weights qa_outputs\.weight"),
        ({WORDS: np.ones((699, 12))}, r"word_embeddings\.weight: found shape \(699, 12\), expected \(700, 12\)"),
        (
            {"cls.predictions.bias": np.ones(700, np.int32)},
            r"predictions\.bias: found dtype int32, expected floating point",
        ),
        ({DECODER: np.ones((700, 12))}, r"decoder\.weight: found untied weights, expected those of bert\.emb"),
        (
            {"cls.predictions.decoder.bias": np.ones(700)},
            r"decoder\.bias: found other values than in cls\.predictions\.bias",
        ),
        ({"embeddings.LayerNorm.gamma": np.ones(12)}, r"bert\.embeddings\.LayerNorm\.weight: found twice"),
        ({WORDS: np.ones((700, 12), np.complex64)}, r"word_embeddings\.weight: found dtype C64, expected one of"),
    ],
)
def test_weights_that_do_not_fit_are_refused_by_name(teacher, changes, message):
    folder, _, rewrite = teacher
    rewrite(changes)
    with pytest.raises(ValueError, match=message) as caught:
        load_masked_lm(folder)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)


def test_many_missing_weights_still_make_one_line(teacher):
    folder, tensors, rewrite = teacher
    rewrite({name: None for name in tensors if "layer.1." in name})
    with pytest.raises(ValueError, match="and 11 more, expected 42 tensors"):
        load_masked_lm(folder)


def test_an_untied_config_without_decoder_is_refused(teacher):
    folder, _, _ = teacher
    write_config(folder, SMALL, tie_word_embeddings=False)
    with pytest.raises(ValueError, match=r"found no weights cls\.predictions\.decoder\.weight"):
        load_masked_lm(folder)


def test_weights_that_are_absent_or_unreadable_are_refused(teacher):
    folder, _, _ = teacher
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])  # a truncated download
    with pytest.raises(ValueError, match=r"model\.safetensors: found an unreadable file"):
        load_masked_lm(folder)
    path.unlink()
    with pytest.raises(
        FileNotFoundError, match=r"found no weights, expected model\.safetensors or model\.safetensors\.index"
    ):
        load_masked_lm(folder)


def test_an_index_that_promises_what_its_files_lack_is_refused(teacher):
    folder, tensors, _ = teacher
    (folder / "model.safetensors").rename(folder / "a.safetensors")
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": dict.fromkeys([*tensors, "more"], "a.safetensors")}))
    with pytest.raises(ValueError, match="weight_map: found no tensor more in the files it names"):
        load_masked_lm(folder)
    index.write_text(json.dumps({"metadata": {}}))
    with pytest.raises(ValueError, match="weight_map: found None, expected tensor names and their files"):
        load_masked_lm(folder)


def test_a_folder_that_is_no_token_classifier_is_refused(teacher):
    folder, _, _ = teacher
    with pytest.raises(ValueError, match="id2label: found None, expected names of the labels"):
        load_token_classifier(folder)
    write_config(folder, SMALL, id2label={"0": "O", "2": "B"})
    with pytest.raises(ValueError, match=r"id2label: found {'0': 'O', '2': 'B'}, expected names of the labels 0, 1, 2"):
        load_token_classifier(folder)
    write_config(folder, SMALL, id2label={"0": "O", "1": "B"})
    with pytest.raises(ValueError, match="has no token-classification head"):
        load_token_classifier(folder)


# ---------------------------------------------------------------- refusals of saving


def test_parameters_that_do_not_fit_are_refused(tmp_path, save, params):
    without = {name: leaf for name, leaf in params.items() if name != "decoder_bias"}
    with pytest.raises(ValueError, match="params: found no decoder_bias, expected 42"):
        save(tmp_path / "a", params=without)
    with pytest.raises(ValueError, match="params: found unexpected classifier/bias, expected 42"):
        save(tmp_path / "a", params={**params, "classifier": {"bias": np.ones(2)}})
    with pytest.raises(ValueError, match=r"params: decoder_bias: found shape \(699,\), expected \(700,\)"):
        save(tmp_path / "a", params={**params, "decoder_bias": np.ones(699)})


def test_labels_named_twice_are_refused(tmp_path, params, tokenizer_file):
    with pytest.raises(ValueError, match=r"labels: found \['O', 'O'\], expected no name twice"):
        save_token_classifier(
            tmp_path / "a",
            SMALL,
            params,
            ["O", "O"],
            tokenizer_file=tokenizer_file,
            special_tokens=SpecialTokens(),
            card="",
        )


def test_a_tokenizer_that_does_not_fit_the_model_is_refused(tmp_path, save, tokenizer_file):
    with pytest.raises(ValueError, match="mask token: found no '<mask>' in the vocabulary"):
        save(tmp_path / "a", special_tokens=SpecialTokens(mask="<mask>"))
    small = dataclasses.replace(SMALL, vocab_size=100)
    with pytest.raises(ValueError, match=r"found \d+ tokens, expected at most the model's vocab_size=100"):
        save(tmp_path / "a", config=small, params=random_params(MaskedLanguageModel(small)))
    content = json.loads(tokenizer_file.read_text())
    bare = tmp_path / "tokenizer.json"
    bare.write_text(json.dumps({**content, "post_processor": None}))
    with pytest.raises(
        ValueError, match=r"post_processor: found \[\] for the empty text, expected \['\[CLS\]', '\[SEP\]'\]"
    ):
        save(tmp_path / "a", tokenizer_file=bare)
    bare.write_text(json.dumps({**content, "model": {"type": "Nonsense"}}))
    with pytest.raises(ValueError, match=r"found an unreadable file .*, expected a tokenizer\.json"):
        save(tmp_path / "a", tokenizer_file=bare)


# ---------------------------------------------------------------- hashes and counts


def test_weights_hash_is_of_content_not_of_layout(teacher):
    folder, tensors, rewrite = teacher
    before = weights_hash(folder)
    assert len(before) == 32
    safetensors.numpy.save_file(dict(reversed(tensors.items())), folder / "model.safetensors", {"format": "pt"})
    assert weights_hash(folder) == before
    bias = tensors["cls.predictions.bias"]
    nudged = bias.copy()
    nudged[-1] = np.nextafter(nudged[-1], 9)
    for changes in (
        {"cls.predictions.bias": nudged},
        {"cls.predictions.bias": bias.reshape(7, 100)},
        {"cls.predictions.bias": bias.view(np.int32)},
        {"cls.predictions.bias": None, "cls.predictions.other": bias},
    ):
        assert weights_hash(rewrite(changes)) != before


def test_tensors_are_read_under_their_stored_names(teacher):
    folder, tensors, _ = teacher
    assert read_tensors(folder).keys() == tensors.keys()


def test_rows_without_a_token_are_kept(tmp_path, save, tokenizer_file):
    folder = save(tmp_path / "student")
    vocabulary = tokenizers.Tokenizer.from_file(str(tokenizer_file)).get_vocab()
    assert len(vocabulary) < load_encoder_config(folder).vocab_size
    assert load_masked_lm(folder)[1]["decoder_bias"].shape == (700,)


# ---------------------------------------------------------------- the card


def card(**changed):
    fields = {
        "name": "student",
        "languages": ["no", "en"],
        "teachers": [Teacher(name="a|b", languages=["no"], vocab_size=50_000)],
        "training": {"Corpus": "Wikipedia", "Steps": 500_000},
        "evaluations": [
            Evaluation(task="NER", language="no", metric="F1", student=90.0, teacher=91.25, rdt=-1.3698),
            Evaluation(task="QA", language="en", metric="EM", student=70.0),
        ],
        "max_length": 64,
    }
    return model_card(**{**fields, **changed})


def test_the_front_matter_is_what_the_hub_reads():
    yaml = pytest.importorskip("yaml")
    front = yaml.safe_load(card(license_id="apache-2.0").split("---\n")[1])
    assert front["language"] == ["no", "en"]  # not [False, "en"]
    assert (front["library_name"], front["pipeline_tag"], front["license"]) == (
        "transformers",
        "fill-mask",
        "apache-2.0",
    )
    assert "license" not in yaml.safe_load(card().split("---\n")[1])


@pytest.mark.parametrize(
    ("kind", "said", "not_said"),
    [
        ("distilled", "distilled from the masked-language-model predictions of 1 teacher", "from scratch"),
        ("gold_student", "without their predictions", "distilled from"),
        ("teacher", "trained from scratch", "distilled"),
    ],
)
def test_a_card_says_what_the_model_is(kind: str, said: str, not_said: str):
    text = card(kind=kind, evaluations=[])
    assert said in text
    assert not_said not in text
    assert ('"distillation"' in text) == (kind == "distilled")


@pytest.mark.parametrize(
    ("languages", "example"),
    [(["bn"], "ঢাকা {fill"), (["xx", "de"], "Hauptstadt von {fill"), (["sw"], "mji mkuu wa {fill"), (["xx"], None)],
)
def test_an_example_is_in_a_language_of_the_model_or_there_is_none(languages: list[str], example: str | None):
    text = card(languages=languages)
    assert ("fill(f" in text) == (example is not None)
    assert example is None or example in text
    assert "Paris is the" not in text


def test_the_tables_hold_the_given_numbers_and_no_others():
    text = card()
    assert "| a\\|b | no | 50,000 |" in text
    assert "| Steps | 500,000 |" in text
    assert "| NER | no | F1 | 91.25 | 90.00 | -1.37 |" in text
    assert "| QA | en | EM | not measured | 70.00 | not measured |" in text
    empty = card(evaluations=[])
    assert "No evaluation was run on this model." in empty
    assert "RDT" not in empty


def test_an_unknown_pipeline_is_refused():
    with pytest.raises(ValueError, match="pipeline: found 'chat', expected one of"):
        card(pipeline="chat")


def test_the_snippet_of_the_card_runs(tmp_path, save, capsys):
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    folder = save(tmp_path / "student")
    snippet = card(name=str(folder)).partition("```python\n")[2].partition("```")[0]
    exec(snippet, {})  # noqa: S102 - what the reader of the card would run
    assert "token_str" in capsys.readouterr().out
    shutil.rmtree(folder)
