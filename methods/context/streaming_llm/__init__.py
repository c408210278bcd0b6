"""StreamingLLM: the first keys of a document and the latest ones, numbered inside the cache."""
