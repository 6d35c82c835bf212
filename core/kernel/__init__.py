"""Pandora Core: finds plugins, composes, opens, supervises and closes components. It knows no blockchain."""

NAME = "Pandora Core"
VERSION = "0.1.0"
