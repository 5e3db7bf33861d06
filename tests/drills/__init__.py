"""Long tests, run by `make drills`: kills, chaos, soak."""
