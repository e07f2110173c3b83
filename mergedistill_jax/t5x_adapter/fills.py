"""What t5x.infer writes for a text with masks: a JSON object a line.

    {"text": "la casa [MASK].", "filled": "la casa roja.",
     "masks": [[{"token": "roja", "log_prob": -0.21}, {"token": "azul", "log_prob": -1.9}]]}

`masks` has the candidates for every mask, the best one first, with their log-probabilities in nats.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf
from etils import epath

from mergedistill_jax.evaluation.fills import readable_tokens
from mergedistill_jax.vocabulary.folder import read_vocabulary

MASK = "[MASK]"


def write_fills(
    path: epath.PathLike,
    inferences: tuple[Sequence[Any], Mapping[str, Any]],
    task_ds: tf.data.Dataset,
    mode: str,
    seqio_vocabulary: Any = None,
    *,
    vocabulary: str,
) -> None:
    """T5X's write_fn for the task of tasks/masked_text.py.

    Args:
        path: of the file.
        inferences: best tokens, and the candidates of `trained(candidates=...)`.
        task_ds: the examples.
        mode: of t5x.infer.
        seqio_vocabulary: not used: SeqIO's passes ids through.
        vocabulary: folder of the student's vocabulary.

    Raises:
        ValueError: the mode gives no candidates.
    """
    del seqio_vocabulary
    if mode != "predict_with_aux":
        raise ValueError(f"infer.mode: found {mode!r}, expected 'predict_with_aux', which gives candidates")
    tokens = readable_tokens(read_vocabulary(vocabulary).tokenizer())
    _, aux = inferences
    lines = []
    examples: Any = task_ds.as_numpy_iterator()
    for index, example in enumerate(examples):
        masks = [
            [
                {"token": tokens[int(token)], "log_prob": round(float(log_prob), 6)}
                for token, log_prob in zip(ids, log_probs, strict=True)
            ]
            for ids, log_probs in zip(
                aux["candidate_ids"][index][: example["masks"]],
                aux["candidate_log_probs"][index][: example["masks"]],
                strict=True,
            )
        ]
        text = example["text"].decode()
        filled = fill_in(text, [candidates[0]["token"] for candidates in masks])
        lines.append(json.dumps({"text": text, "filled": filled, "masks": masks}, ensure_ascii=False))
    epath.Path(path).write_text("".join(f"{line}\n" for line in lines))


def fill_in(text: str, tokens: Sequence[str]) -> str:
    """The text with a token in place of each mask, as far as there are any; `##` joins a token to the word before."""
    parts = text.split(MASK)
    filled = parts[0]
    for index, part in enumerate(parts[1:]):
        token = tokens[index] if index < len(tokens) else MASK
        filled = filled.rstrip() + token[2:] if token.startswith("##") else filled + token
        filled += part
    return filled
