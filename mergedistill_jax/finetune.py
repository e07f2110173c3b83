"""The `finetune` verb: a pre-trained encoder, fine-tuned and scored on part-of-speech or entity tagging.

Fine-tuning is short, so a killed run starts again from its first step, and the same config gives the same numbers.
A finished run is not repeated: it is recognised by its config and by the contents of everything it read.
"""

import dataclasses
import functools
import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jaxtyping import Int

from mergedistill_jax.configs.finetune import DATA_FIELDS, FinetuneConfig
from mergedistill_jax.corpus.labelled import MEMBER_SEPARATOR, TaggedText, read_tagged, split_development
from mergedistill_jax.counting import counted
from mergedistill_jax.data.tagging import (
    CUT_WORD_TAG,
    TaggingArrays,
    TaggingCounts,
    encode_tagged,
    padded_batch,
    predicted_tags,
)
from mergedistill_jax.evaluation.metrics import entity_scores, tagging_scores
from mergedistill_jax.evaluation.tagging_baseline import most_frequent_tags
from mergedistill_jax.files import write_atomically
from mergedistill_jax.json_objects import naming, read_json
from mergedistill_jax.locks import owns_output
from mergedistill_jax.models.heads import ModelConfig, TokenClassifier
from mergedistill_jax.models.huggingface import require_bert, save_token_classifier
from mergedistill_jax.models.tokenizer_files import SpecialTokens
from mergedistill_jax.teachers.loading import (
    load_masked_model,
    load_token_counts,
    masked_model_hash,
    require_padding,
    tokenizer_folder,
)
from mergedistill_jax.training.progress import Progress
from mergedistill_jax.training.tagging import learning_rates, predict_step, tagging_optimizer, train_step
from mergedistill_jax.vocabulary.folder import read_vocabulary
from mergedistill_jax.vocabulary.id_map import IdMap
from mergedistill_jax.vocabulary.tokenizer import TOKENIZER_FILE, TeacherTokenizer, load_tokenizer

RESULT_NAME = "result.json"
MODEL_FOLDER = "model"
PATH_FIELDS = (*DATA_FIELDS, "model", "vocabulary", "output")
MAIN_SCORE = {"pos": "tagging_f1", "ner": "entity_f1"}
UNKNOWN_SHARE = 0.1
"""Above this share of [UNK] in the test sentences a warning is printed."""

Params = Any


@owns_output()
def finetune(config: FinetuneConfig) -> dict[str, Any]:
    """Fine-tune, score, and write `result.json` into config.output; or report the result that stands there.

    Returns:
        What result.json holds. `metrics` are fractions of 1: for "pos" `tagging_f1`, the micro-averaged F1 over tags
        (each word has one tag, so it equals `accuracy`), and `macro_f1`; for "ner" `entity_f1` over whole entities
        with `precision` and `recall`, and the `accuracy` of the single tags. `baseline_metrics` are those of the most
        frequent tag of each word form in the training sentences, on the same test sentences.

    Raises:
        ValueError: naming file, field, found and expected; also where the output folder holds another run's result.
    """
    hashes = _content_hashes(config)
    result_path = epath.Path(config.output) / RESULT_NAME
    if result_path.exists():
        result = _read_result(result_path, config, hashes)
        with naming(result_path, "result"):
            _report(result, f"{result_path}: finished earlier, reused")
        return result

    print(f"finetune: {config.task} tagger for {config.language} from {config.model} -> {config.output}")
    started_s = time.monotonic()
    train, scored = _read_splits(config)
    labels = sorted({tag for sentence in train for tag in sentence.tags})
    encoder_config, pretrained, _ = load_masked_model(config.model)
    if config.save_model:
        require_bert(encoder_config)
    tokenizer, id_map = _tokenizer(config)
    if id_map is None:
        require_padding(config.model, encoder_config, tokenizer)
    encode = _encoder(config, encoder_config, tokenizer, id_map, labels)
    train_arrays, train_counts = encode(train)
    encoded = {name: encode(sentences) for name, sentences in scored.items()}

    model = TokenClassifier(encoder_config, num_labels=len(labels))
    init_key, dropout_key = jax.random.split(jax.random.key(config.seed))
    params = _initial_params(model, pretrained, init_key)
    params, losses = _train(config, model, params, train_arrays, dropout_key)

    metrics = {}
    for name, sentences in scored.items():
        arrays, _ = encoded[name]
        predicted_ids = _predict(config, model, params, arrays)
        metrics[name] = _model_scores(config.task, sentences, predicted_ids, arrays, labels)
    train_words, train_tags = [sentence.words for sentence in train], [sentence.tags for sentence in train]
    usual = most_frequent_tags(train_words, train_tags, [sentence.words for sentence in scored["test"]])
    if config.save_model:
        _save(config, encoder_config, params, labels=labels, tokenizer=tokenizer, scores=metrics["test"])

    result = {
        "task": config.task,
        "language": config.language,
        "metrics": metrics["test"],
        **({"dev_metrics": metrics["dev"]} if "dev" in metrics else {}),
        "baseline_metrics": _scores(config.task, [sentence.tags for sentence in scored["test"]], usual),
        "split": "given files" if config.train_files else "split_development of test_files: 0.8 train, 0.2 test",
        "counts": {
            "train": dataclasses.asdict(train_counts),
            **{name: dataclasses.asdict(counts) for name, (_, counts) in encoded.items()},
        },
        "labels": labels,
        "train_loss_per_epoch": losses,
        "seconds": round(time.monotonic() - started_s, 1),
        "config": dataclasses.asdict(config),
        "config_hash": _config_hash(config),
        "hashes": hashes,
    }
    result_path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(result_path, (json.dumps(result, indent=2, ensure_ascii=False) + "\n").encode())
    _report(result, f"{result_path}: written")
    return result


def _read_splits(config: FinetuneConfig) -> tuple[list[TaggedText], dict[str, list[TaggedText]]]:
    """Training sentences, and the sentences to score under "test" and, where there are dev_files, "dev"."""
    test = _read(config.test_files, config.test_format or config.file_format, config.task)
    if config.train_files:
        train = _read(config.train_files, config.file_format, config.task)
    else:
        train, test = split_development(test)
    if config.max_train_sentences is not None:
        sample = np.random.default_rng(config.seed).permutation(len(train))[: config.max_train_sentences]
        train = [train[index] for index in sorted(sample)]
    dev = {"dev": _read(config.dev_files, config.file_format, config.task)} if config.dev_files else {}
    return train, {"test": test, **dev}


def _read(addresses: Sequence[str], file_format: str, task: str) -> list[TaggedText]:
    return [sentence for address in addresses for sentence in read_tagged(address, file_format, task)]


def _tokenizer(config: FinetuneConfig) -> tuple[TeacherTokenizer, IdMap | None]:
    """What cuts the text, and the map from its ids to the model's (None: they are the model's)."""
    if config.vocabulary is None or config.teacher is None:
        return load_tokenizer(tokenizer_folder(config.model)), None
    vocabulary = read_vocabulary(config.vocabulary)
    own = load_tokenizer(tokenizer_folder(config.model)).vocabulary_hash
    if vocabulary.hash != own:
        raise ValueError(
            f"{vocabulary.folder}/vocabulary.json: field hash: found {vocabulary.hash},"
            f" expected {own} of {config.model}"
        )
    return vocabulary.teacher_tokenizer(config.teacher), vocabulary.id_map(config.teacher)


def _encoder(
    config: FinetuneConfig,
    encoder_config: ModelConfig,
    tokenizer: TeacherTokenizer,
    id_map: IdMap | None,
    labels: Sequence[str],
) -> Callable[[Sequence[TaggedText]], tuple[TaggingArrays, TaggingCounts]]:
    """Sentences -> arrays and counts. What would read a wrong row of an embedding table is refused here."""
    largest_id = len(tokenizer.tokens) - 1 if id_map is None else int(id_map.ids.max())
    if largest_id >= encoder_config.vocab_size:
        raise ValueError(
            f"{tokenizer.path}: largest id: found {largest_id},"
            f" expected less than vocab_size={encoder_config.vocab_size} of {config.model}"
        )
    token_counts = load_token_counts(config.model)
    if token_counts is not None and len(token_counts) != encoder_config.vocab_size:
        raise ValueError(
            f"{config.model}: token counts: found {len(token_counts)} tokens,"
            f" expected vocab_size={encoder_config.vocab_size}"
        )
    if config.max_length > encoder_config.max_length:
        raise ValueError(
            f"{config.model}: max_position_embeddings: found {encoder_config.max_length},"
            f" expected at least FinetuneConfig.max_length={config.max_length}"
        )

    def encode(sentences: Sequence[TaggedText]) -> tuple[TaggingArrays, TaggingCounts]:
        words, tags = [sentence.words for sentence in sentences], [sentence.tags for sentence in sentences]
        return encode_tagged(
            words, tags, tokenizer, labels, max_length=config.max_length, id_map=id_map, token_counts=token_counts
        )

    return encode


def _initial_params(model: TokenClassifier, pretrained: Params, key: jax.Array) -> Params:
    """The pre-trained encoder and a new classifier: normal weights, biases 0, as TokenClassifier.init draws them."""
    config = model.config
    weights = config.initializer_range * jax.random.normal(key, (config.hidden_size, model.num_labels))
    classifier = {"kernel": weights, "bias": jnp.zeros(model.num_labels)}
    return {"encoder": jax.tree.map(jnp.asarray, pretrained["encoder"]), "classifier": classifier}


def _train(
    config: FinetuneConfig, model: TokenClassifier, params: Params, arrays: TaggingArrays, key: jax.Array
) -> tuple[Params, list[float]]:
    """Trained parameters and the mean loss of the batches of each epoch; consumes the given parameters."""
    num_rows = len(arrays.token_ids)
    steps_per_epoch = -(-num_rows // config.batch_size)
    rates = learning_rates(config.learning_rate, config.epochs * steps_per_epoch, config.warmup_share)
    step_fn = functools.partial(train_step, model=model, weight_decay=config.weight_decay)
    state = tagging_optimizer(config.weight_decay).init(params)
    progress = Progress(len(rates), "steps", f"finetune {config.task} {config.language}")
    epoch_losses = []
    for epoch in range(config.epochs):
        order = np.random.default_rng((config.seed, epoch)).permutation(num_rows)
        losses = []
        for index, rows in enumerate(np.array_split(order, range(config.batch_size, num_rows, config.batch_size))):
            step = epoch * steps_per_epoch + index
            batch = padded_batch(arrays, rows, config.batch_size)
            params, state, loss = step_fn(params, state, batch, rates[step], jax.random.fold_in(key, step))
            losses.append(loss)
            progress.update(1, epoch=epoch + 1)
        epoch_losses.append(float(np.mean(jax.device_get(losses))))
        if not np.isfinite(epoch_losses[-1]):
            raise FloatingPointError(
                f"FinetuneConfig.learning_rate={config.learning_rate}: loss of epoch {epoch + 1}:"
                f" found {epoch_losses[-1]}, expected a finite number"
            )
    progress.close(loss=epoch_losses[-1])
    return params, epoch_losses


def _predict(
    config: FinetuneConfig, model: TokenClassifier, params: Params, arrays: TaggingArrays
) -> Int[np.ndarray, "b l"]:
    """The most probable label id at every position; 0 at padding."""
    predicted = np.zeros_like(arrays.token_ids)
    by_length = np.argsort(arrays.attention_mask.sum(axis=1), kind="stable")
    progress = Progress(len(by_length), "sentences", f"score {config.task} {config.language}")
    for rows in np.array_split(by_length, range(config.batch_size, len(by_length), config.batch_size)):
        label_ids = np.asarray(predict_step(params, padded_batch(arrays, rows, config.batch_size), model=model))
        predicted[rows, : label_ids.shape[1]] = label_ids[: len(rows)]
        progress.update(len(rows))
    progress.close()
    return predicted


def _model_scores(
    task: str,
    sentences: Sequence[TaggedText],
    predicted_ids: Int[np.ndarray, "b l"],
    arrays: TaggingArrays,
    labels: Sequence[str],
) -> dict[str, float]:
    gold = [sentence.tags for sentence in sentences]
    num_words = [len(tags) for tags in gold]
    return _scores(task, gold, predicted_tags(predicted_ids, arrays.word_starts, labels, num_words, CUT_WORD_TAG[task]))


def _scores(task: str, gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> dict[str, float]:
    """The scores that could be measured; one that is undefined (no entity in the text) is absent."""
    tagging = tagging_scores(gold, predicted)
    scores = {} if tagging is None else {"accuracy": tagging.accuracy}
    if task == "pos" and tagging is not None:
        scores |= {"tagging_f1": tagging.micro_f1, "macro_f1": tagging.macro_f1}
    if task == "ner" and (entities := entity_scores(gold, predicted)) is not None:
        scores |= {"entity_f1": entities.f1, "precision": entities.precision, "recall": entities.recall}
    return scores


def _save(
    config: FinetuneConfig,
    encoder_config: ModelConfig,
    params: Params,
    *,
    labels: Sequence[str],
    tokenizer: TeacherTokenizer,
    scores: Mapping[str, float],
) -> None:
    """The classifier as a Hugging Face folder, output/model."""
    special = {
        role: tokenizer.tokens[getattr(tokenizer, f"{role}_id")] for role in ("pad", "unk", "cls", "sep", "mask")
    }
    measured = "".join(f"- {name}: {value:.4f}\n" for name, value in scores.items())
    save_token_classifier(
        epath.Path(config.output) / MODEL_FOLDER,
        encoder_config,
        jax.device_get(params),
        labels,
        tokenizer_file=epath.Path(config.model) / TOKENIZER_FILE,
        special_tokens=SpecialTokens(**special),
        card=f"# Token classifier: {config.task}, {config.language}\n\nScores on the test sentences:\n\n{measured}",
        overwrite=True,
    )


def _settings(config: FinetuneConfig) -> dict[str, Any]:
    """The config without its paths: their contents are compared, so that a moved folder is the same model."""
    return {name: value for name, value in dataclasses.asdict(config).items() if name not in PATH_FIELDS}


def _config_hash(config: FinetuneConfig) -> str:
    return hashlib.blake2b(json.dumps(_settings(config), sort_keys=True).encode(), digest_size=8).hexdigest()


def _content_hashes(config: FinetuneConfig) -> dict[str, str]:
    """Hashes of all that is read: the model, the tokenizer with its id map, and the labelled files."""
    tokenizer, id_map = _tokenizer(config)
    return {
        "model": masked_model_hash(config.model),
        "tokenizer": tokenizer.tokenizer_hash,
        "id_map": "" if id_map is None else hashlib.blake2b(id_map.to_bytes(), digest_size=8).hexdigest(),
        **{field: _hash_files(getattr(config, field)) for field in DATA_FIELDS},
    }


def _hash_files(addresses: Sequence[str]) -> str:
    """Hash of the files' contents in order; of an archive's member, the archive's contents and the member's name."""
    total = hashlib.blake2b(digest_size=8)
    for address in addresses:
        path, _, member = address.partition(MEMBER_SEPARATOR)
        total.update(hashlib.blake2b(epath.Path(path).read_bytes()).digest() + member.encode() + b"\0")
    return total.hexdigest()


def _read_result(path: epath.Path, config: FinetuneConfig, hashes: Mapping[str, str]) -> dict[str, Any]:
    """The finished result of this very run; a ValueError names the first field in which it is another run's."""
    try:
        result = read_json(path)
        found = {**result["config"], **{f"hash of {name}": value for name, value in result["hashes"].items()}}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: found no result of this verb ({error!r}), expected one or no file") from error
    expected = {**_settings(config), **{f"hash of {name}": value for name, value in hashes.items()}}
    for field, value in expected.items():
        if found.get(field) != value:
            raise ValueError(
                f"{path}: {field}: found {found.get(field)!r}, expected {value!r}"
                " (the folder holds another run's result: choose another output)"
            )
    return result


def _report(result: Mapping[str, Any], first_line: str) -> None:
    test = result["counts"]["test"]
    print(first_line)
    print(f"  {result['task']} {result['language']}: {_listed(result['metrics'])}")
    if "baseline_metrics" in result:
        print(f"  the most frequent tag of each word form: {_listed(result['baseline_metrics'])}")
    print(
        f"  test: {counted(test['sentences'], 'sentence')}, {counted(test['words'], 'word')}"
        f" ({test['cut_words']:,} cut), {test['unknown_pieces']:,} of {test['pieces']:,} sub-words [UNK];"
        f" {result['seconds']} s"
    )
    if test["unknown_pieces"] > UNKNOWN_SHARE * test["pieces"]:
        share = test["unknown_pieces"] / test["pieces"]
        print(f"  warning: {share:.0%} of the sub-words are [UNK]: the tokenizer may not be one for this language")
    main = MAIN_SCORE[result["task"]]
    score, baseline = result["metrics"].get(main), result.get("baseline_metrics", {}).get(main)
    if score is not None and baseline is not None and score < baseline:
        print(f"  warning: {main} is below that of the most frequent tag of each word form")
    if test.get("unseen_pieces") is not None:
        print(
            f"  never seen in the model's training: {test['unseen_pieces']:,} of {test['pieces']:,} sub-words"
            f" ({test['unseen_ids']:,} of {test['distinct_ids']:,} different ids)"
        )
    print("next: the same command with another FinetuneConfig.model and FinetuneConfig.output, to compare two models")


def _listed(scores: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.4f}" for name, value in scores.items()) or "nothing could be measured"
