"""The processes that compute on shares: three parties, and a coordinator that runs their joint graph.

They live in an environment of their own (tf-encrypted, NumPy, the standard library), where this folder is
the top-level package `party`: nothing here may import another part of fedpipe, and all of it runs on
Python 3.8. `tickets` and `pairs` are also read by the other side.
"""
