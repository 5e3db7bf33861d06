"""The tests mirror the three packages; whole-system tests are named after what they prove."""
