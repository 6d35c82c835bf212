"""A fact about the machine that no shipped probe gives: which filesystems it knows."""

from supervm.api import Known, Probe, ProbeContext, Unknown


def read(context: ProbeContext) -> dict[str, Known | Unknown]:
    path = context.proc / "filesystems"
    try:
        lines = path.read_text().splitlines()
    except OSError as error:
        return {"filesystems": Unknown(f"{path}: {error.strerror}")}
    return {"filesystems": Known(sorted(line.split()[-1] for line in lines if line.strip())[:64], str(path))}


probe = Probe("coffer", ("filesystems",), read)
