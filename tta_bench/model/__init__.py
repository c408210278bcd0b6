"""Language models: loading them, and the split into body and unembedding that methods build on."""
