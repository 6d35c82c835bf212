"""The independent client against a real node, in a process where nothing of supervm can be imported.

The client runs with `-I` (no PYTHONPATH, no user site, not its own folder on the path) and a meta path
hook that refuses `supervm` and everything below it, so that even a dependency could not bring it in.
"""

import json
import subprocess
import sys
from pathlib import Path

from tests.e2e.harness import COINS, dev_key, new_chain, running
from tests.independent import client

RECEIVER = "0x" + "7a" * 32

# Runs the file named first as a program, once `import supervm` is impossible.
ISOLATED = """
import runpy, sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "supervm":
            raise ImportError("the independent client may not import " + name)

sys.meta_path.insert(0, Refuse())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def isolated(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-I", "-c", ISOLATED, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)


def test_the_isolation_refuses_supervm(tmp_path: Path) -> None:
    for line in ("import supervm", "from supervm.types import codec", "__import__('supervm.api')"):
        program = tmp_path / "program.py"
        program.write_text(line)
        done = isolated(program)
        assert done.returncode == 1
        assert "the independent client may not import supervm" in done.stderr


def test_a_stranger_with_the_documents_alone_pays_and_proves_it(tmp_path: Path) -> None:
    with running(tmp_path / "data") as node:
        secret = json.loads((node.data / "keys" / "dev.json").read_text())["secret"]["key"]
        genesis = node.data / "genesis.json"
        given = (node.url, secret, RECEIVER)
        answers = []
        for amount in (7 * COINS, 5):
            done = isolated(client.__file__, *given, str(amount), genesis)
            assert done.returncode == 0, done.stderr
            answers.append(json.loads(done.stdout))
        first, second = answers
        assert (first["balance_before"], first["balance_after"]) == ("0", str(7 * COINS))
        assert (second["balance_before"], second["balance_after"]) == (str(7 * COINS), str(7 * COINS + 5))
        assert node.client.transaction(first["digest"])["status"] == "committed"
        assert node.balance(bytes.fromhex(RECEIVER[2:])) == 7 * COINS + 5
        assert node.account(dev_key(node.data).address)["nonce"] == "2"

        broke = isolated(client.__file__, *given, str(10**30), genesis)
        assert broke.returncode == 1
        assert "InsufficientFunds" in broke.stderr
        other = new_chain(tmp_path, accounts=1).genesis
        stranger = isolated(client.__file__, *given, "1", other)
        assert stranger.returncode == 1
        assert "other validators" in stranger.stderr
