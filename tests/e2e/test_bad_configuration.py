"""A configuration with mistakes starts nothing: exit code 2, and one line for each mistake."""

from pathlib import Path

import pytest

from tests.e2e.harness import verb

FILES: dict[str, tuple[str, list[list[str]]]] = {
    "is no TOML": ("[node\nname = 1", [["node.toml", "not TOML", "line 1"]]),
    "has a key twice": ("a = 1\na = 2", [["node.toml", "not TOML", "Cannot overwrite a value"]]),
    "isn't UTF-8": ("[node]\nname = '\udcff'", [["node.toml", "not UTF-8"]]),
    "has an unknown section": ("[storge]\nuse = 'rocksdb'", [["storge", "did you mean 'storage'?"]]),
    "has an unknown key": ("[node]\nnmae = 'x'", [["node.nmae", "did you mean 'name'?"]]),
    "has an unknown option of a component": (
        "[storage.rocksdb]\ncache_byts = 1",
        [["storage.rocksdb.cache_byts", "did you mean 'cache_bytes'?"]],
    ),
    "has a number for a text": ("[node]\nname = 8", [["node.name", "8", "text in quotes"]]),
    "has a text for a number": (
        "[api]\nrequests_max = 'many'",
        [["api.requests_max", "'many'", "a whole number"]],
    ),
    "has truth for a number": ("[api]\nrequests_max = true", [["api.requests_max", "a whole number"]]),
    "has a value where a table belongs": ("node = 3", [["node", "3", "[node]"]]),
    "has a number out of range": ("[api]\nrequests_max = 0", [["api.requests_max", "0"]]),
    "names a component that isn't there": ("[storage]\nuse = 'rocksbd'", [["'rocksbd'", "rocksdb"]]),
    "has an unknown tier": ("[node]\ntier = 'l5'", [["node.tier", "unknown tier 'l5'; use auto, l1"]]),
    "would listen nowhere": ("[api]\nlisten = 'here'", [["api.listen", "here", "127.0.0.1:8645"]]),
    "has several mistakes at once": (
        "[node]\ntier = 3\nnmae = 'x'\n[api]\nlissten = 'x'\n[storge]\n[consensus.solo]\nidle_blocks = 'no'\n"
        "[storage.rocksdb]\ncache_bytes = 'many'",
        [
            ["node.tier", "3", "text in quotes"],
            ["node.nmae", "did you mean 'name'?"],
            ["api.lissten", "did you mean 'listen'?"],
            ["storge", "did you mean 'storage'?"],
            ["consensus.solo.idle_blocks", "true or false"],
            ["storage.rocksdb.cache_bytes", "'many'", "a whole number"],
        ],
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_refused_that(name: str, tmp_path: Path) -> None:
    text, wanted = FILES[name]
    file, data = tmp_path / "node.toml", tmp_path / "data"
    file.write_text(text, errors="surrogateescape")
    ended = verb("run", "--data", data, "--config", file)
    assert (ended.code, ended.out) == (2, ""), ended
    assert len(ended.err.splitlines()) == len(ended.errors) == len(wanted), ended.err
    for line, words in zip(sorted(ended.errors), sorted(wanted), strict=True):
        assert all(word in line for word in words), (line, words)
    assert not data.exists()


FLAGS: dict[str, tuple[tuple[str, ...], list[str]]] = {
    "a setting without a value": (("--set", "node.name"), ["--set", "node.name", "KEY=VALUE"]),
    "a setting of an unknown key": (("--set", "api.lissten=x"), ["--set", "did you mean 'listen'?"]),
    "a setting of the wrong type": (("--set", "api.requests_max=x"), ["'x'", "a whole number"]),
    "an unknown flag": (("--dta", "x"), ["--dta", "--data"]),
    "a configuration file that isn't there": (("--config", "none.toml"), ["none.toml", "No such file"]),
    "an address without a port": (("--api", "127.0.0.1"), ["--api", "127.0.0.1:8645"]),
    "a plugin that isn't there": (("--plugin", "no_such_module"), ["no_such_module"]),
}


@pytest.mark.parametrize("name", FLAGS)
def test_the_command_line_is_refused_with(name: str, tmp_path: Path) -> None:
    flags, words = FLAGS[name]
    ended = verb("run", "--data", tmp_path / "data", *flags)
    assert ended.code == 2, ended
    assert len(ended.errors) == 1, ended.err
    assert all(word in ended.errors[0] for word in words), ended.errors
    assert not (tmp_path / "data").exists()


def test_an_environment_variable_with_a_mistake_is_named_whole(tmp_path: Path) -> None:
    ended = verb("run", "--data", tmp_path / "data", SUPERVM_API__LISSTEN="x", SUPERVM_NODE__TIER="l9")
    assert ended.code == 2
    assert len(ended.errors) == 2, ended.err
    assert any("SUPERVM_API__LISSTEN" in line and "'listen'" in line for line in ended.errors)
    assert any("SUPERVM_NODE__TIER" in line and "unknown tier 'l9'" in line for line in ended.errors)


def test_an_api_open_to_other_machines_must_be_asked_for_knowingly(tmp_path: Path) -> None:
    ended = verb("run", "--data", tmp_path / "data", "--api", "0.0.0.0:0")
    assert ended.code == 1
    assert len(ended.errors) == 1, ended.err
    assert "api.token" in ended.errors[0] and "0.0.0.0:0" in ended.errors[0]
