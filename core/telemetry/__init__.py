"""What a node tells about itself: `supervm.telemetry.metrics` and `supervm.telemetry.logs`."""
