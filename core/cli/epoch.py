"""`supervm epoch`: how far the epoch is from ending early, and the operator's word that it should."""

import click

from supervm.cli.output import json_option, print_facts


@click.command()
@click.option("--api", metavar="URL", required=True, help="The running validator.")
@click.option("--end", is_flag=True, help="Sign that the epoch should end.")
@json_option
def epoch(api: str, end: bool, as_json: bool) -> None:
    """Say how much of the weight wants the epoch to end early; with --end this validator wants it too.

    It closes once more than two thirds do. To sign it needs the token of SUPERVM_API_TOKEN. A restart of the
    validator forgets it, as long as no quorum has signed.

    \b
    Example:
      supervm epoch --api http://127.0.0.1:8645
      supervm epoch --end --api http://127.0.0.1:8645 --json
    """
    from supervm.cli.node_option import connect

    with connect(api) as client:
        print_facts(client.post("/v1/epoch/end") if end else client.get("/v1/epoch"), as_json)
