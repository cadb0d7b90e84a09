"""The restoration service: uploads, the served model, responses, and a page."""
