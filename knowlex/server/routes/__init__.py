"""The routes of the HTTP API below /v1, a router a module; each asks what its caller may see and change."""
