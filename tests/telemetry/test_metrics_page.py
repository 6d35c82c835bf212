"""docs/operator/metrics.md lists what a node really exports.

After a change of families:  SUPERVM_WRITE_PAGES=1 pytest tests/telemetry/test_metrics_page.py
"""

import os
from pathlib import Path

import trio

from supervm.telemetry.reference import with_table
from tests.telemetry.conftest import RunningNode

PAGE = Path(__file__).parents[2] / "docs" / "operator" / "metrics.md"

# The fixed names of the specification that have a source in this node, by type.
FIXED = {
    "gauge": """mvcc_tps mvcc_tps_window mvcc_tps_peak mvcc_success_rate vm_routing_fast_ratio
        vm_routing_consensus_ratio vm_routing_privacy_ratio supervm_exec_block_transactions
        supervm_exec_workers supervm_mempool_transactions supervm_mempool_bytes rocksdb_estimate_num_keys
        rocksdb_total_sst_size_bytes rocksdb_cache_hit_rate rocksdb_compaction_pending
        rocksdb_num_files_level0 rocksdb_num_immutable_mem_table supervm_storage_bytes
        supervm_storage_disk_free_bytes supervm_tier supervm_consensus_height supervm_consensus_view
        routing_table_records supervm_probe_seconds supervm_plugin_state supervm_storage_commit_height
        supervm_storage_snapshots supervm_gas_base_price supervm_gas_block_fullness supervm_cache_bytes
        supervm_circuit_open supervm_health supervm_component_open_ms rocksdb_block_cache_hit_rate
        supervm_fast_path_native""",
    "counter": """mvcc_txn_committed_total mvcc_txn_failed_total vm_routing_fast_total
        vm_routing_consensus_total vm_routing_privacy_total vm_routing_total supervm_transactions_total
        supervm_mempool_refused_total rocksdb_cache_hit_total rocksdb_cache_miss_total
        rocksdb_compaction_cpu_micros rocksdb_compaction_write_bytes rocksdb_write_stall_micros
        supervm_storage_corruptions_total supervm_consensus_view_changes_total
        supervm_probe_failures_total supervm_label_overflow_total process_cpu_seconds_total
        mvcc_txn_started_total supervm_storage_cache_hits_total supervm_storage_cache_misses_total
        supervm_gas_used_total supervm_gas_refused_total supervm_fees_charged_total
        supervm_plugin_restarts_total supervm_hook_errors_total supervm_plugin_loop_stalls_total
        rocksdb_write_stall_seconds""",
    "summary": """mvcc_txn_latency_ms supervm_exec_block_ms supervm_storage_write_ms
        supervm_storage_sync_ms supervm_storage_read_ms supervm_consensus_block_interval_ms
        supervm_consensus_finality_ms""",
}


async def test_the_page_lists_every_family_of_a_node(running: RunningNode) -> None:
    # A scrape first: what only a scrape declares is part of the page.
    await running.client.get("/metrics")
    page = await trio.Path(PAGE).read_text()
    made = with_table(page, running.metrics)
    if os.environ.get("SUPERVM_WRITE_PAGES"):
        await trio.Path(PAGE).write_text(made)
    else:
        assert made == page, __doc__


async def test_the_fixed_names_are_there_with_their_types(running: RunningNode) -> None:
    kinds = {family.name: family.kind for family in running.metrics.families()}
    for kind, names in FIXED.items():
        for name in names.split():
            assert kinds.get(name) == kind, name


async def test_every_family_says_in_words_what_it_means(running: RunningNode) -> None:
    for family in running.metrics.families():
        assert len(family.help) >= 8, family.name
