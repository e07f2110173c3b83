"""How the layers of a model are run: the settings of models/layers.py."""

import dataclasses

REMATERIALISE = ("nothing", "elementwise", "layers")


@dataclasses.dataclass(frozen=True, kw_only=True)
class LayerLoop:
    """Execution of a stack of layers.

    Attributes:
        scan: one loop instead of a copy of the layer's program for each: compiles faster by about their number, and
            runs a little slower, for parameters and saved activations are stacked.
        rematerialise: what the backward pass makes again instead of reading it from memory: "nothing"; "elementwise",
            everything but matrix products and attention; "layers", everything but the layers' inputs, at the cost of
            another forward pass.
    """

    scan: bool = False
    rematerialise: str = "nothing"

    def __post_init__(self) -> None:
        if self.rematerialise not in REMATERIALISE:
            raise ValueError(f"LayerLoop.rematerialise: found {self.rematerialise!r}, expected one of {REMATERIALISE}")
