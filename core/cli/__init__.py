"""The command line: `supervm.cli.main:main`. Each verb is one module, imported when it is used."""
