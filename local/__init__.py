"""What stands in for the outside world when the relay runs on one machine."""
