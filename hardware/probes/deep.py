"""What `probe --deep` measures (TIER-84). Shared machines are noisy: these are for interest only."""

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from supervm.hardware.facts import Known, Probe, ProbeContext, Reading, Unknown

SYNC_WRITES = 16
SYNC_WRITES_MIN = 3
SYNC_BYTES = 4096
SYNC_SECONDS = 1.5
RATE_SECONDS = 0.25
COPY_BYTES = 8 * 2**20
HASH_BYTES = 2**20
NOT_ASKED = "measured by probe --deep only"
RATES = (
    "memory_copy_bytes_per_s",
    "blake3_bytes_per_s",
    "ed25519_checks_per_s_one_core",
    "ed25519_checks_per_s_all_cores",
)


def read_sync(context: ProbeContext) -> Reading:
    """Median microseconds of a synced 4 KiB write into the data folder."""
    if not context.deep:
        return {"disk_fsync_us": Unknown(NOT_ASKED)}
    if not context.data_dir.is_dir():
        return {"disk_fsync_us": Unknown(f"{context.data_dir} doesn't exist yet; run the node once")}
    times = sync_times(context.data_dir)
    if len(times) < SYNC_WRITES_MIN:
        return {"disk_fsync_us": Unknown(f"{len(times)} writes took more than {SYNC_SECONDS} s")}
    median = max(1, round(statistics.median(times)))
    return {"disk_fsync_us": Known(median, f"median of {len(times)} synced writes of {SYNC_BYTES} bytes")}


def sync_times(folder: Path) -> list[float]:
    """Microseconds of up to 16 synced writes; fewer where they would take longer than 1.5 s."""
    descriptor, name = tempfile.mkstemp(prefix=".probe-", dir=folder)
    try:
        times: list[float] = []
        started = time.perf_counter()
        for _ in range(SYNC_WRITES):
            before = time.perf_counter()
            os.write(descriptor, bytes(SYNC_BYTES))
            os.fsync(descriptor)
            times.append((time.perf_counter() - before) * 1e6)
            if time.perf_counter() - started > SYNC_SECONDS:
                break
        return times
    finally:
        os.close(descriptor)
        Path(name).unlink()


def rate(work: Callable[[], int], seconds: float = RATE_SECONDS) -> int:
    """Units a second of `work`, which does some and says how many."""
    done, started = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - started) < seconds:
        done += work()
    return round(done / elapsed)


def read_rates(context: ProbeContext) -> Reading:
    """Copying, hashing, and signature checks on one core and on all, a second."""
    if not context.deep:
        return dict.fromkeys(RATES, Unknown(NOT_ASKED))
    # Only a measurement needs it: a node that starts shouldn't wait for the import.
    from blake3 import blake3

    source, target = bytearray(COPY_BYTES), bytearray(COPY_BYTES)

    def copy() -> int:
        target[:] = source
        return COPY_BYTES

    def hash_() -> int:
        blake3(source[:HASH_BYTES]).digest()
        return HASH_BYTES

    check = signature_check()
    cores = min(context.affinity() or 1, 64)
    with ThreadPoolExecutor(cores) as pool:
        every = sum(pool.map(rate, [check] * cores))
    return dict(zip(RATES, (rate(copy), rate(hash_), rate(check), every), strict=True))


def signature_check() -> Callable[[], int]:
    """A function that checks one ed25519 signature of a 32-byte message."""
    import nacl.bindings

    public, secret = nacl.bindings.crypto_sign_seed_keypair(bytes(32))
    signed = nacl.bindings.crypto_sign(bytes(32), secret)

    def check() -> int:
        nacl.bindings.crypto_sign_open(signed, public)
        return 1

    return check


PROBES = (
    Probe("disk-sync", ("disk_fsync_us",), read_sync, alone=True),
    Probe("rates", RATES, read_rates, alone=True),
)
