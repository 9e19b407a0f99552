"""Runtime: one replica, from start to drained."""
