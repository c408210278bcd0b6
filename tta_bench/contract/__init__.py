"""What the author of a method reads: the contract, and how a method is found and named.

`method` holds the contract and `below` what a method stands on; `registry` finds methods by name
(`listing` and `modules` read them without importing them); `spec` parses `name:key=value`, `choice`
is the result; `source` is the identity of a method's source.
"""
