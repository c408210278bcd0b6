"""`ngram`: a variable-order model of the document so far, mixed into what stands below."""
