"""Estimate the needs of a run before its first step: FLOPs, memory, disk, time, energy and emissions."""
