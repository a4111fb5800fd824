"""From a match in a Dynamo graph to a running kernel. Never imports `tile_backend.patterns`."""
