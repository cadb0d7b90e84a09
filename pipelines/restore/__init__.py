"""The step `restore`: the ledger of inputs, Ray Data's stream of them, and its workers."""
