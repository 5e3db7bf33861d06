"""What whoever runs the gateway can see of it: numbers, logs, traces, and the files for those who look at them."""
