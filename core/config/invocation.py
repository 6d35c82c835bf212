"""What the command line asked of `run`, and the layers that follow from it, lowest first."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from supervm.config.errors import ConfigErrors, ConfigProblem
from supervm.config.sources import Layer, read_environment, read_file, read_flags, read_settings


@attrs.frozen(kw_only=True)
class Invocation:
    """`settings` are `--set KEY=VALUE` as typed; `flags` are (key, value or None, flag) of the others.

    `once`: open, pass the self-check, close. `print_config`: print the effective configuration and stop.
    """

    config: Path | None = None
    settings: tuple[str, ...] = ()
    flags: tuple[tuple[str, Any, str], ...] = ()
    once: bool = False
    print_config: bool = False

    def layers(self, environ: Mapping[str, str]) -> list[Layer]:
        """File, environment, `--set`, flags. Raises ConfigErrors with what is wrong in any of them.

        The tier's profile goes before them: `[profile, *invocation.layers(os.environ)]`.
        """
        found: list[Layer] = []
        problems: list[ConfigProblem] = []
        readers = (
            (lambda: read_file(self.config)) if self.config is not None else None,
            lambda: read_environment(environ),
            lambda: read_settings(self.settings),
            lambda: read_flags(self.flags),
        )
        for read in readers:
            if read is None:
                continue
            try:
                found.append(read())
            except ConfigErrors as errors:
                problems += errors.problems
        if problems:
            raise ConfigErrors(problems)
        return found
