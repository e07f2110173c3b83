"""Settings of `predict`."""

import dataclasses

from mergedistill_jax.configs.masking import MaskingConfig
from mergedistill_jax.configs.sampling import Sampling, require_targets
from mergedistill_jax.configs.worker import parse_worker

DTYPES = ("float32", "bfloat16")
"""Of matrix products; they accumulate in float32."""

PACKINGS = ("across", "document", "best_fit")
"""Which pieces make a sequence, see corpus/packing.py."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PredictConfig:
    """What to predict, and where to.

    Attributes:
        output: folder for the shards and the manifest.
        corpus: name of a registered SeqIO task that yields documents (see tasks/corpora.py).
        split: its split.
        language: language code, recorded in the manifest.
        teacher: Hugging Face folder of the teacher or its name on the hub (see teachers/hub.py), or None to write gold
            labels alone.
        tokenizer: folder with the tokenizer, where there is no teacher; with one, its own tokenizer is used.
        name: the teacher's name in manifests and reports; its folder's or repository's name by default.
        k: predictions kept per masked position; forced to 0 without a teacher.
        targets: "top", the teacher's k best ids; or "sampled", ids drawn from it, see teachers/sampling.py.
        samples: ids drawn for each masked position, at most k; k by default where targets are sampled.
        max_length: tokens of a sequence, [CLS] and [SEP] included.
        packing: which pieces make a sequence, one of PACKINGS in corpus/packing.py.
        draws: how many different masks of every sequence.
        documents_per_shard: most documents of a shard: of what is computed, and lost by a crash, at a time.
        bytes_per_shard: most bytes of its text in UTF-8, times `draws`; a token has about four. A document that alone
            has more is divided between paragraphs.
        batch_size: sequences of max_length in a batch of each device; of shorter ones there are more.
        dtype: of the teacher's matrix products, "float32" or, faster and smaller, "bfloat16".
        worker: "i/n", where n processes share the folder: this one writes the shards s with s % n = i. By default the
            process's place in a job of jax.distributed, or alone.
    """

    output: str
    corpus: str
    split: str
    language: str
    teacher: str | None = None
    tokenizer: str | None = None
    name: str | None = None
    k: int = 8
    targets: str = "top"
    samples: int | None = None
    max_length: int = 512
    packing: str = "across"
    draws: int = 1
    masking: MaskingConfig = dataclasses.field(default_factory=MaskingConfig)
    documents_per_shard: int = 1000
    bytes_per_shard: int = 1 << 22
    batch_size: int = 32
    dtype: str = "float32"
    worker: str | None = None

    def __post_init__(self) -> None:
        if self.teacher is None and self.tokenizer is None:
            raise ValueError("PredictConfig.teacher: found None, expected a teacher's folder or a tokenizer's")
        if self.teacher is not None and self.tokenizer is not None:
            raise ValueError(
                f"PredictConfig.tokenizer: found {self.tokenizer!r} beside a teacher, expected None: its own is used"
            )
        if self.teacher is not None and self.k < 1:
            raise ValueError(f"PredictConfig.k: found {self.k}, expected at least 1")
        for field in ("draws", "documents_per_shard", "bytes_per_shard", "batch_size"):
            if getattr(self, field) < 1:
                raise ValueError(f"PredictConfig.{field}: found {getattr(self, field)}, expected at least 1")
        if self.max_length < 3:  # [CLS], a piece, [SEP]
            raise ValueError(f"PredictConfig.max_length: found {self.max_length}, expected at least 3")
        require_dtype(self.dtype)
        require_packing(self.packing)
        require_targets(self.targets, self.samples, self.k)
        if self.teacher is None and self.sampling is not None:
            raise ValueError("PredictConfig.targets: found 'sampled' without a teacher, expected 'top'")
        self.masking.require_draws(self.draws, self.max_length)
        if self.masking.max_predictions(self.max_length) < 1:
            raise ValueError(
                f"PredictConfig.max_length: found {self.max_length} with MaskingConfig.max_share={self.masking.bound},"
                " expected room for at least one masked position"
            )
        if self.worker is not None:
            parse_worker(self.worker)

    @property
    def sampling(self) -> Sampling | None:
        """How targets are drawn; None where they are the k best."""
        if self.targets == "top":
            return None
        return Sampling(samples=self.samples or self.k, seed=self.masking.seed)


def require_dtype(dtype: str) -> None:
    """Raises ValueError unless it is one of DTYPES."""
    if dtype not in DTYPES:
        raise ValueError(f"dtype: found {dtype!r}, expected one of {', '.join(DTYPES)}")


def require_packing(packing: str) -> None:
    """Raises ValueError unless it is one of PACKINGS."""
    if packing not in PACKINGS:
        raise ValueError(f"packing: found {packing!r}, expected one of {', '.join(PACKINGS)}")
