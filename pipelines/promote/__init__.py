"""Which version of a model is in service: who decides, in which order, and what is remembered of it."""
