//! From shards on disk to batches in memory.
