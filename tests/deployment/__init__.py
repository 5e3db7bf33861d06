"""What is shipped: images, the compose file, the proxy in front, upgrades, back-ups."""
