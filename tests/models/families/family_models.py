"""Tiny random models of transformers, and what must hold of a folder of any family."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from etils import epath
from flax import traverse_util

from mergedistill_jax.models.families.registry import family_of
from mergedistill_jax.models.heads import TokenClassifier, masked_language_model
from mergedistill_jax.models.huggingface import load_encoder_config, load_masked_lm
from mergedistill_jax.models.huggingface_weights import WEIGHTS_FILE, read_tensors, to_flax, to_hf


def their_model(kind, **fields):
    """A model of transformers with noise on every parameter: biases of 0 and scales of 1 would hide a swapped name."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model_class = getattr(transformers, kind)
    model = model_class(model_class.config_class(**fields)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return model


def batch(vocab_size, lengths, pad_id):
    """Ids [b, l] and mask of rows of the given lengths, padded on the right; no token of a text is the padding."""
    rng = np.random.default_rng(1)
    mask = np.arange(max(lengths))[None] < np.array(lengths)[:, None]
    words = np.delete(np.arange(vocab_size), pad_id)
    return np.where(mask, rng.choice(words, mask.shape), pad_id), mask


def their_outputs(model, ids, mask):
    """Logits [b, l, v], and the encoder's vectors [b, l, d]."""
    torch = pytest.importorskip("torch")
    inputs = {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask.astype(np.int64))}
    with torch.no_grad():
        return model(**inputs).logits.numpy(), model.base_model(**inputs).last_hidden_state.numpy()


def assert_outputs_equal(theirs, folder, lengths):
    """Logits of the loaded model, and vectors of its encoder under a token classifier, are those of transformers.

    The classifier's matrix is the identity, so its logits are the vectors.
    """
    config, params = load_masked_lm(folder)
    ids, mask = batch(config.vocab_size, lengths, theirs.config.pad_token_id)
    logits, vectors = their_outputs(theirs, ids, mask)
    positions = jnp.broadcast_to(jnp.arange(ids.shape[1]), ids.shape)
    apply = jax.jit(masked_language_model(config).apply)
    found = np.asarray(apply({"params": params}, jnp.asarray(ids), jnp.asarray(mask), positions))
    assert np.std(logits) > 0.5  # so that 1e-4 says something
    np.testing.assert_allclose(found[mask], logits[mask], atol=1e-4)

    identity = {"kernel": jnp.eye(config.hidden_size), "bias": jnp.zeros(config.hidden_size)}
    apply = jax.jit(TokenClassifier(config, config.hidden_size).apply)
    variables = {"params": {"encoder": params["encoder"], "classifier": identity}}
    found = np.asarray(apply(variables, jnp.asarray(ids), jnp.asarray(mask)))
    np.testing.assert_allclose(found[mask], vectors[mask], atol=1e-4)


def assert_right_length(folder, max_length):
    """The config's max_length is the longest input, and one token more is refused."""
    config, params = load_masked_lm(folder)
    assert config.max_length == max_length
    ids = jnp.zeros((1, max_length + 1), jnp.int32)
    with pytest.raises(ValueError, match=f"found length {max_length + 1}, expected at most max_length={max_length}"):
        masked_language_model(config).apply({"params": params}, ids, ids == 0, ids[:, :1])


def assert_goes_back(folder, unread=None):
    """to_hf undoes to_flax bit for bit, tensor by tensor; `unread` names a tensor and how many first rows become 0."""
    stored = json.loads((folder / "config.json").read_text())
    family, config = family_of(stored, epath.Path(folder) / "config.json"), load_encoder_config(folder)
    tensors = {name: tensor for name, tensor in read_tensors(folder).items() if not family.is_harmless(name)}
    weights = family.masked_lm_weights(config)
    if family.decoder_bias is not None:
        tensors.pop(family.decoder_bias[0], None)
    again = to_hf(to_flax(tensors, weights, folder), weights)
    assert again.keys() == tensors.keys()
    for name, tensor in tensors.items():
        expected = tensor.copy()
        if unread is not None and name == unread[0]:
            expected[: unread[1]] = 0
        np.testing.assert_array_equal(again[name], expected, err_msg=name)


def assert_defaults(kind, required, folder):
    """A config.json of the required fields alone means what the one with all of transformers' defaults means."""
    transformers = pytest.importorskip("transformers")
    full = getattr(transformers, kind)().to_dict()
    found = []
    for stored in (full, {name: full[name] for name in ("model_type", *required)}):
        (folder / "config.json").write_text(json.dumps(stored))
        found.append(load_encoder_config(folder))
    assert found[0] == found[1]


def rewritten(folder, target, *, fields=None, tensors=None):
    """A copy of a folder with fields of config.json and tensors added, changed, or (None) left out."""
    shutil.copytree(folder, target)
    stored = {**json.loads((folder / "config.json").read_text()), **(fields or {})}
    stored = {name: value for name, value in stored.items() if value is not None}
    (target / "config.json").write_text(json.dumps(stored))
    kept = {name: tensor for name, tensor in {**read_tensors(folder), **(tensors or {})}.items() if tensor is not None}
    safetensors.numpy.save_file(kept, target / WEIGHTS_FILE)
    return target


def assert_refused(folder, message, error=ValueError):
    """Loading ends in one line that names the folder."""
    with pytest.raises(error, match=message) as caught:
        load_masked_lm(folder)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)


def assert_wrong_weights_are_refused(folder, tmp_path):
    """By name: no head, a missing, an unknown, an untied and a pickled tensor. Copies and harmless ones are none."""
    stored = json.loads((folder / "config.json").read_text())
    family = family_of(stored, epath.Path(folder) / "config.json")
    tensors = read_tensors(folder)
    expected = traverse_util.flatten_dict(load_masked_lm(folder)[1])
    table = tensors[family.embeddings]

    headless = {name: None for name in tensors if name.startswith(family.head_prefix)}
    no_head = rewritten(folder, tmp_path / "no_head", tensors=headless)
    assert_refused(no_head, rf"has no masked-LM head: found no weights {family.head_prefix}\*")
    for name in (family.head(load_encoder_config(folder))[0].name, family.embeddings):
        without = rewritten(folder, tmp_path / f"no_{name}", tensors={name: None})
        assert_refused(without, f"found no weights {name}, expected")
    more = rewritten(folder, tmp_path / "more", tensors={f"{family.prefix}.adapter.weight": table})
    assert_refused(more, rf"found unexpected weights {family.prefix}\.adapter\.weight, expected none")
    untied = rewritten(folder, tmp_path / "untied", tensors={family.decoder: table + 1})
    assert_refused(untied, f"{family.decoder}: found untied weights, expected those of {family.embeddings}")
    loose = rewritten(folder, tmp_path / "loose", fields={"tie_word_embeddings": False}, tensors={family.decoder: None})
    assert_refused(loose, f"found no weights {family.decoder}, expected them as config.json unties")
    quantized = rewritten(folder, tmp_path / "quantized", fields={"quantization_config": {"bits": 4}})
    assert_refused(quantized, "quantization_config: found {'bits': 4}, expected None")

    copies = {family.decoder: table}
    if family.decoder_bias is not None:
        copy, original = family.decoder_bias
        other = rewritten(folder, tmp_path / "other_bias", tensors={copy: tensors[original] + 1})
        assert_refused(other, f"{copy}: found other values than in {original}, expected the same")
        copies[copy] = tensors[original]
    bare = {}
    for name in tensors:
        short = name.removeprefix(f"{family.prefix}.")
        if short.split(".")[0] in family.modules:
            bare |= {name: None, short: tensors[name]}
    for kind, changes in (("copies", copies), ("bare", bare)):
        loaded = traverse_util.flatten_dict(
            load_masked_lm(rewritten(folder, tmp_path / kind, fields={"auto_map": {}}, tensors=changes))[1]
        )
        assert loaded.keys() == expected.keys()
        assert all(np.array_equal(loaded[path], leaf) for path, leaf in expected.items())

    (no_head / WEIGHTS_FILE).rename(no_head / "pytorch_model.bin")
    assert_refused(
        no_head,
        r"found only pytorch_model\.bin, expected model\.safetensors; convert it with: python",
        FileNotFoundError,
    )


def assert_shards_load_alike(theirs, folder, tmp_path):
    """A folder of several files, as transformers divides them, holds the same parameters."""
    theirs.save_pretrained(tmp_path / "shards", max_shard_size="3KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 2
    one, many = (traverse_util.flatten_dict(load_masked_lm(path)[1]) for path in (folder, tmp_path / "shards"))
    assert one.keys() == many.keys()
    assert all(np.array_equal(one[path], leaf) for path, leaf in many.items())
