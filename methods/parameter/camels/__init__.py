"""CaMeLS: dynamic evaluation whose token weights come from a small net.

`weigher` is the net, `update` the step that training goes through, `training` the module that is
trained, and `method` what reads documents.
"""
