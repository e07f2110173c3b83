"""The SeqIO task of lines with gaps, without T5X."""

import numpy as np
import pytest
from made_tokenizers import bert, byte_level
from tokenizers import AddedToken, pre_tokenizers

from mergedistill_jax.vocabulary.folder import write_vocabulary
from mergedistill_jax.vocabulary.id_map import whole_map

seqio = pytest.importorskip("seqio")
masked_text = pytest.importorskip("tasks.masked_text", exc_type=ImportError)


def roberta():
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    teacher = byte_level(*alphabet)
    teacher.tokenizer.add_special_tokens([AddedToken("<mask>", lstrip=True, normalized=False)])
    return teacher


@pytest.mark.parametrize("make", [lambda: bert("a", "b", "<", ">", "mask", "s", "/", "[", "]"), roberta])
def test_only_gaps_are_masks(tmp_path, make):
    """Lines that spell other special tokens have them as text."""
    teacher = make()
    own = whole_map(np.arange(len(teacher.tokens), dtype=np.int32))
    write_vocabulary(tmp_path / "vocabulary", teacher, {"one": (teacher, own)}, {})
    lines = ["a [MASK] b", "</s> [MASK] <mask> [MASK] [SEP]", "<s> b", "[MASK]"]
    (tmp_path / "lines.txt").write_text("\n".join(lines))
    name = masked_text.add_masked_text(str(tmp_path / "lines.txt"), str(tmp_path / "vocabulary"), "one", max_length=64)
    examples = list(seqio.TaskRegistry.get(name).get_dataset(None, "infer", shuffle=False).as_numpy_iterator())
    assert [example["masks"] for example in examples] == [line.count("[MASK]") for line in lines]
    for example, line in zip(examples, lines, strict=True):
        ids = example["token_ids"].tolist()
        assert [place for place, index in enumerate(ids) if index == teacher.mask_id] == [*example["masked_positions"]]
        assert teacher.reserved_ids.isdisjoint({*ids[1:-1]} - {teacher.mask_id, teacher.unk_id}), line
    (expected,) = teacher.encode_with_special_tokens(["a <mask> b" if make is roberta else "a [MASK] b"])
    framed = expected if expected[0] == teacher.cls_id else [teacher.cls_id, *expected, teacher.sep_id]
    assert examples[0]["token_ids"].tolist() == framed
