"""The HTTP API: Starlette routes served by Hypercorn on Trio, described by `/openapi.json`."""
