"""Images, shards and the order in which a training sees them."""
