"""Eight CPU devices, shapes checked by beartype, no hub, and small folders that many tests need."""
# ruff: noqa: E402 - the settings come before the imports that read them

import os

os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from jaxtyping import install_import_hook

install_import_hook("mergedistill_jax", "beartype_tower.tower")

from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from mergedistill_jax.configs.encoder import EncoderConfig
from mergedistill_jax.models.heads import MaskedLanguageModel
from mergedistill_jax.models.huggingface import save_masked_lm
from mergedistill_jax.models.tokenizer_files import SpecialTokens
from mergedistill_jax.vocabulary.learning import learn_wordpiece

TEXTS = {
    "en": [
        "The old sailor repaired the small boat near the harbour.\nHe sold fresh fish to the children; they smiled.",
        "A young teacher reads long letters every evening.\nThe letters come from her sister in the mountains.",
        "Two dogs slept under the wooden table while the rain fell on the roof.",
        "My neighbour grows tomatoes; his garden is full of bees, birds and noise.",
    ],
    "es": [
        "El viejo marinero reparó la barca pequeña cerca del puerto.\nVendía pescado fresco a los niños.",
        "Una joven maestra lee cartas largas cada tarde.\nLas cartas llegan de su hermana en la montaña.",
        "Dos perros dormían bajo la mesa de madera mientras llovía.",
    ],
}
"""A few documents of two languages; a line is a paragraph."""


def make_teacher(folder: Path, texts: list[str], *, seed: int = 0, **size: int) -> Path:
    """A Hugging Face folder of a random BERT with a WordPiece vocabulary learned on the texts."""
    tokenizer = learn_wordpiece(texts, 160)
    config = EncoderConfig(
        **{
            "vocab_size": tokenizer.get_vocab_size(),
            "num_layers": 1,
            "hidden_size": 16,
            "num_heads": 2,
            "intermediate_size": 32,
            "max_length": 32,
            "initializer_range": 0.5,
            **size,
        }
    )
    shapes = (jnp.zeros((1, 4), jnp.int32), jnp.ones((1, 4), bool), jnp.zeros((1, 1), jnp.int32))
    params = nn.unbox(MaskedLanguageModel(config).init(jax.random.key(seed), *shapes))["params"]
    tokenizer_file = folder.parent / f"{folder.name}.tokenizer.json"
    tokenizer.save(str(tokenizer_file))
    save_masked_lm(
        folder, config, params, tokenizer_file=tokenizer_file, special_tokens=SpecialTokens(), card="A test's model."
    )
    return folder


@pytest.fixture(scope="session")
def teachers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Hugging Face folders of two random teachers with different vocabularies, by language."""
    root = tmp_path_factory.mktemp("teachers")
    return {language: make_teacher(root / language, texts, seed=i) for i, (language, texts) in enumerate(TEXTS.items())}


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder of real data; the test is skipped where MERGEDISTILL_DATA is unset."""
    folder = os.environ.get("MERGEDISTILL_DATA")
    if not folder:
        pytest.skip("MERGEDISTILL_DATA is unset: set it to the folder with text/, labelled/ and vocab/")
    return Path(folder)
