"""What `pipelines/restore.py` is made of: the ledger of inputs, Ray Data's stream of them, and its workers."""
