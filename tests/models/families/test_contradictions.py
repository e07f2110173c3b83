"""Folders whose files contradict each other: equal to transformers, or refused by name."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from etils import epath
from family_models import assert_refused, rewritten, their_model, their_outputs
from tokenizers import Tokenizer, models, processors

from mergedistill_jax.configs.finetune import FinetuneConfig
from mergedistill_jax.finetune import finetune
from mergedistill_jax.models.families.registry import family_of
from mergedistill_jax.models.heads import masked_language_model
from mergedistill_jax.models.huggingface import load_masked_lm, save_masked_lm
from mergedistill_jax.models.huggingface_weights import read_tensors
from mergedistill_jax.models.tokenizer_files import SpecialTokens
from mergedistill_jax.teachers.loading import load_teacher

WIDTHS = {"hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 20}
SIZES = {
    "BertForMaskedLM": {**WIDTHS, "max_position_embeddings": 40},
    "RobertaForMaskedLM": {**WIDTHS, "max_position_embeddings": 60},
    "XLMRobertaForMaskedLM": {**WIDTHS, "max_position_embeddings": 60},
    "CamembertForMaskedLM": {**WIDTHS, "max_position_embeddings": 60},
    "DistilBertForMaskedLM": {"dim": 12, "n_layers": 2, "n_heads": 3, "hidden_dim": 20, "max_position_embeddings": 40},
    "ElectraForMaskedLM": {**WIDTHS, "max_position_embeddings": 40, "embedding_size": 8},
    "AlbertForMaskedLM": {**WIDTHS, "max_position_embeddings": 40, "embedding_size": 8},
    "ModernBertForMaskedLM": {
        **WIDTHS,
        **dict.fromkeys(("bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id"), 1),
    },
}
ROBERTA_LIKE = ("RobertaForMaskedLM", "XLMRobertaForMaskedLM", "CamembertForMaskedLM")
IDS = np.array([[0, 30, 41, 3, 30, 7, 2], [5, 41, 41, 0, 3, 30, 30]])


@pytest.mark.parametrize("pad_id", [0, 1, 3, 30, 41])
@pytest.mark.parametrize("kind", SIZES)
def test_a_text_that_holds_the_padding_token_of_the_config(tmp_path, kind, pad_id):
    """Such as <s>, where config.json names its id: RoBERTa's positions do not count it, other families do not care."""
    import torch  # noqa: PLC0415

    theirs = their_model(kind, vocab_size=50, pad_token_id=pad_id, **SIZES[kind])
    if kind in ROBERTA_LIKE:
        with torch.no_grad():  # as published: this row is never trained
            theirs.base_model.embeddings.position_embeddings.weight[pad_id] = 0
    theirs.save_pretrained(tmp_path)
    config, params = load_masked_lm(tmp_path)
    expected, _ = their_outputs(theirs, IDS, np.ones_like(IDS))
    positions = jnp.broadcast_to(jnp.arange(IDS.shape[1]), IDS.shape)
    apply = jax.jit(masked_language_model(config).apply)
    found = apply({"params": params}, jnp.asarray(IDS), jnp.ones(IDS.shape, bool), positions)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def teacher_folder(folder, kind, *, pad_id, tokenizer_pad_id, tokens=50):
    """A model and a tokenizer of so many tokens whose padding token has another id."""
    their_model(kind, vocab_size=50, pad_token_id=pad_id, **SIZES[kind]).save_pretrained(folder)
    special = ["<s>", "</s>", "<unk>", "<mask>"]
    special.insert(tokenizer_pad_id, "<pad>")
    names = [*special, *(f"x{index}" for index in range(tokens - 5))]
    vocabulary = {token: index for index, token in enumerate(names)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="<unk>"))  # noqa: S106 - a token of text
    frame = [("<s>", vocabulary["<s>"]), ("</s>", vocabulary["</s>"])]
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=frame)
    tokenizer.add_special_tokens(special)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "cls_token": "<s>", "sep_token": "</s>"}
    settings |= {"unk_token": "<unk>", "pad_token": "<pad>", "mask_token": "<mask>", "model_max_length": 7}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return str(folder)


@pytest.mark.parametrize(("pad_id", "tokenizer_pad_id"), [(0, 1), (1, 0), (3, 1), (41, 4)])
@pytest.mark.parametrize("kind", ROBERTA_LIKE)
def test_a_padding_token_of_two_ids_is_refused_where_positions_depend_on_it(tmp_path, kind, pad_id, tokenizer_pad_id):
    folder = teacher_folder(tmp_path / "teacher", kind, pad_id=pad_id, tokenizer_pad_id=tokenizer_pad_id)
    with pytest.raises(ValueError, match=f"config.json: field pad_token_id: found {pad_id}, .*, expected") as error:
        load_teacher(folder, max_length=8, k=4)
    assert f"expected {tokenizer_pad_id} of the padding token in {folder}/tokenizer.json" in str(error.value)


@pytest.mark.parametrize(
    "kind", ["BertForMaskedLM", "DistilBertForMaskedLM", "ElectraForMaskedLM", "AlbertForMaskedLM"]
)
def test_it_is_not_where_they_do_not(tmp_path, kind):
    folder = teacher_folder(tmp_path / "teacher", kind, pad_id=0, tokenizer_pad_id=2)
    assert load_teacher(folder, max_length=40, k=4).pad_id == 2  # and model_max_length is for truncation alone


def test_more_tokens_than_rows_and_fewer_positions_than_asked_for_are_refused(tmp_path):
    folder = teacher_folder(tmp_path / "a", "RobertaForMaskedLM", pad_id=1, tokenizer_pad_id=1, tokens=51)
    with pytest.raises(ValueError, match=r"field vocab: found 51 tokens, expected at most the model's 50"):
        load_teacher(folder, max_length=8, k=4)
    folder = teacher_folder(tmp_path / "b", "RobertaForMaskedLM", pad_id=1, tokenizer_pad_id=1)
    with pytest.raises(ValueError, match="field max_position_embeddings: found 58, expected at least max_length=59"):
        load_teacher(folder, max_length=59, k=4)


@pytest.mark.parametrize("pad_id", [None, -1, 50, 10**6])
def test_a_padding_token_that_transformers_cannot_use_is_refused(tmp_path, pad_id):
    their_model("RobertaForMaskedLM", vocab_size=50, **SIZES["RobertaForMaskedLM"]).save_pretrained(tmp_path / "model")
    config = json.loads((tmp_path / "model/config.json").read_text())
    (tmp_path / "model/config.json").write_text(json.dumps(config | {"pad_token_id": pad_id}))
    assert_refused(tmp_path / "model", rf"config.json: pad_token_id: found {pad_id}, expected")


@pytest.mark.parametrize("field", ["vocab_size", "max_position_embeddings", "type_vocab_size"])
def test_a_size_that_is_not_the_tables_is_refused(tmp_path, field):
    their_model("BertForMaskedLM", vocab_size=50, **SIZES["BertForMaskedLM"]).save_pretrained(tmp_path / "model")
    stored = json.loads((tmp_path / "model/config.json").read_text())[field]
    for size in (stored - 1, stored + 1):
        other = rewritten(tmp_path / "model", tmp_path / f"{field}_{size}", fields={field: size})
        assert_refused(other, r"found shape \(")


def test_a_tensor_in_two_files_is_refused(tmp_path):
    theirs = their_model("BertForMaskedLM", vocab_size=50, **SIZES["BertForMaskedLM"])
    theirs.save_pretrained(tmp_path, max_shard_size="3KB")
    first, second = sorted(tmp_path.glob("*.safetensors"))[:2]
    name, tensor = next(iter(safetensors.numpy.load_file(first).items()))
    tensors = safetensors.numpy.load_file(second) | {name: tensor + 1}
    safetensors.numpy.save_file(tensors, second, {"format": "pt"})
    with pytest.raises(ValueError, match=f"{second.name}: found {name} in another file too, expected each tensor once"):
        read_tensors(epath.Path(tmp_path))


FAMILIES = ("BertForMaskedLM", "RobertaForMaskedLM", "DistilBertForMaskedLM", "ElectraForMaskedLM", "AlbertForMaskedLM")
TIES = {
    "decoder of other values": (True, {"decoder": 1.0}, "found untied weights, expected those of"),
    "untied, of other values": (False, {"decoder": 1.0}, "found untied weights, expected those of|found no weights"),
    "untied, none": (False, {}, "found no weights .*, expected them as config.json unties"),
    "no boolean": ("true", {}, "config.json: tie_word_embeddings: found 'true', expected true or false"),
    "null": (None, {}, "config.json: tie_word_embeddings: found None, expected true or false"),
    "tied, the same": (True, {"decoder": 0.0}, None),
    "untied, the same": (False, {"decoder": 0.0}, None),
    "untied, its own bias": (False, {"decoder": 0.0, "copy": 0.0, "bias": None}, None),
    "bias of other values": (True, {"copy": 1.0}, "found other values than in"),
    "untied, bias of other values": (False, {"decoder": 0.0, "copy": 1.0}, "found other values than in"),
}


@pytest.fixture(scope="module", params=[*FAMILIES, "ModernBertForMaskedLM"])
def family_folder(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ties") / request.param
    their_model(request.param, vocab_size=50, pad_token_id=1, **SIZES[request.param]).save_pretrained(folder)
    return folder


def our_logits(folder):
    config, params = load_masked_lm(folder)
    positions = jnp.broadcast_to(jnp.arange(IDS.shape[1]), IDS.shape)
    apply = jax.jit(masked_language_model(config).apply)
    return apply({"params": params}, jnp.asarray(IDS), jnp.ones(IDS.shape, bool), positions)


@pytest.mark.parametrize("case", TIES)
def test_ties(tmp_path, family_folder, case):
    """Equal to transformers, which gives a decoder that is untied a bias of its own, or refused."""
    from transformers import AutoModelForMaskedLM  # noqa: PLC0415 - slow

    tied, changes, message = TIES[case]
    stored, tensors = json.loads((family_folder / "config.json").read_text()), read_tensors(family_folder)
    family = family_of(stored, epath.Path(family_folder) / "config.json")
    copy, bias = family.decoder_bias or (None, None)
    named = {
        "decoder": (family.decoder, tensors[family.embeddings]),
        "copy": (copy, tensors.get(bias)),
        "bias": (bias,),
    }
    changed = {}
    for name, noise in changes.items():
        target, *source = named[name]
        if target is not None:
            changed[target] = None if noise is None else source[0] + np.float32(noise)
    folder = rewritten(family_folder, tmp_path / "other", tensors=changed)
    (folder / "config.json").write_text(json.dumps({**stored, "tie_word_embeddings": tied}))
    if copy is None and "copy" in changes:
        message = None if tied or "decoder" in changes else message
    if copy is not None and case == "untied, the same":
        message = f"found no weights {copy}, expected them as config.json unties"
    if message is not None:
        assert_refused(folder, message)
        return
    theirs = AutoModelForMaskedLM.from_pretrained(folder).eval()
    expected, _ = their_outputs(theirs, IDS, np.ones_like(IDS))
    np.testing.assert_allclose(our_logits(folder), expected, atol=1e-4)


@pytest.mark.parametrize(
    ("kind", "field", "value", "message"),
    [
        ("DistilBertForMaskedLM", "num_hidden_layers", 1, "num_hidden_layers: found 1, expected 2 as in n_layers"),
        ("DistilBertForMaskedLM", "num_attention_heads", 1, "num_attention_heads: found 1, expected 3 as in n_heads"),
        ("DistilBertForMaskedLM", "hidden_size", 24, "hidden_size: found 24, expected 12 as in dim"),
        ("ModernBertForMaskedLM", "sliding_window", 1, "sliding_window: found 1, expected None"),
        ("ElectraForMaskedLM", "pad_token_id", 50, "pad_token_id: found 50, expected less than vocab_size=50"),
        ("ModernBertForMaskedLM", "pad_token_id", 99, "pad_token_id: found 99, expected less than vocab_size=50"),
        ("ModernBertForMaskedLM", "vocab_size", 49, r"as config.json says \(vocab_size=49\)"),
        ("RobertaForMaskedLM", "max_position_embeddings", 61, r"as config.json says \(max_position_embeddings=61\)"),
        ("AlbertForMaskedLM", "type_vocab_size", 3, r"as config.json says \(.*type_vocab_size=3\)"),
        ("DistilBertForMaskedLM", "hidden_dim", 21, r"as config.json says \(hidden_dim=21\)"),
    ],
)
def test_fields_that_contradict_each_other_or_the_tensors_are_refused_by_name(tmp_path, kind, field, value, message):
    their_model(kind, vocab_size=50, pad_token_id=1, **SIZES[kind]).save_pretrained(tmp_path / "model")
    assert_refused(rewritten(tmp_path / "model", tmp_path / "other", fields={field: value}), message)


def test_a_padding_token_of_two_roles_is_refused_where_positions_depend_on_it(tmp_path):
    folder = teacher_folder(tmp_path / "teacher", "RobertaForMaskedLM", pad_id=1, tokenizer_pad_id=1)
    path = tmp_path / "teacher/tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "unk_token": "<unk>", "mask_token": "<pad>"}))
    with pytest.raises(ValueError, match=r"tokenizer.json: field pad_token: found <pad>, which has another role too"):
        load_teacher(folder, max_length=8, k=4)


def test_a_roberta_is_saved_as_a_bert_of_as_many_positions(tmp_path):
    folder = teacher_folder(tmp_path / "teacher", "RobertaForMaskedLM", pad_id=1, tokenizer_pad_id=1)
    config, params = load_masked_lm(folder)
    special = SpecialTokens(pad="<pad>", unk="<unk>", cls="<s>", sep="</s>", mask="<mask>")
    save_masked_lm(
        tmp_path / "saved",
        config,
        params,
        tokenizer_file=f"{folder}/tokenizer.json",
        special_tokens=special,
        card="",
    )
    assert load_masked_lm(tmp_path / "saved")[0].max_length == config.max_length == 58
    ids = np.where(IDS == 1, 5, IDS)
    from transformers import AutoModelForMaskedLM  # noqa: PLC0415 - slow

    loaded = [AutoModelForMaskedLM.from_pretrained(path).eval() for path in (folder, str(tmp_path / "saved"))]
    theirs = [their_outputs(model, ids, np.ones_like(ids))[0] for model in loaded]
    np.testing.assert_allclose(*theirs, atol=1e-4)


def test_finetune_refuses_a_padding_token_of_two_ids_too(tmp_path):
    folder = teacher_folder(tmp_path / "teacher", "RobertaForMaskedLM", pad_id=0, tokenizer_pad_id=1)
    (tmp_path / "words.tsv").write_text("".join(f"x{index}\tNOUN\nx1\tVERB\n\n" for index in range(10)))
    config = FinetuneConfig(
        model=folder,
        task="pos",
        language="xx",
        file_format="tsv",
        test_files=(str(tmp_path / "words.tsv"),),
        output=str(tmp_path / "tagger"),
        max_length=16,
    )
    with pytest.raises(ValueError, match=r"config.json: field pad_token_id: found 0, .*, expected 1"):
        finetune(config)
