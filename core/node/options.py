"""What an operator asks for, before anything is looked at."""

from collections.abc import Mapping
from pathlib import Path

import attrs

from supervm.config import Layer, read_environment, read_file, read_flags, read_settings


@attrs.frozen(kw_only=True)
class NodeOptions:
    """The command line of `run`, `probe` and `plugins`. None means not given.

    `settings` are `SECTION.KEY=VALUE` texts, `plugins` modules to load, `environ` the environment.
    """

    data: Path | None = None
    config: Path | None = None
    tier: str | None = None
    api: str | None = None
    settings: tuple[str, ...] = ()
    plugins: tuple[str, ...] = ()
    environ: Mapping[str, str] = attrs.field(factory=dict)

    def layers(self) -> list[Layer]:
        """File, environment, command line, in order of precedence. Raises `ConfigErrors`."""
        layers = [] if self.config is None else [read_file(self.config)]
        layers.append(read_environment(self.environ))
        layers.append(read_settings(self.settings))
        flags = [
            ("node.data", None if self.data is None else str(self.data), "--data"),
            ("node.tier", self.tier, "--tier"),
            ("api.listen", self.api, "--api"),
        ]
        layers.append(read_flags(flags))
        return layers
