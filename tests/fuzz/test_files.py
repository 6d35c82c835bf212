"""Whatever is in a file that somebody wrote, reading it gives a value or a typed error (PLUG-3, TIER-7)."""

import os
from pathlib import Path

import pytest

from supervm.config import (
    ConfigErrors,
    PluginsConfig,
    node_sections,
    read_file,
    read_settings,
    render,
    resolve,
)
from supervm.crypto.keyfile import KeyFileError, read_key_facts, read_key_file, write_key_file
from supervm.crypto.keys import generate
from supervm.kernel.manifest import ManifestInvalid, read_manifest
from supervm.node.catalogue import read_catalogue
from tests.fuzz.mutation import TOKENS, changed, fuzz

ROOT = Path(__file__).parents[2]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "file"


def test_a_key_file_is_refused_by_a_typed_error_or_gives_the_key_that_it_names(file: Path) -> None:
    plain, sealed = generate(), generate()
    corpus = []
    for key, passphrase in ((plain, None), (sealed, b"open sesame")):
        path = file.with_name("key")
        write_key_file(path, key, passphrase, name="one", replace=True, operations=1, memory_bytes=8192)
        corpus.append(path.read_bytes())
    file.touch(mode=0o600)

    def judge(data: bytes) -> None:
        file.write_bytes(data)
        try:
            facts = read_key_facts(file)
            assert len(facts.address) == 32
            key = read_key_file(file)
        except KeyFileError as error:
            assert len(str(error)) < 1_000
            return
        assert (key.public_key, key.address) == (facts.public_key, facts.address)

    fuzz("key file", lambda chance: changed(chance, corpus, TOKENS), judge)


def test_a_manifest_is_refused_by_a_typed_error_or_names_a_plugin(file: Path) -> None:
    corpus = [path.read_bytes() for path in sorted((ROOT / "plugins").glob("*/plugin.toml"))]
    assert corpus

    def judge(data: bytes) -> None:
        file.write_bytes(data)
        try:
            manifest = read_manifest(file)
        except ManifestInvalid as error:
            assert str(file) in str(error)
            return
        major, minor = manifest.api_version
        assert 0 <= major < 10_000
        assert 0 <= minor < 10_000

    fuzz("manifest", lambda chance: changed(chance, corpus, TOKENS), judge)


def test_a_configuration_is_refused_by_a_typed_error_or_resolves_and_renders_as_itself(file: Path) -> None:
    roles = read_catalogue(PluginsConfig()).sections({"storage": ("memory",)})
    sections = node_sections()
    whole = render(resolve([], sections=sections, roles=roles)).encode()
    lines = whole.splitlines(keepends=True)
    corpus = [whole, *(b"".join(lines[at : at + 12]) for at in range(0, len(lines), 6))]

    def judge(data: bytes) -> None:
        file.write_bytes(data)
        try:
            effective = resolve([read_file(file)], sections=sections, roles=roles)
        except ConfigErrors as errors:
            assert all(problem.place and problem.problem for problem in errors.problems)
            return
        file.write_text(render(effective))
        assert resolve([read_file(file)], sections=sections, roles=roles).options == effective.options

    fuzz("configuration", lambda chance: changed(chance, corpus, TOKENS), judge)


def test_a_setting_is_refused_by_a_typed_error_or_sets_a_value() -> None:
    roles = read_catalogue(PluginsConfig()).sections({"storage": ("memory",)})
    corpus = [
        b"storage.use=sqlite", b"storage.sqlite.cache_bytes=1048576", b"plugins.deny=[\"a\", \"b\"]",
        b"transport.use=[\"memory\"]", b"node.tier=l2", b"plugins.open_timeout_s=0.5", b"node.data=/x",
    ]  # fmt: skip

    def judge(data: bytes) -> None:
        try:
            resolve([read_settings([os.fsdecode(data)])], roles=roles)
        except ConfigErrors as errors:
            assert str(errors)

    fuzz("setting", lambda chance: changed(chance, corpus, TOKENS), judge)
