"""How records are run: in batches of few shapes, on any number of devices, ahead of who asks, and always the same."""

import dataclasses
import re
import threading
import time
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh

from mergedistill_jax.configs.encoder import EncoderConfig
from mergedistill_jax.models.heads import MaskedLanguageModel
from mergedistill_jax.schema import Record
from mergedistill_jax.teachers import inference, program
from mergedistill_jax.teachers.inference import Teacher, predict_records, top_log_probs

LENGTH, PREDICTIONS, ROWS, K = 64, 12, 36, 5
VOCABULARY, NUM_TOKENS = 5003, 4999  # primes, and more than one chunk
CONFIG = EncoderConfig(
    vocab_size=VOCABULARY, num_layers=1, hidden_size=8, num_heads=2, intermediate_size=16, max_length=LENGTH
)


@pytest.fixture(scope="module")
def params():
    shapes = (jnp.zeros((1, 4), jnp.int32), jnp.ones((1, 4), bool), jnp.zeros((1, 1), jnp.int32))
    config = dataclasses.replace(CONFIG, initializer_range=0.5)
    return jax.device_get(nn.unbox(MaskedLanguageModel(config).init(jax.random.key(0), *shapes))["params"])


def teacher_of(params):
    """A new one every time: where its parameters lie is remembered."""
    return Teacher(config=CONFIG, params=params, num_tokens=NUM_TOKENS, pad_id=0)


def records(count, seed=0, longest=LENGTH):
    generator = np.random.default_rng(seed)
    for number in range(count):
        length = int(generator.integers(8, longest + 1))
        positions = np.sort(generator.permutation(length)[: max(1, length // 8)]).astype(np.int32)
        yield Record(
            text_id=number.to_bytes(8, "little"),
            draw=0,
            input_ids=generator.integers(1, NUM_TOKENS, length).astype(np.int32),
            masked_positions=positions,
            gold_ids=generator.integers(1, NUM_TOKENS, len(positions)).astype(np.int32),
            top_ids=np.zeros((len(positions), 0), np.int32),
            top_log_probs=np.zeros((len(positions), 0), np.float32),
        )


def predict(params, source, **changed) -> list[Record]:
    sizes: dict[str, Any] = {"k": K, "batch_size": 4, "length": LENGTH, "max_predictions": PREDICTIONS, "rows": ROWS}
    return list(predict_records(teacher_of(params), source, **(sizes | changed)))


def bits(found):
    return [(record.text_id, *(array.tobytes() for array in _arrays(record))) for record in found]


def _arrays(record) -> Any:
    return record.top_ids, record.top_log_probs, record.gold_log_probs


@pytest.mark.slow
def test_equals_one_record_at_a_time_over_the_whole_row(params):
    """Padding, buckets, gathered rows and chunks against none of them."""
    variables = {"params": jax.tree.map(jnp.asarray, params)}
    for record, predicted in zip(records(12), predict(params, records(12)), strict=True):
        inputs = (record.input_ids[None], np.ones((1, len(record.input_ids)), bool), record.masked_positions[None])
        logits: Any = MaskedLanguageModel(CONFIG).apply(variables, *map(jnp.asarray, inputs))
        ids, log_probs = top_log_probs(logits[0], NUM_TOKENS, K)
        assert predicted.text_id == record.text_id
        np.testing.assert_array_equal(predicted.top_ids, ids)
        np.testing.assert_allclose(predicted.top_log_probs, log_probs, atol=2e-5)
        gold = jax.nn.log_softmax(logits[0, :, :NUM_TOKENS])[np.arange(len(record.gold_ids)), record.gold_ids]
        np.testing.assert_allclose(_arrays(predicted)[2], gold, atol=2e-5)


@pytest.fixture
def use_devices(monkeypatch):
    def use(count):
        for module in (inference, program):
            monkeypatch.setattr(module, "local_mesh", lambda: Mesh(np.array(jax.local_devices()[:count]), ("data",)))

    return use


@pytest.mark.slow
def test_how_many_devices_there_are_changes_no_bit(params, use_devices):
    found = {}
    for count in (1, 2, 8):
        use_devices(count)
        found[count] = bits(predict(params, records(150)))
    assert found[1] == found[2] == found[8]


def test_the_same_records_give_the_same_bits_whatever_the_timing(params):
    def slowly():
        for record in records(60):
            time.sleep(0.001 * (record.text_id[0] % 3))
            yield record

    assert bits(predict(params, records(60))) == bits(predict(params, slowly()))


def test_other_batches_change_the_last_bits_at_most(params):
    expected = predict(params, records(60))
    for changed in ({"batch_size": 7}, {"rows": 21}):
        for one, other in zip(predict(params, records(60), **changed), expected, strict=True):
            np.testing.assert_array_equal(one.top_ids, other.top_ids)
            np.testing.assert_allclose(one.top_log_probs, other.top_log_probs, atol=1e-5)


@pytest.fixture
def compilations():
    """A list that grows by an entry with every program that is compiled."""
    found: list[str] = []

    def listen(event: str, duration_secs: float, **kwargs: Any) -> None:
        del duration_secs, kwargs
        if event == "/jax/core/compile/backend_compile_duration":
            found.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield found
    jax.monitoring.unregister_event_duration_listener(listen)


def test_nothing_is_compiled_after_the_first_shards(params, compilations):
    teacher = teacher_of(params)
    sizes: dict[str, Any] = {"k": K, "batch_size": 6, "length": LENGTH, "max_predictions": PREDICTIONS, "rows": ROWS}
    for _ in predict_records(teacher, records(200, seed=1), **sizes):
        pass
    assert 2 <= len(compilations) <= 4  # two lengths, and what is around them
    warm = len(compilations)
    for seed, count, longest in ((2, 200, LENGTH), (3, 31, LENGTH), (4, 150, 30), (5, 1, 10)):
        assert len(list(predict_records(teacher, records(count, seed, longest), **sizes))) == count
    assert len(compilations) == warm


def test_an_error_in_the_source_reaches_who_asks(params):
    def broken():
        yield from records(30)
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        predict(params, broken())
    with pytest.raises(ValueError, match=r"record 3 .*expected at most 32 and 12"):
        predict(params, [*records(3, longest=32), *records(1, seed=4)], length=32)


def test_records_are_made_in_a_thread_ahead_and_no_further_when_nobody_asks(params):
    made, threads = [], set()

    def source():
        for record in records(100_000, longest=16):
            threads.add(threading.current_thread())
            made.append(record)
            yield record

    sizes: dict[str, Any] = {"k": K, "batch_size": 1, "length": 16, "max_predictions": PREDICTIONS, "rows": ROWS}
    found: Any = predict_records(teacher_of(params), source(), **sizes)
    next(found)
    assert len(made) > 1  # those of the batch that was asked for are one
    found.close()
    (thread,) = threads
    assert thread is not threading.current_thread()
    thread.join(timeout=30)
    assert not thread.is_alive()
    assert len(made) < 100_000


def test_a_teacher_that_gives_no_numbers_is_refused(params):
    broken = jax.tree.map(np.array, params)
    broken["decoder_bias"][7] = np.nan
    with pytest.raises(ValueError, match=r"text 0+: field log_probs: found numbers that are not finite"):
        predict(broken, records(3))


def test_bfloat16_is_near_and_another_dtype_is_refused(params):
    expected = predict(params, records(20))
    found = predict(params, records(20), dtype="bfloat16")
    every = [np.concatenate([_arrays(record)[2] for record in some]) for some in (found, expected)]
    assert 0 < np.abs(every[0] - every[1]).mean() < 0.1
    assert all(record.top_log_probs.dtype == np.float32 for record in found)
    with pytest.raises(ValueError, match="dtype: found 'float16', expected one of float32, bfloat16"):
        predict(params, [], dtype="float16")


def test_no_logits_over_the_vocabulary_stand_in_the_program(params):
    """Parameters alone have a number for every token; an array with one for every row and token would be seen."""
    for dtype in ("float32", "bfloat16"):
        sizes: dict[str, Any] = {"batch_size": 4, "length": 32, "max_predictions": 9, "k": K, "dtype": dtype}
        text: Any = program.lower_predictions(CONFIG, params, **sizes).compile().as_text()
        shapes = {tuple(map(int, shape.split(","))) for shape in re.findall(r"(?:f32|bf16)\[([\d,]+)\]", text)}
        wide = {shape for shape in shapes if VOCABULARY in shape}
        assert wide
        assert wide <= {(VOCABULARY,), (VOCABULARY, 8), (1, VOCABULARY, 8), (8, VOCABULARY)}
        assert max(int(np.prod(shape)) for shape in shapes - wide) <= 40 * 4096  # 40 rows, one chunk
