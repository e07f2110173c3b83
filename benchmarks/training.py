"""One training step of a student beside transformers + torch on the same machine: tokens per second and peak memory.

    python benchmarks/training.py --rounds 3 --dtype bfloat16 --huge_pages
    python benchmarks/training.py --rounds 3 --dtype bfloat16
    python benchmarks/training.py --rounds 3 --dtype float32

All train a BERT of 4 x 256 with a vocabulary of 100,000 on batches of 16 x 128 with 15 % of the positions masked, with
AdamW and without dropout. Parameters, optimizer and sums are in float32; `--dtype` is that of the matrix products, for
torch by autocast. Torch runs `BertForMaskedLM` with its own loss, as its users do: logits at all
positions. `linen` is the plain way in JAX: Linen's own layers, the masked rows gathered, their logits over the whole
vocabulary, gold labels. Ours runs the real step of `mergedistill train`, gold labels and top-8 of a teacher, and as
`ours_gold` gold labels alone, which is what the other two do. Every measurement is a process of its own, the engines
take turns, and the table holds medians; peak memory is the process's largest resident set, and beside it what the step
adds to the memory before it: the model, its optimizer, and the libraries. `--huge_pages` has the C library ask the
system for pages of 2 MB, for every engine: GLIBC_TUNABLES=glibc.malloc.hugetlb=1.

With `--accelerator` (one GPU or TPU): BERT-base, length 512, vocabulary 120,000; torch with compile and sdpa.
"""

import argparse
import functools
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from typing import Any

ENGINES = ("torch", "linen", "ours", "ours_gold")
SMALL = {"layers": 4, "width": 256, "heads": 4, "vocabulary": 100_000, "batch": 16, "length": 128, "masked": 20}
BASE = {"layers": 12, "width": 768, "heads": 12, "vocabulary": 120_000, "batch": 64, "length": 512, "masked": 80}


def arrays(size: dict[str, int]) -> dict[str, Any]:
    """A batch of random tokens: `masked` positions of every sequence are hidden, 15 % and what BERT pads them to."""
    import numpy as np  # noqa: PLC0415 - each engine is a process

    random = np.random.default_rng(0)
    rows, length, masked = size["batch"], size["length"], size["masked"]
    ids = random.integers(10, size["vocabulary"], (rows, length))
    positions = np.sort(np.argsort(random.random((rows, length)), axis=1)[:, :masked], axis=1)
    candidates = random.integers(10, size["vocabulary"], (rows, masked, 8))
    log_probs = np.log(random.dirichlet(np.ones(9), (rows, masked))[..., :8])
    return {
        "ids": ids,
        "positions": positions,
        "gold": np.take_along_axis(ids, positions, axis=1),
        "used": int(length * 0.15),
        "candidates": candidates,
        "log_probs": np.sort(log_probs, axis=-1)[..., ::-1].copy(),
    }


def measured(step: Any, steps: int, size: dict[str, int], before_mb: float) -> dict[str, float]:
    """Runs warm-up and `steps` steps; `step` returns something that can be waited for."""
    step()
    step()
    began = time.perf_counter()
    for _ in range(steps):
        loss = step()
    seconds = (time.perf_counter() - began) / steps
    peak = peak_mb()
    return {
        "tokens_per_second": size["batch"] * size["length"] / seconds,
        "peak_mb": peak,
        "step_mb": peak - before_mb,
        "loss": loss,
    }


def peak_mb() -> float:
    """The largest resident set of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def run_torch(size: dict[str, int], steps: int, *, dtype: str, accelerator: bool) -> dict[str, float]:
    """BertForMaskedLM as its users train it."""
    import torch  # noqa: PLC0415 - this engine alone
    from transformers import BertConfig, BertForMaskedLM  # noqa: PLC0415

    device = "cuda" if accelerator else "cpu"
    config = BertConfig(
        vocab_size=size["vocabulary"],
        num_hidden_layers=size["layers"],
        hidden_size=size["width"],
        num_attention_heads=size["heads"],
        intermediate_size=4 * size["width"],
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        attn_implementation="sdpa",
    )
    torch.manual_seed(0)
    before = peak_mb()
    model = BertForMaskedLM(config).to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=accelerator)
    batch = arrays(size)
    ids = torch.tensor(batch["ids"], device=device)
    labels = torch.full_like(ids, -100)
    positions = torch.tensor(batch["positions"][:, : batch["used"]], device=device)
    labels.scatter_(1, positions, ids.gather(1, positions))
    ids = ids.scatter(1, positions, 4)
    forward = torch.compile(model) if accelerator else model

    def step() -> float:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device, torch.bfloat16, enabled=dtype == "bfloat16"):
            loss = forward(input_ids=ids, attention_mask=torch.ones_like(ids), labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return float(loss.detach())

    found = measured(step, steps, size, before)
    if accelerator:
        found["device_mb"] = torch.cuda.max_memory_allocated() / 2**20
    return found


def run_ours(size: dict[str, int], steps: int, *, gold: bool, dtype: str, accelerator: bool) -> dict[str, float]:
    """The step of `mergedistill train`."""
    import types  # noqa: PLC0415 - this engine alone

    import jax  # noqa: PLC0415
    import jax.numpy as jnp  # noqa: PLC0415
    import numpy as np  # noqa: PLC0415

    from mergedistill_jax.configs.encoder import EncoderConfig  # noqa: PLC0415
    from mergedistill_jax.configs.losses import DistillationConfig  # noqa: PLC0415
    from mergedistill_jax.configs.optimizer import AdamWConfig  # noqa: PLC0415
    from mergedistill_jax.configs.schedules import GoldWeight, LearningRate  # noqa: PLC0415
    from mergedistill_jax.models.heads import masked_language_model  # noqa: PLC0415
    from mergedistill_jax.models.placement import Placement  # noqa: PLC0415
    from mergedistill_jax.training.partitioning import ACTIVATION_AXES, make_mesh, place_batch  # noqa: PLC0415
    from mergedistill_jax.training.program import BatchShape, compile_step, run_program  # noqa: PLC0415

    encoder = EncoderConfig(
        vocab_size=size["vocabulary"],
        num_layers=size["layers"],
        hidden_size=size["width"],
        num_heads=size["heads"],
        intermediate_size=4 * size["width"],
        max_length=size["length"],
        dropout_rate=0.0,
    )
    settings = types.SimpleNamespace(
        optimizer=AdamWConfig(learning_rate=LearningRate(peak=1e-4, warmup_steps=10)),
        gold_weight=GoldWeight(shape="constant", stop=1.0 if gold else 0.5),
        distillation=DistillationConfig(),
        steps=1000,
        num_microbatches=1,
        reduce_gradients="step",
        vocabulary_chunk=2048,
    )
    before = peak_mb()
    k = 0 if gold else 8
    mesh = make_mesh(1, jax.devices()[:1])
    placement = Placement(mesh=mesh, **ACTIVATION_AXES)
    model = masked_language_model(encoder, jnp.dtype(dtype), placement)
    shape = BatchShape(length=size["length"], predictions=size["masked"], k=k, sources=1)
    program = run_program(model, settings, shape, mesh)
    step_fn = compile_step(program, shape, size["batch"])
    key = jax.random.key(0)
    state = program.initialise(key)
    given = arrays(size)
    ids = given["ids"].copy()
    np.put_along_axis(ids, given["positions"][:, : given["used"]], 4, axis=1)
    weights = np.zeros(given["positions"].shape, np.float32)
    weights[:, : given["used"]] = 1.0
    batch = {
        "token_ids": ids.astype(np.int32),
        "lengths": np.full(size["batch"], size["length"], np.int32),
        "masked_positions": given["positions"].astype(np.int32),
        "gold_ids": given["gold"].astype(np.int32),
        "loss_weights": weights,
        "teacher_ids": given["candidates"][..., :k].astype(np.int32),
        "teacher_log_probs": given["log_probs"][..., :k].astype(np.float32),
        "source": np.zeros(size["batch"], np.int32),
    }
    placed = place_batch(batch, mesh)

    def step() -> float:
        nonlocal state
        state, sums = step_fn(state, placed, key)
        return float(sums["gold_loss"].sum() / sums["count"].sum())

    found = measured(step, steps, size, before)
    if accelerator:
        found["device_mb"] = (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use", 0) / 2**20
    return found


def run_linen(size: dict[str, int], steps: int, *, dtype: str) -> dict[str, float]:
    """A BERT of Linen's own layers, whose loss makes all logits of the masked rows: what one would write first."""
    import flax.linen as nn  # noqa: PLC0415 - this engine alone
    import jax  # noqa: PLC0415
    import jax.numpy as jnp  # noqa: PLC0415
    import optax  # noqa: PLC0415

    width, norm = size["width"], functools.partial(nn.LayerNorm, dtype=dtype)
    dense = functools.partial(nn.Dense, dtype=dtype)

    class Bert(nn.Module):
        @nn.compact
        def __call__(self, ids: Any, positions: Any) -> Any:
            table = nn.Embed(size["vocabulary"], width, dtype=dtype, embedding_init=nn.initializers.normal(0.02))
            place = self.param("position", nn.initializers.normal(0.02), (size["length"], width))
            x = norm()(table(ids) + place)
            for _ in range(size["layers"]):
                x = norm()(x + nn.MultiHeadDotProductAttention(num_heads=size["heads"], dtype=dtype)(x))
                hidden = nn.gelu(dense(4 * width)(x), approximate=False)
                x = norm()(x + dense(width)(hidden))
            rows = jnp.take_along_axis(x, positions[..., None], axis=1)
            rows = norm()(nn.gelu(dense(width)(rows), approximate=False))
            return table.attend(rows).astype(jnp.float32) + self.param(
                "bias", nn.initializers.zeros, (size["vocabulary"],)
            )

    before = peak_mb()
    model, optimizer = Bert(), optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-4))
    given = arrays(size)
    ids, positions = jnp.asarray(given["ids"]), jnp.asarray(given["positions"])
    weights = (jnp.arange(size["masked"]) < given["used"]).astype(jnp.float32)
    gold = jnp.take_along_axis(ids, positions, axis=1)
    ids = jnp.put_along_axis(ids, positions[:, : given["used"]], 4, axis=1, inplace=False)
    params: Any = jax.jit(model.init)(jax.random.key(0), ids[:1], positions[:1])
    state: Any = (params, jax.jit(optimizer.init)(params))
    del params

    @functools.partial(jax.jit, donate_argnums=0)
    def update(state: Any, ids: Any, positions: Any, gold: Any) -> Any:
        def mean_loss(params: Any) -> Any:
            logits: Any = model.apply(params, ids, positions)
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, gold)
            return jnp.sum(losses * weights) / jnp.sum(weights * jnp.ones_like(losses))

        loss, gradient = jax.value_and_grad(mean_loss)(state[0])
        updates, moments = optimizer.update(gradient, state[1], state[0])
        return (optax.apply_updates(state[0], updates), moments), loss

    def step() -> float:
        nonlocal state
        state, loss = update(state, ids, positions, gold)
        return float(loss)

    return measured(step, steps, size, before)


def main() -> None:
    """Runs the engines in turn, each in a process of its own, and prints medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--accelerator", action="store_true")
    parser.add_argument("--batch", type=int, help="sequences of a batch")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="bfloat16", help="of the matrix products")
    parser.add_argument("--huge_pages", action="store_true", help="2 MB a page, where the system gives them (glibc)")
    parser.add_argument("--engine", choices=ENGINES, help="measures this one here and prints JSON")
    arguments = parser.parse_args()
    size = dict(BASE if arguments.accelerator else SMALL)
    size["batch"] = arguments.batch or size["batch"]
    dtype = arguments.dtype
    if arguments.engine:
        if arguments.engine == "torch":
            found = run_torch(size, arguments.steps, dtype=dtype, accelerator=arguments.accelerator)
        elif arguments.engine == "linen":
            found = run_linen(size, arguments.steps, dtype=dtype)
        else:
            gold = arguments.engine == "ours_gold"
            found = run_ours(size, arguments.steps, gold=gold, dtype=dtype, accelerator=arguments.accelerator)
        print(json.dumps(found))
        return
    # Linen's way makes dense logits: at the size for an accelerator they would not fit.
    engines = [engine for engine in ENGINES if engine != "linen" or not arguments.accelerator]
    results: dict[str, list[dict[str, float]]] = {engine: [] for engine in engines}
    environment = {**os.environ} | ({"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"} if arguments.huge_pages else {})
    for _ in range(arguments.rounds):
        for engine in engines:
            command = [sys.executable, *sys.argv, "--engine", engine]
            told = subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout  # noqa: S603
            results[engine].append(json.loads(told.splitlines()[-1]))
    median = {
        engine: {name: statistics.median(run[name] for run in runs) for name in runs[0]}
        for engine, runs in results.items()
    }
    pages = "huge pages" if arguments.huge_pages else "pages as they come"
    print(f"{size}, {dtype}, {pages}, {os.cpu_count()} cores, {arguments.rounds} rounds of {arguments.steps} steps")
    print("| engine | tokens/s | times torch | peak MB | share of torch's | step MB | share of torch's | loss |")
    print("|---|---|---|---|---|---|---|---|")
    base = median["torch"]
    for engine, found in median.items():
        print(
            f"| {engine} | {found['tokens_per_second']:,.0f}"
            f" | {found['tokens_per_second'] / base['tokens_per_second']:.2f}"
            f" | {found['peak_mb']:,.0f} | {found['peak_mb'] / base['peak_mb']:.2f}"
            f" | {found['step_mb']:,.0f} | {found['step_mb'] / base['step_mb']:.2f} | {found['loss']:.2f} |"
        )


if __name__ == "__main__":
    main()
