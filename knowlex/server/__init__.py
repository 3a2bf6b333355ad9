"""The HTTP API: `knowlex serve`. Needs the extra `server`."""
