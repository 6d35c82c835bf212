"""How transactions ended, counted by whoever runs them (EXEC-110)."""

import threading

import attrs


@attrs.frozen(kw_only=True)
class ExecutionStats:
    """Outcomes of whole transactions, and what it took. Rates are 0 where nothing was counted.

    A successful one committed; a failed one ended otherwise, its retries used up or without any.
    `executions` are runs of the function, `conflict_count` those that another's commit ended,
    `rollback_count` those that ended without a commit, whatever the cause.
    """

    successful_txs: int = 0
    failed_txs: int = 0
    executions: int = 0
    conflict_count: int = 0
    retry_count: int = 0
    rollback_count: int = 0

    @property
    def success_rate(self) -> float:
        """Successful transactions among all."""
        return _ratio(self.successful_txs, self.successful_txs + self.failed_txs)

    @property
    def rollback_rate(self) -> float:
        """Rollbacks for each transaction; above 1 where most needed several runs."""
        return _ratio(self.rollback_count, self.successful_txs + self.failed_txs)

    @property
    def conflict_rate(self) -> float:
        """Conflicts among executions."""
        return _ratio(self.conflict_count, self.executions)


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


class ExecutionCounts:
    """The counters behind `ExecutionStats`, safe for threads. Each instance counts for itself."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._now = ExecutionStats()

    def add(self, *, is_success: bool, executions: int, conflicts: int) -> None:
        """One transaction ended, after so many executions, of which so many met a conflict."""
        with self._lock:
            now = self._now
            self._now = ExecutionStats(
                successful_txs=now.successful_txs + is_success,
                failed_txs=now.failed_txs + (not is_success),
                executions=now.executions + executions,
                conflict_count=now.conflict_count + conflicts,
                retry_count=now.retry_count + executions - 1,
                rollback_count=now.rollback_count + executions - is_success,
            )

    def snapshot(self) -> ExecutionStats:
        """The counts now."""
        return self._now

    def reset(self) -> ExecutionStats:
        """Begin again at zero; returns what was counted."""
        with self._lock:
            was, self._now = self._now, ExecutionStats()
            return was
