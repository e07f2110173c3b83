"""The command line that the launchers share: one action of several, flags of the configuration, a stage after `--`."""

import argparse
import dataclasses
import sys
from collections.abc import Callable, Sequence
from typing import Any

from launch.configuration import add_flags, split_arguments


@dataclasses.dataclass(frozen=True, kw_only=True)
class Actions:
    """What a launcher can do.

    Attributes:
        program: its module, such as 'launch.xpk'.
        description: of it, for --help.
        staged: actions that take a stage after `--`.
        plain: actions that do not; `collect` and `delete`, which all launchers have, are not named.
        act: (flags, stage) -> exit status; what is wrong with either is a ValueError or an OSError.
        flags: of single actions, such as {"log": {"--worker": {"type": int}}}, as argparse takes them.
    """

    program: str
    description: str
    staged: Sequence[str]
    plain: Sequence[str]
    act: Callable[[argparse.Namespace, Sequence[str]], int]
    flags: dict[str, dict[str, dict[str, Any]]] = dataclasses.field(default_factory=dict)

    def run(self, arguments: Sequence[str] | None = None) -> int:
        """Does one action; returns the exit status. An error is one line and status 2."""
        given, stage = split_arguments(arguments)
        flags = self._parser().parse_args(given)
        try:
            self._require_place(flags.action, stage)
            return self.act(flags, stage)
        except (ValueError, OSError) as error:
            print(f"{self.program}: {' '.join(str(error).split())}", file=sys.stderr)
            return 2

    def _require_place(self, action: str, stage: Sequence[str]) -> None:
        if stage and action not in self.staged:
            expected = " and ".join(f"`{name}`" for name in self.staged)
            raise ValueError(f"{action}: found a stage after --, expected one only for {expected}")

    def _parser(self) -> argparse.ArgumentParser:
        parser = argparse.ArgumentParser(prog=f"python -m {self.program}", description=self.description)
        shared = argparse.ArgumentParser(add_help=False)
        add_flags(shared)
        shared.add_argument("--dry_run", action="store_true", help="print the commands, run none")
        every = {**self.flags}
        every["collect"] = {"source": {"help": "gs://..."}, "folder": {"help": "on this machine"}}
        every["delete"] = {"--yes": {"metavar": "NAME", "help": "name what is deleted"}}
        actions = parser.add_subparsers(dest="action", required=True)
        for name in (*self.staged, *self.plain, "collect", "delete"):
            action = actions.add_parser(
                name, parents=[shared], help="takes -- STAGE FLAGS" if name in self.staged else None
            )
            for flag, settings in every.get(name, {}).items():
                action.add_argument(flag, **settings)
        return parser
