"""Settings of defences by tier, each value with its source."""
