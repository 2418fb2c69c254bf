"""The soak bench: kills, faults, hostile requests, load and fuzzing, bounded in count and time, on loopback only."""
