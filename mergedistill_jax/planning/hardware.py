"""What a chip can do, from its maker's pages: the table that turns a compiler's counts into times.

Peak rates, HBM and links are from "TPU v4", "TPU v5e", "TPU v5p" and "TPU v6e" in Google Cloud's documentation
(cloud.google.com/tpu/docs/system-architecture-tpu-vm); links one way from "How to think about TPUs" in "How to Scale
Your Model" (jax-ml.github.io/scaling-book). `available_hbm` is what libtpu 0.0.42 says a program may use when one does
not fit. `flops_per_cycle` is the chip's in bf16: matrix units x size x 2 x cores for v4, v5e and v5p; for v6e the power
of two that fits what the same compiler gives a product of 4096 x 4096 matrices,

    v4 230,384    v5e 126,898    v5p 252,216    v6e 455,675    FLOPs per estimated cycle

which is 88 %, 97 %, 96 % and 87 % of the table's. The clock follows: peak rate / FLOPs per cycle.
"""

import dataclasses

GIB = 2**30


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chip:
    """One chip of a pod.

    Attributes:
        name: first part of a topology's name.
        peak_flops: per second, in bf16 with float32 sums.
        hbm, available_hbm: bytes on the chip, and of those that a program may use.
        hbm_bandwidth: bytes per second.
        link_bandwidth: bytes per second over one link in one direction; a chip has two links per dimension.
        dimensions: of the torus.
        flops_per_cycle: of all cores together.
        cores: TensorCores.
        accelerator: prefix of an accelerator type such as v5litepod-16, which counts chips or, in v4 and v5p, cores.
        chip_config: how the compiler takes a chip with two cores for one device, or "" where there is one.
        wrap: a dimension that is a multiple of this many chips is a ring, a shorter one is a line.
    """

    name: str
    peak_flops: float
    hbm: float
    available_hbm: float
    hbm_bandwidth: float
    link_bandwidth: float
    dimensions: int
    flops_per_cycle: int
    cores: int
    accelerator: str
    chip_config: str
    wrap: int

    @property
    def clock(self) -> float:
        """Cycles per second."""
        return self.peak_flops / self.flops_per_cycle


CHIPS = {
    chip.name: chip
    for chip in (
        Chip(
            name="v4",
            peak_flops=275e12,
            hbm=32 * GIB,
            available_hbm=30.75 * GIB,
            hbm_bandwidth=1228e9,
            link_bandwidth=45e9,
            dimensions=3,
            flops_per_cycle=2 * 4 * 128 * 128 * 2,
            cores=2,
            accelerator="v4",
            chip_config="megacore",
            wrap=4,
        ),
        Chip(
            name="v5e",
            peak_flops=197e12,
            hbm=16 * GIB,
            available_hbm=15.75 * GIB,
            hbm_bandwidth=819e9,
            link_bandwidth=45e9,
            dimensions=2,
            flops_per_cycle=4 * 128 * 128 * 2,
            cores=1,
            accelerator="v5litepod",
            chip_config="",
            wrap=16,
        ),
        Chip(
            name="v5p",
            peak_flops=459e12,
            hbm=95.74 * GIB,
            available_hbm=95.74 * GIB,
            hbm_bandwidth=2765e9,
            link_bandwidth=90e9,
            dimensions=3,
            flops_per_cycle=2 * 4 * 128 * 128 * 2,
            cores=2,
            accelerator="v5p",
            chip_config="megacore",
            wrap=4,
        ),
        Chip(
            name="v6e",
            peak_flops=918e12,
            hbm=32 * GIB,
            available_hbm=31.25 * GIB,
            hbm_bandwidth=1640e9,
            link_bandwidth=90e9,
            dimensions=2,
            flops_per_cycle=4 * 256 * 256 * 2,
            cores=1,
            accelerator="v6e",
            chip_config="",
            wrap=16,
        ),
    )
}
