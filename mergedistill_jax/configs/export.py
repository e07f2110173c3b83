"""Settings of `export`."""

import dataclasses
from collections.abc import Sequence


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """What to export.

    Attributes:
        run: folder written by train.
        output: folder to write; an older export there is replaced.
        vocabulary: its vocabulary folder; by default where the run found it.
        languages: for the model card; such as the run was trained on.
        name: for the model card; the output folder's name by default.
        report: folder with a report.json of evaluate, whose scores go into the card, or None.
    """

    run: str
    output: str
    vocabulary: str | None = None
    languages: Sequence[str] = ()
    name: str | None = None
    report: str | None = None
