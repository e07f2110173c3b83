"""Students that start from their teachers: which rows are whose, by string, and what stays random."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_merge import make_merge, train_config

from mergedistill_jax.configs.start import StartConfig
from mergedistill_jax.models.heads import MaskedLanguageModel
from mergedistill_jax.models.huggingface import load_masked_lm
from mergedistill_jax.teachers.start import start_from_teachers
from mergedistill_jax.train import train
from mergedistill_jax.training.checkpoints import CheckpointError
from mergedistill_jax.vocabulary.folder import read_vocabulary, write_vocabulary


@pytest.fixture(scope="module")
def merge(teachers):
    return make_merge(next(iter(teachers.values())).parent)


@pytest.fixture(scope="module")
def vocabulary(merge):
    return read_vocabulary(merge.vocabulary)


@pytest.fixture(scope="module")
def teacher_params(merge):
    return {name: load_masked_lm(folder) for name, folder in merge.teachers.items()}


@pytest.fixture(scope="module")
def random_student(vocabulary, teacher_params):
    config, _ = teacher_params["en"]
    encoder = dataclasses.replace(config, vocab_size=vocabulary.size)
    ids = jnp.zeros((1, 2), jnp.int32)
    params = MaskedLanguageModel(encoder).init(jax.random.key(5), ids, ids == 0, ids)["params"]
    return jax.tree.map(np.asarray, nn.unbox(params))


def table_of(params):
    return params["encoder"]["embeddings"]["token"]


def rows_of(vocabulary, teacher_params, name):
    """{union id: (embedding, bias)} of a teacher."""
    _, params = teacher_params[name]
    labels = vocabulary.id_map(name).labels
    return {
        int(label): (table_of(params)[index], params["decoder_bias"][index])
        for index, label in enumerate(labels)
        if label >= 0
    }


@pytest.mark.parametrize("embeddings", ["average", "first"])
def test_every_row_is_its_teachers_by_string(merge, vocabulary, teacher_params, random_student, embeddings):
    config = StartConfig(teachers=merge.teachers, embeddings=embeddings)
    started, told = start_from_teachers(random_student, config, vocabulary)
    by_teacher = {name: rows_of(vocabulary, teacher_params, name) for name in merge.teachers}
    kinds = {"shared": 0, "one": 0, "nobody": 0}
    for row in range(vocabulary.size):
        known = [rows[row] for rows in by_teacher.values() if row in rows]
        kinds["nobody" if not known else "one" if len(known) == 1 else "shared"] += 1
        if not known:
            expected = (table_of(random_student)[row], random_student["decoder_bias"][row])
        elif embeddings == "first":
            expected = known[0]
        else:
            expected = tuple(np.mean([one[part] for one in known], axis=0) for part in (0, 1))
        np.testing.assert_allclose(table_of(started)[row], expected[0], rtol=1e-6)
        np.testing.assert_allclose(started["decoder_bias"][row], expected[1], rtol=1e-6, atol=1e-9)
    assert min(kinds.values()) > 0, kinds  # the example has rows of every kind
    assert f"{kinds['shared'] + kinds['one']:,} of {vocabulary.size:,} embeddings" in told
    for path in (("transform", "kernel"), ("encoder", "layers_0", "wi", "kernel")):
        left, right = started, random_student
        for name in path:
            left, right = left[name], right[name]
        np.testing.assert_array_equal(left, right)


def test_one_teacher_with_its_layers_is_that_teacher(merge, vocabulary, teacher_params, random_student):
    """A student of one teacher's tokens and layers gives that teacher's logits, in another order."""
    config, params = teacher_params["en"]
    start = StartConfig(teachers={"en": merge.teachers["en"]}, layers_from="en")
    started, _ = start_from_teachers(random_student, start, vocabulary)
    labels = vocabulary.id_map("en").labels
    ids = jnp.arange(5, 13)[None] % len(labels)
    positions = jnp.array([[1, 4]])
    mask = jnp.ones_like(ids, bool)
    theirs = MaskedLanguageModel(config).apply({"params": jax.tree.map(jnp.asarray, params)}, ids, mask, positions)
    encoder = dataclasses.replace(config, vocab_size=vocabulary.size)
    started = jax.tree.map(jnp.asarray, started)
    ours = MaskedLanguageModel(encoder).apply({"params": started}, jnp.asarray(labels)[ids], mask, positions)
    kept = labels >= 0
    np.testing.assert_allclose(
        np.asarray(ours)[..., labels[kept]], np.asarray(theirs)[..., : len(labels)][..., kept], atol=1e-5
    )


def test_alignment_undoes_a_rotation(vocabulary, teacher_params, random_student, monkeypatch, tmp_path):
    """A second teacher that is the first one in rotated coordinates comes back as the first one."""
    from mergedistill_jax.teachers import start as module  # noqa: PLC0415

    config, params = teacher_params["en"]
    width = table_of(params).shape[1]
    rotation, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(width, width)))
    rotated = jax.tree.map(np.array, params)
    rotated["encoder"]["embeddings"]["token"] = (table_of(params) @ rotation).astype(np.float32)
    monkeypatch.setattr(module, "load_masked_model", lambda folder: (config, rotated if folder == "b" else params, ""))
    one_map = vocabulary.id_map("en")

    own = vocabulary.teacher_tokenizer("en")
    twice = write_vocabulary(tmp_path, vocabulary.tokenizer(), dict.fromkeys(("a", "b"), (own, one_map)), {})
    start = StartConfig(teachers={"a": "a", "b": "b"}, align=True)
    started, told = start_from_teachers(random_student, start, twice)
    kept = one_map.labels >= 0
    np.testing.assert_allclose(table_of(started)[one_map.labels[kept]], table_of(params)[: len(kept)][kept], atol=1e-5)
    assert "aligned" in told
    apart, _ = start_from_teachers(random_student, dataclasses.replace(start, align=False), twice)
    assert np.abs(table_of(apart)[one_map.labels[kept]] - table_of(params)[: len(kept)][kept]).max() > 0.01


def test_what_does_not_fit_is_refused(merge, vocabulary, random_student):
    with pytest.raises(ValueError, match=r"StartConfig\.teachers: found none"):
        StartConfig(teachers={})
    with pytest.raises(ValueError, match=r"StartConfig\.embeddings: found 'sum', expected 'average' or 'first'"):
        StartConfig(teachers=merge.teachers, embeddings="sum")
    with pytest.raises(ValueError, match=r"layers_from: found 'fr', expected one of \['en', 'es'\]"):
        StartConfig(teachers=merge.teachers, layers_from="fr")
    narrow = {**random_student, "encoder": {**random_student["encoder"], "embeddings": {"token": np.zeros((9, 3))}}}
    with pytest.raises(ValueError, match=r"embeddings: found \(\d+, \d+\), expected width 3 of the student"):
        start_from_teachers(narrow, StartConfig(teachers=merge.teachers), vocabulary)


@pytest.mark.slow
def test_a_run_starts_so_once_and_is_another_run_than_a_random_one(merge, tmp_path, capsys):
    start = StartConfig(teachers=merge.teachers)
    config = train_config(merge, tmp_path, start=start, steps=20, stop_after=10)
    train(config)
    assert "embeddings start as those of en, es" in capsys.readouterr().out
    train(dataclasses.replace(config, stop_after=None))
    assert "embeddings start" not in capsys.readouterr().out  # resumed
    with pytest.raises(CheckpointError, match=r"field settings\.start"):
        train(dataclasses.replace(config, start=None))
