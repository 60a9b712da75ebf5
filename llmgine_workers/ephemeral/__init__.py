"""What may be lost, in Redis or Valkey: rate counters, gates, streams, signals."""
