"""What breaks real gateways, done to this one: each test names its row of the list of faults."""
